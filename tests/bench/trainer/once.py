"""A process of the bench that runs once and writes what it found to stdout."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.trainer.place import ROOT, Unavailable, environment

DEADLINE = 900.0


def run(module: str, *arguments: str) -> str:
    """Run `sides/<module>.py`; the last line of its stdout. Raises Unavailable with its last words if it fails."""
    words = [sys.executable, "-m", f"tests.bench.trainer.sides.{module}", *arguments]
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{module} did not end within {DEADLINE:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"{module}: {said[-1]}")
    return (done.stdout.splitlines() or [""])[-1]
