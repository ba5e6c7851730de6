"""^C and SIGTERM while git works: the command ends at once, and so do git and its filters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.workshop import until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_and_the_filter(tmp_path: Path, number: signal.Signals) -> None:
    git = require_program("git")
    folder, pid_file = tmp_path / "work", tmp_path / "pid"
    folder.mkdir()
    slow = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 300"
    for words in (["init", "-q"], ["config", "filter.slow.clean", slow], ["config", "user.email", "a@example.org"]):
        subprocess.run([git, *words], cwd=folder, check=True)
    (folder / "train.py").write_text("print(1)")
    subprocess.run([git, "add", "train.py"], cwd=folder, check=True)
    subprocess.run([git, "-c", "user.name=a", "commit", "-qm", "one"], cwd=folder, check=True)
    (folder / ".gitattributes").write_text("*.py filter=slow\n")
    (folder / "train.py").write_text("print(2)")
    with subprocess.Popen(
        [sys.executable, "-m", "remoterun", "run", "-y", "true"],
        cwd=folder,
        env={**os.environ, "REMOTERUN_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            pid = int(until(lambda: pid_file.exists() and pid_file.read_text(), what="the filter starts"))
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in said, said
    until(lambda: not Path(f"/proc/{pid}").exists(), what="the filter has ended")
