"""What is drawn again while it goes on: steps of a run, transfers, the use of machines by runs."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from remoterun.agent.shared.states import RunState
from remoterun.cli.interrupt import interrupts_held
from remoterun.cli.render import Column, command_bytes, finish, line, out, table, table_lines
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    coloured,
    columns,
    cursor,
    duration,
    files,
    lively,
    paint,
    plain,
    shortened,
    size,
    terminal_width,
)
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from remoterun.agent.shared import api
    from remoterun.client.live.live import RunUse


CLOCK_AFTER = 3.0
"""Seconds from which on a step shows its time."""
WORTH_A_LINE = 1.0
"""Seconds that a step must take to leave a line."""


@contextlib.contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """A function that shows in a few words what is waited for; "" ends that."""
    steps = Steps()

    def wait(text: str) -> None:
        if text:
            steps.at(f"Waiting for {text}")
        else:
            steps.clear()

    try:
        yield wait
    finally:
        steps.abandon()


class Steps:
    """The states of a run as they are passed: on a terminal one line that is written anew, with a spinner and the time;
    a line stays of each step that took a while. Any thread may call."""

    def __init__(self) -> None:
        self._status: Any = None
        self._text = self._detail = ""
        self._since = 0.0
        self._lively = lively(sys.stderr)
        self._turn = threading.RLock()

    def at(self, text: str) -> None:
        with self._turn:
            self.clear()
            self._text, self._detail, self._since = text, "", time.monotonic()
            if self._lively:
                self._spin()

    def detail(self, text: str) -> None:
        """What this step is doing; shown on a terminal only."""
        self._detail = plain(text)

    def waits(self, text: str) -> None:
        """What this step waits for: beside the spinner, and elsewhere in a line, when it is another."""
        with self._turn:
            if not self._lively and text != self._detail:
                line(f"  {text}")
            self._detail = plain(text)

    def output(self, data: bytes, stderr: bool = False) -> None:
        """Bytes of the command, which no spinner may erase."""
        with self._turn:
            self._halt()
            command_bytes(data, stderr)

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._turn:
            spinning = self._status is not None
            self._halt()
            line(f"  {text}")
            if spinning:
                self._spin()

    def clear(self, failed: bool = False) -> None:
        """End the step; a line with the time it took stays, if that is worth one."""
        with self._turn:
            took = time.monotonic() - self._since
            self._halt()
            if self._text and (failed or took >= WORTH_A_LINE):
                line(FAILED if failed else DONE, self._text, paint(duration(took), "2"))
            self._text = ""

    def abandon(self) -> None:
        """End without saying that the step was done."""
        with self._turn:
            self._halt()
            self._text = ""

    def __rich__(self) -> Any:
        """What stands beside the spinner now."""
        from rich.text import Text

        gone = time.monotonic() - self._since
        clock = f" {duration(gone)}" if gone >= CLOCK_AFTER else ""
        room = (terminal_width(sys.stderr) or 80) - columns(self._text + clock) - 4 - len("^C")
        detail = f" {shortened(self._detail, room)}" if self._detail and room > 10 else ""
        return Text.assemble(self._text, (clock + detail, "dim"), no_wrap=True, overflow="ellipsis")

    def _spin(self) -> None:
        from rich.console import Console

        cursor.begin_line()
        console = Console(stderr=True, highlight=False, no_color=not coloured(sys.stderr))
        with interrupts_held():  # rich, interrupted in these, loses count of its displays, or leaves no cursor
            self._status = console.status(self)
            self._status.start()

    def _halt(self) -> None:
        with interrupts_held():
            if self._status is not None:
                self._status.stop()
                self._status = None


BAR_AFTER = 0.4
"""Seconds that a transfer may take before it gets a bar."""
LINE_EVERY, EVENT_EVERY = 10.0, 0.5
"""Seconds between lines without a terminal, and between events for programs."""
LONGEST_LEFT = 30 * 86400.0
"""Seconds from which on the time to the end is no figure: next to nothing has moved."""


@contextlib.contextmanager
def progress(as_json: bool = False) -> Iterator[Progress]:
    """A progress that is shown: a bar with size, rate and time left on a terminal, once it takes a while; a line at
    most every 10 s without one. `as_json`: an event a line, on stderr, and the last one of each phase in any case."""
    display = _Events() if as_json else _Bar() if lively(sys.stderr) else _Lines()
    try:
        yield Progress(display.report)
    finally:
        display.stop()


class _Lines:
    """A line of talk for a phase that goes on."""

    every = LINE_EVERY

    def __init__(self) -> None:
        self._phase = ""
        self._begun = self._said = 0.0

    def report(self, state: Progress) -> None:
        now = time.monotonic()
        if state.phase != self._phase:
            self.stop()
            self._phase, self._begun, self._said = state.phase, now, now
        if now - self._said >= self.every:
            self._said = now
            self.show(state, now - self._begun)

    def show(self, state: Progress, seconds: float) -> None:
        rate, left = _rate_and_left(state, seconds)
        done = f"{state.phase}: {size(state.bytes_done)} of {size(state.bytes_total)}{_details(state)}"
        line(f"{done}, {size(rate)}/s" + ("" if left is None else f", {duration(left)} left"))

    def stop(self) -> None:
        """The phase has ended."""


class _Events(_Lines):
    """{"event": "progress", "phase", "bytes", "bytes_total", "bytes_present", "files", "files_total", "rate", "left"};
    the last two in bytes a second, and seconds or null."""

    every = EVENT_EVERY
    _last: Progress | None = None

    def report(self, state: Progress) -> None:
        super().report(state)
        self._last = state

    def stop(self) -> None:
        if self._last is not None:
            self.show(self._last, time.monotonic() - self._begun)

    def show(self, state: Progress, seconds: float) -> None:
        rate, left = _rate_and_left(state, seconds)
        event = {
            "event": "progress",
            "phase": state.phase,
            "bytes": state.bytes_done,
            "bytes_total": state.bytes_total,
            "bytes_present": state.bytes_present,
            "files": state.files_done,
            "files_total": state.files_total,
            "rate": round(rate),
            "left": None if left is None else round(left, 1),
        }
        print(json.dumps(event), file=sys.stderr, flush=True)


class _Bar(_Lines):
    every = 0.05
    _bars: Bars | None = None
    _task: Any = None

    def show(self, state: Progress, seconds: float) -> None:
        if self._bars is None:
            if seconds < BAR_AFTER or not state.bytes_total:
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
        details = _details(state).removeprefix(", ")
        self._bars.update(self._task, completed=state.bytes_done, total=state.bytes_total, details=details)

    def stop(self) -> None:
        with interrupts_held():
            if self._bars is not None:
                self._bars.stop()
                self._bars = None


def _details(state: Progress) -> str:
    """What the bytes alone don't tell, each after a comma."""
    there = f", {size(state.bytes_present)} already there" if state.bytes_present else ""
    return (f", {state.files_done:,} of {files(state.files_total)}" if state.files_total > 1 else "") + there


