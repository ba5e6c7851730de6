"""Whether it pays to compress what is sent: found out from the data and the link, as they go by."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Optional, Tuple

from .codecs import MAX_RAW, Codec
from .frames import Bytes
from .protocol import Stream

LEAST = 4096
"""Bytes of a body that may be compressed."""
WORTH = 0.9
"""What a sample must shrink to for the link to be looked at."""
PASS_OVER = 16
"""Bodies that are sent as they are after one that did not shrink."""
MOST_WORK = 0.5
"""Of the time, that must be spent waiting for the link before it pays to compress thoroughly."""
WINDOW = 2 << 20
"""Bytes that SSH takes in before the other side must have answered; until then nothing is known of the link."""


class CompressingStream:
    """For one stream, used by one thread.

    Compressing costs time, and saves the link's. With a link of `w` bytes a second, and data that is compressed at `c`
    to its `r`-th part, 1/c + 1/(r w) is less than 1/w if w < c (1 - 1/r).
    """

    def __init__(self, stream: Stream, round_trip: float, codec: Callable[[], Optional[Codec]]) -> None:
        """`round_trip`: seconds; next to nothing for the other side on this machine. `codec`: the best that both sides
        have, as far as that is known; asked only when the link is slow enough."""
        self._stream = stream
        self._codec = codec
        self._link = WINDOW / round_trip if round_trip > 0.002 else float("inf")
        self._speed, self._shrunk = 300e6, 0.5
        self._sent = self._since = 0
        self._waits = 1.0
        """Of the time, that goes by in waiting for the link."""
        self._seconds = self._blocked = 0.0
        self._pass_over = 0

    def send(self, data: Bytes, header: Dict[str, Any]) -> int:
        """One frame; blocks while the link is full. Gives the bytes that its body has on the wire."""
        begun = time.perf_counter()
        body, more = self._body(data)
        ready = time.perf_counter()
        self._stream.send(body, **header, **more)
        sent = time.perf_counter()
        self._learn(len(body), sent - begun, sent - ready)
        return len(body)

    def _body(self, data: Bytes) -> Tuple[Bytes, Dict[str, int]]:
        if not LEAST <= len(data) <= MAX_RAW or self._link > self._speed * (1 - self._shrunk):
            return data, {}
        if self._pass_over:
            self._pass_over -= 1
            return data, {}
        codec = self._codec()
        if codec is None or self._link > codec.speed:
            return data, {}
        thorough = self._link < codec.slow_link and self._waits > MOST_WORK
        begun = time.perf_counter()
        made = codec.compress(data, codec.thorough if thorough else codec.quick)
        took = time.perf_counter() - begun
        if not thorough:
            self._speed += (len(data) / max(took, 1e-9) - self._speed) / 8
        shrunk = len(made) / len(data)
        if shrunk > WORTH:
            self._pass_over = PASS_OVER
            return data, {}
        self._shrunk += (shrunk - self._shrunk) / 8
        return made, {codec.key: len(data)}

    def _learn(self, size: int, seconds: float, blocked: float) -> None:
        """Learn the link's speed, once it is full. A sender that has to wait for the link keeps it busy also while it
        compresses. One that hardly waits does not learn how fast the link is, only that it takes what there is."""
        self._sent += size
        if self._sent <= 2 * WINDOW:
            return
        self._since += size
        self._seconds += seconds
        self._blocked += blocked
        if self._since >= WINDOW:
            self._waits = self._blocked / max(self._seconds, 1e-9)
            self._link = self._since / max(self._seconds if self._waits > 0.1 else self._blocked, 1e-9)
            self._since, self._seconds, self._blocked = 0, 0.0, 0.0
