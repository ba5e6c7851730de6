"""Large blobs on their way into a home, in pieces: see shared/pieces.py.

partial/DIGEST holds what has come of a blob. Several agents may write it at once, each piece to its place, and a cut
transfer goes on with it, also that of another client. A file is locked only for the time of one call; whether its
transfer goes on shows in the lease that names the digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Iterator, List, Optional

from ..shared.files import is_same
from ..shared.frames import Bytes
from ..shared.pieces import PIECE, find_pieces, piece_length, whole_hash, write_at
from .errors import HomeError, damaged
from .home import Home


def missing(home: Home, digest: str, size: int, first: int, wanted: Bytes, like: str) -> List[int]:
    """The numbers of the pieces of a blob that are not in this home. What the blob `like` has of them is copied.

    `wanted`: the packed SHA-256 of each, from piece number `first` on. Raises `HomeError("disk_full")` where the blob
    does not fit.
    """
    home.reserve.check(max(0, size - home.blobs.partial_size(digest)))
    with _partial(home, digest) as file:
        if file is None:
            return []
        with contextlib.ExitStack() as stack:
            other = None
            if like:
                with contextlib.suppress(FileNotFoundError):
                    other = stack.enter_context(open(home.blobs.path(like), "rb", buffering=0)).fileno()
            return find_pieces(file, size, first, wanted, other)


def write_piece(home: Home, digest: str, size: int, numbers: List[int], data: Bytes) -> None:
    """Write a piece of a blob to each of its places. Raises `HomeError("bad_stream")` for one of another length."""
    if any(len(data) != piece_length(number, size) for number in numbers):
        raise HomeError("bad_stream", "a piece of %d bytes" % len(data))
    for number in numbers:
        write(home, digest, number * PIECE, data)


def write(home: Home, digest: str, offset: int, data: Bytes) -> None:
    """Write a part of a blob to its place, unless the blob is whole by now."""
    with _partial(home, digest) as file:
        if file is not None:
            write_at(file, offset, data)


def seal(home: Home, digest: str, size: int) -> None:
    """Make the blob once all of it has come. Raises `HomeError("damaged")` for another content, which stays: the next
    transfer compares its pieces."""
    with _partial(home, digest, fcntl.LOCK_EX) as file:
        if file is None:
            return
        if os.fstat(file).st_size != size or whole_hash(file, size) != digest:
            raise damaged(digest)
        os.fsync(file)
        home.blobs.adopt(_path(home, digest), digest)
        os.unlink(_path(home, digest))


def discard(home: Home, digest: str) -> None:
    """Drop what has come of a blob."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(home, digest))


@contextlib.contextmanager
def _partial(home: Home, digest: str, lock: int = fcntl.LOCK_SH) -> Iterator[Optional[int]]:
    """The partial file, open and locked; None where the blob is whole, and nothing must be written any more."""
    path = _path(home, digest)
    while not home.blobs.has(digest):
        held = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, lock)
            if not is_same(held, path) or home.blobs.has(digest):  # it was sealed, or deleted, meanwhile
                continue
            os.fchmod(held, 0o600)  # a crash may have come in the midst of `Blobs.adopt`
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                yield file
            finally:
                os.close(file)
            return
        finally:
            os.close(held)
    discard(home, digest)
    yield None


def _path(home: Home, digest: str) -> str:
    return os.path.join(home.partial, digest)
