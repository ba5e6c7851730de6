"""The script with which a container starts that is a rented host; `on_container.py` is packed in it."""

from __future__ import annotations

import base64
import json
import zlib
from importlib import resources
from typing import Any

from remoterun.agent.shared.machines import RentalTerms
from remoterun.clouds.boot.user_data import UNUSED
from remoterun.clouds.folder import HostFolder


def start_script(folder: HostFolder, terms: RentalTerms, end: str, sshd: bool = True) -> str:
    """`end`: the command for the host's shell by which its provider takes it back; "" where the end of its first
    process does. Without `sshd` its provider lets us in. Of some 3,000 characters; secret in it is the host key of the
    first contact."""
    settings: dict[str, Any] = {"terms": terms._asdict(), "end": end, "unused": UNUSED}
    if sshd:
        settings |= {"key": folder.text("key.pub").strip(), "host_key": folder.text("host_key")}
    program = resources.files(__package__).joinpath("on_container.py").read_text("utf-8")
    packed = base64.b64encode(
        zlib.compress(f"{program}\nmain(json.loads({json.dumps(settings)!r}))\n".encode(), 9)
    ).decode()
    python = f"import base64, zlib; exec(zlib.decompress(base64.b64decode('{packed}')))"
    return f'#!/bin/sh\nexec python3 -c "{python}"\n'