def _rate_and_left(state: Progress, seconds: float) -> tuple[float, float | None]:
    """(bytes a second that really were moved, seconds to the end as far as that can be told)."""
    rate = (state.bytes_done - state.bytes_present) / max(seconds, 0.001)
    left = (state.bytes_total - state.bytes_done) / rate if rate else LONGEST_LEFT
    return rate, left if left < LONGEST_LEFT else None


_SHOWN: list[tuple[Column, Callable[[api.Sample], str]]] = [
    (Column("STATE", drop=3), lambda sample: "" if sample.state is RunState.RUNNING else sample.state.value),
    (Column("CPU", right=True), lambda sample: _percent(sample.cpu)),
    (Column("MEMORY", right=True), lambda sample: "" if sample.memory is None else size(sample.memory)),
    (Column("GPU", right=True, drop=8), lambda sample: _gpu_percent(sample)),
    (
        Column("GPU MEMORY", right=True, drop=7),
        lambda sample: size(sum(gpu.memory for gpu in sample.gpus)) if sample.gpus else "",
    ),
    (Column("READ", right=True, drop=5), lambda sample: _rate(sample.read)),
    (Column("WRITTEN", right=True, drop=6), lambda sample: _rate(sample.written)),
    (Column("RECEIVED", right=True, drop=2), lambda sample: _rate(sample.received)),
    (Column("SENT", right=True, drop=4), lambda sample: _rate(sample.sent)),
]
_HEADS = [Column("RUN", right=True), *(head for head, _ in _SHOWN), Column("COMMAND", least=10, drop=1)]


class Board:
    """Shows how much runs use, as often as it is asked: in a table, on a terminal always in one place."""

    def __init__(self, as_json: bool, once: bool) -> None:
        self._as_json = as_json
        self._once = once
        self._live: Any = None

    def __enter__(self) -> Self:
        if lively(sys.stdout) and not self._as_json and not self._once:
            from rich.console import Console
            from rich.live import Live

            with interrupts_held():
                console = Console(force_terminal=True, no_color=not coloured(sys.stdout))
                self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop", redirect_stderr=False)
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with interrupts_held():
                self._live.stop()

    def show(self, uses: Sequence[RunUse]) -> None:
        if self._as_json:
            for use in uses:
                from remoterun.client import json_shapes

                out(json.dumps(json_shapes.run_use(use)))
        elif self._live is not None:
            rows = [_row(use) for use in uses][-max(self._live.console.height - 2, 1) :]
            lines = table_lines(_HEADS, rows, terminal_width(sys.stdout))
            from rich.text import Text

            with interrupts_held():
                self._live.update(Text.from_ansi("\n".join(lines), no_wrap=True), refresh=True)
        else:
            table(_HEADS, [_row(use) for use in uses])
        finish()


def _row(use: RunUse) -> list[str]:
    sample, run = use.sample, use.run
    cells = ["not reached", *[""] * 8] if sample is None else [cell(sample) for _, cell in _SHOWN]
    return [str(run.number), *cells, run.command]


def _gpu_percent(sample: api.Sample) -> str:
    known = [gpu.percent for gpu in sample.gpus if gpu.percent is not None]
    return _percent(sum(known) if known else None)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{size(value)}/s" if value >= 1 else "0"
