"""The progress of a transfer: a bar, or lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remoterun.cli.render.talk import line
from remoterun.cli.render.terminal import lively
from remoterun.cli.render.words import size
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

BAR_AFTER = 0.4
"""Seconds that a transfer may take before it gets a bar."""


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A progress that is shown: a bar with size, rate and time left on a terminal, once it takes a while; a line at
    most every 10 s without one."""
    display = _Display()
    try:
        yield Progress(display.report)
    finally:
        display.stop()


class _Display:
    def __init__(self) -> None:
        self._lively = lively(sys.stderr)
        self._bars: Bars | None = None
        self._task: Any = None
        self._phase = ""
        self._begun = 0.0
        self._said = 0.0

    def report(self, state: Progress) -> None:
        now = time.monotonic()
        if state.phase != self._phase:
            self.stop()
            self._phase, self._begun, self._said = state.phase, now, now
        if self._lively:
            self._show(state, now)
        elif now - self._said > 10:
            self._said = now
            rate = state.bytes_done / max(now - self._begun, 0.001)
            line(f"{state.phase}: {size(state.bytes_done)} of {size(state.bytes_total)}, {size(rate)}/s")

    def _show(self, state: Progress, now: float) -> None:
        if self._bars is None:
            if now - self._begun < BAR_AFTER or not state.bytes_total:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(state.phase, total=state.bytes_total)
        if now - self._said > 0.05 or state.bytes_done == state.bytes_total:
            self._said = now
            self._bars.update(self._task, completed=state.bytes_done, total=state.bytes_total)

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._phase = ""
