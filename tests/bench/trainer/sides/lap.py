"""What the sides have in common: the task, and laps on request.

A side is started with the task as its one argument. When it is compiled and warm it writes a line of JSON that says
what it is; from then on it answers every line on stdin, a number of steps, by the seconds those took.
While it waits it costs nothing, so that several sides can be measured in turns.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WARM_STEPS = 3  # before every lap, not timed: caches, clocks and thread pools come back from the other sides' laps
FIRST_STEPS = 5  # once, with the compiler

LEARNING_RATE, GRAD_CLIP = 0.002, 5.0

_answers = 1  # the descriptor they are written to


@dataclass(frozen=True)
class Task:
    """The network, the batch, and `batches`: a file with `inputs` and `targets`, [number, batch, sequence] each."""

    rnn_size: int
    num_layers: int
    batch_size: int
    seq_length: int
    vocab_size: int
    threads: int
    batches: str

    @property
    def characters(self) -> int:
        """In a step."""
        return self.batch_size * self.seq_length

    def argument(self) -> str:
        return json.dumps(asdict(self))

    def load(self) -> tuple[Any, Any]:
        with np.load(self.batches) as file:
            return file["inputs"], file["targets"]


def task() -> Task:
    """The one this process was started with. From now on whatever else is printed goes to stderr."""
    global _answers
    _answers = os.dup(1)
    os.dup2(2, 1)
    return Task(**json.loads(sys.argv[1]))


def places(number: int) -> Iterator[int]:
    """Of the next batch, for ever."""
    while True:
        yield from range(number)


def serve(about: str, lap: Callable[[int], float]) -> None:
    """Answer until stdin ends. `lap(steps)` trains `WARM_STEPS`, then `steps`, and gives the seconds of the latter."""
    _say({"about": about})
    for line in sys.stdin:
        _say({"seconds": lap(int(line))})


def _say(message: dict[str, object]) -> None:
    os.write(_answers, json.dumps(message).encode() + b"\n")
