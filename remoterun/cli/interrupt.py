"""SIGTERM and SIGHUP end a command as ^C does: connections are closed, nothing half-done stays, runs go on."""

from __future__ import annotations

import signal
from typing import Any


def terminate_as_interrupt() -> None:
    """From now on, for this process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
