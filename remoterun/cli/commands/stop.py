"""`stop` and `kill`: the end of runs."""

from __future__ import annotations

from typing import Annotated, Any

from remoterun.agent.shared.states import RunState
from remoterun.cli import render
from remoterun.cli.app import Command, Quiet, RunNumbers, app, example, for_each, option, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.parsing import parse_duration


@app.command(cls=Command, epilog=example("remoterun stop 16"))
def stop(
    runs: RunNumbers,
    grace: Annotated[str, option("--grace TIME", "How long it may take before it is killed: 30s, 5m.")] = "10s",
    quiet: Quiet = False,
) -> int:
    """End runs; their outputs are saved. They get SIGTERM, and SIGKILL if they have not ended after --grace."""
    seconds = parse_duration(grace)
    with connect() as client:
        return _end_each(
            client, runs, lambda number: client.runs.stop(number, seconds), "stopping; its outputs will be saved"
        )


@app.command(cls=Command, epilog=example("remoterun kill 16"))
def kill(runs: RunNumbers, quiet: Quiet = False) -> int:
    """End runs at once; their outputs are not saved."""
    with connect() as client:
        return _end_each(client, runs, client.runs.kill, "killed; its outputs are not saved")


def _end_each(client: Client, runs: list[str], end: Any, words: str) -> int:
    def end_one(number: str) -> None:
        before = client.runs.known(number)
        known, asked = end(number)
        if not asked:
            render.line(f"run {known.number} has ended already: {run_views.state_text(known)}")
        elif before.stopping and "stopping" in words:
            render.line(f"run {known.number} is already {words}")
        elif known.state is RunState.QUEUED or (known.final and known.started is None):  # it may have ended meanwhile
            render.line(f"run {known.number} is {words.partition(';')[0]}; it had not started")
        else:
            render.line(f"run {known.number} is {words}")

    # The first of a line has a supervisor, and its end would start one for the next: the last ones end first.
    numbers = sorted(dict.fromkeys(map(run_number, runs)), key=lambda text: (len(text), text), reverse=True)
    return for_each(numbers, end_one)
