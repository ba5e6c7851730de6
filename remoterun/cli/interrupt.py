"""SIGTERM and SIGHUP end a command as ^C does: connections are closed, nothing half-done stays, runs go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_holders = 0
_came = False


def terminate_as_interrupt() -> None:
    """From now on, for this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup ignores SIGHUP: that stays
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    global _came
    if not _holders:
        raise KeyboardInterrupt
    _came = True


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """An interrupt in here comes at the end: for what must not be left half-done, such as taking the terminal."""
    global _holders, _came
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    _holders += 1
    try:
        yield
    finally:
        _holders -= 1
    if _came and not _holders:
        _came = False
        raise KeyboardInterrupt
