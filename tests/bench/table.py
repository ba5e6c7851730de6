"""What every bench ends in: rows with a bound each, a table for people, a file of JSON for programs."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

SHORT = 1  # exit status if a row falls short

HEADINGS = ("what", "ours", "peer", "", "ratio", "bound", "")

_UNITS: dict[str, Callable[[float], str]] = {
    "s": lambda value: f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms",
    "characters/s": lambda value: f"{value / 1000:.1f}k/s",
    "nats": lambda value: f"{value:.3f} nats",
    "difference": lambda value: f"{value:.1e}",
    "count": lambda value: f"{value:.0f}",
    "bytes": lambda value: f"{value / 1e6:.1f} MB",
}


@dataclass(frozen=True)
class Bound:
    """What a row must reach: `ours`, or the ratio of ours to the peer's, at most or at least `limit`."""

    of: Literal["ours", "ratio"]
    limit: float
    most: bool

    def holds(self, value: float | None) -> bool:
        if value is None or math.isnan(value):
            return False
        return value <= self.limit if self.most else value >= self.limit

    def text(self, unit: str) -> str:
        shown = f"{self.limit:g} x" if self.of == "ratio" else _UNITS[unit](self.limit)
        return f"{'at most' if self.most else 'at least'} {shown}"


def at_most(limit: float) -> Bound:
    """For a row without a peer, or one whose peer only tells what the figure costs."""
    return Bound("ours", limit, most=True)


def at_least_times(limit: float) -> Bound:
    """For a row whose ratio is better the larger it is, and stands or falls beside the peer's."""
    return Bound("ratio", limit, most=False)


def at_most_times(limit: float) -> Bound:
    """The same for a ratio that is better the smaller it is."""
    return Bound("ratio", limit, most=True)


@dataclass(frozen=True)
class Row:
    """One figure. `unit` is a key of `_UNITS`; `ratio` the median of ours by the peer's, round by round, or the other
    way round where it says how many times as fast ours is and the figures are seconds.

    A row that could not be measured has no `ours` and says `why`; one that was, but under conditions that make nothing
    of it, is `void`. Both count as short.
    """

    what: str
    unit: str
    bound: Bound
    ours: float | None = None
    peer_name: str = ""
    peer: float | None = None
    ratio: float | None = None
    why: str = ""
    void: bool = False

    @property
    def ok(self) -> bool:
        return not self.void and self.bound.holds(self.ours if self.bound.of == "ours" else self.ratio)

    def cells(self) -> tuple[str, ...]:
        show = _UNITS[self.unit]
        return (
            self.what,
            "-" if self.ours is None else show(self.ours),
            "" if self.peer is None else show(self.peer),
            self.peer_name,
            "" if self.ratio is None else f"{self.ratio:.2f} x",
            self.bound.text(self.unit),
            ("ok" if self.ok else "short") + (f": {self.why}" if self.why else ""),
        )


def text(rows: Sequence[Row]) -> str:
    """The table, a line a row; figures to the right, words to the left."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    right = (1, 2, 4)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write(target: Path, rows: Sequence[Row], **more: Any) -> None:
    """Write the rows, and whatever else was found, as JSON; the file appears whole."""
    report = {"rows": [{**asdict(row), "ok": row.ok} for row in rows], **more}
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(json.dumps(_finite(report), indent=2) + "\n")
    os.replace(temporary, target)


def status(rows: Sequence[Row]) -> int:
    return 0 if all(row.ok for row in rows) else SHORT


def in_turns(
    sides: Mapping[str, Callable[[], T]], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, list[T]]:
    """Measure every side once a round. Each round begins with another: what else the machine does meets all alike.

    `before` is called once at the start of each round.
    """
    names = list(sides)
    figures: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        before()
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(sides[name]())
    return figures


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """The median of the rounds' ratios; both have a figure for each round."""
    return statistics.median(one / other for one, other in zip(ours, peer, strict=True))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
