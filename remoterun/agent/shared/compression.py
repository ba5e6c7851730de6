"""Bodies are compressed by zlib on the wire where the link is slower than that: on far links, for data that shrinks.

A compressed frame says how long its body was: {"z": bytes}.
"""

from __future__ import annotations

import zlib
from typing import Any, Dict, Tuple

from .frames import MAX_BODY, Body, Bytes
from .protocol import Stream

FAR = 0.010
"""Seconds of a round trip above which compressing pays."""
LEAST = 4096
"""Bytes of a body that may be compressed."""
WORTH = 0.9
"""What a body must shrink to."""
PASS_OVER = 16
"""Bodies that are sent as they are after one that did not shrink."""


class CompressionError(Exception):
    """A body that does not expand to what its header says."""


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
    """The body of a frame as it was. Raises `CompressionError`."""
    if "z" not in header:
        return body
    size = header["z"]
    if type(size) is not int or not 0 <= size <= MAX_BODY:
        raise CompressionError("a body of %.40r bytes" % (size,))
    inflating = zlib.decompressobj()
    try:
        raw = inflating.decompress(body, size + 1)
    except zlib.error as error:
        raise CompressionError("a body that can't be inflated: %s" % error)
    if len(raw) != size or not inflating.eof or inflating.unused_data:
        raise CompressionError("a body that inflates to another length than was said")
    return raw
