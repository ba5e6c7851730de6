"""`diff`: what differs between two runs."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, RunNumber, app, argument, example, option, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import json_shapes


@app.command(cls=Command, epilog=example("remoterun diff 16 17 --stat"))
def diff(
    before: RunNumber,
    after: Annotated[str, argument("OTHER", "Another run's number, or `last`.", complete.run_numbers)],
    stat: Annotated[bool, option("--stat", "Of files, only how much differs.")] = False,
    json: Json = False,
) -> None:
    """Show what differs between two runs.

    What was asked for, what the mounts held, how the runs ended; and of the files that were sent, the lines, as git
    shows them. What is the same is not shown.
    """
    with connect() as client:
        binary = not (json or stat or render.reader_is_terminal())
        found = client.runs.diff(run_number(before), run_number(after), binary)
    if json:
        render.out_json(json_shapes.difference(found))
    else:
        with render.paged():
            run_views.difference(found, stat)
