"""SIGTERM and SIGHUP end a command as ^C does: connections are closed, nothing half-done stays, runs go on."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

AT_ONCE = 0.1
"""Interrupts within so many seconds count as one: a terminal sends it to every process, and some pass it on."""

_holders = 0
_came = False
_last = -AT_ONCE


def terminate_as_interrupt() -> None:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in this process from now on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup ignores SIGHUP: that stays
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _unraisable


def end_at_once() -> None:
    """From now on an interrupt ends this process without a word: its command is done, and Python, which takes itself
    apart, would print where it was."""
    for _ in range(2):
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) in (_interrupt, signal.default_int_handler):
                    signal.signal(number, signal.SIG_DFL)
            return
        except KeyboardInterrupt:  # the last one; what comes within `AT_ONCE` of it raises nothing
            pass


def _interrupt(number: int, frame: Any) -> None:
    global _came, _last
    if _holders:
        _came = True
        return
    now = time.monotonic()
    if number == signal.SIGALRM or now - _last >= AT_ONCE:
        _last = now
        raise KeyboardInterrupt


def _unraisable(raised: Any) -> None:
    """An interrupt that was raised in a finalizer, where nobody can catch it, comes once more when that is done."""
    if issubclass(raised.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AT_ONCE / 10)
    else:
        sys.__unraisablehook__(raised)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """An interrupt that comes inside is raised at the end: for what must not be left half-done, such as the start of a
    spinner."""
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
