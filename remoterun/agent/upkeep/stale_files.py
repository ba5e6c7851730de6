"""What processes have left that are gone, in tmp/ and partial/.

Where nothing more may arrive on the disk (see store/reserve.py), it goes at once instead of after a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from typing import Iterator, Set

from ..shared.files import own_bytes, remove_tree
from ..shared.records import Record
from ..shared.tree import is_digest
from ..store import leases
from ..store.home import Home

LEFT = 3600.0
"""Seconds after which what a process that is gone left in tmp/ is deleted."""
_TMP = re.compile(r"[a-z]+-(\d+)-[0-9a-f]+\Z")


class StaleFile(Record):
    """`size` bytes at `path`; `due`: they may be deleted by now."""

    path: str
    size: int
    due: bool


def make_room(home: Home) -> None:
    """Delete what cut transfers left, where nothing more may arrive on the disk."""
    if home.reserve.room():
        return
    with contextlib.suppress(OSError):
        now = time.time()
        for remains in [*temporary(home, now, full=True), *partial(home, now, full=True)]:
            if remains.due:
                remove_unless_locked(remains.path)


def temporary(home: Home, now: float, full: bool) -> Iterator[StaleFile]:
    """In tmp/, of processes that are gone. `full`: nothing more may arrive on the disk."""
    wait = 0.0 if full else LEFT
    for name in sorted(os.listdir(home.tmp)):
        match = _TMP.match(name)
        if not match or not _lives(int(match.group(1))):
            yield from _remains(os.path.join(home.tmp, name), now, wait)


def partial(home: Home, now: float, full: bool) -> Iterator[StaleFile]:
    """Blobs that were cut on their way here. One that is still arriving is in the lease of a process that lives."""
    names = sorted(os.listdir(home.partial))
    arriving: Set[bytes] = set()
    leases.read(home.leases, arriving, now, sweep=False, cut=0.0)
    for name in names:
        digest = name.partition(".")[0]
        if not is_digest(digest) or bytes.fromhex(digest) not in arriving:
            yield from _remains(os.path.join(home.partial, name), now, 0.0 if full else leases.CUT)


def remove_unless_locked(path: str) -> bool:
    """Whether it could be deleted."""
    if os.path.isdir(path):
        remove_tree(path)
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)  # a process that has just opened it sees that it has no name any more, and opens it again
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _remains(path: str, now: float, wait: float) -> Iterator[StaleFile]:
    """Unless it is gone. It is due so long after it was last written, or anything right in it was."""
    with contextlib.suppress(OSError):
        newest = os.lstat(path).st_mtime
        if os.path.isdir(path) and not os.path.islink(path):
            with os.scandir(path) as found:
                newest = max([newest] + [item.stat(follow_symlinks=False).st_mtime for item in found])
        yield StaleFile(path, own_bytes(path), now - newest >= wait)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
