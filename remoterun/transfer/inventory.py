"""What a host has already of what is to be sent to it."""

from __future__ import annotations

import bisect
import hashlib
import os
import struct

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.digests import MISSING
from remoterun.agent.shared.protocol import Stream
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, nonsense

AT_ONCE = 1000
"""Digests that are asked about in one frame."""
MOST_SIZES = 10_000
"""Sizes of large files that are asked about, at most."""


def missing_blobs(session: Session, digests: list[str]) -> list[tuple[str, int]]:
    """(digest, bytes that a cut transfer left there) of each blob that the host lacks."""
    found = []
    with session.stream(api.missing, Nothing()) as stream:
        for start in range(0, len(digests), AT_ONCE):
            part = digests[start : start + AT_ONCE]
            stream.send(b"".join(map(bytes.fromhex, part)))
            found += [(part[place], have) for place, have in read_missing(stream, len(part), session)]
        stream.end()
        stream.finish()
    return found


def read_missing(stream: Stream, count: int, session: Session) -> list[tuple[int, int]]:
    """The answer about `count` blobs: (place among them, bytes there already) of each that is missing."""
    try:
        found = list(MISSING.iter_unpack(next_frame(stream, session).body))
    except struct.error:
        raise nonsense(session)
    if any(place >= count for place, _ in found):
        raise nonsense(session)
    return found


class Inventory:
    """What a host has of large files, and the room on its disk. Nothing is known before `ask`."""

    def __init__(self) -> None:
        self.asked = False
        self.sizes: set[int] = set()
        """Of blobs there: a file of that size is hashed before it is sent."""
        self.partial: dict[str, int] = {}
        """Bytes from the start on that cut transfers have left, by `file_key`."""
        self.parts: dict[str, list[tuple[int, int]]] = {}
        """(offset, length) of what has come of files that were sent in parts."""
        self.similar = SimilarFiles([])
        self.room: int | None = None
        """Bytes that may arrive there."""

    def ask(self, session: Session, name: str, sizes: set[int]) -> None:
        """A round trip. `name`: of the upload whose files may have parts of those to be sent; `sizes`: of these."""
        told = session.ask(api.begun, api.Beginnings(name, sorted(sizes)[:MOST_SIZES]))
        self.asked = True
        self.sizes = set(told.sizes)
        self.partial = told.partial
        with session.understood():
            self.parts = {key: [(offset, length) for offset, length in found] for key, found in told.parts.items()}
        self.similar = SimilarFiles([(file.path, file.size, file.digest) for file in told.large])
        self.room = told.room

    def begun(self, key: str) -> int:
        """Bytes of a file that are there, of a cut transfer."""
        return self.partial.get(key, 0) + sum(length for _, length in self.parts.get(key, ()))


class SimilarFiles:
    """Large files that are there, of which another may have parts: by its path, its name, or its size."""

    def __init__(self, files: list[tuple[str, int, str]]) -> None:
        self._by_path = {path: digest for path, _, digest in files}
        self._by_name: dict[str, str] = {}
        for path, _, digest in files:
            self._by_name.setdefault(path.rpartition("/")[2], digest)
        self._sizes = sorted((size, digest) for _, size, digest in files)

    def of(self, path: str, size: int) -> list[str]:
        """Digests, the likeliest first."""
        names = [self._by_path.get(path), self._by_name.get(path.rpartition("/")[2])]
        at = bisect.bisect_left(self._sizes, (size, ""))
        near = sorted(self._sizes[max(0, at - 2) : at + 2], key=lambda file: abs(file[0] - size))
        return list(dict.fromkeys([name for name in names if name] + [digest for _, digest in near[:1]]))


def file_key(path: str, status: os.stat_result) -> str:
    """The name of a large file on its way: by its place and its stamp, as its digest may not be known yet."""
    stamp = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(b"%s\0%s" % (path.encode(errors="surrogateescape"), stamp.encode())).hexdigest()
