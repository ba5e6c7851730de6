"""Inside a run that goes on, and its machine: `exec`, `top`, `ssh`, `login`, `logout`."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, RunNumber, Wait, app, example, machines_app, run_number
from remoterun.cli.asking import client as connect
from remoterun.errors import HostError, UsageError
from remoterun.parsing import command_text, parse_duration

MachineName = Annotated[
    str,
    typer.Argument(metavar="MACHINE", help="A machine, as after -t.", autocompletion=complete.machine_types),
]


@app.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example("remoterun exec 16\nremoterun exec 16 nvidia-smi"),
)
def exec_(
    run: RunNumber,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Default: a shell. All that follows its first word is its own."),
    ] = None,
) -> int:
    """Open a shell, or start a command, inside a run that goes on.

    It starts in the run's container or virtual environment, in its folder, with its variables, and with your terminal.
    The exit status is its own.
    """
    from remoterun.cli.console import converse, terminal_here

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
            render.not_reached(known)
            numbers = [str(run.number) for run in known if run.unreached is None]
            if not known:
                render.line("No run is going on")
        if not numbers:
            return HostError.exit_status if known else 0
        uses = client.runs.top(numbers, once=once)
        try:
            with render.Board(json, once) as board:
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
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Default: a shell. All that follows its first word is its own."),
    ] = None,
) -> int:
    """Open a shell on a machine, with the system's ssh.

    The user, port, key and settings are those that remoterun uses. The exit status is that of ssh.
    """
    from remoterun.cli.console import terminal_here

    with connect() as client:
        words = client.machines.ssh(machine, _line(command) or "", bool(terminal_here()[0]))
    render.finish()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and `ssh` would inherit that
    os.execv(words[0], list(words))


@app.command(cls=Command, epilog=example("remoterun login box --for 12h"))
def login(
    machine: MachineName,
    idle: Annotated[
        str,
        typer.Option("--for", metavar="TIME", help="It ends when nothing has used it for so long."),
    ] = "8h",
) -> None:
    """Log in to a machine once, for all commands that follow.

    For a machine that wants a code or a password each time: the system's ssh asks in your terminal, and no command asks
    after that.
    """
    seconds = parse_duration(idle)
    with connect() as client:
        opened = client.machines.login(machine, seconds, batch=not render.person_there())
    render.line(f"{machine}: {'logged in' if opened else 'a login is open'}; `remoterun logout {machine}` ends it")


@app.command(cls=Command, epilog=example("remoterun logout box"))
def logout(machine: MachineName) -> None:
    """End what `login` opened. Runs go on."""
    with connect() as client:
        ended = client.machines.logout(machine)
    render.line(f"{machine}: {'logged out; runs go on' if ended else 'no login is open'}")
