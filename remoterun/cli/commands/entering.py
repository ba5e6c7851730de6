"""Inside a run that goes on, and its machine: `exec`, `top`, `ssh`, `login`, `logout`; and `whoami`."""

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
from typing import TYPE_CHECKING, Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, RunNumber, Wait, app, example, machines_app, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.render import live_views, machine_views, run_views
from remoterun.errors import HostError, LinkLost, RemoterunError, UsageError
from remoterun.parsing import command_text, parse_duration

if TYPE_CHECKING:
    from remoterun.client.live.live import Program

MachineName = Annotated[
    str, typer.Argument(metavar="MACHINE", help="A machine, as after -t.", autocompletion=complete.machine_types)
]
ShellCommand = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND...", help="Default: a shell. All that follows its first word is its own."),
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
    with connect() as client, client.runs.exec(run_number(run), _line(command), terminal, size) as program:
        return converse(program, bool(terminal))


def _line(command: list[str] | None) -> str | None:
    """The command as a line for the shell; None without one. A `--` before it is not a part of it."""
    words = command[1:] if command and command[0] == "--" else command
    text = command_text(words) if words else None
    if text is not None and not text.strip():
        raise UsageError("the command is empty", hint="leave it out for a shell")
    return text


@app.command(cls=Command, epilog=example("remoterun top 16"))
def top(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Run numbers, or `last`. Default: all that have not ended.",
            autocompletion=complete.active_runs,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once.")] = False,
    wait: Wait = "2s",
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line, for each run and second.")] = False,
) -> int:
    """Show CPU, memory, GPU, disk and network use of runs, live.

    The figures change once a second, until the runs have ended or you press ^C. `info` of a run that has ended shows
    what it used.
    """
    seconds = parse_duration(wait)
    with connect() as client:
        if runs:
            numbers = [run_number(text) for text in runs]
        else:
            known = [run for run in client.runs.list(None, wait=seconds) if not run.final and run.placed is not None]
            run_views.not_reached(known)
            numbers = [str(run.number) for run in known if run.unreached is None]
            if not known:
                render.line("No run is going on")
        if not numbers:
            return HostError.exit_status if known else 0
        uses = client.runs.top(numbers, once=once)
        try:
            with live_views.Board(json, once) as board:
                for use in uses:
                    board.show(use)
        except KeyboardInterrupt:
            render.line("")  # ends the line that `^C` stands in
            return 0
        if not once:
            ended = [client.runs.get(number) for number in numbers]
            for run in ended:
                render.line(f"run {run.number} has ended: `remoterun info {run.number}` shows what it used")
    return 0


@machines_app.command(
    "ssh",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example("remoterun machines ssh k80\nremoterun machines ssh k80 df -h"),
)
def ssh(
    machine: Annotated[
        str,
        typer.Argument(
            metavar="MACHINE",
            help="A machine, as after -t; or a run's number, for the machine that it is on.",
            autocompletion=complete.machine_types,
        ),
    ],
    command: ShellCommand = None,
) -> int:
    """Open a shell on a machine, with the system's ssh.

    The user, port, key and settings are those that remoterun uses. The exit status is that of ssh.
    """
    with connect() as client:
        words = client.machines.ssh(machine, _line(command) or "", bool(terminal_here()[0]))
    render.finish()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and `ssh` would inherit that
    os.execv(words[0], list(words))


@app.command(cls=Command, epilog=example("remoterun login box --for 12h"))
def login(
    machine: MachineName,
    idle: Annotated[
        str, typer.Option("--for", metavar="TIME", help="It ends when nothing has used it for so long.")
    ] = "8h",
) -> None:
    """Log in to a machine once, for all commands that follow.

    For a machine that wants a code or a password each time: the system's ssh asks in your terminal, and no command asks
    after that.
    """
    seconds = parse_duration(idle)
    with connect() as client:
        opened = client.machines.login(machine, seconds, batch=not render.can_ask())
    render.line(f"{machine}: {'logged in' if opened else 'a login is open'}; `remoterun logout {machine}` ends it")


@app.command(cls=Command, epilog=example("remoterun logout box"))
def logout(machine: MachineName) -> None:
    """End what `login` opened. Runs go on."""
    with connect() as client:
        ended = client.machines.logout(machine)
    render.line(f"{machine}: {'logged out; runs go on' if ended else 'no login is open'}")


@app.command(cls=Command, epilog=example("remoterun whoami --json"))
def whoami(json: Json = False) -> None:
    """Show user, home, default machine, and the login at AWS.

    No machine is asked; AWS is, where there is a login.
    """
    from remoterun.machines import can_log_in

    with connect() as client:
        identity = None
        if can_log_in(client.config):
            try:
                identity = client.hosts.identity("aws")
            except RemoterunError as error:  # the rest is true all the same
                render.warning(error.message)
        machine_views.whoami(client.config, identity, json)


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


def converse(program: Program, terminal: bool) -> int:
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


def _send(program: Program, terminal: bool) -> None:
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
