"""The files that remoterun itself wrote here: copies, films, pages, reports. A run is not sent them unasked.

The home has a line for each. One that its user changes afterwards is the user's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

FILE = "own-files"
MOST_BYTES = 8 << 20
"""Of the list, which begins anew then."""


def note_own(home: Path, written: Iterable[str | Path | int]) -> None:
    """Note files and links that were just written, by path or descriptor. An error is none."""
    with contextlib.suppress(OSError), (home / FILE).open("a") as file:
        if file.tell() > MOST_BYTES:
            file.truncate(0)
        file.writelines(map(_line, written))


def own_files(home: Path, root: str, paths: Iterable[str]) -> set[str]:
    """Those of the `paths` below `root` that remoterun wrote, and that are as it wrote them."""
    known: set[str] = set()
    with contextlib.suppress(OSError), (home / FILE).open() as file:
        known.update(file)
    return {path for path in paths if known and _line(os.path.join(root, path)) in known}


def _line(file: str | Path | int) -> str:
    with contextlib.suppress(OSError):
        status = os.fstat(file) if isinstance(file, int) else os.lstat(file)
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n"
    return ""
