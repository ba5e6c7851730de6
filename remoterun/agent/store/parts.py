"""A large blob that comes over several connections at once: parts of it, each to its own place in the partial file.

    partial/KEY          as long as the blob, with holes where nothing has come yet
    partial/KEY.parts    (u64 offset, u64 length) of each part that is whole, appended when it is

The client asks for the seal before it sends the first part. The SHA-256 is then computed as far as there are no holes;
when the client has said which digest it must be, the last part makes the blob. A cut transfer goes on with the parts
that are not listed.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import struct
import time
from typing import BinaryIO, Callable, List, Optional, Tuple

from ..shared.frames import Body
from ..shared.tree import LARGEST
from .errors import HomeError, damaged
from .home import Home

PATIENCE = 60.0
"""Seconds without a new part after which the seal is given up."""
SHORT, LONG = 0.005, 0.1
"""Seconds between looks at what has come."""
PIECE = 1 << 20

PARTS = ".parts"

_PART = struct.Struct("!QQ")


class Part:
    """One part on its way in. The context keeps the file open; bytes come by `take`."""

    def __init__(self, home: Home, key: str, size: int, offset: int, length: int) -> None:
        if not 0 < length <= size - offset or offset < 0 or size > LARGEST:
            raise HomeError("bad_stream", "a part of %d bytes from %d on, of %d" % (length, offset, size))
        self._path = os.path.join(home.partial, key)
        self._offset, self._length = offset, length
        self._have = 0
        self._file = _open(self._path)

    def take(self, data: Body) -> bool:
        """Whether the part is whole now."""
        if self._have + len(data) > self._length:
            raise HomeError("bad_stream", "more bytes of a part than were said")
        view = memoryview(data)
        if not os.fstat(self._file).st_mode & 0o200:  # another client has sent the same meanwhile: it is the blob now
            self._have += len(data)
            return self._have == self._length
        while view:
            written = os.pwrite(self._file, view, self._offset + self._have)
            self._have += written
            view = view[written:]
        if self._have < self._length:
            return False
        with open(self._path + PARTS, "ab", buffering=0) as journal:
            journal.write(_PART.pack(self._offset, self._length))
        self.suspend()
        return True

    def suspend(self) -> None:
        """What came of a part that is not whole comes again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def ranges(home: Home, key: str) -> List[Tuple[int, int]]:
    """(offset, length) of what is here of `key`, in order, adjacent parts as one."""
    found: List[Tuple[int, int]] = []
    for offset, length in sorted(listed(home, key)):
        start, end = found[-1] if found else (0, -1)
        if offset <= end:
            found[-1] = (start, max(end, offset + length))
        else:
            found.append((offset, offset + length))
    return [(start, end - start) for start, end in found]


def listed(home: Home, key: str) -> List[Tuple[int, int]]:
    """(offset, length) of the parts of `key` that are here, in no order."""
    try:
        with open(os.path.join(home.partial, key + PARTS), "rb") as journal:
            data = journal.read()
    except FileNotFoundError:
        return []
    return list(_PART.iter_unpack(data[: len(data) // _PART.size * _PART.size]))


def seal(
    home: Home,
    key: str,
    size: int,
    said: Callable[[], str],
    alive: Callable[[], bool],
    patience: Optional[float] = None,
) -> None:
    """Make a blob of the parts of `key`, which may still be on their way. `said` gives its digest, "" as long as the
    client does not know it; it is waited for. Given up when nothing new has come for `patience` (None: `PATIENCE`)
    seconds, or once it is not `alive`. Raises `HomeError`."""
    path = os.path.join(home.partial, key)
    stale = os.path.exists(path + PARTS)
    with os.fdopen(_open(path), "rb", buffering=0) as file:  # it may be here before the first part
        if stale and not os.fstat(file.fileno()).st_size:  # a power cut has kept the list, and no part
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + PARTS)
        try:
            found, digest = _hash(home, key, size, file, said, alive, PATIENCE if patience is None else patience)
        except BaseException:
            if not os.fstat(file.fileno()).st_size:
                discard(home, key)
            raise
        if found and (found != digest or os.fstat(file.fileno()).st_size != size):
            discard(home, key)
            raise damaged(digest)
        os.fsync(file.fileno())
    if found:
        try:
            home.blobs.adopt(path, digest)
        except FileNotFoundError:  # another did at the same moment: the agent of a cut try may live on for a while
            if not home.blobs.has(digest):
                raise
    discard(home, key)


def _hash(
    home: Home,
    key: str,
    size: int,
    file: BinaryIO,
    said: Callable[[], str],
    alive: Callable[[], bool],
    patience: float,
) -> Tuple[str, str]:
    """(what the parts together are, what was said). The former is "" if the blob has come otherwise."""
    hashed = hashlib.sha256()
    done, since, pause = 0, time.monotonic(), SHORT
    digest = ""
    again = False
    journal = _ArrivedParts(os.path.join(home.partial, key + PARTS))
    while done < size or not digest or again:
        digest = digest or said()
        if digest and home.blobs.has(digest):  # another client has sent the same meanwhile
            return "", digest
        first = journal.read()
        if first < LARGEST or not digest:
            since = time.monotonic()
        pause = SHORT if first < LARGEST else min(1.2 * pause, LONG)
        again = again or first < done  # a part came once more, and may be another
        if again and done >= size and digest:
            hashed, done, again = hashlib.sha256(), 0, False
            file.seek(0)
        whole = min(journal.whole, size)
        if done < whole:
            data = file.read(min(PIECE, whole - done))
            if not data:
                discard(home, key)  # a power cut has kept the list, and not all parts
                raise HomeError("bad_stream", "less of a blob is here than was said")
            hashed.update(data)
            done += len(data)
        elif done < size or not digest:
            if time.monotonic() - since > patience or not alive():
                raise HomeError("bad_stream", "a part of a blob did not come")
            time.sleep(pause)
    return hashed.hexdigest(), digest


class _ArrivedParts:
    """What parts are here, read as they come: `whole` bytes from the start on have no hole."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._at = 0
        self._after: List[Tuple[int, int]] = []
        """(start, end) of those after a hole, as a heap."""
        self.whole = 0

    def read(self) -> int:
        """Where the first of the new ones starts; more than any blob has if there are none."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return LARGEST
        data = data[: len(data) // _PART.size * _PART.size]
        self._at += len(data)
        first = LARGEST
        for offset, length in _PART.iter_unpack(data):
            first = min(first, offset)
            heapq.heappush(self._after, (offset, offset + length))
        while self._after and self._after[0][0] <= self.whole:
            self.whole = max(self.whole, heapq.heappop(self._after)[1])
        return first


def _open(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:  # read-only: it is becoming a blob, or a crash came in the midst of that
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def discard(home: Home, key: str) -> None:
    for name in (key, key + PARTS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(home.partial, name))
