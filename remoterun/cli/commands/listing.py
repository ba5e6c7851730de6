"""Runs that there are: `ps`, `info`, `diff`, `label`, `move`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.agent.shared.states import FINAL, RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, RunNumber, Wait, app, example, named_resource, run_number, run_range
from remoterun.cli.asking import client as connect
from remoterun.cli.repeating import until_interrupted
from remoterun.errors import NotFound, UsageError
from remoterun.model import EVERY_RUN, LAST, Resource, RunFilter
from remoterun.parsing import did_you_mean, known_words, parse_duration

if TYPE_CHECKING:
    from remoterun.model import Run


@app.command(cls=Command, epilog=example("remoterun ps -t box --state failed --since 2d\nremoterun ps --watch"))
def ps(
    words: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Only runs with this in their command or description.")
    ] = [],  # noqa: B006
    number: Annotated[int, typer.Option("-n", "--number", metavar="N", help="Only the newest N.", min=1)] = 20,
    every: Annotated[bool, typer.Option("-a", "--all", help="Every run.")] = False,
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
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also the engine, labels and description.")] = False,
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
            runs = client.runs.list(None if every else number, wanted, seconds)
            rented = [run.number for run in runs if run.renting is not None]
            taken_up = [each for each in rented if client.runs.start_next_attempt(each)]
            return lambda: show(runs, taken_up)

        def show(runs: Sequence[Run], taken_up: Sequence[int]) -> None:
            render.not_reached(runs)
            for each in taken_up:
                render.line(f"run {each} gets another host now: `remoterun logs {each}`")
            if json:
                render.out_json([run.record() for run in runs])
            elif runs:
                render.runs_table(runs, verbose)
            elif wanted != EVERY_RUN:
                render.line("No run matches; `remoterun ps` lists runs without a filter")
                names = {name for run in client.registry.runs() for name in (run.machine.name, run.host.name)}
                near = did_you_mean(machine, names) if machine is not None and machine not in names else None
                if near is not None:
                    render.line(f"  no run was ever on `{render.name(str(machine))}`: did you mean `{near}`?")
            else:
                render.line('There is no run yet. Start one: `remoterun run "echo hello"`')

        if watch:
            return until_interrupted(look)
        look()()
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


@app.command(cls=Command, epilog=example("remoterun info last"))
def info(run: RunNumber = LAST, wait: Wait = "2s", json: Json = False) -> None:
    """Show all that is known of a run."""
    seconds = parse_duration(wait)
    with connect() as client:
        known, details = client.runs.info(run_number(run), seconds)
    render.not_reached([known])
    if json:
        render.out_json({**known.record(), **details})
    else:
        render.run_info(known, details)


@app.command(cls=Command, epilog=example("remoterun diff 16 17 --stat"))
def diff(
    before: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's number, or `last`.", autocompletion=complete.run_numbers)
    ],
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
        found = client.runs.diff(run_number(before), run_number(after))
    if json:
        render.out_json(render.difference_record(found))
    else:
        render.difference(found, stat)


class Labels(Command):
    """Takes `-h` as the first word for `--help`; after a run, what begins with `-` is a label: `-h`, `-hot`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--help"] if args[:1] == ["-h"] else args)


@app.command(
    cls=Labels,
    epilog=example("remoterun label 3 +good -bad\nremoterun label runs/3-9 +night"),
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},  # `-bad` is a label
)
def label(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN… [+LABEL]… [-LABEL]…",
            help="Runs: 3, last, 3-9; a label to add begins with +, one to take away with -.",
        ),
    ],
) -> None:
    """Add labels to runs, and take some away. Without any, show them."""
    runs, changes = _parted(words)
    with connect() as client:
        numbers: dict[int, None] = {}
        for text in runs:
            fits = run_range(text)
            if fits is None:
                resource = _resource(text)
                if resource.kind != "runs" or resource.sub:
                    raise UsageError(f"{resource} has no labels: runs have", hint="remoterun label 3 +good")
                numbers[client.registry.run(resource.name).number] = None
                continue
            among = [run.number for run in client.registry.runs() if fits(run.number)]
            if not among:
                raise NotFound(f"there is no run among {text}", hint="remoterun ps -a")
            numbers.update(dict.fromkeys(among))
        add, remove = changes
        for number in numbers:
            run = client.runs.label(number, add, remove)
            shown = ", ".join(render.name(each) for each in run.labels) or "no label"
            render.out(f"run {number}: {shown}")


def _resource(text: str) -> Resource:
    try:
        return named_resource(text)
    except UsageError:
        if "/" in text:
            raise
        hint = f"a label to add begins with +: `remoterun label last {render.word('+' + text)}`"
        raise UsageError(f"`{render.name(text)}` is not a run", hint=hint) from None


def _parted(words: list[str]) -> tuple[list[str], Any]:
    """(the runs, (labels to add, labels to take away))."""
    runs = [word for word in words if word[:1] not in ("+", "-")]
    for word in words:
        if word in ("+", "-"):
            raise UsageError(f"`{word}` names no label", hint="remoterun label 3 +good -bad")
    if not runs:
        raise UsageError("no run is named", hint=f"remoterun label last {' '.join(map(render.word, words))}")
    add = tuple(word[1:] for word in words if word[0] == "+")
    return runs, (add, tuple(word[1:] for word in words if word[0] == "-"))


@app.command(cls=Command, epilog=example("remoterun move 16 -t box"))
def move(
    run: RunNumber,
    machine: Annotated[
        str,
        typer.Option(
            "-t",
            "--machine-type",
            metavar="NAME",
            help="Where to: a machine of yours, or a pool.",
            autocompletion=complete.machine_types,
        ),
    ],
) -> None:
    """Let a run that waits go to another machine.

    It keeps its number. If the other machine can't be reached, or lacks what the run needs, it stays where it is.
    """
    with connect() as client, render.progress() as progress:
        moved = client.runs.move(run_number(run), machine, progress, render.warning)
    render.line(f"run {moved.number} is on {moved.where} now")
    render.line(f"  remoterun logs {moved.number}   shows its log, live")
