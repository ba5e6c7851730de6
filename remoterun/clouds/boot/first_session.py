"""The first session on a new host: what its boot still does is awaited, and its own host key is learnt.

The key of the first contact stood in user-data, which whoever may describe the instance can read. So the host makes
another one, and only that one is accepted from then on. All of it may be repeated.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

from remoterun.clouds.base import HostNeverCame
from remoterun.clouds.boot.user_data import PROGRAM, PYTHON
from remoterun.clouds.folder import HostFolder
from remoterun.hosts.ssh.config import Deadlines

BOOT_SECONDS = 660.0
HOST_KEY = re.compile(r"ecdsa-sha2-[a-z0-9]+ [A-Za-z0-9+/=]{1,400}")


def learn_key(folder: HostFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Make the host that `folder` knows ready for agents. Returns what it says of its boot: also `problems` that do not
    prevent use, a line each. Blocks for minutes. Raises `HostError`."""
    from remoterun.hosts.ssh.host import SSHHost

    host = SSHHost(folder.token, config_file=folder.ssh_config, deadlines=Deadlines(connect=15, banner=15))
    with contextlib.closing(host):
        say("Docker")
        done = host.run(["sudo", "-n", PYTHON, PROGRAM, "await"], BOOT_SECONDS)
    if done.status != 0:
        raise HostNeverCame("the new host was not prepared", evidence=(done.errors or done.output)[-2000:] or None)
    found = _parsed(done.output)
    folder.know(found["key"])
    return found


def _parsed(text: str) -> dict[str, Any]:
    """What a host says of itself. Raises `HostNeverCame` for anything else."""
    try:
        found: dict[str, Any] = json.loads(text)
        if HOST_KEY.fullmatch(found["key"]):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise HostNeverCame("the new host did not say its host key", evidence=text[-500:])
