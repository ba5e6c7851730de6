"""`ps`: the runs that there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from remoterun.agent.shared.states import FINAL, RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Wait, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.errors import UsageError
from remoterun.model import EVERY_RUN, RunFilter
from remoterun.parsing import did_you_mean, known_words, parse_duration, parse_range
from remoterun.sizes import counted


@app.command(cls=Command, epilog=example("remoterun ps -t box --state failed --since 2d\nremoterun ps --watch"))
def ps(
    words: Annotated[
        list[str],
        argument("TEXT...", "Only runs with this in their command or description; 12-17: those runs, the best first."),
    ] = [],  # noqa: B006
    number: Annotated[int | None, option("-n --number N", "Only the newest N. Default: 20.", min=1)] = None,
    every: Annotated[bool, option("-a --all", "Every run, also archived ones.")] = False,
    state: Annotated[
        list[str], option("--state STATE", "Only runs in this state; also `active`, `ended`. Repeat for more.")
    ] = [],  # noqa: B006
    machine: Annotated[
        str | None, option("-t --machine-type NAME", "Only runs of this machine.", complete.machine_types)
    ] = None,
    since: Annotated[str | None, option("--since TIME", "Only runs of the last 90s, 10m, 2h, 7d.")] = None,
    label: Annotated[list[str], option("--label LABEL", "Only runs with this label.", complete.labels)] = [],  # noqa: B006
    watch: Annotated[bool, option("-w --watch", "Show them again every 2 s, until ^C.")] = False,
    verbose: Annotated[bool, option("-v --verbose", "Also engine, labels, description, loss.")] = False,
    cloud: Annotated[
        bool, option("--cloud", "Give numbers here to runs of the bucket that another machine started.")
    ] = False,
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """List runs, newest last, as their machines know them.

    A set of runs has one line, unless you ask for some runs. Of a range (12-17) all runs are shown, with their
    parameters and the best value of the metric that counts most.

    Runs of a machine that does not answer in time are shown as they were last seen.
    """
    among = {word: numbers for word in words if (numbers := parse_range(word)) is not None}
    if among:
        among |= {word: range(int(word), int(word) + 1) for word in words if word.isdecimal()}
    wanted = RunFilter(
        states=_states(state),
        labels=tuple(label),
        machine=machine,
        since=None if since is None else time.time() - parse_duration(since),
        words=tuple(word for word in words if word not in among),
        among=tuple(among.values()),
    )
    if watch and json:
        raise UsageError("--json shows runs once, and --watch again and again", hint="remoterun ps --json")
    seconds = parse_duration(wait)
    fold = wanted == EVERY_RUN and not json
    with connect() as client:
        if cloud:
            client.runs.adopt()
        client.runs.numbers(among)  # raises for a range that names no run
        most = None if every else number or (None if among else 20)

        def show(begin: Callable[[], None] = lambda: None) -> None:
            known = client.runs.all_known()
            limit = run_views.in_rows(known, most) if fold and most is not None else most
            runs = client.runs.list(limit, replace(wanted, hidden=every or bool(among)), seconds)
            shown = {run.number for run in runs}
            older = [run for run in known if not run.final and run.number not in shown]
            more = f"{counted(len(older), 'older run')} may go on still"
            begin()
            run_views.not_reached(runs)
            if among:
                from remoterun.cli.render import metric_views
                from remoterun.client.data.metrics import best_first

                metric, found = best_first(runs)
                runs = [run for run, _ in found]
            if json:
                render.out_json([run.record() for run in runs])
            elif runs and among:
                metric_views.ranked(metric, found, verbose)
            elif runs:
                run_views.runs_table(runs, verbose, fold=fold)
                if older and wanted == EVERY_RUN:
                    render.line(f"{more}; `remoterun ps -a --state active` asks")
                run_views.can_go_on(runs)
            elif wanted != EVERY_RUN:
                render.line("No run matches; `remoterun ps` lists runs without a filter")
                names = {name for run in known for name in (run.machine.name, run.host.name)}
                near = did_you_mean(machine, names) if machine is not None and machine not in names else None
                if near is not None:
                    render.line(f"  no run was ever on `{render.name(str(machine))}`: did you mean `{near}`?")
            else:
                render.line('There is no run yet. Start one: `remoterun run "echo hello"`')

        if not watch:
            show()
            return
        try:
            for begin in render.pages():
                show(begin)
        except KeyboardInterrupt:
            render.line("")


def _states(names: list[str]) -> frozenset[RunState]:
    """Raises `UsageError` for what is not a state."""
    groups = {
        "active": {state for state in RunState if state not in FINAL},
        "ended": set(FINAL),
        **{state.value: {state} for state in RunState},
    }
    unknown = [name for name in names if name.lower() not in groups]
    if unknown:
        raise UsageError(f"`{unknown[0]}` is not a state of a run", hint=known_words(unknown[0], groups))
    return frozenset(state for name in names for state in groups[name.lower()])
