"""A training that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.table import Row, at_most
from tests.bench.trainer import place
from tests.bench.trainer.place import Unavailable
from trainer import checkpoint

STEPS, SAVE_EVERY = 240, 15
FLAGS = (
    "--rnn_size=64",
    "--num_layers=2",
    "--batch_size=16",
    "--seq_length=32",
    "--output_keep_prob=0.8",  # so that random numbers must go on where they were
    "--val_fraction=0.1",
    f"--steps={STEPS}",
    f"--save_every={SAVE_EVERY}",
    "--print_every=1",
)
TEXT_CHARACTERS = 40_000  # some epochs, so that the state is reset on the way too
DEADLINE = 300.0
LATEST_MS = 40  # after a step was logged, until the kill: in the next step, or in the middle of a checkpoint


def measure(kills: int, seed: int) -> tuple[Row, dict[str, Any]]:
    """The row counts files and arrays that differ; and at which steps it was killed."""
    what = f"arrays that differ after {kills} SIGKILLs and resumes, of {STEPS} steps"
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole, killed = (_folder(Path(folder) / name) for name in ("whole", "killed"))
            _finish(whole)
            chance = random.Random(seed)
            at = [_kill(killed, chance, STEPS // kills) for _ in range(kills)]
            _finish(killed)
            found = differences(whole, killed)
    except Unavailable as error:
        return Row(what, "count", at_most(0), why=str(error)), {}
    return Row(what, "count", at_most(0), len(found), why=", ".join(found)), {"killed_at": at, "seed": seed}


def differences(one: Path, other: Path) -> list[str]:
    """Names of exported files, and of arrays of the last checkpoint, that are not the same bit for bit."""
    files = sorted({path.name for folder in (one, other) for path in (folder / "models").iterdir()})
    found = [name for name in files if _bytes(one / "models" / name) != _bytes(other / "models" / name)]
    a, b = (checkpoint.newest(folder / "checkpoints") for folder in (one, other))
    if a.step != STEPS or b.step != STEPS:
        found.append(f"steps {a.step} and {b.step}")
    names = sorted({*a.arrays, *b.arrays})
    return found + [
        f"checkpoint {name}"
        for name in names
        if name not in a.arrays or name not in b.arrays or not _same(a.arrays[name], b.arrays[name])
    ]


def _folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "input.txt").write_text(place.text().read_text()[:TEXT_CHARACTERS])
    return folder


def _start(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "trainer.train", "--data_dir", "data", *FLAGS]
    return subprocess.Popen(
        words, cwd=folder, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(folder: Path) -> None:
    with _start(folder) as process:
        try:
            said, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Unavailable(f"trainer.train did not end within {DEADLINE:.0f} s") from None
    if process.returncode:
        raise Unavailable(f"trainer.train ended with {process.returncode}: {(said.splitlines() or [''])[-1]}")


def _kill(folder: Path, chance: random.Random, most: int) -> int:
    """Start or go on, and kill it at a random moment within `most` steps. Gives the last step it had logged."""
    done = 0
    with _start(folder) as process:
        try:
            assert process.stdout
            target = 0
            for line in process.stdout:
                match = re.match(r"(\d+)/\d+ ", line)
                if not match:
                    continue
                done = int(match[1])
                target = target or chance.randint(done, min(STEPS - 1, done + most))
                if done >= target:
                    break
            time.sleep(chance.uniform(0, LATEST_MS) / 1000)  # not a wait: the moment of the kill
        finally:
            process.kill()
    if not done:
        raise Unavailable("trainer.train logged no step")
    return done


def _bytes(path: Path) -> bytes | None:
    if not path.exists():
        return None
    if path.name == "settings.json":  # it may name when and where
        return json.dumps(sorted(json.loads(path.read_text()))).encode()
    return path.read_bytes()


def _same(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
