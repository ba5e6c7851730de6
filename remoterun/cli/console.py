"""This terminal, or what stands for it, as the terminal of a program that goes on elsewhere."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

from remoterun.cli import render
from remoterun.client import Program
from remoterun.errors import LinkLost

_READ = 1 << 16
_SIZE = (24, 80)
_LEFT_BEHIND = b"\x1b[?1047l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m\r\n"
"""Ends what a program had asked of the terminal when its link was lost: its second screen, mouse reports, a colour."""


def terminal_here() -> tuple[str, tuple[int, int]]:
    """(the kind of the terminal that both stdin and stdout are, its rows and columns); "" where they are none."""
    if not (os.isatty(0) and os.isatty(1)):
        return "", _SIZE
    kind = os.environ.get("TERM", "")
    return kind if re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", kind) else "dumb", _size()


def converse(program: Program, terminal: bool) -> int:
    """Connect stdin, stdout and stderr to a program until it ends; its exit status.

    With a `terminal`, every key goes to the program, ^C too, and the terminal is as it was before when this ends.
    """
    with contextlib.ExitStack() as stack:
        resized = stack.enter_context(_resizes()) if terminal else None
        if terminal:
            stack.enter_context(_raw())
        threading.Thread(target=_send, args=(program, resized), name="remoterun stdin", daemon=True).start()
        try:
            for data, error in program.output():
                if error:
                    render.error_bytes(data)
                else:
                    render.out_bytes(data)
        except LinkLost:
            if terminal:
                render.out_bytes(_LEFT_BEHIND)
            raise
    return program.code


def _send(program: Program, resized: int | None) -> None:
    """What comes on stdin, its end, and the terminal's new sizes, until the process ends; on a thread of its own."""
    ends = [0] if resized is None else [0, resized]
    while ends:
        ready, _, _ = select.select(ends, [], [])
        if resized in ready:
            os.read(resized or 0, _READ)
            program.resize(*_size())
        if 0 in ready:
            try:
                data = os.read(0, _READ)
            except OSError:  # the terminal has gone
                data = b""
            if data:
                program.send(data)
            else:
                program.end_input()
                ends.remove(0)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Meanwhile every key is a byte on stdin, and nothing is echoed. What was typed before is kept."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes() -> Iterator[int]:
    """A pipe that holds something when the size of the terminal has changed."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)

    def changed(*_: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(waker, b"x")

    before = signal.signal(signal.SIGWINCH, changed)
    changed()  # it may have changed while we connected
    try:
        yield woken
    finally:
        signal.signal(signal.SIGWINCH, before)


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(sys.__stdin__.fileno() if sys.__stdin__ else 0)
    except (OSError, ValueError):
        return _SIZE
    return size.lines, size.columns
