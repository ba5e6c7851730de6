"""`logs`: a run's log, live."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, Quiet, RunNumber, Wait, app, example, option, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.client.runs.following import Item, LogBytes, Note, Wanted
from remoterun.errors import HostUnreachable, UsageError
from remoterun.model import LAST, Run
from remoterun.parsing import parse_duration


@app.command(cls=Command, epilog=example("remoterun logs 16 -n 20"))
def logs(
    run: RunNumber = LAST,
    follow: Annotated[
        bool, option("--follow/--no-follow -f", "Go on live until the run ends; or show what is there.")
    ] = True,
    tail: Annotated[int | None, option("-n --tail LINES", "Only the last lines.", min=0)] = None,
    since: Annotated[str | None, option("--since TIME", "Only what was written in the last 90s, 10m, 2h.")] = None,
    timestamps: Annotated[bool, option("--timestamps", "The time before each line.")] = False,
    grep: Annotated[str | None, option("--grep PATTERN", "Only lines that match a regular expression.")] = None,
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
        known = client.runs.known(run_number(run))
        asked = Wanted(follow, tail, begin, timestamps, seconds)
        items: Iterable[Item] = client.runs.follow(known.number, asked)
        if tail:
            items = _with_word_of_a_cut_line(client, known, items)
        if wanted is not None or timestamps:
            items = by_lines(items, wanted, timestamps)
        if follow:
            return show(client, known, items, ports=())
        if not _print_log(known, items):
            known = client.runs.known(known.number)
            none = f"no line matches `{grep}`" if grep is not None else "it has written nothing"
            render.line(f"run {known.number} is {known.state.value}: {none}{'' if known.final else ' yet'}")
        return 0


def _with_word_of_a_cut_line(client: Client, run: Run, items: Iterable[Item]) -> Iterator[Item]:
    """`items`, with a warning where the first line is shown without its start: a host reads back 1 MiB a line."""
    met: set[bool] = set()
    for item in items:
        if isinstance(item, LogBytes) and item.stderr not in met:
            met.add(item.stderr)
            if item.offset and len(item.data) >= LONGEST and b"\n" not in item.data:
                name = "err" if item.stderr else "log"
                if client.runs.log_part(run.number, item.offset - 1, 1, name)[2] != b"\n":
                    whole = f"remoterun logs {run.number}"
                    render.warning(f"the first line is too long to be shown from its start: `{whole}` shows all of it")
        yield item


def _print_log(run: Run, items: Iterable[Item]) -> bool:
    """Whether there was anything to print."""
    anything = False
    try:
        for item in items:
            if isinstance(item, LogBytes):
                anything = True
                render.command_bytes(item.data, item.stderr)
            elif isinstance(item, Note) and item.kind == "kept":
                run_views.kept(run, item.text)
    except HostUnreachable as error:
        known = run_views.state_text(run._replace(fault=error))
        raise HostUnreachable(f"{error.message}; run {run.number} is {known}", hint=error.hint, evidence=error.evidence)
    return anything


def pattern(text: str) -> re.Pattern[bytes]:
    """Raises `UsageError` for what is not a regular expression."""
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise UsageError(f"`{text}` is not a regular expression: {error.msg}", hint=r"--grep 'loss: \d+\.\d+'")


def by_lines(items: Iterable[Item], wanted: re.Pattern[bytes] | None, timestamps: bool) -> Iterator[Item]:
    """`items` with only those lines of the log that match, if need be each with the local time of its first byte."""
    for item in whole_lines(items):
        if isinstance(item, LogBytes):
            lines = [line + b"\n" for line in item.data[:-1].split(b"\n") if wanted is None or wanted.search(line)]
            if not lines:
                continue
            before = _stamp(item.time) if timestamps else b""
            item = replace(item, data=before + before.join(lines))
        yield item


def _stamp(moment: float | None) -> bytes:
    if moment is None:
        return b"?" * 19 + b" "
    return datetime.datetime.fromtimestamp(moment).isoformat(sep=" ", timespec="seconds").encode() + b" "


LONGEST = 1 << 16
"""Bytes from which on a line is passed on in parts, each with an end: it may be as long as the log."""


def whole_lines(items: Iterable[Item]) -> Iterator[Item]:
    """`items` with the log in whole lines; one without an end gets it once the log has ended, or the state changed."""
    begun: dict[bool, tuple[LogBytes, bytearray]] = {}
    """The lines that have begun and not ended, by whether they are of stderr."""

    def ended() -> Iterator[Item]:
        yield from (replace(item, data=bytes(line + b"\n")) for item, line in begun.values())
        begun.clear()

    for item in items:
        if not isinstance(item, LogBytes):
            yield from ended()
            yield item
            continue
        data = item.data
        if item.stderr in begun:
            first, line = begun[item.stderr]
            rest, newline, data = data.partition(b"\n")
            line += rest
            if newline or len(line) >= LONGEST:
                yield replace(first, data=bytes(line + b"\n"))
                del begun[item.stderr]
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            yield replace(item, data=whole + newline)
        if rest:
            begun[item.stderr] = item, bytearray(rest)
    yield from ended()
