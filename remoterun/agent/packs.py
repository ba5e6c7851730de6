"""How contents travel: small ones packed together, large ones in pieces, either of them deflated where it pays.

A pack is one frame's body: for each of its files a record (SHA-256, size), then their contents in the same order.
Used by both sides. Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import struct
import zlib
from typing import Iterable, Iterator, List, Tuple, Union

Bytes = Union[bytes, bytearray, memoryview]

SMALL = 128 << 10
"""Bytes of the largest content that travels in a pack."""
PACK = 256 << 10
"""Bytes of a pack that is full."""
MAX_RAW = 1 << 20
"""Bytes that a deflated body may have when it is inflated."""

_RECORD = struct.Struct("!32sI")
RECORD_SIZE = _RECORD.size


class PackError(Exception):
    """A body that is no pack, or that does not inflate to what was said."""


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


def inflate(body: Bytes, size: int) -> bytes:
    """What was deflated, `size` bytes. Raises `PackError` if it is not that; never makes more than that."""
    if not 0 <= size <= MAX_RAW:
        raise PackError("a body of %d bytes" % size)
    inflating = zlib.decompressobj()
    try:
        raw = inflating.decompress(body, size + 1)
    except zlib.error as error:
        raise PackError("a body that can't be inflated: %s" % error)
    if len(raw) != size or not inflating.eof or inflating.unused_data:
        raise PackError("a body that inflates to another length than was said")
    return raw
