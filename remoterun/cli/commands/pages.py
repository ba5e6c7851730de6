"""The page in which a model writes: `open`."""

from __future__ import annotations

from typing import Annotated

import typer

from remoterun.cli import browser, complete, render
from remoterun.cli.app import Json, app, example
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command


@app.command("open", cls=Command, epilog=example("remoterun open runs/15"))
def open_page(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help="A run, an upload, or a folder of this machine, with a model in it.",
            autocompletion=complete.resources,
        ),
    ],
    port: Annotated[int, typer.Option("--port", metavar="N", help="Default: a free one.", show_default=False)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    json: Json = False,
) -> None:
    """Let a model write in a page of your browser, until ^C.

    The page is served on this machine, to everybody who has its whole address. Of a run that still trains it shows the
    newest model.
    """
    with connect() as client, render.progress() as progress:
        page = client.files.open(source, port, progress, render.line)
    with page:
        try:
            render.page(page, json)
            shown = not no_browser and browser.show(page.address)
            render.page_shown(page.port, shown, browser.far_away())
            page.serve()
        except KeyboardInterrupt:  # the way to end it
            render.line("")
