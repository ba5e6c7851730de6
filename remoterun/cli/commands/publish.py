"""`publish`: a web site of the page in which a model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, Json, WithModel, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import live_views
from remoterun.sizes import counted
from remoterun.stamps import note_own


@app.command(cls=Command, epilog=example("remoterun publish runs/4 page"))
def publish(
    source: WithModel,
    folder: Annotated[Path, argument("FOLDER", "A new or an empty one, or a former publication.")],
    yes: Annotated[bool, option("-y --yes", "Publish the command and its parameters.")] = False,
    json: Json = False,
) -> None:
    """Make a web site of the page in which a model writes.

    The folder has the page of `open` with the model, ml5.js and p5, and a card of how the model was made: its data,
    command, steps, machine, duration and date. You are asked before a command with values stands there, as they may be
    secret; without a terminal it is left out. The folder works on any web host, and from disk.
    """

    def agree(command: str) -> bool:
        if not yes and not render.can_ask():
            render.line("The card leaves out the command, which has values, and its parameters: -y publishes them")
            return False
        asked = f"Show the command `{command}`, with its parameters, on the page? (n: publish without them, q: quit)"
        return yes or render.ask(asked, default=False)

    with connect() as client, live_views.progress(json) as progress:
        made = client.files.publish(source, folder, progress, render.line, agree)
        note_own(client.config.home, folder.rglob("*"))
    if json:
        record = {"files": made.files, "size": made.size, "card": dict(made.card)}
        render.out_json({"folder": str(made.folder), **record})
        return
    shown = render.name(str(folder))
    render.line(render.DONE, f"{shown}: {counted(made.files, 'file')}, {render.size(made.size)}. Its card says:")
    for head, words in made.card.items():
        render.line(f"  {head}: {words}")
    render.line(f"  Open {render.name(str(folder / 'index.html'))} in a browser, or put {shown} on any web host")
