"""How soon `trainer.generate` writes its first character."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import table
from tests.bench.table import Row, at_most
from tests.bench.trainer import place
from tests.bench.trainer.place import Unavailable

BOUND = 0.4
SEED = "The "


def measure(trained: Callable[[], Path], rounds: int) -> Row:
    """Wall time from the start of the process to the first character after the seed, medians; once before, unmeasured,
    so that the files are in memory. `trained` gives the model, or is Unavailable."""
    what, peer = "first character of trainer.generate", "python -c 'import numpy'"
    try:
        model = trained()
        first_character(model)
        figures = table.in_turns({"ours": lambda: first_character(model), "peer": import_numpy}, rounds)
    except Unavailable as error:
        return Row(what, "s", at_most(BOUND), why=str(error))
    ours, theirs = figures["ours"], figures["peer"]
    ratio = table.median_ratio(ours, theirs)
    return Row(what, "s", at_most(BOUND), statistics.median(ours), peer, statistics.median(theirs), ratio)


def first_character(model: Path) -> float:
    words = [sys.executable, "-m", "trainer.generate", str(model), "--seed", SEED, "--length", "200"]
    begun = time.perf_counter()
    with subprocess.Popen(words, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        written = process.stdout.read(len(SEED) + 1)
        seconds = time.perf_counter() - begun
        process.stdout.read()
        said = process.stderr.read().decode()
    if len(written) <= len(SEED) or process.returncode:
        raise Unavailable(f"trainer.generate wrote {written!r}: {said.strip()}")
    return seconds


def import_numpy() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    return time.perf_counter() - begun
