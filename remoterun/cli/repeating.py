"""A command that is done several times: for several things, for each machine of a pool, every two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from remoterun.cli import render
from remoterun.client import Client
from remoterun.errors import RemoterunError

T = TypeVar("T")


def for_each(things: Sequence[T], do: Callable[[T], None]) -> int:
    """The exit status. An error is shown, and raised where there is one thing only."""
    status = 0
    for thing in things:
        try:
            do(thing)
        except RemoterunError as error:
            if len(things) == 1:
                raise
            render.error(error)
            status = max(status, error.exit_status)
    return status


A = TypeVar("A")


def of_each(
    client: Client,
    name: str | None,
    ask: Callable[[str | None], A],
    show: Callable[[A, bool], None],
    record: Callable[[A], dict[str, Any]],
    as_json: bool,
) -> tuple[list[A], int]:
    """What `ask` finds on the machine `name` (None: the default one), shown, and an exit status; of a pool on each of
    its machines, under a heading, or in a list of JSON. Of one that can't be asked the error stands in that place, and
    the status is the error's."""
    machine = client.machines.get(name)
    if not machine.pool:
        found = ask(name)
        show(found, as_json)
        return [found], 0
    answers: list[A] = []
    records: list[dict[str, Any]] = []
    status = 0
    for number, member in enumerate(machine.pool):
        if not as_json:
            render.heading(member, first=not number)
        try:
            answers.append(ask(member))
        except RemoterunError as error:
            status = max(status, error.exit_status)
            records.append({"machine": member, "error": error.message})
            render.error(error)
            continue
        records.append(record(answers[-1]))
        if not as_json:
            show(answers[-1], False)
    if as_json:
        render.out_json(records)
    return answers, status


EVERY = 2.0
"""Seconds between two looks."""


def until_interrupted(look: Callable[[], Callable[[], None]]) -> int:
    """Look, and show what was seen by calling what `look` returned, every two seconds until ^C. Returns 0."""
    try:
        while True:
            begun = time.monotonic()
            show = look()
            render.new_page()
            show()
            render.finish()
            time.sleep(max(EVERY - (time.monotonic() - begun), 0.1))
    except KeyboardInterrupt:
        render.line("")
        return 0
