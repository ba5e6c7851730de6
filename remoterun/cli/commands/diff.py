"""`diff`: what differs between two runs."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Json, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command


@app.command(cls=Command, epilog=example("remoterun diff 16 17 --stat"))
def diff(
    before: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's number, or `last`.", autocompletion=complete.run_numbers)
    ],
    after: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="Another run's number, or `last`.", autocompletion=complete.run_numbers),
    ],
    stat: Annotated[bool, typer.Option("--stat", help="Of files, only how much differs.")] = False,
    json: Json = False,
) -> None:
    """Show what differs between two runs.

    What was asked for, what the mounts held, how the runs ended; and of the files that were sent, the lines, as git
    shows them. What is the same is not shown.
    """
    with connect() as client:
        found = client.runs.diff(run_number(before), run_number(after))
    if json:
        render.out_json(render.difference_record(found))
    else:
        render.difference(found, stat)
