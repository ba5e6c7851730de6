"""How digests travel, 32 bytes each, one after the other; and small contents: packed together, compressed where it
pays (compression.py).

A pack is one frame's body: for each of its files a record (SHA-256, size), then their contents in the same order.
"""

from __future__ import annotations

import struct
from typing import Iterable, Iterator, List, Tuple

from .frames import Bytes

DIGEST_SIZE = 32
"""Bytes of a digest."""
MISSING = struct.Struct("!IQ")
"""Of a blob that is not there: its place among those that were asked about, and the bytes that a cut transfer left."""


def unpacked(raw: Bytes) -> Iterator[bytes]:
    """Digests that stand one after the other; a last one that is cut is left out."""
    whole = bytes(raw)
    for at in range(0, len(whole) - DIGEST_SIZE + 1, DIGEST_SIZE):
        yield whole[at : at + DIGEST_SIZE]


SMALL = 128 << 10
"""Bytes of the largest content that travels in a pack."""
PACK = 512 << 10
"""Bytes of a pack that is full."""

_RECORD = struct.Struct("!32sI")
RECORD_SIZE = _RECORD.size


class PackError(Exception):
    """A body that is not a pack."""


def pack(contents: Iterable[Tuple[bytes, Bytes]]) -> bytes:
    """(digest, content) of each, as a body; see the module."""
    listed = list(contents)
    records = [_RECORD.pack(digest, len(content)) for digest, content in listed]
    return b"".join(records + [content for _, content in listed])


def unpack(body: Bytes, count: int) -> Iterator[Tuple[bytes, memoryview]]:
    """(digest, content) of each of `count`. Raises `PackError` before the first if the lengths don't fit the body."""
    view = memoryview(body)
    start = count * _RECORD.size
    if count < 1 or start > len(view):
        raise PackError("a pack of %d that has %d bytes" % (count, len(view)))
    records: List[Tuple[bytes, int]] = list(_RECORD.iter_unpack(view[:start]))
    if start + sum(size for _, size in records) != len(view):
        raise PackError("a pack whose contents have another length than was said")
    for digest, size in records:
        yield digest, view[start : start + size]
        start += size
