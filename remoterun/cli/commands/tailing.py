"""Staying with runs until they end: `logs`, `wait`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Annotated

import typer

from remoterun.cli import render
from remoterun.cli.app import Command, Json, Quiet, RunNumber, RunNumbers, Wait, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.client.following import Item, LogBytes, Note
from remoterun.errors import HostUnreachable, UsageError
from remoterun.model import LAST, Run
from remoterun.parsing import parse_duration


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

    wanted = None if grep is None else pattern(grep)
    seconds = parse_duration(wait)
    begin = time.time() - parse_duration(since) if since is not None else None
    with connect() as client:
        known = client.registry.run(run_number(run))
        items: Iterable[Item] = client.runs.follow(
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


TIME_IS_UP = 124
"""The exit status, as that of `timeout`."""


@app.command(cls=Command, epilog=example("remoterun wait 16 17 --timeout 2h"))
def wait(
    runs: RunNumbers,
    first: Annotated[bool, typer.Option("--any", help="Only until the first of them has ended.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="Wait no longer than 90s, 10m, 2h; a plain number is minutes."),
    ] = None,
    json: Json = False,
) -> int:
    """Wait until runs have ended.

    The exit status is 0 if that of each run is 0, else that of the first one, in the order given, that is not; with
    --any, that of the run that ended first; 124 when the time is up; 125 if the machine of one can't tell any more.
    """
    seconds = parse_duration(timeout) if timeout is not None else None
    ended: dict[int, Run] = {}
    with connect() as client:
        numbers = list(dict.fromkeys(client.registry.run(run_number(text)).number for text in runs))
        for item in client.runs.wait(numbers, seconds):
            if isinstance(item, Run):
                ended[item.number] = item
                if item.fault is not None:
                    render.error(item.fault)
                    continue
                render.ended(item)
                if first:
                    break
            elif item.kind == "lost":
                render.warning(f"{item.text}; trying again")
            else:
                render.line(f"  connected to {item.text} again")
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
    return next((ended[number].exit_status for number in numbers if number in ended and ended[number].exit_status), 0)


def pattern(text: str) -> re.Pattern[bytes]:
    """Raises `UsageError` for what is not a regular expression."""
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise UsageError(f"`{text}` is not a regular expression: {error.msg}", hint=r"--grep 'loss: \d+\.\d+'")


def matching(
    items: Iterable[Item], wanted: re.Pattern[bytes], none_found: Callable[[], None] = lambda: None
) -> Iterator[Item]:
    """`items` with only those whole lines of the log that match; a line without an end counts once the log has ended,
    or the state has changed. `none_found` is called at the end, where no line matched."""
    lines: dict[bool, LogBytes] = {}
    """The lines that have begun and not ended, by whether they are of stderr."""
    any_found = False

    def ended() -> Iterator[Item]:
        nonlocal any_found
        for begun in lines.values():
            if wanted.search(begun.data):
                any_found = True
                yield replace(begun, data=begun.data + b"\n")
        lines.clear()

    for item in items:
        if not isinstance(item, LogBytes):
            yield from ended()
            yield item
            continue
        whole, newline, rest = item.data.rpartition(b"\n")
        begun = lines.pop(item.stderr, None)
        if begun is not None:
            whole, item = begun.data + whole, replace(item, offset=begun.offset, time=begun.time)
        if not newline:
            lines[item.stderr] = replace(item, data=whole + rest)
            continue
        found = [line + b"\n" for line in whole.split(b"\n") if wanted.search(line)]
        if found:
            any_found = True
            yield replace(item, data=b"".join(found))
        if rest:
            lines[item.stderr] = replace(item, data=rest)
    yield from ended()
    if not any_found:
        none_found()
