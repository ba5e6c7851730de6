"""`wait`: until runs have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, Json, RunNumbers, app, example, option, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.model import Run
from remoterun.parsing import parse_duration

TIME_IS_UP = 124
"""The exit status, as that of `timeout`."""


@app.command(cls=Command, epilog=example("remoterun wait 16 17 --timeout 2h"))
def wait(
    runs: RunNumbers,
    first: Annotated[bool, option("--any", "Only until the first of them has ended.")] = False,
    timeout: Annotated[
        str | None, option("--timeout TIME", "Wait no longer than 90s, 10m, 2h; a plain number is minutes.")
    ] = None,
    json: Json = False,
) -> int:
    """Wait until runs have ended.

    The exit status is 0 if that of each run is 0, else that of the first one, in the order given, that is not; with
    --any, that of the run that ended first; 124 when the time is up; 125 if the machine of one can't tell any more.
    """
    seconds = parse_duration(timeout) if timeout is not None else None
    with connect() as client:
        numbers = run_numbers(client, runs)
        ended = until_ended(client, numbers, seconds, first)
    if json:
        render.out_json([run.record() for run in ended.values()])
    known = [run for run in ended.values() if run.fault is None]
    if first and known:
        return known[0].exit_status
    going_on = [str(number) for number in numbers if number not in ended]
    if going_on:
        many = len(going_on) > 1
        what = f"run{'s' if many else ''} {', '.join(going_on)} {'have' if many else 'has'} not ended"
        render.line(f"{what} within {timeout}; {'they go' if many else 'it goes'} on")
        return TIME_IS_UP
    return first_status(ended, numbers)


def until_ended(
    client: Client, numbers: Sequence[int], seconds: float | None = None, first: bool = False
) -> dict[int, Run]:
    """Runs as they ended within `seconds`, by their numbers, each shown as it ends; with `first` only that one."""
    ended: dict[int, Run] = {}
    for item in client.runs.wait(numbers, seconds):
        if isinstance(item, Run):
            ended[item.number] = item
            if item.fault is not None:
                render.error(item.fault)
                continue
            run_views.ended(item)
            if first:
                break
        elif item.kind == "lost":
            render.warning(f"{item.text}; trying again")
        else:
            render.line(f"  connected to {item.text} again")
    return ended


def first_status(ended: Mapping[int, Run], numbers: Iterable[int]) -> int:
    """The exit status of the first run, in the order of `numbers`, that is not 0."""
    return next((ended[number].exit_status for number in numbers if number in ended and ended[number].exit_status), 0)
