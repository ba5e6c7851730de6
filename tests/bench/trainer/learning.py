"""What the trainer learns in four minutes on this CPU, beside ml5's defaults in the same time."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.table import Row, at_most
from tests.bench.trainer import place
from tests.bench.trainer.place import Unavailable
from tests.bench.trainer.race import QUIET, busy

SECONDS = 240.0  # from the start of the process: TensorFlow's import and the compiler are in it
VAL_FRACTION = "0.1"
BOUND = 1.56
SAVE_SECONDS = 60.0

AUTO = ("--auto",)
ML5_DEFAULTS = ("--no-auto",)

# A model to measure with, where none is trained for its loss.
SHORT = ("--rnn_size=128", "--learning_rate=0.004", "--schedule=cosine", "--num_epochs=8")
SHORT_SECONDS = 120.0


@dataclass(frozen=True)
class Training:
    """`curve`: what was logged in time, [seconds from the start, loss on the validation text in nats a character].

    `model`: the folder with what it exported when it was stopped. `others`: what other processes used, in cores.
    """

    curve: list[tuple[float, float]]
    model: Path
    said: list[str]
    others: float

    @property
    def val_loss(self) -> float:
        """The best of them. Raises Unavailable if there is none."""
        if not self.curve:
            raise Unavailable(f"no validation loss in time: {self.said[-1]}")
        return min(loss for _, loss in self.curve)


def train(folder: Path, flags: tuple[str, ...], seconds: float = SECONDS) -> Training:
    """Run `python -m trainer.train` in `folder`, stopped after so many seconds if it has not ended by itself.

    Raises Unavailable if it fails.
    """
    (folder / "data").mkdir(parents=True)
    shutil.copy(place.text(), folder / "data" / "input.txt")
    words = [sys.executable, "-m", "trainer.train", "--data_dir", "data", "--val_fraction", VAL_FRACTION, *flags]
    with open(folder / "said", "w+") as said:
        before, begun = _others(), time.time()
        process = subprocess.Popen(words, cwd=folder, env=place.environment(), stdout=said, stderr=subprocess.STDOUT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(SAVE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"trainer.train did not save within {SAVE_SECONDS:.0f} s of SIGTERM") from None
        finally:
            process.kill()
            process.wait()
        others = max(0.0, _others() - before) / (time.time() - begun)
        said.seek(0)
        lines = said.read().splitlines() or ["it said nothing"]
    if process.returncode not in (0, 128 + signal.SIGTERM):
        raise Unavailable(f"trainer.train ended with {process.returncode}: {lines[-1]}")
    metrics = folder / "logs" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    curve = [
        (record["time"] - begun, record["value"])
        for record in records
        if record["name"] == "val_loss" and record["time"] <= begun + seconds
    ]
    return Training(curve, folder / "models", lines, others)


def measure(folder: Path, *, peer: bool) -> tuple[Row, dict[str, Any], Path | None]:
    """The row, both curves, and the trained model; `peer` takes as long again."""
    what = f"validation loss, --auto, {SECONDS:.0f} s, {place.TEXT_BYTES / 1e6:.2f} MB of Shakespeare"
    try:
        ours = train(folder / "auto", AUTO)
        loss = ours.val_loss
    except Unavailable as error:
        return Row(what, "nats", at_most(BOUND), why=str(error)), {}, None
    found: dict[str, Any] = {"auto": ours.curve, "others": ours.others}
    loud = f"others used {ours.others:.0%} of a core" if ours.others > QUIET else ""
    if not peer:
        return Row(what, "nats", at_most(BOUND), loss, why=loud), found, ours.model
    try:
        other = train(folder / "ml5", ML5_DEFAULTS)
        found["ml5's defaults"] = other.curve
        theirs, name = other.val_loss, "the same, ml5's defaults"
        row = Row(what, "nats", at_most(BOUND), loss, name, theirs, loss / theirs, why=loud)
    except Unavailable as error:
        row = Row(what, "nats", at_most(BOUND), loss, why=f"no peer: {error}")
    return row, found, ours.model


def _others() -> float:
    """Seconds that cores have worked so far, but for processes of ours that have ended."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return busy() - own.ru_utime - own.ru_stime
