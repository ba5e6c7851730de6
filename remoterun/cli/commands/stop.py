"""`stop` and `kill`: the end of runs."""

from __future__ import annotations

import re
from typing import Annotated

from remoterun.agent.shared.states import RunState
from remoterun.cli import render
from remoterun.cli.app import Command, Quiet, RunNumbers, app, example, for_each, option, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.errors import RemoterunError
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
        return _end_each(client, runs, seconds, "stopping; its outputs will be saved")


@app.command(cls=Command, epilog=example("remoterun kill 16"))
def kill(runs: RunNumbers, quiet: Quiet = False) -> int:
    """End runs at once; their outputs are not saved."""
    with connect() as client:
        return _end_each(client, runs, None, "killed; its outputs are not saved")


def _end_each(client: Client, runs: list[str], grace: float | None, words: str) -> int:
    numbers: dict[int, None] = {}
    status = for_each(runs, lambda text: numbers.update(dict.fromkeys(run_numbers(client, [text]))))
    before = {number: client.runs.known(number) for number in numbers}
    answers = client.runs.end(numbers, grace)
    said: dict[str, list[int]] = {}

    def sort(number: int) -> None:
        answer = answers[number]
        if isinstance(answer, RemoterunError):
            raise answer
        run, asked = answer
        if not asked:
            text = f"has ended already: {run_views.state_text(run)}"
        elif before[number].stopping and "stopping" in words:
            text = f"is already {words}"
        elif run.state is RunState.QUEUED or (run.final and run.started is None):  # it may have ended meanwhile
            text = f"is {words.partition(';')[0]}; it had not started"
        else:
            text = f"is {words}"
        said.setdefault(text, []).append(number)

    status = max(status, for_each(sorted(answers), sort))
    for text, group in said.items():
        if len(group) > 1:
            text = re.sub(r"\b(is|has|its|it)\b", lambda word: _OF_SEVERAL[word[0]], text)
        render.line(f"run{'s' * (len(group) > 1)} {run_views.spans(group)} {text}")
    return status


_OF_SEVERAL = {"is": "are", "has": "have", "its": "their", "it": "they"}
