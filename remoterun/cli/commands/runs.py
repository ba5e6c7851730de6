"""Looking at runs, and ending them: `logs`, `ps`, `info`, `stop`, `kill`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.agent.shared.states import FINAL, RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Json, Quiet, RunNumber, RunNumbers, Wait, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.cli.several import for_each
from remoterun.cli.watching import until_interrupted
from remoterun.errors import UsageError
from remoterun.model import EVERY_RUN, LAST, RunFilter
from remoterun.parsing import did_you_mean, known_words, parse_duration

if TYPE_CHECKING:
    from remoterun.client import Client, Item
    from remoterun.model import Run


@app.command(cls=Command, epilog=example("remoterun logs 16 -n 20"))
def logs(
    run: RunNumber = LAST,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", "-f", help="Go on live until the run ends; or show what is there.")
    ] = True,
    tail: Annotated[
        int | None, typer.Option("-n", "--tail", metavar="LINES", help="Only the last lines.", min=0)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what was written in the last 90s, 10m, 2h.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="The time before each line.")] = False,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="PATTERN", help="Only lines that match a regular expression.")
    ] = None,
    wait: Wait = "2s",
    quiet: Quiet = False,
) -> int:
    """Show a run's log, from the start, live until it ends.

    Following, the exit status is the command's own.
    """
    from remoterun.cli.follow import follow as show
    from remoterun.cli.matching import matching, pattern

    wanted = None if grep is None else pattern(grep)
    seconds = parse_duration(wait)
    begin = time.time() - parse_duration(since) if since is not None else None
    with connect() as client:
        known = client.registry.run(run_number(run))
        items = client.runs.follow(
            known.number,
            live=follow,
            tail=tail,
            since=begin,
            timed=timestamps,
            wait=seconds,
        )
        if wanted is not None:
            items = matching(items, wanted, lambda: render.line(f"no line of run {known.number} matches `{grep}`"))
        if follow:
            return show(client, known, items, timestamps=timestamps, ports=())
        if not _print_log(known, items, timestamps):
            known = client.registry.run(known.number)
            if wanted is None:
                render.line(
                    f"run {known.number} has written nothing{'' if known.final else ' yet'}: it is {known.state.value}"
                )
        return 0


def _print_log(run: Run, items: Iterable[Item], timestamps: bool) -> bool:
    """Whether there was anything to print."""
    from remoterun.cli.follow import Stamp
    from remoterun.client import LogBytes, Note
    from remoterun.errors import HostUnreachable

    stamp = Stamp()
    anything = False
    try:
        for item in items:
            if isinstance(item, LogBytes):
                anything = True
                render.command_bytes(stamp.apply(item) if timestamps else item.data, item.stderr)
            elif isinstance(item, Note) and item.kind == "kept":
                render.kept(run, item.text)
    except HostUnreachable as error:
        known = render.state_text(replace(run, fault=error))
        raise HostUnreachable(f"{error.message}; run {run.number} is {known}", hint=error.hint, evidence=error.evidence)
    return anything


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


@app.command(cls=Command, epilog=example("remoterun stop 16"))
def stop(
    runs: RunNumbers,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long it may take before it is killed: 30s, 5m.")
    ] = "10s",
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
        try:
            before = client.registry.run(number)
            known, asked = end(number)
        except KeyboardInterrupt:
            render.line("")
            render.line(f"run {number} may not have been asked to end")
            render.line(f"  remoterun info {number}   shows what became of it")
            raise
        if not asked:
            render.line(f"run {known.number} has ended already: {render.state_text(known)}")
        elif before.stopping and "stopping" in words:
            render.line(f"run {known.number} is already {words}")
        elif known.state is RunState.QUEUED:
            render.line(f"run {known.number} is {words.partition(';')[0]}; it had not started")
        else:
            render.line(f"run {known.number} is {words}")

    return for_each([run_number(text) for text in runs], end_one)
