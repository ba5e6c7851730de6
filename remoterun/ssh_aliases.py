"""The names in a user's ssh configuration, for messages and completion. `hosts.ssh.config` resolves them."""

from __future__ import annotations

import glob
import os
import re
import shlex
from pathlib import Path

_DEPTH = 4  # of files that include each other


def aliases(config_file: Path | None = None) -> list[str]:
    """The names of `Host` lines, in order, without patterns; `Include` is followed. [] when there is no file."""
    found: list[str] = []
    _collect(config_file or Path.home() / ".ssh" / "config", found, _DEPTH)
    return list(dict.fromkeys(found))


def _collect(file: Path, found: list[str], depth: int) -> None:
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        match = re.match(r"\s*(host|include)(?:\s+|\s*=\s*)(.+)", line, re.IGNORECASE)
        if not match:
            continue
        try:
            words = shlex.split(match[2], comments=True)
        except ValueError:
            continue
        if match[1].lower() == "host":
            found += [word for word in words if not set(word) & set("*?!")]
        elif depth:
            for word in words:
                pattern = os.path.join(Path.home() / ".ssh", os.path.expanduser(word))
                for path in sorted(glob.glob(pattern)):
                    _collect(Path(path), found, depth - 1)
