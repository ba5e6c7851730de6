"""The points of a run's metrics on the disk: `metrics.points` and `metrics.names`, which are only appended to."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Dict, Iterator, List, Tuple

from ..shared.files import append_whole, size_of
from ..shared.measured import MOST_NAME, MOST_POINTS, MOST_SERIES, POINT
from ..shared.points import name_lines, read_names
from ..shared.records import Record
from ..store.run_folder import RunFolder

MANY = 500_000
"""Points of a run, from which on a series gets one in `APART` seconds at most."""
APART = 10.0
READ = 8192
"""Points that are read at once."""


class Stored(Record):
    """A point, with the name of its series."""

    series: str
    step: float
    time: float
    value: float


class Points:
    """What is stored of a run. A new point is in memory until `flush`."""

    def __init__(self, run: RunFolder, size: int) -> None:
        """`size`: bytes of points that count; later ones are cut off, as they will be read once more."""
        self._run = run
        _cut(run.metrics_points, size)
        self.size = size
        _cut(run.metrics_names, sum(len(line) + 1 for line in name_lines(run.metrics_names)))
        self.names: List[str] = read_names(run.metrics_names)
        self._numbers: Dict[str, int] = {name: number for number, name in enumerate(self.names)}
        self._new: List[bytes] = []
        self._new_names: List[str] = []
        self._at: Dict[int, float] = {}
        """By the number of a series, the time of its last point, once there are many."""

    def number(self, name: str, anew: bool = False) -> int:
        """Of a series, which is a new one where there is none of that name; -1 where it is one too many. `anew`: a new
        one takes the place of that of this name."""
        found = None if anew else self._numbers.get(name)
        if found is None:
            if len(self.names) >= MOST_SERIES:
                return -1
            found = self._numbers[name] = len(self.names)
            self.names.append(name)
            self._new_names.append(name)
        return found

    def add(self, number: int, step: float, time: float, value: float) -> bool:
        """Whether the point is stored."""
        count = self.size // POINT.size + len(self._new)
        if count >= MANY:
            if count >= MOST_POINTS or abs(time - self._at.get(number, float("-inf"))) < APART:
                return False
            self._at[number] = time
        self._new.append(POINT.pack(number, step, time, value))
        return True

    def flush(self) -> None:
        """Append what is new. A name is there before its points are. Raises `OSError`."""
        if self._new_names:
            append_whole(
                self._run.metrics_names, b"".join(json.dumps(name).encode() + b"\n" for name in self._new_names)
            )
        if self._new:
            data = b"".join(self._new)
            append_whole(self._run.metrics_points, data)
            self.size += len(data)
        self._new, self._new_names = [], []

    def stored(self) -> Iterator[Tuple[float, float, float, float]]:
        """All points that were there at the beginning."""
        with contextlib.suppress(FileNotFoundError), open(self._run.metrics_points, "rb") as file:
            for data in iter(lambda: file.read(POINT.size * READ), b""):
                yield from POINT.iter_unpack(data)


def cut_name(name: str) -> str:
    """A series' name as it is stored: of bounded length, in one line, in characters that UTF-8 has."""
    text = " ".join(name[: 4 * MOST_NAME].split()) or "value"
    return text[:MOST_NAME].encode("utf-8", "replace").decode()


def _cut(path: str, size: int) -> None:
    if size_of(path) > size:
        os.truncate(path, size)
