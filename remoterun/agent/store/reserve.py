"""Room on the disk that holds a home: how much may arrive, and a reserve for the ends of runs.

Arriving blobs leave a margin free, so that no upload fills the disk to its last byte. While runs go on, the file
`reserve` holds some more: it is deleted when a run's end finds the disk full all the same, since the command, or
somebody else, has filled it.
"""

from __future__ import annotations

import contextlib
import os
import sys

from ..shared.files import no_room, size_of
from ..shared.tree import LARGEST
from .errors import disk_full

MARGIN = 64 << 20
"""Bytes that arriving blobs leave free."""
RESERVE = 16 << 20
"""Bytes of the reserve. Both are at most a 64th of the disk."""
_SHARE = 64


class Reserve:
    """The room of one home. `home` is its path."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._file = os.path.join(home, "reserve")
        self.was_full = ""  # why the disk took nothing more when the reserve was released

    def room(self) -> int:
        """Bytes that may still arrive."""
        if not os.statvfs(self._home).f_blocks:  # a file system that does not say
            return LARGEST
        return max(0, free_space(self._home) - self._at_most(MARGIN))

    def check(self, size: int) -> None:
        """Raises `HomeError("disk_full")` where `size` bytes may not arrive any more."""
        if size > self.room():
            raise disk_full(self._home)

    def make(self) -> None:
        """Make the reserve where it is missing and there is room for it. May be repeated."""
        size = self._at_most(RESERVE)
        with contextlib.suppress(OSError):
            if size_of(self._file) >= size or free_space(self._home) < self._at_most(MARGIN) + size:
                return
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _allocate(descriptor, size)
            finally:
                os.close(descriptor)

    def release(self) -> bool:
        """Delete the reserve; whether there was one."""
        self.was_full = self.was_full or no_room(self._home)
        try:
            os.unlink(self._file)
        except OSError:
            return False
        return True

    def _at_most(self, size: int) -> int:
        about = os.statvfs(self._home)
        return min(size, about.f_blocks * about.f_frsize // _SHARE)


def free_space(path: str) -> int:
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize


def _allocate(descriptor: int, size: int) -> None:
    if sys.platform != "darwin":
        with contextlib.suppress(OSError):  # a file system that can't
            os.posix_fallocate(descriptor, 0, size)
            return
    piece = bytes(1 << 20)
    for start in range(0, size, len(piece)):
        os.pwrite(descriptor, piece[: size - start], start)
