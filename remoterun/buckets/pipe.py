"""A pipe inside this process: what one end writes, the other end's taker is given at once, in the thread that writes.

Nothing is copied and nothing waits in it, but for the first words before anybody reads. What bounds the rest is the
protocol's own flow control: a taker keeps at most a window of each stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from remoterun.errors import LinkLost

MOST_WAITING = 1 << 20
"""Bytes that may wait for a reader."""


class MemoryPipe:
    """One end: a `hosts.base.Pipe`. `other` is the other one."""

    round_trip = 0.0

    def __init__(self, closing: Callable[[], None] = lambda: None, other: MemoryPipe | None = None) -> None:
        """`closing` is called once, when either end is closed."""
        self._closing = closing
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._taker: Callable[[memoryview], None] | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self.other: MemoryPipe = other or MemoryPipe(closing, self)

    def read(self, limit: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            data = bytes(self._waiting[:limit])
            del self._waiting[:limit]
            return data

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        with self._changed:
            if self._waiting:
                taker(memoryview(bytes(self._waiting)))
                self._waiting.clear()
            self._taker = taker
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._failure is not None)
            self._taker = None
        if self._failure is not None:
            raise self._failure

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        self.other._give(parts)

    def close(self) -> None:
        for end in (self, self.other):
            with end._changed:
                first, end._closed = not end._closed, True
                end._changed.notify_all()
        if first:
            self._closing()

    def diagnosis(self) -> str:
        return ""

    def _give(self, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
        """The other end's thread brings bytes."""
        with self._changed:
            if self._taker is None and not self._closed:
                for part in parts:
                    self._waiting += part
                if len(self._waiting) > MOST_WAITING:
                    self._changed.wait_for(lambda: self._closed or len(self._waiting) <= MOST_WAITING)
                self._changed.notify_all()
                if not self._closed:
                    return
            taker = self._taker
            if self._closed or self._failure is not None or taker is None:
                raise LinkLost("the conversation with the bucket has ended")
        try:
            for part in parts:
                taker(memoryview(part))
        except Exception as error:  # noqa: BLE001 - it is for the thread that pumps
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise LinkLost(f"the conversation with the bucket has ended: {error}")
