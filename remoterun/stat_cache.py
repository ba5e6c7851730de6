"""What the files below a folder were hashed to, so that none is read again that has not changed.

    home/digests/1f0c9a3e…    one file for each folder (its path, hashed): a record per file, in the order of a manifest

A record holds if size, mtime, ctime and inode are the same, to the nanosecond. A file that was hashed within `RACY` of
its last change gets none: another change in that time could leave all of them as they were (git calls it racy). So a
rewrite of the same size in the same second is always noticed. A record that was damaged is none, nor are those after
it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import struct
import time
import zlib
from array import array
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

HEADER = b"remoterun-digests 2\n"
RACY = 100_000_000
"""Nanoseconds. File systems count time in steps of up to 10 ms, some in seconds: those are known by the zeros."""
RACY_SECONDS = 2_500_000_000
KEPT = 500
"""Folders whose digests are kept: the ones used last."""
ABANDONED = 86400.0
"""Seconds after which a file that somebody has begun to write is deleted: he was killed."""

_HEAD = struct.Struct("<HqqqQ32s")
"""Length of the path, size, mtime, ctime, inode, SHA-256."""
_RECORD = struct.Struct(_HEAD.format + "I")
"""That, and the CRC-32 of it and of the path, which follows."""


class StatCache:
    """The digests of one folder. `known` is called for its files in the order of a manifest, and so is `note`; the
    former may be some way ahead of the latter.

    A context manager: what was noted is kept also when it is left by an error, and the rest of what was known.
    """

    def __init__(self, folder: Path, root: str) -> None:
        self._path = folder / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._old = _mapped(self._path)
        self._records = _records(self._old)
        self._next = next(self._records, None)
        self._at = len(HEADER)
        """Where the records of the old file end that were looked at."""
        self._gone = array("Q")
        """Where those begin and end that hold no longer, in their order."""
        self._missed: deque[tuple[bytes, int]] = deque()
        """Files that had no record, or one that holds no longer; and where in the old file one would stand."""
        self._noted: _Unnamed | None = None
        """The new records alone, ..."""
        self._places = array("Q")
        """... and where in the old file each would stand."""
        self._failed = False

    def __enter__(self) -> StatCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(complete=kind is None)

    def known(self, path: bytes, status: os.stat_result) -> str | None:
        """The digest in hex of the file `path`, if it is as it was when it was noted."""
        while self._next is not None and self._next[0] < path:
            self._skip(self._next)
        if self._next is not None and self._next[0] == path:
            _, end, size, mtime, ctime, inode, digest = self._next
            if (size, mtime, ctime, inode) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino):
                self._at = end
                self._next = next(self._records, None)
                return digest.hex()
            self._skip(self._next)
        if self._old:
            self._missed.append((path, self._at))
        return None

    def note(self, path: bytes, status: os.stat_result, digest: str, read_at: int) -> None:
        """The file had that content and that status; it was read from `read_at` (nanoseconds since 1970) on."""
        place: int | None = self._at
        if self._old:
            while self._missed and self._missed[0][0] < path:
                self._missed.popleft()
            known = bool(self._missed) and self._missed[0][0] == path
            place = self._missed.popleft()[1] if known else None
        coarse = status.st_mtime_ns % 1_000_000_000 == 0
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        racy = read_at - changed <= (RACY_SECONDS if coarse else RACY)
        if racy or place is None or len(path) > 0xFFFF or self._failed:
            return
        try:
            if self._noted is None:
                self._noted = _Unnamed(self._path)
            stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            head = _HEAD.pack(len(path), *stamp, bytes.fromhex(digest))
            checksum = zlib.crc32(path, zlib.crc32(head))
            self._noted.file.write(b"".join((head, checksum.to_bytes(4, "little"), path)))
            self._places.append(place)
        except OSError:  # a full disk costs the next time some reading
            self._failed = True

    def close(self, complete: bool) -> None:
        """Write what is new, whole or not at all. `complete`: what was not asked for is gone from the folder."""
        while complete and self._next is not None:
            self._skip(self._next)
        noted, self._noted = self._noted, None
        self._records.close()
        try:
            if self._failed:
                pass
            elif noted is not None and not self._old:
                noted.become(self._path)
            elif noted is not None or self._gone:
                self._merge(noted)
            elif self._old:
                os.utime(self._path)
        except OSError:
            pass
        finally:
            if noted is not None:
                noted.close()
            if isinstance(self._old, mmap.mmap):
                self._old.close()
            self._old = b""

    def _skip(self, record: _Known) -> None:
        self._gone.append(self._at)
        self._at = record[1]
        self._gone.append(self._at)
        self._next = next(self._records, None)

    def _merge(self, noted: _Unnamed | None) -> None:
        """Write the old records, without those that are gone, and the new ones among them."""
        merged = _Unnamed(self._path)
        content: mmap.mmap | bytes = b""
        try:
            if noted is not None:
                content = noted.content()
            written = start = len(HEADER)
            gone = 0  # of `_gone`, done

            def copy_to(place: int) -> None:
                nonlocal written, gone
                while gone < len(self._gone) and self._gone[gone] < place:
                    merged.file.write(self._old[written : self._gone[gone]])
                    written = self._gone[gone + 1]
                    gone += 2
                if written < place:
                    merged.file.write(self._old[written:place])
                    written = place

            for place, record in zip(self._places, _records(content), strict=False):
                copy_to(place)
                merged.file.write(content[start : record[1]])
                start = record[1]
            copy_to(self._at if self._next is None else len(self._old))
            merged.become(self._path)
        finally:
            if isinstance(content, mmap.mmap):
                content.close()
            merged.close()


class _Unnamed:
    """A file of records that has not got its name yet; gone when it is closed without. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self.file: BinaryIO = open(self._path, "wb", buffering=1 << 18)
        self.file.write(HEADER)

    def content(self) -> mmap.mmap | bytes:
        self.file.flush()
        return _mapped(self._path)

    def become(self, path: Path) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._path, path)
        _forget_old(path.parent)

    def close(self) -> None:
        """May be called twice."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


_Known = tuple[bytes, int, int, int, int, int, bytes]  # path, the record's end in the file, then as in `_RECORD`


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's content; empty if there is none, or it is of another version."""
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return b""
    if content[: len(HEADER)] == HEADER:
        return content
    content.close()
    return b""


def _records(content: mmap.mmap | bytes) -> Generator[_Known, None, None]:
    at, end, size = len(HEADER), len(content), _RECORD.size
    unpack, crc32 = _RECORD.unpack_from, zlib.crc32
    while at + size <= end:
        length, *stamp, digest, checksum = unpack(content, at)
        path = content[at + size : at + size + length]
        if len(path) != length or crc32(path, crc32(content[at : at + _HEAD.size])) != checksum:
            return
        at += size + length
        yield path, at, *stamp, digest


def _forget_old(folder: Path) -> None:
    files = sorted(folder.glob("[0-9a-f]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):
        if path.stat().st_mtime < time.time() - ABANDONED:
            path.unlink(missing_ok=True)
