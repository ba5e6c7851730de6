"""Programs of this machine that really fail: the cause that is found in their last lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from remoterun.agent.running.causes import cause_of
from tests.recorder import Recorded


def test_what_the_programs_of_this_machine_write(tmp_path: Path, recorded: Recorded) -> None:
    (tmp_path / "plain.sh").write_text("true\n")

    def cause(command: str) -> str:
        words = ["/bin/sh", "-c", re.sub("^python ", f"{sys.executable} ", command)]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(words, cwd=tmp_path, text=True, check=False, **how)  # type: ignore[call-overload]
        found = cause_of(done.stdout, done.returncode)
        assert found is not None, command
        return found

    recorded.cases(cause)
