"""Runs that there are: `ps`, `info`, `diff`."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.agent.shared.states import FINAL, RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, RunNumber, Wait, app, example, run_number, run_range
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import json_shapes
from remoterun.errors import NotFound, UsageError
from remoterun.model import EVERY_RUN, LAST, RunFilter
from remoterun.parsing import did_you_mean, known_words, parse_duration
from remoterun.sizes import counted

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.model import Run


LABELS = "remoterun labels"


@app.command(cls=Command, epilog=example("remoterun ps -t box --state failed --since 2d\nremoterun ps --watch"))
def ps(
    words: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Only runs with this in their command or description.")
    ] = [],  # noqa: B006
    number: Annotated[int, typer.Option("-n", "--number", metavar="N", help="Only the newest N.", min=1)] = 20,
    every: Annotated[bool, typer.Option("-a", "--all", help="Every run, also archived ones.")] = False,
    state: Annotated[
        list[str],
        typer.Option(
            "--state", metavar="STATE", help="Only runs in this state; also `active`, `ended`. Repeat for more."
        ),
    ] = [],  # noqa: B006
    machine: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--machine-type",
            metavar="NAME",
            help="Only runs of this machine.",
            autocompletion=complete.machine_types,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only runs of the last 90s, 10m, 2h, 7d.")
    ] = None,
    label: Annotated[
        list[str],
        typer.Option("--label", metavar="LABEL", help="Only runs with this label.", autocompletion=complete.labels),
    ] = [],  # noqa: B006
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Show them again every 2 s, until ^C.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also engine, labels, description, loss.")] = False,
    cloud: Annotated[
        bool, typer.Option("--cloud", help="Give numbers here to runs of the bucket that another machine started.")
    ] = False,
    wait: Wait = "2s",
    json: Json = False,
) -> int:
    """List runs, newest last, as their machines know them.

    Runs of a machine that does not answer in time are shown as they were last seen.
    """
    wanted = RunFilter(
        states=_states(state),
        labels=tuple(label),
        machine=machine,
        since=None if since is None else time.time() - parse_duration(since),
        words=tuple(words),
    )
    if watch and json:
        raise UsageError("--json shows runs once, and --watch again and again", hint="remoterun ps --json")
    seconds = parse_duration(wait)
    with connect() as client:
        if cloud:
            client.runs.adopt()

        def look() -> Callable[[], None]:
            runs = client.runs.list(None if every else number, replace(wanted, hidden=every), seconds)
            shown = {run.number for run in runs}
            older = [run for run in client.registry.runs() if not run.final and run.number not in shown]
            more = f"{counted(len(older), 'older run')} may go on still"
            return lambda: show(runs, more if older and wanted == EVERY_RUN else "")

        def show(runs: Sequence[Run], more: str) -> None:
            run_views.not_reached(runs)
            if json:
                render.out_json([run.record() for run in runs])
            elif runs:
                run_views.runs_table(runs, verbose)
                if more:
                    render.line(f"{more}; `remoterun ps -a --state active` asks")
                run_views.can_go_on(runs)
            elif wanted != EVERY_RUN:
                render.line("No run matches; `remoterun ps` lists runs without a filter")
                names = {name for run in client.registry.runs() for name in (run.machine.name, run.host.name)}
                near = did_you_mean(machine, names) if machine is not None and machine not in names else None
                if near is not None:
                    render.line(f"  no run was ever on `{render.name(str(machine))}`: did you mean `{near}`?")
            else:
                render.line('There is no run yet. Start one: `remoterun run "echo hello"`')

        if watch:
            return _until_interrupted(look)
        look()()
        return 0


EVERY = 2.0
"""Seconds between two looks."""


def _until_interrupted(look: Callable[[], Callable[[], None]]) -> int:
    """Look, and show what was seen by calling what `look` returned, every two seconds until ^C. Returns 0."""
    try:
        for number in itertools.count():
            begun = time.monotonic()
            show = look()
            render.new_page(first=number == 0)
            show()
            render.finish()
            time.sleep(max(EVERY - (time.monotonic() - begun), 0.1))
    except KeyboardInterrupt:
        render.line("")
    return 0


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


class Labels(Command):
    """Takes `+LABEL` and `-LABEL` from among the words, into `context.meta`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        labels = [word for word in args if re.match(r"\+|-(?!-|h\Z)", word)]
        ctx.meta[LABELS] = labels
        return super().parse_args(ctx, [word for word in args if word not in labels])


@app.command(cls=Labels, epilog=example("remoterun info last\nremoterun info 3 +good -bad"))
def info(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN]… [+LABEL]… [-LABEL]…",
            help="A run's number, or `last`. A label to add to it begins with +, one to remove with -; then also 3-9.",
            autocompletion=complete.run_numbers,
        ),
    ] = [],  # noqa: B006
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """Show all that is known of a run; add labels to runs."""
    seconds = parse_duration(wait)
    if context.meta[LABELS]:
        _change_labels(runs, context.meta[LABELS])
        return
    if len(runs) > 1:
        raise UsageError("`info` shows one run", hint=f"remoterun diff {runs[0]} {runs[1]}   shows what differs")
    with connect() as client:
        known, details = client.runs.info(run_number(runs[0] if runs else LAST), seconds)
    run_views.not_reached([known])
    if json:
        render.out_json(json_shapes.run_info(known, details))
    else:
        run_views.run_info(known, details)


def _change_labels(runs: Sequence[str], labels: Sequence[str]) -> None:
    if not runs:
        typed = " ".join(map(render.word, labels))
        raise UsageError("no run is named", hint=f"remoterun info last {typed}")
    if "+" in labels or "-" in labels:
        raise UsageError("a label has no name", hint="remoterun info 3 +good -bad")
    add = tuple(word[1:] for word in labels if word[0] == "+")
    remove = tuple(word[1:] for word in labels if word[0] == "-")
    with connect() as client:
        for number in _numbers(client, runs):
            run = client.runs.label(number, add, remove)
            shown = ", ".join(render.name(each) for each in run.labels) or "no label"
            render.out(f"run {number}: {shown}")


def _numbers(client: Client, runs: Sequence[str]) -> dict[int, None]:
    """The numbers of these runs, each once. Raises `NotFound`, `UsageError`."""
    numbers: dict[int, None] = {}
    for text in runs:
        fits = run_range(text)
        if fits is None:
            numbers[client.registry.run(run_number(text)).number] = None
            continue
        among = [run.number for run in client.registry.runs() if fits(run.number)]
        if not among:
            raise NotFound(f"there is no run among {text}", hint="remoterun ps -a")
        numbers.update(dict.fromkeys(among))
    return numbers


@app.command(cls=Command, epilog=example("remoterun diff 16 17 --stat"))
def diff(
    before: RunNumber,
    after: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="Another run's number, or `last`.", autocompletion=complete.run_numbers),
    ],
    stat: Annotated[bool, typer.Option("--stat", help="Of files, only how much differs.")] = False,
    json: Json = False,
) -> None:
    """Show what differs between two runs.

    What was asked for, what the mounts held, how the runs ended; and of the files that were sent, the lines, as git
    shows them. What is the same is not shown.
    """
    with connect() as client:
        binary = not (json or stat or render.reader_is_terminal())
        found = client.runs.diff(run_number(before), run_number(after), binary)
    if json:
        render.out_json(json_shapes.difference(found))
    else:
        with render.paged():
            run_views.difference(found, stat)
