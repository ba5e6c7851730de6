"""A command for several things: what fails of one keeps no other from being done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from remoterun.cli import render
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
