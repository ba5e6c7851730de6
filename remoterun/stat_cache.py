"""What the files below a folder were hashed to, so that none is read again that has not changed.

    home/digests/1f0c9a3e…    one file for each folder (its path, hashed): a record per file, in the order of a manifest

A record holds if size, mtime, ctime and inode are the same, to the nanosecond. A file that was hashed within `RACY` of
its last change gets none: another change in that time could leave all of them as they were (git calls it racy). So a
rewrite of the same size in the same second is always noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

HEADER = b"remoterun-digests 1\n"
RACY = 100_000_000
"""Nanoseconds. File systems count time in steps of up to 10 ms, some in seconds: those are known by the zeros."""
RACY_SECONDS = 2_500_000_000
KEPT = 500
"""Folders whose digests are kept: the ones used last."""

_RECORD = struct.Struct("<HqqqQ32s")  # length of the path, size, mtime, ctime, inode, SHA-256; then the path


class StatCache:
    """The digests of one folder. `known` and `note` are called for its files in the order of a manifest.

    A context manager: what was noted is kept also when it is left by an error, and the rest of what was known.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self._path = folder / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._old = _mapped(self._path)
        self._records = _records(self._old)
        self._next = next(self._records, None)
        self._same = len(HEADER)
        """Bytes at the start of the old file that stand in the new one as well; it is begun at the first difference."""
        self._new: BinaryIO | None = None
        self._failed = False

    def __enter__(self) -> StatCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(complete=kind is None)

    def known(self, path: bytes, status: os.stat_result) -> str | None:
        """The digest in hex of the file `path`, if it is as it was when it was noted."""
        while self._next is not None and self._next[0] < path:
            self._skip()
        if self._next is None or self._next[0] != path:
            return None
        found, end, size, mtime, ctime, inode, digest = self._next
        if (size, mtime, ctime, inode) != (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino):
            return None
        self._next = next(self._records, None)
        if self._new is None:
            self._same = end
        else:
            self._new.write(_record(found, status, digest))
        return digest.hex()

    def note(self, path: bytes, status: os.stat_result, digest: str, read_at: int) -> None:
        """The file had that content and that status; it was read from `read_at` (nanoseconds since 1970) on."""
        coarse = status.st_mtime_ns % 1_000_000_000 == 0
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        if read_at - changed <= (RACY_SECONDS if coarse else RACY) or len(path) > 0xFFFF:
            return
        self._write(_record(path, status, bytes.fromhex(digest)))

    def close(self, complete: bool) -> None:
        """Write what is new, whole or not at all. `complete`: what was not asked for is gone from the folder."""
        if self._next is not None and complete:
            self._write(b"")
        new, self._new = self._new, None
        if new is not None and self._failed:
            with contextlib.suppress(OSError):
                new.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        elif new is not None:
            with contextlib.suppress(OSError), new:  # a full disk costs the next time some reading
                if self._next is not None and not complete:
                    new.write(self._old[self._next[1] - _RECORD.size - len(self._next[0]) :])
                new.flush()
                os.fsync(new.fileno())
                os.replace(self._temporary, self._path)
                _forget_old(self._path.parent)
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        elif self._old:
            with contextlib.suppress(OSError):
                os.utime(self._path)
        self._records.close()
        if isinstance(self._old, mmap.mmap):
            self._old.close()
        self._old = b""

    def _skip(self) -> None:
        self._write(b"")
        self._next = next(self._records, None)

    def _write(self, record: bytes) -> None:
        """Of the new file, which is begun with the first call."""
        if self._failed:
            return
        try:
            if self._new is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._new = open(self._temporary, "wb", buffering=1 << 18)
                self._new.write(self._old[: self._same] or HEADER)
            self._new.write(record)
        except OSError:
            self._failed = True


_Known = tuple[bytes, int, int, int, int, int, bytes]  # path, the record's end in the file, then as in `_RECORD`


def _record(path: bytes, status: os.stat_result, digest: bytes) -> bytes:
    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return _RECORD.pack(len(path), *stamp, digest) + path


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's content; empty if there is none, or it is of another version."""
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return b""
    return content if content[: len(HEADER)] == HEADER else b""


def _records(content: mmap.mmap | bytes) -> Generator[_Known, None, None]:
    at, end, size = len(HEADER), len(content), _RECORD.size
    unpack = _RECORD.unpack_from
    while at + size <= end:
        length, *stamp, digest = unpack(content, at)
        at += size + length
        if at > end:
            return
        yield content[at - length : at], at, *stamp, digest


def _forget_old(folder: Path) -> None:
    files = sorted(folder.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
