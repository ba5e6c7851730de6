"""`report`: runs as one HTML file, for others."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, app, argument, example, option, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import live_views
from remoterun.errors import UsageError
from remoterun.sizes import counted
from remoterun.stamps import note_own


@app.command(
    cls=Command, epilog=example("remoterun report 3 4 > report.html\nremoterun report 4 --name fakes > fakes.html")
)
def report(
    runs: Annotated[list[str], argument("RUN...", "Run numbers, a range (12-17), or `last`.", complete.run_numbers)],
    name: Annotated[str, option("--name GROUP", "Only files with this in their path: samples, img_*.png.")] = "",
    no_files: Annotated[bool, option("--no-files", "No pictures, sounds and texts, and so no script.")] = False,
    fps: Annotated[float, option("--fps K", "Steps a second that are played, from 0.1 to 60.")] = 4,
) -> None:
    """Write an HTML file about runs: what differs, curves, pictures.

    It goes to stdout, and loads nothing. Parameters that are not the same in all of the runs are marked. Pictures,
    sounds and texts whose name or folder holds their step, such as samples/step-0100.txt or img_0100.png, are in it,
    with a slider over the steps.
    """
    if render.reader_is_terminal():
        typed = " ".join(map(render.word, runs))
        raise UsageError(
            "a report is HTML, which a terminal does not show", hint=f"remoterun report {typed} > report.html"
        )
    if not 0.1 <= fps <= 60:
        raise UsageError(f"`--fps {fps:g}` is not from 0.1 to 60", hint="remoterun report last --fps 8 > report.html")
    with connect() as client:
        numbers = run_numbers(client, runs)
        with live_views.progress() as progress:
            made = client.files.report(numbers, render.out_bytes, name, fps, progress, with_files=not no_files)
        note_own(client.config.home, [1])
    if made.groups:
        render.line(render.DONE, f"{counted(made.steps, 'step')}, {render.size(made.size)}")
    for group in made.groups:
        render.line(f"  {render.name(group.name)}: {counted(len(group.steps), group.kind)}")
    if made.steps < made.steps_found:
        render.line(f"  Of {made.steps_found:,} steps, {made.steps:,} are in it, evenly over all of them")
