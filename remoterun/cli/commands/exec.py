"""`exec`: a shell, or a command, inside a run that goes on."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, RunNumber, app, argument, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.errors import LinkLost, UsageError
from remoterun.parsing import command_text

if TYPE_CHECKING:
    from remoterun.client.live.live import RemoteProgram

ShellCommand = Annotated[
    list[str] | None, argument("COMMAND...", "Default: a shell. All that follows its first word is its own.")
]


@app.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example("remoterun exec 16\nremoterun exec 16 nvidia-smi"),
)
def exec_(run: RunNumber, command: ShellCommand = None) -> int:
    """Open a shell, or start a command, inside a run that goes on.

    It starts in the run's container or virtual environment, in its folder, with its variables, and with your terminal.
    The exit status is its own.
    """
    terminal, size = terminal_here()
    with connect() as client, client.runs.exec(run_number(run), line_of(command), terminal, size) as program:
        return converse(program, bool(terminal))


def line_of(command: list[str] | None) -> str | None:
    """The command as a line for the shell; None without one. A `--` before it is not a part of it."""
    words = command[1:] if command and command[0] == "--" else command
    text = command_text(words) if words else None
    if text is not None and not text.strip():
        raise UsageError("the command is empty", hint="leave it out for a shell")
    return text


_READ = 1 << 16
_SIZE = (24, 80)
_RESIZED_WITHIN = 0.25
"""Seconds until a program knows the new size of its terminal."""
_LEFT_BEHIND = b"\x1b[?1047l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m\r\n"
"""Ends what a program had asked of the terminal when its link was lost: its second screen, mouse reports, a colour."""


def terminal_here() -> tuple[str, tuple[int, int]]:
    """(the kind of the terminal that both stdin and stdout are, its rows and columns); "" where they are none."""
    if not (os.isatty(0) and os.isatty(1)):
        return "", _SIZE
    kind = os.environ.get("TERM", "")
    return kind if re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", kind) else "dumb", _size()


def converse(program: RemoteProgram, terminal: bool) -> int:
    """Connect stdin, stdout and stderr to a program until it ends; its exit status.

    With a `terminal`, every key goes to the program, ^C too, and the terminal is as it was before when this ends.
    """
    with contextlib.ExitStack() as stack:
        if terminal:
            stack.enter_context(_raw())
        threading.Thread(target=_send, args=(program, terminal), name="remoterun stdin", daemon=True).start()
        try:
            for data, error in program.output():
                if terminal:
                    render.out_bytes(data)
                else:
                    render.command_bytes(data, error)
        except LinkLost:
            if terminal:
                render.out_bytes(_LEFT_BEHIND)
            raise
    return program.code


def _send(program: RemoteProgram, terminal: bool) -> None:
    """What comes on stdin, its end, and the terminal's new sizes, until the process ends; on a thread of its own."""
    size: tuple[int, int] | None = None
    while True:
        if terminal and size != _size():
            size = _size()
            program.resize(*size)
        if not select.select([0], [], [], _RESIZED_WITHIN if terminal else None)[0]:
            continue
        try:
            data = os.read(0, _READ)
        except OSError:  # the terminal has gone
            data = b""
        if not data:
            program.end_input()
            return
        program.send(data)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Meanwhile every key is a byte on stdin, and nothing is echoed. What was typed before is kept."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(sys.__stdin__.fileno() if sys.__stdin__ else 0)
    except (OSError, ValueError):
        return _SIZE
    return size.lines, size.columns
