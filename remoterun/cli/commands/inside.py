"""Looking inside a run that is going on: `exec`."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli.app import RunNumber, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.manual import Command
from remoterun.errors import UsageError
from remoterun.model import command_text


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
        typer.Argument(metavar="COMMAND", help="Default: a shell. All that follows its first word is its own."),
    ] = None,
) -> int:
    """Open a shell, or start a command, inside a run that goes on.

    It has that one's container or environment, folder and variables; a terminal, if there is one here. The exit status
    is its own.
    """
    from remoterun.cli.console import converse, terminal_here

    text = command_text(command) if command else None
    if text is not None and (not text.strip() or "\0" in text):
        raise UsageError("the command is empty" if not text.strip() else "the command holds a zero byte")
    with connect() as client:
        terminal, size = terminal_here()
        with client.runs.exec(run_number(run), text, terminal, size) as program:
            return converse(program, bool(terminal))
