"""The data that comes over one SSH channel: kept until it is read, or given to a taker as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from paramiko.buffered_pipe import BufferedPipe


class Inbox(BufferedPipe):  # type: ignore[misc]  # paramiko has no types
    """Replaces `Channel.in_buffer`. Without a taker it is paramiko's buffer; with one, it keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._taker: Callable[[memoryview], None] | None = None
        self._taking = threading.Lock()
        self.failure: BaseException | None = None
        """What the taker raised; after that it is given nothing more."""

    def give(self, taker: Callable[[memoryview], None]) -> None:
        """Give `taker` what is kept, and from now on what comes, on the thread that reads for all channels."""
        with self._taking:
            kept = self.empty()
            self._taker = taker
            if kept:
                self._give(memoryview(kept))

    def feed(self, data: bytes | memoryview) -> None:
        with self._taking:
            if self._taker is None:
                super().feed(bytes(data))
            else:
                self._give(memoryview(data))

    def wait(self, timeout: float) -> bool:
        """Blocks until nothing more will come, or the taker has failed; False if neither within `timeout` s."""
        with self._cv:
            return bool(self._cv.wait_for(lambda: self._closed or self.failure is not None, timeout))

    def _give(self, data: memoryview) -> None:
        assert self._taker is not None
        if self.failure is not None:
            return
        try:
            self._taker(data)
        except BaseException as error:  # noqa: BLE001 - it belongs to the taker, not to the thread that reads for all channels
            self.failure = error
            with self._cv:
                self._cv.notify_all()
