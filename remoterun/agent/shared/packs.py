"""How digests travel, 32 bytes each, one after the other; and contents: small ones packed together, and all of them
compressed by zlib where the link is slower than that: on far links, for data that shrinks.

A pack is one frame's body: for each of its files a record (SHA-256, size), then their contents in the same order.
A compressed frame says how long its body was: {"z": bytes}.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Dict, Iterable, Iterator, List, Tuple

from .frames import MAX_BODY, Body, Bytes, ProtocolError
from .protocol import Stream

DIGEST_SIZE = 32
"""Bytes of a digest."""
MISSING = struct.Struct("!IQ")
"""Of a blob that is not there: its place among those that were asked about, and the bytes that a cut transfer left."""


def unpacked(raw: Bytes) -> Iterator[bytes]:
    """Digests that stand one after the other; a last one that is cut is left out."""
    whole = bytes(raw)
    for at in range(0, len(whole) - DIGEST_SIZE + 1, DIGEST_SIZE):
        yield whole[at : at + DIGEST_SIZE]


_RECORD = struct.Struct("!32sI")
RECORD_SIZE = _RECORD.size

LARGE = MAX_BODY - RECORD_SIZE
"""Bytes of the largest content that travels in a pack; a larger one travels in pieces."""
PACK, MOST_PACKED = 512 << 10, 4096
"""Bytes of a pack that is full, or how many contents it has. A content above that has a pack of its own."""


def pack(contents: Iterable[Tuple[bytes, Bytes]]) -> bytes:
    """(digest, content) of each, as a body; see the module."""
    listed = list(contents)
    records = [_RECORD.pack(digest, len(content)) for digest, content in listed]
    return b"".join(records + [content for _, content in listed])


def unpack(body: Bytes, count: int) -> Iterator[Tuple[bytes, memoryview]]:
    """(digest, content) of each of `count`. Raises `ProtocolError` before the first if the lengths don't fit."""
    view = memoryview(body)
    start = count * _RECORD.size
    if count < 1 or start > len(view):
        raise ProtocolError("a pack of %d that has %d bytes" % (count, len(view)))
    records: List[Tuple[bytes, int]] = list(_RECORD.iter_unpack(view[:start]))
    if start + sum(size for _, size in records) != len(view):
        raise ProtocolError("a pack whose contents have another length than was said")
    for digest, size in records:
        yield digest, view[start : start + size]
        start += size


FAR = 0.010
"""Seconds of a round trip above which compressing pays."""
LEAST = 4096
"""Bytes of a body that may be compressed."""
WORTH = 0.9
"""What a body must shrink to."""
PASS_OVER = 16
"""Bodies that are sent as they are after one that did not shrink."""


class CompressingStream:
    """Sends on a stream, and compresses where it pays. For one thread."""

    def __init__(self, stream: Stream, round_trip: float) -> None:
        """`round_trip`: seconds."""
        self._stream = stream
        self._far = round_trip > FAR
        self._pass_over = 0

    def send(self, data: Bytes, header: Dict[str, Any]) -> None:
        """Send one frame; blocks while the link is full."""
        body, more = self._compressed(data)
        self._stream.send(body, **header, **more)

    def _compressed(self, data: Bytes) -> Tuple[Bytes, Dict[str, int]]:
        if not self._far or len(data) < LEAST:
            return data, {}
        if self._pass_over:
            self._pass_over -= 1
            return data, {}
        made = zlib.compress(data, 1)
        if len(made) > WORTH * len(data):
            self._pass_over = PASS_OVER
            return data, {}
        return made, {"z": len(data)}


def expand(header: Dict[str, Any], body: Body) -> Body:
    """The body of a frame as it was. Raises `ProtocolError`."""
    if "z" not in header:
        return body
    size = header["z"]
    if type(size) is not int or not 0 <= size <= MAX_BODY:
        raise ProtocolError("a body of %.40r bytes" % (size,))
    inflating = zlib.decompressobj()
    try:
        raw = inflating.decompress(body, size + 1)
    except zlib.error as error:
        raise ProtocolError("a body that can't be inflated: %s" % error)
    if len(raw) != size or not inflating.eof or inflating.unused_data:
        raise ProtocolError("a body that inflates to another length than was said")
    return raw
