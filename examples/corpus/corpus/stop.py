"""^C and SIGTERM: the page on its way is still kept, then the visit ends."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """Somebody asked for the end, and nothing is half done."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class Stop:
    """Whether the end was asked for."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._number = 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within, the first ^C or SIGTERM asks for the end, and the second ends at once."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._hear) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def check(self) -> None:
        """Raises Stopped if the end was asked for."""
        if self._asked.is_set():
            raise Stopped(self._number)

    def wait(self, seconds: float) -> None:
        """Blocks so long; raises Stopped as soon as the end is asked for."""
        if self._asked.wait(max(seconds, 0)):
            raise Stopped(self._number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._number = number
        self._asked.set()
        print("stopping after this page; once more stops at once", file=sys.stderr, flush=True)
