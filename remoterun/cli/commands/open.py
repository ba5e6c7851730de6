"""`open`: a page in which a model writes."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, Json, WithModel, app, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views, live_views


@app.command("open", cls=Command, epilog=example("remoterun open runs/15"))
def open_page(
    source: WithModel,
    port: Annotated[int, option("--port N", "Default: a free one.", show_default=False)] = 0,
    no_browser: Annotated[bool, option("--no-browser", "Only print the address.")] = False,
    json: Json = False,
) -> None:
    """Let a model write in a page of your browser, until ^C.

    The page is served on this machine, to everybody who has its whole address. Of a run that still trains it shows the
    newest model.
    """
    from remoterun.cli import browser
    from remoterun.model_page import libraries
    from remoterun.ui.models import Page

    with connect() as client, live_views.progress() as progress:
        model = client.files.model(source, progress)
        page = Page(model, libraries(client.config.home, render.line), port)
    with page:
        try:
            file_views.page(page, json)
            shown = not no_browser and browser.show(page.address)
            file_views.page_shown(page.port, shown, browser.far_away())
            page.serve()
        except KeyboardInterrupt:  # the way to end it
            render.line("")
