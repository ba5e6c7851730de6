"""The trials from which `trainer/recipes.py` was chosen: `python -m tests.bench.trainer.trials [NAME…]`.

Each trains for as many steps as this machine, with nothing else to do, makes in `SECONDS`, and says the lowest loss on
the last tenth of the text. The speeds are measured first, one after the other; the trainings themselves are counted in
steps, so what else the machine does meanwhile changes none of their results, which are the same each time. Prints the
table of `trainer/README.md`, a line as soon as it is known, and keeps what it found in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.trainer import place
from tests.bench.trainer.race import Side, write_batches
from tests.bench.trainer.sides.lap import Task
from tests.bench.trainer.speed import cores

SECONDS = 240.0
START_SECONDS = 8.0  # TensorFlow's import, the compiler, and the validation text at each checkpoint
LAPS = 3
VAL_FRACTION = 0.1
SMALL, LARGE = 308_000, place.TEXT_BYTES  # bytes of the two texts


@dataclass(frozen=True)
class Trial:
    """Flags of `trainer.train`, and how the first weights are drawn; `why` is what the trial is about."""

    name: str
    text: int
    why: str
    rnn_size: int = 256
    num_layers: int = 2
    batch_size: int = 32
    seq_length: int = 64
    rate: float = 0.003
    schedule: str = "cosine"
    decay: float = 0.97
    keep: float = 1.0
    weights: str = "frequencies"
    seconds: float = SECONDS

    @property
    def size(self) -> tuple[int, int, int, int]:
        """What the speed depends on."""
        return self.rnn_size, self.num_layers, self.batch_size, self.seq_length

    def flags(self) -> list[str]:
        each = {
            "rnn_size": self.rnn_size,
            "num_layers": self.num_layers,
            "batch_size": self.batch_size,
            "seq_length": self.seq_length,
            "learning_rate": self.rate,
            "schedule": self.schedule,
            "decay_rate": self.decay,
            "output_keep_prob": self.keep,
            "val_fraction": VAL_FRACTION,
        }
        return [f"--{name}={value}" for name, value in each.items()]


CHOSEN = Trial("chosen", LARGE, "the recipe")
CHOSEN_SMALL = Trial("chosen-small", SMALL, "the recipe, dropout 0.1", rnn_size=128, rate=0.004, keep=0.9, seconds=60.0)
UNDROPPED = replace(CHOSEN_SMALL, name="no-dropout-small", why="no dropout", keep=1.0)
ML5 = replace(CHOSEN, rnn_size=128, batch_size=50, seq_length=50, rate=0.002, schedule="decay", weights="zero")
TRIALS = (
    replace(ML5, name="ml5", why="the defaults of ml5's script"),
    replace(CHOSEN, name="128", why="half the units", rnn_size=128, rate=0.004),
    CHOSEN,
    replace(CHOSEN, name="zero", why="first guess: all characters alike", weights="zero"),
    replace(CHOSEN, name="384", why="more units, fewer steps", rnn_size=384, rate=0.0025),
    replace(CHOSEN, name="one-layer", why="one layer", num_layers=1),
    replace(CHOSEN, name="three-layers", why="three layers, which ml5.js can't use", num_layers=3),
    replace(CHOSEN, name="decay", why="rate × 0.75 each epoch", schedule="decay", decay=0.75),
    replace(CHOSEN, name="rate-2", why="a lower rate", rate=0.002),
    replace(CHOSEN, name="rate-5", why="a higher rate", rate=0.005),
    replace(CHOSEN, name="batch-64", why="larger batches", batch_size=64),
    replace(CHOSEN, name="dropout", why="dropout 0.1", keep=0.9),
    replace(CHOSEN, name="uniform", why="first weights from ± 0.08, as in char-rnn", weights="uniform"),
    replace(CHOSEN, name="orthogonal", why="orthogonal recurrent weights, as in Keras", weights="orthogonal"),
    replace(ML5, name="ml5-small", text=SMALL, why="the defaults of ml5's script", seconds=60.0),
    CHOSEN_SMALL,
    UNDROPPED,
    replace(UNDROPPED, name="half-small", why="no dropout, half as long", seconds=34.0),
    replace(UNDROPPED, name="zero-small", why="no dropout; first guess: all characters alike", weights="zero"),
    replace(CHOSEN_SMALL, name="256-small", why="more units, fewer steps", rnn_size=256, rate=0.003),
    replace(CHOSEN_SMALL, name="long-small", why="three times as long, dropout 0.2", keep=0.8, seconds=180.0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trainer.trials", description="Trials of recipes.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(trial.name for trial in TRIALS))
    parser.add_argument("--speeds", action="store_true", help="measure the speeds, and train nothing")
    options = parser.parse_args(arguments)
    trials = [trial for trial in TRIALS if not options.names or trial.name in options.names]
    found = Found(place.cache() / "trials.json")
    for size in dict.fromkeys(trial.size for trial in trials):
        if str(size) not in found.speeds:
            found.speeds[str(size)] = _seconds_a_step(*size)
            found.write()
    if options.speeds:
        return 0
    print("| text | trial | units × layers | batch × sequence | rate | steps | nats | bits |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for trial in trials:
        steps = round((trial.seconds - START_SECONDS) / found.speeds[str(trial.size)])
        key = json.dumps([steps, trial.text, trial.weights, *trial.flags()])
        if key not in found.losses:
            found.losses[key] = _lowest_loss(trial, steps)
            found.write()
        loss = found.losses[key]
        print(
            f"| {trial.text / 1e6:.2f} MB | {trial.why} | {trial.rnn_size} × {trial.num_layers}"
            f" | {trial.batch_size} × {trial.seq_length} | {trial.rate:g} | {steps:,} | {loss:.3f}"
            f" | {loss / 0.6931471805599453:.2f} |",
            flush=True,
        )
    return 0


class Found:
    """What is known already, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.speeds: dict[str, float] = known.get("speeds", {})
        self.losses: dict[str, float] = known.get("losses", {})

    def write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"speeds": self.speeds, "losses": self.losses}, indent=2))
        temporary.replace(self._path)


def _seconds_a_step(rnn_size: int, num_layers: int, batch_size: int, seq_length: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        batches = Path(folder) / "batches.npz"
        vocab_size = write_batches(batches, place.text().read_text(), batch_size, seq_length)
        task = Task(rnn_size, num_layers, batch_size, seq_length, vocab_size, cores(), str(batches))
        with Side("the trainer", "ours", task) as side:
            seconds = [side.seconds(side.steps) / side.steps for _ in range(LAPS)]
    return statistics.median(seconds)


def _lowest_loss(trial: Trial, steps: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        content = place.text().read_bytes()[: trial.text - 1] + b"\n"
        (folder / "data" / "input.txt").write_bytes(content)
        words = [sys.executable, "-m", "tests.bench.trainer.sides.trial", trial.weights, *trial.flags()]
        more = [f"--steps={steps}", f"--save_every={max(50, steps // 10)}", "--data_dir=data"]
        done = subprocess.run([*words, *more], cwd=folder, env=place.environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{trial.name} ended with {done.returncode}: {done.stderr}")
        lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return min(float(record["value"]) for record in records if record["name"] == "val_loss")


if __name__ == "__main__":
    sys.exit(main())
