"""Sets of runs, as `run --param` makes them: what is typed, what is said of them, and waiting for their ends."""

from __future__ import annotations

from collections.abc import Sequence

from remoterun.cli import render
from remoterun.cli.commands.wait import first_status, until_ended
from remoterun.cli.render import live_views, run_views
from remoterun.client import Client
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.client.sets.parameters import parse_parameter
from remoterun.client.sets.sets import SetRequest
from remoterun.errors import UsageError
from remoterun.model import Run, SetMember
from remoterun.sizes import counted


def set_request(params: Sequence[str], random: int | None, at_once: int | None, name: str) -> SetRequest:
    """What is typed. Raises `UsageError`."""
    if not params:
        raise UsageError("--random, --at-once and --set go with --param", hint="--param lr=0.1,0.01")
    return SetRequest(tuple(map(parse_parameter, params)), random, at_once or 0, name)


def submit_set(client: Client, prepared: Prepared, asked: SetRequest) -> Run:
    """The first run of a set, all of which are handed over."""
    words, name = "", asked.name

    def cast(runs: Sequence[Run], new: int) -> None:
        nonlocal words
        words = run_views.spans((run.number for run in runs), "-")
        shown = f"runs {run_views.spans(run.number for run in runs)} ({counted(len(runs), 'run')}: {asked.words})"
        if new == len(runs):
            render.line(f"Casting {shown}…")
        elif new:
            render.line(f"Casting {new} of {shown}, with the source as it is now; the others are handed over…")
        else:
            render.line(f"All {shown} are handed over already.")

    try:
        with live_views.waiting() as waiting, live_views.progress() as progress:
            return client.runs.launch_set(prepared, asked, Talk(progress, waiting, render.warning), cast)[0]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and words:
            render.line("")
            render.line(f"not all of the runs {words} may have been handed over")
            if name:
                render.line(f"  the same command hands over what is missing of `{name}`, with the source of then")
        raise


def follow_set(client: Client, of: SetMember, background: bool, json: bool) -> int:
    """Wait for the ends of the runs of a set, or only tell their numbers; the exit status."""
    runs = [run for run in client.runs.all_known() if run.of is not None and run.of.key == of.key]
    numbers = [run.number for run in runs]
    words = run_views.spans(numbers, "-")
    if json:
        render.out_json([run.record() for run in runs])
        return 0
    try:
        if not background:
            return first_status(until_ended(client, numbers), numbers)
        render.out(words)
    except KeyboardInterrupt:
        render.line("")
        render.line(f"runs {words} go on")
    render.line(f"  remoterun ps {words}   shows them")
    render.line(f"  remoterun stop {words}   ends them")
    return 0 if background else 130
