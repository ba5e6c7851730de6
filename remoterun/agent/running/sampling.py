"""How much of its machine a run uses: now, for `top`, and at most, for `info`."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..shared import api
from ..shared.files import append_whole, read_json, size_of, write_whole
from ..shared.measured import MOST_USAGE, POINT, USAGE
from ..shared.records import encode, from_json, to_json
from ..shared.states import RunState, Usage
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import gpus as gpu_tool
from .counters import Counters
from .engines import Engine, engine_of_run
from .queues import queue_of_run

FIRST, EVERY = 0.5, 3.0
"""Seconds until a supervisor takes the first sample of its run, and between two samples."""
SAMPLES = 300
"""The pause between two samples that are stored is at least such a part of the time that the run has taken."""
LEEWAY = 0.5
"""Seconds by which a sample may come early, and is stored."""
COST = 100
"""A sample that took long is followed by a pause of so many times that: sampling takes a hundredth of a CPU at most."""


class Sampler:
    """Samples what some runs of a home use, again and again."""

    def __init__(self, home: Home, keys: Sequence[str]) -> None:
        self._home = home
        self._runs = [home.existing_run(key) for key in keys]
        self._queues = {run.key: queue_of_run(home, run) for run in self._runs}
        self._seen: Dict[str, Tuple[float, Counters]] = {}
        """By run, when a sample was taken, and what the run had used."""
        self._engines: Dict[str, Engine] = {}

    def sample(self) -> List[api.Sample]:
        """A sample of each run; rates are those since the sample before. The driver is asked only where GPUs matter."""
        mine = {run.key: self._queues[run.key].gpus(run) or [] for run in self._runs if run.exists()}
        cards: List[gpu_tool.Gpu] = []
        if any(mine.values()):
            with contextlib.suppress(gpu_tool.GpuError):
                cards = gpu_tool.list_gpus()
        return [self._sample(run, [card for card in cards if card.uuid in mine.get(run.key, [])]) for run in self._runs]

    def _sample(self, run: RunFolder, cards: List[gpu_tool.Gpu]) -> api.Sample:
        sample = api.Sample(run.key, time.time(), run.state()[0] if run.exists() else RunState.KILLED)
        if sample.state is not RunState.RUNNING or not self._queues[run.key].is_here(run):
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
        self._queue = queue_of_run(home, run)
        self._run = run
        self._engine = engine
        self._began = began
        self._next = time.monotonic() + FIRST
        self._usage: Optional[Usage] = None
        self._stored = 0.0, 0.0
        """When the last sample was stored, in seconds since the start, and the processor time by then."""
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
        cards = self._cards()
        before, on_gpus = self._usage or Usage(0, 0.0), sum(card.memory_used << 20 for card in cards) if cards else None
        seconds = max(time.time() - self._began, 0.1)
        self._append(seconds, counters, cards, on_gpus)
        cpu = max(before.cpu_seconds, counters.cpu)
        self._usage = Usage(
            max(before.memory, counters.memory),
            round(cpu, 2),
            round(cpu / seconds * 100, 1),
            before.gpu_memory if on_gpus is None else max(before.gpu_memory or 0, on_gpus),
        )
        write_whole(self._run.usage_file, encode(self._usage), sync=False)

    def _append(
        self, seconds: float, counters: Counters, cards: Sequence[gpu_tool.Gpu], on_gpus: Optional[int]
    ) -> None:
        """Store the sample among those over time, unless the one before is too young, or its processes have ended."""
        since, before = self._stored
        if not counters.memory or (since and seconds - since < max(EVERY, seconds / SAMPLES) - LEEWAY):
            return
        if size_of(self._run.usage_points) >= (MOST_USAGE - len(USAGE)) * POINT.size:
            return
        self._stored = seconds, counters.cpu
        cpu = max(counters.cpu - before, 0.0) / max(seconds - since, 0.1) * 100
        busy = [card.percent for card in cards if card.percent is not None]
        values = (cpu, counters.memory, sum(busy) / len(busy) if busy else None, on_gpus)
        now = time.time()
        points = [POINT.pack(at, seconds, now, value) for at, value in enumerate(values) if value is not None]
        append_whole(self._run.usage_points, b"".join(points), POINT.size)

    def _cards(self) -> List[gpu_tool.Gpu]:
        """The run's GPUs; none where they can't be asked."""
        held = self._queue.gpus(self._run)
        if not held:
            return []
        with contextlib.suppress(gpu_tool.GpuError):
            return [card for card in gpu_tool.list_gpus() if card.uuid in held]
        return []


def used(run: RunFolder) -> Dict[str, Any]:
    """What a run has used, as a field of its last event; none where no sample was taken."""
    try:
        return {"usage": to_json(from_json(Usage, read_json(run.usage_file)))}
    except (OSError, ValueError):
        return {}


def _rate(before: Optional[int], now: Optional[int], seconds: float) -> Optional[float]:
    return None if before is None or now is None else max(now - before, 0) / seconds
