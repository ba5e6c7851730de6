"""Several runs in one word: `27`, `runs/27`, `last`, `3-9`, `runs/3-9`."""

from __future__ import annotations

import re
from collections.abc import Callable

from remoterun.errors import UsageError
from remoterun.model import LAST, Resource

_RANGE = re.compile(r"(?:runs/)?([0-9]{1,15})-([0-9]{1,15})/?\Z")


def run_range(text: str) -> Callable[[int], bool] | None:
    """A function that tells which numbers a range of runs names; None for what is not a range. Raises `UsageError`
    where the first number is larger than the last."""
    match = _RANGE.match(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UsageError(f"`{text}` names no run: {first} is more than {last}", hint=f"runs/{last}-{first}")
    return lambda number: first <= number <= last


def resource(text: str) -> Resource:
    """The resource that was typed; a number, or `last`, is a run's. Raises `UsageError`."""
    plain = text.rstrip("/")
    return Resource.parse(f"runs/{plain}" if plain.isdecimal() or plain == LAST else text)
