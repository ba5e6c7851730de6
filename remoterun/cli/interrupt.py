"""SIGTERM and SIGHUP end a command as ^C does: connections are closed, nothing half-done stays, runs go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def terminate_as_interrupt() -> None:
    """From now on, for this process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """A ^C in the middle of this comes at its end: for what must not be left half-done, such as taking the terminal."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ALL}
    held = [number for number in _ALL if callable(before[number])]
    for number in held:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
    if came:
        raise KeyboardInterrupt
