"""What every bench ends in: rows with a bound each, a table for people, a file of JSON for programs."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

SHORT = 1  # exit status if a row falls short
HERE = Path(__file__).parent
HEADINGS = ("what", "ours", "peer", "", "ratio", "bound", "")

_UNITS: dict[str, Callable[[float], str]] = {
    "s": lambda value: f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms",
    "nats": lambda value: f"{value:.3f} nats",
    "characters": lambda value: f"{value:,.0f}/s",
    "count": lambda value: f"{value:.0f}",
    "bytes": lambda value: f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB",
    "share": lambda value: f"{value:.2%}",
}


@dataclass(frozen=True)
class Bound:
    """What a row must reach: `ours`, or the ratio of ours to the peer's, at most or at least `limit`."""

    of: Literal["ours", "ratio"]
    limit: float
    most: bool

    def holds(self, value: float | None) -> bool:
        if value is None:
            return False
        return value <= self.limit if self.most else value >= self.limit

    def text(self, unit: str) -> str:
        shown = f"{self.limit:g} x" if self.of == "ratio" else _UNITS[unit](self.limit)
        return f"{'at most' if self.most else 'at least'} {shown}"


def at_most(limit: float) -> Bound:
    """For a row without a peer, or one whose peer only says what the figure costs."""
    return Bound("ours", limit, most=True)


def at_least_times(limit: float) -> Bound:
    """For a row whose ratio is better the larger it is, and stands or falls beside the peer's."""
    return Bound("ratio", limit, most=False)


def at_most_times(limit: float) -> Bound:
    """The same for a ratio that is better the smaller it is."""
    return Bound("ratio", limit, most=True)


@dataclass(frozen=True)
class Row:
    """One figure. `unit` is a key of `_UNITS`. A row that could not be measured says `why`, and is short."""

    what: str
    unit: str
    bound: Bound
    ours: float | None = None
    peer_name: str = ""
    peer: float | None = None
    ratio: float | None = None
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.bound.holds(self.ours if self.bound.of == "ours" else self.ratio)

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


def beside(
    what: str,
    unit: str,
    bound: Bound,
    ours: Sequence[float],
    peer_name: str,
    peer: Sequence[float],
    *,
    faster: bool = False,
) -> Row:
    """The row of two sides with a figure for each round: medians, and the median of the rounds' ratios, ours by the
    peer's. `faster`: the peer's by ours, which says of seconds how many times as fast ours is.
    """
    one, other = (peer, ours) if faster else (ours, peer)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(one, other, strict=True))
    return Row(what, unit, bound, statistics.median(ours), peer_name, statistics.median(peer), ratio)


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


def options(bench: str, arguments: Sequence[str] | None, about: str, parts: Collection[str] = ()) -> argparse.Namespace:
    """`quick`, `only` (all `parts` unless some are named), and `out`, as typed after `python -m tests.bench.BENCH`."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{bench}", description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller, or fewer rounds")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="some of the rows")
    parser.add_argument("--out", type=Path, default=HERE / f"{bench}.json", help="where the JSON goes")
    return parser.parse_args(arguments)


def measure(bench: Any, parts: Collection[str], only: Collection[str]) -> None:
    """Call the methods of a bench that have the names of its parts. One that fails is a row that says why."""
    for name in parts:
        if name in only:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            try:
                getattr(bench, name.replace("-", "_"))()
            except Exception as error:  # noqa: BLE001 - the other rows are measured
                bench.rows.append(Row(f"the rest of {name}", "s", at_most(0), why=f"{error!r}"[:300]))


def finish(target: Path, rows: Sequence[Row], **more: Any) -> int:
    """Print the rows, and write them as JSON with the machine and whatever else was found; the exit status."""
    print(text(rows))
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "of": platform.machine(),
    }
    report = {"rows": [{**asdict(row), "ok": row.ok} for row in rows], "machine": machine, **more}
    target.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row.ok for row in rows) else SHORT


def processor_seconds(*words: str) -> float:
    """Seconds of processor time that all processes have used whose command lines have these words."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if all(word.encode() in line for word in words):
                ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def cache() -> Path:
    """The folder of what the benches make once."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "remoterun" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def programs(requirements: Path, python: Callable[[], str] = lambda: sys.executable) -> Path:
    """The folder with the programs of the peers that a file of requirements names, in an environment of their own that
    is made on first use, with the Python that is asked for then."""
    content = requirements.read_bytes()
    folder = cache() / f"{requirements.stem}-{hashlib.sha256(content).hexdigest()[:8]}"
    ready = folder / ".ready"
    if not ready.exists():
        made_with = python()
        print(f"making an environment of {requirements.name}: {folder}", file=sys.stderr)
        subprocess.run([made_with, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "--quiet", "-r", str(requirements)], check=True)
        ready.touch()
    return folder / "bin"


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
