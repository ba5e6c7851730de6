"""Whether it pays to deflate what is sent: found out from the data and the link, as they go by."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

from remoterun.agent.packs import MAX_RAW
from remoterun.agent.protocol import Stream

_zlib: Any = zlib
_SPEED = 100e6
"""Bytes a second that are deflated, before it was measured."""
try:
    from isal import isal_zlib as _zlib  # Intel's: the same format, many times as fast

    _SPEED = 400e6
except ImportError:
    pass  # there are machines without it

crc32: Callable[[Any], int] = _zlib.crc32

LEAST = 4096
"""Bytes of a body that may be deflated."""
WORTH = 0.9
"""What a sample must shrink to for the link to be looked at."""
PASS_OVER = 16
"""Bodies that are sent as they are after one that did not shrink."""
WINDOW = 2 << 20
"""Bytes that SSH takes in before the other side must have answered; until then nothing is known of the link."""


class Deflating:
    """For one stream, used by one thread. `round_trip`: seconds; next to nothing for an agent on this machine.

    Deflating costs time, and saves the link's. With a link of `w` bytes a second, and data that is deflated at `c` to
    its `r`-th part, 1/c + 1/(r w) is less than 1/w if w < c (1 - 1/r).
    """

    def __init__(self, stream: Stream, round_trip: float) -> None:
        self._stream = stream
        self._link = WINDOW / round_trip if round_trip > 0.002 else float("inf")
        self._speed, self._shrunk = _SPEED, 0.5
        self._sent = self._since = 0
        self._blocked = 0.0
        self._pass_over = 0

    def send(self, data: bytes | memoryview, header: dict[str, Any]) -> int:
        """One frame; blocks while the link is full. Gives the bytes that its body has on the wire."""
        body, more = self._body(data)
        begun = time.perf_counter()
        self._stream.send(body, **header, **more)
        self._learn(len(body), time.perf_counter() - begun)
        return len(body)

    def _body(self, data: bytes | memoryview) -> tuple[bytes | memoryview, dict[str, int]]:
        if not LEAST <= len(data) <= MAX_RAW or self._link > self._speed * (1 - self._shrunk):
            return data, {}
        if self._pass_over:
            self._pass_over -= 1
            return data, {}
        begun = time.perf_counter()
        deflated = _zlib.compress(data, 1)
        took = time.perf_counter() - begun
        self._speed += (len(data) / max(took, 1e-9) - self._speed) / 8
        shrunk = len(deflated) / len(data)
        if shrunk > WORTH:
            self._pass_over = PASS_OVER
            return data, {}
        self._shrunk += (shrunk - self._shrunk) / 8
        return deflated, {"z": len(data)}

    def _learn(self, size: int, seconds: float) -> None:
        """The link's speed, once it is full: from the time that sending has taken."""
        self._sent += size
        if self._sent <= 2 * WINDOW:
            return
        self._since += size
        self._blocked += seconds
        if self._since >= WINDOW:
            self._link = self._since / max(self._blocked, 1e-9)
            self._since, self._blocked = 0, 0.0
