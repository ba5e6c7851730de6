"""The trainer's figures, side by side with its peers in one run: `python -m tests.bench.trainer`.

Prints the table, and writes `trainer.json` beside this folder, or where `--out` says; exits 1 if a row falls short.
README.md says what each row is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import table
from tests.bench.table import Row
from tests.bench.trainer import learning, place, speed, start
from tests.bench.trainer.race import Machine
from tests.bench.trainer.speed import Size

ROUNDS, QUICK_ROUNDS = 7, 3
START_ROUNDS = 15


class Bench:
    """One run: its options, the rows so far, and the model that the first row to need one trains for all."""

    def __init__(self, folder: Path, *, quick: bool, model: Path | None) -> None:
        self._folder, self._quick, self._model = folder, quick, model
        self._rounds = QUICK_ROUNDS if quick else ROUNDS
        self.machine = Machine()
        self.rows: list[Row] = []
        self.found: dict[str, Any] = {"rounds": self._rounds}

    def speed(self) -> None:
        self._race(speed.DEFAULT)

    def sizes(self) -> None:
        for size in speed.LARGER:
            self._race(size)

    def loss(self) -> None:
        row, self.found["loss"], model = learning.measure(self._folder, peer=not self._quick)
        self._model = self._model or model
        self.rows.append(row)

    def start(self) -> None:
        self.rows.append(start.measure(self._trained, START_ROUNDS))

    def _race(self, size: Size) -> None:
        rows, result = speed.measure(size, self._rounds, self.machine)
        self.rows += rows
        self.found[size.text] = result and asdict(result)

    def _trained(self) -> Path:
        """Raises Unavailable if the training fails."""
        if self._model is None:
            self._model = learning.train(self._folder / "short", learning.SHORT, learning.SHORT_SECONDS).model
        return self._model


# In the order they are measured: the row `loss` leaves the model that those below it use.
PARTS: dict[str, Callable[[Bench], None]] = {
    "speed": Bench.speed,
    "sizes": Bench.sizes,
    "loss": Bench.loss,
    "start": Bench.start,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trainer", description="The trainer's figures.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no peer for the row `loss`")
    parser.add_argument("--model", type=Path, help="a trained model's folder, for start")
    parser.add_argument("--out", type=Path, default=place.HERE / "trainer.json", help="where the JSON goes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), quick=options.quick, model=options.model)
        for name, part in PARTS.items():
            if name not in options.only:
                continue
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            begun = time.monotonic()
            part(bench)
            print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table.text(bench.rows))
    if bench.machine.others:
        print(f"\nduring the laps {bench.machine.text()}")
    table.write(options.out, bench.rows, **bench.found, machine=asdict(bench.machine))
    return table.status(bench.rows)


if __name__ == "__main__":
    sys.exit(main())
