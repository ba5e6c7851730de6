"""The fast path trains as plain automatic differentiation does."""

from __future__ import annotations

import json
from typing import Any

from tests.bench.table import Row, at_most
from tests.bench.trainer import place
from tests.bench.trainer.once import run
from tests.bench.trainer.place import Unavailable

STEPS = 60
BOUND = 1e-5


def _case(num_layers: int, batch_size: int, keep_prob: float = 1.0, rnn_size: int = 64, seq_length: int = 25) -> Any:
    return {
        "num_layers": num_layers,
        "batch_size": batch_size,
        "keep_prob": keep_prob,
        "rnn_size": rnn_size,
        "seq_length": seq_length,
        "steps": STEPS,
    }


CASES = [
    _case(2, 50, rnn_size=128, seq_length=50),  # ml5's defaults
    _case(1, 50),
    _case(1, 13, 0.8),
    _case(2, 7),
    _case(2, 50, 0.75),
    _case(3, 27),
    _case(3, 32, 0.9),
]


def measure() -> tuple[Row, list[dict[str, Any]]]:
    """The row, and what was found in each case."""
    what = f"loss, fast path - plain autodiff, {STEPS} steps, {len(CASES)} cases"
    try:
        found = json.loads(run("fast_path", json.dumps(CASES), str(place.text())))
    except Unavailable as error:
        return Row(what, "difference", at_most(BOUND), why=str(error)), []
    return Row(what, "difference", at_most(BOUND), max(case["difference"] for case in found)), found
