"""What the trainer learns in four minutes on this CPU, how soon it writes, and how fast it trains beside its peers.

`python -m tests.bench.trainer`: README.md says what each row is. The text is made on first use, which needs a network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench import table
from tests.bench.table import Row, at_least_times, at_most

ROOT = Path(__file__).parents[2]
MAKE_SAMPLE = ROOT / "examples" / "corpus" / "make_sample.py"
TEXT_BYTES = 1_194_086
SECONDS = 240.0  # from the start of the process: TensorFlow's import and the compiler are in it
SAVE_SECONDS = 60.0
SEED = "The "
TORCH = table.HERE / "requirements-torch.txt"
PEERS = {"torch": ("PyTorch's nn.LSTM", at_least_times(1.4)), "keras": ("Keras' fit", at_least_times(1.5))}
DEADLINE = 300.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}  # the figures are a CPU's


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("trainer", arguments, __doc__)
    what = f"validation loss, --auto, {SECONDS:.0f} s, {TEXT_BYTES / 1e6:.2f} MB of Shakespeare"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ours, model = trained(Path(folder, "auto"), "--auto")
        if options.quick:
            rows = [Row(what, "nats", at_most(1.56), ours)]
        else:
            theirs, _ = trained(Path(folder, "ml5"), "--no-auto")
            rows = [table.beside(what, "nats", at_most(1.56), [ours], "the same, ml5's defaults", [theirs])]
        first_character(model)  # its files are in memory from now on
        laps = [first_character(model) for _ in range(3 if options.quick else 15)]
    rows.append(Row("first character of trainer.generate", "s", at_most(0.4), statistics.median(laps)))
    rows += race(3 if options.quick else 7)
    return table.finish(options.out, rows, laps=laps)


def race(rounds: int) -> list[Row]:
    """A row for each peer: characters a second with ml5's defaults, each side a process of its own in each round."""
    pythons = {"trainer": sys.executable, "keras": sys.executable}
    try:
        pythons["torch"] = str(table.programs(TORCH, python_without_cuda) / "python")
    except LookupError as error:
        print(f"no row beside PyTorch: {error}", file=sys.stderr)

    def speed(side: str) -> float:
        words = [pythons[side], "-m", "tests.bench.steps", side, str(text())]
        done = subprocess.run(words, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
        return float(done.stdout.split()[-1])

    speeds = table.in_turns({side: partial(speed, side) for side in pythons}, rounds)
    what, ours = "training, 2 x 128, sequence 50, batch 50", speeds.pop("trainer")
    return [table.beside(what, "characters", PEERS[peer][1], ours, PEERS[peer][0], speeds[peer]) for peer in speeds]


def python_without_cuda() -> str:
    """A Python of this machine for which pip finds PyTorch without CUDA, which is gigabytes. Raises LookupError."""
    pip = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report=-", "-r", str(TORCH)]
    for python in filter(shutil.which, (sys.executable, *(f"python3.{minor}" for minor in range(14, 9, -1)))):
        report = subprocess.run([python, *pip], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=DEADLINE)
        packages = json.loads(report.stdout)["install"] if report.stdout else []
        if packages and not any(each["metadata"]["name"].startswith(("nvidia", "cuda")) for each in packages):
            return python
    raise LookupError("pip finds no PyTorch without CUDA: set PIP_INDEX_URL to PyTorch's own index for CPUs")


def trained(folder: Path, flag: str) -> tuple[float, Path]:
    """Run `trainer.train`, stopped when its time is over: the best validation loss logged in time, and the model."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(text(), folder / "data" / "input.txt")
    words = [sys.executable, "-m", "trainer.train", "--data_dir", "data", "--val_fraction", "0.1", flag]
    begun = time.time()
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=sys.stderr) as process:
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(SAVE_SECONDS)
        finally:
            process.kill()
    records = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    in_time = [each["value"] for each in records if each["name"] == "val_loss" and each["time"] <= begun + SECONDS]
    return min(in_time), folder / "models"


def text() -> Path:
    """The text that all figures are taken on, made once."""
    path = table.cache() / "shakespeare.txt"
    if not path.exists() or path.stat().st_size != TEXT_BYTES:
        subprocess.run([sys.executable, str(MAKE_SAMPLE), str(path), "--bytes", str(TEXT_BYTES)], check=True)
    return path


def first_character(model: Path) -> float:
    """Wall time from the start of the process to the first character after the seed."""
    words = [sys.executable, "-m", "trainer.generate", str(model), "--seed", SEED, "--length", "200"]
    begun = time.perf_counter()
    with subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        written = process.stdout.read(len(SEED) + 1)
        seconds = time.perf_counter() - begun
        process.stdout.read()
    assert len(written) > len(SEED) and process.returncode == 0, written
    return seconds


if __name__ == "__main__":
    sys.exit(main())
