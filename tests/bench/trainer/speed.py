"""How fast a step trains, beside PyTorch and Keras."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench import table
from tests.bench.table import Row, at_least_times
from tests.bench.trainer import place
from tests.bench.trainer.place import Unavailable
from tests.bench.trainer.race import Machine, Race, Side, race, write_batches
from tests.bench.trainer.sides.lap import Task

PEERS = {"torch": "PyTorch nn.LSTM", "keras": "Keras fit"}


@dataclass(frozen=True)
class Size:
    """A network and its batch; `bounds`: at least how many times as fast as which peer."""

    rnn_size: int
    seq_length: int
    batch_size: int
    bounds: dict[str, float]

    @property
    def text(self) -> str:
        return f"training, 2 x {self.rnn_size}, sequence {self.seq_length}, batch {self.batch_size}"

    def task(self, folder: Path) -> Task:
        """Written into `folder`. Raises Unavailable without the text."""
        batches = folder / f"{self.rnn_size}.npz"
        vocab_size = write_batches(batches, place.text().read_text(), self.batch_size, self.seq_length)
        return Task(self.rnn_size, 2, self.batch_size, self.seq_length, vocab_size, cores(), str(batches))


DEFAULT = Size(128, 50, 50, {"torch": 1.4, "keras": 1.5})
LARGER = (Size(256, 64, 32, {"torch": 1.15}), Size(512, 128, 64, {"torch": 1.3}))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(size: Size, rounds: int, machine: Machine) -> tuple[list[Row], Race | None]:
    """A row for each peer; one that is not to be had does not keep the others from being measured."""
    whys: dict[str, str] = {}
    result: Race | None = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            task = size.task(Path(folder))
            sides = {"ours": Side("the trainer", "ours", task)}
            for peer in size.bounds:
                try:
                    sides[peer] = _peer(peer, task)
                except Unavailable as error:
                    whys[peer] = str(error)
            result = race(sides, rounds, machine)
        except Unavailable as error:
            whys = {peer: whys.get(peer, str(error)) for peer in size.bounds}
    return [_row(size, peer, result, whys.get(peer, "")) for peer in size.bounds], result


def _peer(name: str, task: Task) -> Side:
    if name == "torch":
        return Side("PyTorch", "torch_lstm", task, place.torch_python())
    return Side("Keras", "keras_fit", task, Path(sys.executable))


def _row(size: Size, peer: str, result: Race | None, why: str) -> Row:
    bound, ours = at_least_times(size.bounds[peer]), None if result is None else result.median("ours")
    if result is None or why:
        return Row(size.text, "characters/s", bound, ours, PEERS[peer], why=why)
    ratio = table.median_ratio(result.speeds["ours"], result.speeds[peer])
    theirs, loud = result.median(peer), result.loud
    return Row(size.text, "characters/s", bound, ours, PEERS[peer], theirs, ratio, why=loud, void=bool(loud))
