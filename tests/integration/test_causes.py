"""Programs of this machine that really fail: the cause that is found in their last lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from remoterun.agent.running.causes import cause_of

PYTHON = f"{sys.executable} -c "


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (PYTHON + "'import no_such'", "no module `no_such`"),
        (f"{sys.executable} -m no_such.part", "no module `no_such`"),
        (PYTHON + "'input()'", "the command asks for input: `--stdin`"),
        (PYTHON + "'open(\"data/train.txt\")'", "`data/train.txt` is not in the run: `git add` or `-m ./FOLDER`"),
        (PYTHON + "'import subprocess; subprocess.run([\"no-such\"])'", "no program `no-such`"),
        (PYTHON + "'import os; os.environ[\"NO_SUCH\"]'", "NO_SUCH is not set"),
        (PYTHON + "'[0] * 10 ** 16'", "memory was full"),
        (PYTHON + "'open(\"/dev/full\", \"w\").write(\"x\" * 99999)'", "is full"),
        (f"{sys.executable} no_such.py", "`no_such.py` is not in the run"),
        (PYTHON + "'import ctypes; ctypes.CDLL(\"libnone.so.1\")'", "no library `libnone.so.1`"),
        ("no-such", "no program `no-such`"),
        ("exec no-such", "no program `no-such`"),
        ("bash -c no-such", "no program `no-such`"),
        ("./plain.sh", "`./plain.sh` is not executable: `chmod +x ./plain.sh`"),
        ("bash -c ./plain.sh", "`./plain.sh` is not executable"),
        ("set -u; echo $NO_SUCH", "NO_SUCH is not set"),
        ("bash -c 'set -u; echo $NO_SUCH'", "NO_SUCH is not set"),
        ("cat no_such", "`no_such` is not in the run"),
        ("cat <no_such", "`no_such` is not in the run"),
        ("echo 1 >no_such/x", "`no_such/x` is not in the run"),
    ],
)  # fmt: skip
def test_what_the_programs_of_this_machine_write(tmp_path: Path, command: str, wanted: str) -> None:
    (tmp_path / "plain.sh").write_text("true\n")
    log, no_input = tmp_path / "log", subprocess.DEVNULL
    with log.open("wb") as file:
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, stdin=no_input, stdout=file, stderr=file, check=False
        )
    found = cause_of(log.read_text(), done.returncode)
    assert found is not None and wanted in found
