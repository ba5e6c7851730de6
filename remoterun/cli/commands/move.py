"""`move`: a run that waits goes to another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import RunNumber, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command


@app.command(cls=Command, epilog=example("remoterun move 16 -t box"))
def move(
    run: RunNumber,
    machine: Annotated[
        str,
        typer.Option(
            "-t",
            "--machine-type",
            metavar="NAME",
            help="Where to: a machine of yours, or a pool.",
            autocompletion=complete.machine_types,
        ),
    ],
) -> None:
    """Let a run that waits go to another machine.

    It keeps its number. If the other machine can't be reached, or lacks what the run needs, it stays where it is.
    """
    with connect() as client, render.progress() as progress:
        moved = client.runs.move(run_number(run), machine, progress, render.warning)
    render.line(f"run {moved.number} is on {moved.where} now")
    render.line(f"  remoterun logs {moved.number}   shows its log, live")
