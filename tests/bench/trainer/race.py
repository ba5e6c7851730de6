"""Sides that train in turns, each in a process of its own, and what else the machine did meanwhile."""

from __future__ import annotations

import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tests.bench.table import in_turns
from tests.bench.trainer.place import ROOT, Unavailable, environment
from tests.bench.trainer.sides.lap import Task

READY_SECONDS, LAP_DEADLINE = 300.0, 600.0
LAP_SECONDS = 3.0  # aimed at
LEAST_STEPS = 5
QUIET = 0.15  # of one core: what others may use during a lap
TRIES = 3  # of a lap that was disturbed, before it counts all the same
MOST_REPEATED = 20  # laps in all: a machine that is never quiet is measured as it is

LOUD = 0.3  # the median of what others used: beyond it a race tells nothing
TICKS = os.sysconf("SC_CLK_TCK")

SIDES = "tests.bench.trainer.sides"


class Side:
    """A process that answers a number of steps by the seconds they took: see `sides/lap.py`."""

    def __init__(
        self,
        name: str,
        module: str,
        task: Task,
        python: Path = Path(sys.executable),
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.task, self._variables = name, task, dict(variables or {})
        self._words = [str(python), "-m", f"{SIDES}.{module}", task.argument()]
        self.about = ""
        self.steps = LEAST_STEPS

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._words, cwd=ROOT, env={**environment(), **self._variables},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        try:
            self.about = self._answer(READY_SECONDS)["about"]
            self.steps = max(LEAST_STEPS, math.ceil(LAP_SECONDS * LEAST_STEPS / self.seconds(LEAST_STEPS)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu(self) -> float:
        """Seconds that cores have worked for it so far, as `busy`."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICKS

    def seconds(self, steps: int) -> float:
        """Train so many steps; blocks until they are done."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n".encode())
        self._process.stdin.flush()
        return float(self._answer(LAP_DEADLINE)["seconds"])

    def _answer(self, deadline: float) -> Any:
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], deadline)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").splitlines() or ["it said nothing"]
            what = "ended" if readable else f"did not answer within {deadline:.0f} s"
            raise Unavailable(f"{self.name} {what}: {said[-1]}")
        return json.loads(line)


@dataclass
class Machine:
    """What other processes used of this machine during laps, in cores."""

    others: list[float] = field(default_factory=list)
    repeated: int = 0

    def lap(self, side: Side) -> float:
        """Seconds a step; a lap during which others used the machine is tried again."""
        for attempt in range(TRIES):
            before, begun = busy() - side.cpu, time.monotonic()
            seconds = side.seconds(side.steps)
            others = max(0.0, busy() - side.cpu - before) / (time.monotonic() - begun)
            if others <= QUIET or attempt == TRIES - 1 or self.repeated == MOST_REPEATED:
                break
            self.repeated += 1
        self.others.append(others)
        return seconds / side.steps

    def text(self) -> str:
        worst, median = max(self.others, default=0.0), statistics.median(self.others or [0.0])
        return f"other processes took {median:.0%} of a core, at most {worst:.0%}; {self.repeated} laps repeated"


def busy() -> float:
    """Seconds that this machine's cores have worked so far; Linux only, elsewhere 0."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    return (sum(fields) - fields[3] - fields[4]) / TICKS  # all but idle and waiting for a disk; stolen time is work


@dataclass(frozen=True)
class Race:
    """Characters a second of each side, a figure a round; what the sides are; what others used meanwhile, in cores."""

    speeds: dict[str, list[float]]
    about: dict[str, str]
    others: float

    @property
    def loud(self) -> str:
        """Why this race counts for nothing; empty if it counts."""
        return f"not a quiet machine, others used {self.others:.0%} of a core" if self.others > LOUD else ""

    def median(self, side: str) -> float:
        return statistics.median(self.speeds[side])


def race(sides: Mapping[str, Side], rounds: int, machine: Machine) -> Race:
    """Start all sides, one after the other, then measure them in turns."""
    with ExitStack() as stack:
        for side in sides.values():
            stack.enter_context(side)
        laps = {name: lambda side=side: side.task.characters / machine.lap(side) for name, side in sides.items()}
        first = len(machine.others)
        speeds = in_turns(laps, rounds)
        others = statistics.median(machine.others[first:])
        return Race(speeds, {name: side.about for name, side in sides.items()}, others)


def write_batches(path: Path, text: str, batch_size: int, seq_length: int) -> int:
    """The first batches of `text`, cut as char-rnn cuts them, for `Task.batches`. Gives the size of the vocabulary."""
    characters = sorted(set(text))
    ids = np.searchsorted(np.array(characters), np.array(list(text))).astype(np.int32)
    number = min(200, (len(ids) - 1) // (batch_size * seq_length))
    used = number * batch_size * seq_length

    def streams(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.ascontiguousarray(part.reshape(batch_size, number, seq_length).swapaxes(0, 1))

    np.savez(path, inputs=streams(ids[:used]), targets=streams(ids[1 : used + 1]))
    return len(characters)
