"""`cat`: a file of a run or an upload, on stdout."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import app, example
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.model import Resource


@app.command(cls=Command, epilog=example("remoterun cat runs/last/logs/metrics.jsonl | tail"))
def cat(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="runs/N/path or uploads/NAME/path; the path with *, ? and ** in quotes.",
            autocompletion=complete.resources,
        ),
    ],
) -> None:
    """Show files of runs and uploads, also of a run that goes on."""
    for text in resources:
        Resource.parse(text)
    with connect() as client:
        for text in resources:
            with render.progress() as progress:
                fetched = client.files.read(text, render.out_bytes, progress)
            render.copy_warnings(fetched)
