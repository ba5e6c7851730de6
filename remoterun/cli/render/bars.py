"""The progress of a transfer: a bar on a terminal, lines without one, and JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remoterun.cli.interrupt import interrupts_held
from remoterun.cli.render.talk import line
from remoterun.cli.render.terminal import cursor, lively
from remoterun.cli.render.words import duration, files, size
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

BAR_AFTER = 0.4
"""Seconds that a transfer may take before it gets a bar."""
LINE_EVERY, EVENT_EVERY = 10.0, 0.5
"""Seconds between lines without a terminal, and between events for programs."""


@contextlib.contextmanager
def progress(as_json: bool = False) -> Iterator[Progress]:
    """A progress that is shown: a bar with size, rate and time left on a terminal, once it takes a while; a line at
    most every 10 s without one. `as_json`: an event a line, on stderr, and the last one of each phase in any case."""
    display = _Events() if as_json else _Display()
    try:
        yield Progress(display.report)
    finally:
        display.stop()


class _Events:
    """{"event": "progress", "phase", "bytes", "bytes_total", "bytes_there", "files", "files_total", "rate", "left"};
    the last two in bytes a second, and seconds or null."""

    def __init__(self) -> None:
        self._phase = ""
        self._begun = self._said = 0.0
        self._last: Progress | None = None

    def report(self, state: Progress) -> None:
        now = time.monotonic()
        if state.phase != self._phase:
            self._phase, self._begun, self._said = state.phase, now, now
        self._last = state
        if now - self._said >= EVENT_EVERY:
            self._say(state, now)

    def stop(self) -> None:
        if self._last is not None:
            self._say(self._last, time.monotonic())

    def _say(self, state: Progress, now: float) -> None:
        self._said = now
        rate, left = _rate_and_left(state, now - self._begun)
        event = {
            "event": "progress",
            "phase": state.phase,
            "bytes": state.bytes_done,
            "bytes_total": state.bytes_total,
            "bytes_there": state.bytes_there,
            "files": state.files_done,
            "files_total": state.files_total,
            "rate": round(rate),
            "left": None if left is None else round(left, 1),
        }
        print(json.dumps(event), file=sys.stderr, flush=True)


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
        elif now - self._said > LINE_EVERY:
            self._said = now
            rate, left = _rate_and_left(state, now - self._begun)
            done = f"{state.phase}: {size(state.bytes_done)} of {size(state.bytes_total)}{_details(state)}"
            line(f"{done}, {size(rate)}/s" + ("" if left is None else f", {duration(left)} left"))

    def _show(self, state: Progress, now: float) -> None:
        if self._bars is None:
            if now - self._begun < BAR_AFTER or not state.bytes_total:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as RichProgress

            bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                DownloadColumn(),
                TextColumn("{task.fields[details]}", style="dim"),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            cursor.begin_line()
            with interrupts_held():
                self._task = bars.add_task(state.phase, total=state.bytes_total, details="")
                bars.start()
                self._bars = bars
        if now - self._said > 0.05 or state.bytes_done == state.bytes_total:
            self._said = now
            details = _details(state).removeprefix(", ")
            self._bars.update(self._task, completed=state.bytes_done, total=state.bytes_total, details=details)

    def stop(self) -> None:
        with interrupts_held():
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
        self._phase = ""


def _details(state: Progress) -> str:
    """What the bytes alone don't tell, each after a comma."""
    there = f", {size(state.bytes_there)} already there" if state.bytes_there else ""
    return (f", {state.files_done:,} of {files(state.files_total)}" if state.files_total > 1 else "") + there


def _rate_and_left(state: Progress, seconds: float) -> tuple[float, float | None]:
    """(bytes a second that really were moved, seconds to the end as far as that can be told)."""
    rate = (state.bytes_done - state.bytes_there) / max(seconds, 0.001)
    return rate, (state.bytes_total - state.bytes_done) / rate if rate else None
