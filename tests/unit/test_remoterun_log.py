"""The module for code that logs its numbers itself: in a run, outside one, and where the disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from remoterun.agent import shared

FOLDER = Path(str(shared.__file__)).parent


def logged(code: str, **variables: str) -> str:
    """What a program says on stderr that logs by the module alone, as with remoterun far away."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), **variables}
    words = [sys.executable, "-c", f"from remoterun_log import log\n{code}"]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    return done.stderr


def test_outside_a_run_nothing_happens(tmp_path: Path) -> None:
    assert logged("log(step=1, loss='x', more=log)", REMOTERUN_METRICS="") == ""


@pytest.mark.parametrize("name", ["/dev/full", "folder", "none/file"])
def test_what_can_not_be_written_ends_no_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    said = logged("for step in range(9): log(step, loss=1)", REMOTERUN_METRICS=str(tmp_path / name))
    assert said.startswith("remoterun_log: [Errno ") and said.count("\n") == 1


def test_processes_that_log_at_the_same_time(tmp_path: Path) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nfor step in range(100): log(step, loss=step / 3, more=1)"
    file = tmp_path / "metrics.jsonl"
    assert logged(code + "\nwhile True:\n try: os.wait()\n except OSError: break", REMOTERUN_METRICS=str(file)) == ""
    lines = file.read_text().splitlines()
    assert len(lines) == 800 and all(line[0] == "{" and line[-1] == "}" for line in lines)
