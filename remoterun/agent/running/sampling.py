"""How much of its machine a run uses: now, for `top`, and at most, for `info`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..shared import api
from ..shared.files import read_json
from ..shared.records import from_json, to_json
from ..shared.states import RunState, Usage
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import gpus as gpu_tool
from . import queue
from .counters import Counters
from .engines import Engine, engine_of_run

FIRST, EVERY = 0.5, 3.0
"""Seconds until a supervisor takes the first sample of its run, and between two samples."""
COST = 100
"""A sample that took long is followed by a pause of so many times that: sampling takes a hundredth of a CPU at most."""


class Sampler:
    """Samples what some runs of a home use, again and again."""

    def __init__(self, home: Home, keys: Sequence[str]) -> None:
        self._home = home
        self._runs = [home.existing_run(key) for key in keys]
        self._seen: Dict[str, Tuple[float, Counters]] = {}
        """By run, when a sample was taken, and what the run had used."""
        self._engines: Dict[str, Engine] = {}

    def sample(self) -> List[api.Sample]:
        """A sample of each run; rates are those since the sample before. The driver is asked only where GPUs matter."""
        held = queue.held(self._home)
        mine = {run.key: held[run.key].get("gpus") or [] for run in self._runs if run.key in held}
        cards: List[gpu_tool.Gpu] = []
        if any(mine.values()):
            with contextlib.suppress(gpu_tool.GpuError):
                cards = gpu_tool.list_gpus()
        return [self._sample(run, [card for card in cards if card.uuid in mine.get(run.key, [])]) for run in self._runs]

    def _sample(self, run: RunFolder, cards: List[gpu_tool.Gpu]) -> api.Sample:
        sample = api.Sample(run.key, time.time(), run.state()[0] if run.exists() else RunState.KILLED)
        if sample.state is not RunState.RUNNING or not run.is_of_this_machine():
            return sample
        counters = self._engine(run).counters(run)
        if counters is None:
            return sample
        sample = sample._replace(
            memory=counters.memory,
            gpus=[
                api.GpuSample(card.number, card.name, card.percent, card.memory_used << 20, card.memory << 20)
                for card in cards
            ],
        )
        now = time.monotonic()
        before, old = self._seen.get(run.key, (now, counters))
        self._seen[run.key] = now, counters
        seconds = now - before
        if seconds <= 0:
            return sample
        return sample._replace(
            cpu=max(counters.cpu - old.cpu, 0.0) / seconds * 100,
            read=_rate(old.read, counters.read, seconds),
            written=_rate(old.written, counters.written, seconds),
            received=_rate(old.received, counters.received, seconds),
            sent=_rate(old.sent, counters.sent, seconds),
        )

    def _engine(self, run: RunFolder) -> Engine:
        if run.key not in self._engines:
            self._engines[run.key] = engine_of_run(self._home, run)
        return self._engines[run.key]


class Peaks:
    """What a run used at most, as far as its supervisors have sampled it."""

    def __init__(self, home: Home, run: RunFolder, engine: Engine, began: float) -> None:
        """`began`: when the command was started, in seconds since 1970."""
        self._home = home
        self._run = run
        self._engine = engine
        self._began = began
        self._next = time.monotonic() + FIRST
        self._usage: Optional[Usage] = None
        with contextlib.suppress(OSError, ValueError):
            self._usage = from_json(Usage, read_json(run.usage_file))

    def sample(self) -> None:
        """Take a sample, if it is time for one. What can't be measured stays as it was."""
        now = time.monotonic()
        if now < self._next:
            return
        with contextlib.suppress(OSError, ValueError):
            self._take()
        self._next = time.monotonic() + max(EVERY, COST * (time.monotonic() - now))

    def _take(self) -> None:
        counters = self._engine.counters(self._run)
        if counters is None:
            return
        before, on_gpus = self._usage or Usage(0, 0.0), self._gpu_memory()
        seconds = max(time.time() - self._began, 0.1)
        cpu = max(before.cpu_seconds, counters.cpu)
        self._usage = Usage(
            max(before.memory, counters.memory),
            round(cpu, 2),
            round(cpu / seconds * 100, 1),
            before.gpu_memory if on_gpus is None else max(before.gpu_memory or 0, on_gpus),
        )
        temporary = self._run.usage_file + ".new"
        with open(temporary, "w") as file:
            json.dump(to_json(self._usage), file)
        os.replace(temporary, self._run.usage_file)

    def _gpu_memory(self) -> Optional[int]:
        """Bytes in use on the run's GPUs; None where it has none, or they can't be asked."""
        held = queue.held(self._home).get(self._run.key, {}).get("gpus")
        if not held:
            return None
        with contextlib.suppress(gpu_tool.GpuError):
            return sum(card.memory_used << 20 for card in gpu_tool.list_gpus() if card.uuid in held)
        return None


def used(run: RunFolder) -> Dict[str, Any]:
    """What a run has used, as a field of its last event; none where no sample was taken."""
    try:
        return {"usage": to_json(from_json(Usage, read_json(run.usage_file)))}
    except (OSError, ValueError):
        return {}


def _rate(before: Optional[int], now: Optional[int], seconds: float) -> Optional[float]:
    return None if before is None or now is None else max(now - before, 0) / seconds
