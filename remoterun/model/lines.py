"""Where a run stands in the line of its machine, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """Where a run that waits stands: at `place` (1 is the next) `of` those that wait on `machine`.

    `holders`: the numbers of the runs that have what it waits for, None for one of another client; `others`: processes
    of others, in words. `starts_in`: seconds, a guess from earlier runs of the same command; None without one."""

    machine: str
    place: int
    of: int
    starts_in: float | None = None
    holders: tuple[int | None, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: `2nd of 3 on box, starts in about 20 min; run 12 is running`."""
        where = f"next in line on {self.machine}" if self.of == 1 else f"{self._place} on {self.machine}"
        when = "" if self.starts_in is None else f", starts in {about(self.starts_in)}"
        numbers = sorted(number for number in self.holders if number is not None)
        names = [f"run {numbers[0]}" if len(numbers) == 1 else f"runs {listed(map(str, numbers))}"] if numbers else []
        foreign = len(self.holders) - len(numbers)
        if foreign:
            names.append("a run of another client" if foreign == 1 else f"{foreign} runs of other clients")
        running = f"; {listed(names)} {'is' if len(self.holders) == 1 else 'are'} running" if names else ""
        return where + when + running + "".join(f"; {each}" for each in self.others)

    @property
    def brief(self) -> str:
        """For a table: `2nd of 3, about 20 min`."""
        when = "" if self.starts_in is None else f", {about(self.starts_in)}"
        return ("next in line" if self.of == 1 else self._place) + when

    @property
    def _place(self) -> str:
        return f"{_ordinal(self.place)} of {self.of}"


def about(seconds: float) -> str:
    """A guess at a stretch of time, for people: `less than a minute`, `about 20 min`, `about 3 h`, `about 2 days`."""
    if seconds < 45:
        return "less than a minute"
    if seconds < 90 * 60:
        return f"about {max(round(seconds / 60), 1)} min"
    if seconds < 36 * 3600:
        return f"about {round(seconds / 3600)} h"
    return f"about {round(seconds / 86400)} days"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
