"""The steps of a run, while it is on its way to running and after."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from remoterun.cli.interrupt import interrupts_held
from remoterun.cli.render.talk import command_bytes, line
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    coloured,
    columns,
    cursor,
    lively,
    paint,
    plain,
    shortened,
    terminal_width,
)
from remoterun.cli.render.words import duration

CLOCK_AFTER = 3.0
"""Seconds from which on a step shows its time."""
WORTH_A_LINE = 1.0
"""Seconds that a step must take to leave a line."""


@contextlib.contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner while the block works, on a terminal only; it leaves nothing. The block asks nobody anything."""
    steps = Steps()
    if lively(sys.stderr):
        steps.at(text)
    try:
        yield
    finally:
        steps.abandon()


class Steps:
    """The states of a run as they are passed: on a terminal one line that is written anew, with a spinner and the time;
    a line stays of each step that took a while. Any thread may call."""

    def __init__(self) -> None:
        self._status: Any = None
        self._text = self._detail = ""
        self._since = 0.0
        self._later: threading.Timer | None = None
        """Shows the step without a terminal, once it has taken a while."""
        self._lively = lively(sys.stderr)
        self._turn = threading.RLock()

    def at(self, text: str) -> None:
        """Now at this step."""
        with self._turn:
            self.clear()
            self._text, self._detail, self._since = text, "", time.monotonic()
            if self._lively:
                self._spin()
            else:
                self._later = threading.Timer(WORTH_A_LINE, self._show)
                self._later.daemon = True
                self._later.start()

    def detail(self, text: str) -> None:
        """What this step is doing; shown on a terminal only."""
        self._detail = plain(text)

    def waits(self, text: str) -> None:
        """What this step waits for: beside the spinner, and elsewhere in a line, when it is another."""
        with self._turn:
            if not self._lively and self._later is None and text != self._detail:
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

    def clear(self) -> None:
        """End the step; on a terminal a line with the time it took stays, if that is worth one."""
        with self._turn:
            spun, took = self._status is not None, time.monotonic() - self._since
            self._halt()
            if spun and took >= WORTH_A_LINE:
                line(DONE, self._text, paint(duration(took), "2"))
            self._text = ""

    def fail(self) -> None:
        """End the step, which failed: on a terminal a line with the time it took stays."""
        with self._turn:
            spun = self._status is not None
            self._halt()
            if spun:
                line(FAILED, self._text, paint(duration(time.monotonic() - self._since), "2"))
            self._text = ""

    def abandon(self) -> None:
        """End without saying that the step was done."""
        with self._turn:
            self._halt()

    def __rich__(self) -> Any:
        """What stands beside the spinner now."""
        from rich.text import Text

        gone = time.monotonic() - self._since
        clock = f" {duration(gone)}" if gone >= CLOCK_AFTER else ""
        room = (terminal_width(sys.stderr) or 80) - columns(self._text + clock) - 4 - len("^C")
        detail = f" {shortened(self._detail, room)}" if self._detail and room > 10 else ""
        return Text.assemble(self._text, (clock + detail, "dim"), no_wrap=True, overflow="ellipsis")

    def _show(self) -> None:
        """Without a terminal: the step has taken a while."""
        with self._turn:
            if self._later is not None:
                self._later = None
                line(f"- {self._text}")
                if self._detail:
                    line(f"  {self._detail}")

    def _spin(self) -> None:
        from rich.console import Console

        cursor.begin_line()
        console = Console(stderr=True, highlight=False, no_color=not coloured(sys.stderr))
        with interrupts_held():  # rich, interrupted in these, loses count of its displays, or leaves no cursor
            self._status = console.status(self)
            self._status.start()

    def _halt(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        with interrupts_held():
            if self._status is not None:
                self._status.stop()
                self._status = None
