"""`python -m tests.bench [NAME…] [--quick]`: the benches, one after the other; exits 1 if a row falls short."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tests.bench import cloud, control, data, many, trainer, ui

BENCHES: dict[str, Callable[[Sequence[str]], int]] = {
    "cloud": cloud.main,
    "control": control.main,
    "data": data.main,
    "many": many.main,
    "trainer": trainer.main,
    "ui": ui.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Figures beside their peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench is called {', '.join(unknown)}: there are {', '.join(BENCHES)}")
    worst = 0
    for name in options.names or BENCHES:
        print(f"== {name}", flush=True)
        worst = max(worst, BENCHES[name](["--quick"] if options.quick else []))
    return worst


if __name__ == "__main__":
    sys.exit(main())
