"""`film` and `report`: a run as one file, for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, RunNumber, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.render import live_views
from remoterun.errors import AlreadyExists, UsageError
from remoterun.sizes import counted
from remoterun.stamps import note_own

if TYPE_CHECKING:
    from remoterun.client.exports.film import Film


@app.command(cls=Command, epilog=example("remoterun film last --name fakes --fps 8"))
def film(
    run: RunNumber,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Default: film-RUN.html.", show_default=False)
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="GROUP", help="Only files with this in their path: samples, img_*.png.")
    ] = "",
    fps: Annotated[
        float, typer.Option("--fps", metavar="K", help="Steps a second that are played, from 0.1 to 60.")
    ] = 4,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite the file.")] = False,
    json: Json = False,
) -> None:
    """Make one web page of a run's pictures, sounds and texts.

    In it are the files whose name or folder holds their step, such as samples/step-0100.txt or img_0100.png, with a
    slider over the steps. It needs no server, and loads nothing from anywhere.
    """
    if not 0.1 <= fps <= 60:
        raise UsageError(f"`--fps {fps:g}` is not from 0.1 to 60", hint="remoterun film last --fps 8")
    with connect() as client:
        number = client.registry.run(run_number(run)).number
        target = out or Path(f"film-{number}.html")
        _agree(target, yes)
        with live_views.progress(json) as progress:
            made = client.files.film(number, target, name, fps, progress)
        note_own(client.config.home, [target])
    _filmed(made, json)


@app.command(cls=Command, epilog=example("remoterun report 3 4 > report.html"))
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run numbers, or `last`.", autocompletion=complete.run_numbers)
    ],
) -> None:
    """Write an HTML file about runs: what differs, values, curves.

    It goes to stdout, has no script and loads nothing. Parameters that are not the same in all of the runs are marked.
    """
    if render.reader_is_terminal():
        typed = " ".join(map(render.word, runs))
        raise UsageError(
            "a report is HTML, which a terminal does not show", hint=f"remoterun report {typed} > report.html"
        )
    with connect() as client:
        numbers = dict.fromkeys(client.registry.run(run_number(each)).number for each in runs)
        render.out_bytes(client.runs.report(list(numbers)))
        note_own(client.config.home, [1])


def _agree(target: Path, yes: bool) -> None:
    """Raises `AlreadyExists` where a file is there that nobody agreed to overwrite."""
    if yes or not target.exists():
        return
    shown = render.name(str(target))
    if not render.can_ask() or not render.ask(f"{shown} exists. Overwrite it?", default=False):
        raise AlreadyExists(f"`{shown}` exists already", hint="-y overwrites it; `--out FILE` names another one")


def _filmed(made: Film, as_json: bool) -> None:
    if as_json:
        groups = [{"name": each.name, "kind": each.kind, "files": len(each.steps)} for each in made.groups]
        counts = {"steps": made.steps, "steps_found": made.steps_found, "size": made.size}
        render.out_json({"file": str(made.place.absolute()), **counts, "groups": groups})
        return
    shown = render.name(str(made.place))
    render.line(render.DONE, f"{shown}: {counted(made.steps, 'step')}, {render.size(made.size)}")
    for group in made.groups:
        render.line(f"  {render.name(group.name)}: {counted(len(group.steps), group.kind)}")
    if made.steps < made.steps_found:
        render.line(f"  Of {made.steps_found:,} steps, {made.steps:,} are in it, evenly over all of them")
    render.line("  Open it in a browser, or put it on any web host")
