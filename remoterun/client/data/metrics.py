"""What runs report of themselves: the points of their metrics, their parameters, and how far they will come."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.measured import POINT, USAGE, Progress, direction, rank
from remoterun.client.homes import find_store, record_status
from remoterun.connections import Connections
from remoterun.model import Run
from remoterun.stores import told

Points = list[tuple[float, float, float]]
"""(step, seconds since 1970 by the clock of the run's host, value) of each point of a series, in their order."""
FAR = 10 * 365 * 86400.0
"""Seconds of a run of which nothing is foretold."""
_ASSIGNED = re.compile(r"(?:--)?([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_FLAG = re.compile(r"--([A-Za-z_][\w.-]*)")
_STEPS = re.compile(r"((max|num|total|train|n)[._-]?(train[._-]?)?)?(steps|iters|iterations)", re.I)
"""Parameters that say how many steps a run takes."""
_WHOLE = re.compile(r"[0-9]{1,15}(\.0*)?")
_NEGATIVE = re.compile(r"-\.?[0-9]")


class PointsFile:
    """Points as `POINT` packs them, in a file without a name: a machine may report 128 MB of them for each run."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            self._file.close()

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(len(self))
        return os.pread(self._file.fileno(), max(end - begin, 0), begin)

    def add(self, data: bytes) -> None:
        os.pwrite(self._file.fileno(), data, len(self))

    def cut(self, size: int) -> None:
        self._file.truncate(min(max(size, 0), len(self)))


class Curves:
    """The points of one run as far as they are known here. For one thread at a time."""

    def __init__(self, connections: Connections, run: Run) -> None:
        self._connections = connections
        self.run = run
        self.names: list[str] = []
        self.metrics, self.usage = PointsFile(), PointsFile()

    def update(self) -> None:
        """Fetch what is new. Raises `HostError`."""
        before = self.run
        run, store = find_store(self._connections, self._connections.registry.run(before.number))
        if (run.key, run.attempt) != (before.key, before.attempt):  # it goes on elsewhere, from what it had saved
            self.names, self.metrics, self.usage = [], PointsFile(), PointsFile()
        asked = api.Measured(run.key, len(self.metrics), len(self.usage), len(self.names))
        names, until = store.run(run.key).measured(asked, lambda kind, points: getattr(self, kind).add(points))
        self.names += names
        self.metrics.cut(until.metrics)  # of a process that died on the host, which reads the rest once more
        self.usage.cut(until.usage)
        self.run = record_status(self._connections, run, told(store, until.status))

    def all(self) -> dict[str, Points]:
        """The points of each metric, by its name."""
        found: list[Points] = [[] for _ in self.names]
        for series, step, time, value in POINT.iter_unpack(self.metrics[:]):
            if 0 <= series < len(found):
                found[int(series)].append((step, time, value))
        return dict(zip(self.names, found, strict=True))

    def series(self, name: str) -> Points:
        """The points of a metric, or of one of `USAGE` with the steps in seconds; none for one that is not known."""
        if name in self.names:
            return _points(self.metrics, len(self.names) - 1 - self.names[::-1].index(name))
        return _points(self.usage, USAGE.index(name)) if name in USAGE else []


def _points(data: PointsFile, number: int) -> Points:
    return [(step, time, value) for series, step, time, value in POINT.iter_unpack(data[:]) if series == number]


@dataclass(frozen=True)
class Outlook:
    """What is to come of a run that goes on, as far as it can be told: `left` seconds, `cost_left` US dollars, and the
    step at which its time will be up, where that is before its end. `total`: the steps that it will take."""

    left: float | None = None
    cost_left: float | None = None
    cut_at: float | None = None
    total: float | None = None


def outlook(run: Run, now: float, spec: Mapping[str, Any] | None = None) -> Outlook:
    """`spec`: what was asked of the run, for its time limit, as `Runs.info` has it."""
    progress, spec = run.progress, spec or {}
    if progress is None or progress.step is None:
        return Outlook()
    total = progress.total or (None if run.final else _steps_asked(run.command, progress.step))
    rate = progress.rate or 0.0
    if run.final or total is None or rate <= 0 or (total - progress.step) / rate > FAR:
        return Outlook(total=total)
    end = progress.at + (total - progress.step) / rate
    limits = [spec.get("until"), None if run.renting is None else run.renting.deadline]
    if spec.get("timeout") and run.started is not None:
        limits.append(run.started + spec["timeout"])
    limit = min((each for each in limits if each), default=math.inf)
    left = max(min(end, limit) - now, 0.0)
    price = run.renting.hosts[-1].hourly if run.renting is not None and run.renting.hosts else None
    cut_at = progress.step + max(limit - progress.at, 0.0) * rate if limit < end else None
    return Outlook(left, None if price is None else left / 3600 * price, cut_at, total)


def _steps_asked(command: str, step: float) -> float | None:
    """The steps of the whole run by its command, such as `--max_steps 300`; None where it is beyond them already."""
    for name, text in parameters(command).items():
        if _STEPS.fullmatch(name) and _WHOLE.fullmatch(text) and float(text) >= max(step, 1):
            return float(text)
    return None


def best_first(runs: Iterable[Run]) -> tuple[str, list[tuple[Run, float | None]]]:
    """(the metric that counts most of those with a best value, or ""; the runs, each with its best value of that: the
    best run first, and last those without one)."""
    known = [(run, {each.name: each.best for each in run.progress.series} if run.progress else {}) for run in runs]
    names = (name for _, series in known for name in series if series[name] is not None)
    name = min(names, key=rank, default="")
    found = [(run, series.get(name)) for run, series in known]
    return name, sorted(found, key=lambda each: (each[1] is None, -direction(name) * (each[1] or 0.0)))


def compared(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The value that each run has of each parameter, "" for none: of those that one of them was given in a variable,
    or, where there is none, of those that are not the same in all of them."""
    given = {name for run in runs for name in run.params}
    every = [parameters(run.command, run.params, run.progress) for run in runs]
    table = {name: [each.get(name, "") for each in every] for each in every for name in each}
    return {name: column for name, column in table.items() if name in given or not given and len(set(column)) > 1}


def parameters(
    command: str, given: Mapping[str, str] | None = None, progress: Progress | None = None
) -> dict[str, str]:
    """The parameters of a run: of its command (`--lr 0.1`, `--lr=0.1`, `lr=0.1`, `--fast`), then those that were
    `given` in variables (`RunSpec.params`), then those that it reported itself. The later ones count."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    found: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], "-"], strict=False):
        if assigned := _ASSIGNED.fullmatch(word):
            found[assigned[1]] = assigned[2]
        elif flag := _FLAG.fullmatch(word):
            has_value = not following.startswith("-") or _NEGATIVE.match(following)
            found[flag[1]] = following if has_value else "true"
    return {**found, **(given or {}), **(progress.params if progress is not None else {})}
