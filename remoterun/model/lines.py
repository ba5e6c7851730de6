"""Where a run stands in the line of its machine, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """Where a run that waits stands: at `place` (1 is the next) `of` those that wait on `machine`.

    `holders`: the numbers of the runs that have what it waits for, None for one of another client; `others`: processes
    of others, in words."""

    machine: str
    place: int
    of: int
    holders: tuple[int | None, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: `2nd of 3 on box; run 12 is running`."""
        where = f"next in line on {self.machine}" if self.of == 1 else f"{self._place} on {self.machine}"
        numbers = sorted(number for number in self.holders if number is not None)
        names = [f"run {numbers[0]}" if len(numbers) == 1 else f"runs {listed(map(str, numbers))}"] if numbers else []
        foreign = len(self.holders) - len(numbers)
        if foreign:
            names.append("a run of another client" if foreign == 1 else f"{foreign} runs of other clients")
        running = f"; {listed(names)} {'is' if len(self.holders) == 1 else 'are'} running" if names else ""
        return where + running + "".join(f"; {each}" for each in self.others)

    @property
    def brief(self) -> str:
        """For a table: `2nd of 3`."""
        return "next in line" if self.of == 1 else self._place

    @property
    def _place(self) -> str:
        return f"{_ordinal(self.place)} of {self.of}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
