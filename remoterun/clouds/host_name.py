"""The name of a host: its provider keeps it, and lists it for whoever asks. All that we have to know stands in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from remoterun.clouds.base import Intent
from remoterun.clouds.folder import home_mark

FORM = re.compile(r"(rr-([0-9a-z]{8,32})-([0-9]{1,4}))-([0-9]{1,9})-([0-9a-z]{1,7})-([0-9a-z]{1,6})-([0-9a-f]{8})")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class HostName:
    """`token` has the run's key and the attempt in it; `deadline`: seconds since 1970; `mark`: the home's."""

    token: str
    run: str
    attempt: int
    number: int
    deadline: float
    idle: float
    mark: str

    @classmethod
    def read(cls, text: str) -> HostName | None:
        """None for the name of what is not ours."""
        if (known := FORM.fullmatch(text)) is None:
            return None
        token, run, attempt, number, deadline, idle, mark = known.groups()
        return cls(token, run, int(attempt), int(number), float(int(deadline, 36)), float(int(idle, 36)), mark)


def name_of(intent: Intent, home: Path) -> str:
    """Of the host that an intent of this home is for."""
    terms = f"{intent.number}-{_base36(intent.deadline)}-{_base36(intent.idle)}"
    return f"{intent.token}-{terms}-{short_mark(home)}"


def short_mark(home: Path) -> str:
    """The home's mark, as short as a name has room for."""
    return home_mark(home)[:8]


def _base36(value: float) -> str:
    number, text = max(int(value), 0), ""
    while number:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text or "0"
