"""`top`: what runs use of their machines, live."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Wait, app, argument, example, option, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import live_views, run_views
from remoterun.errors import HostError
from remoterun.parsing import parse_duration


@app.command(cls=Command, epilog=example("remoterun top 16"))
def top(
    runs: Annotated[
        list[str] | None,
        argument(
            "RUN...",
            "Run numbers, a range (12-17), or `last`. Default: all that have not ended.",
            complete.active_runs,
        ),
    ] = None,
    once: Annotated[bool, option("--once", "Show it once.")] = False,
    wait: Wait = "2s",
    json: Annotated[bool, option("--json", "A JSON object a line, for each run and second.")] = False,
) -> int:
    """Show CPU, memory, GPU, disk and network use of runs, live.

    The figures change once a second, until the runs have ended or you press ^C. `info` of a run that has ended shows
    what it used.
    """
    seconds = parse_duration(wait)
    with connect() as client:
        if runs:
            numbers = run_numbers(client, runs)
        else:
            known = [run for run in client.runs.list(None, wait=seconds) if not run.final and run.placed is not None]
            run_views.not_reached(known)
            numbers = [run.number for run in known if run.unreached is None]
            if not known:
                render.line("No run is going on")
        if not numbers:
            return HostError.exit_status if known else 0
        uses = client.runs.top(numbers, once=once)
        try:
            with live_views.Board(json, once) as board:
                for use in uses:
                    board.show(use)
        except KeyboardInterrupt:
            render.line("")  # ends the line that `^C` stands in
            return 0
        if not once:
            ended = [client.runs.get(number) for number in numbers]
            for run in ended:
                render.line(f"run {run.number} has ended: `remoterun info {run.number}` shows what it used")
    return 0
