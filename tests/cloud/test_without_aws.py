"""A machine without any login at AWS, whose hosts a program rents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import REMOTERUN
from tests.e2e.conftest import make_place
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"


def test_nothing_is_asked_of_aws_and_its_library_is_not_imported(tmp_path: Path) -> None:
    place, root, program = make_place(tmp_path), tmp_path / "cloud", tmp_path / "pod"
    root.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {CONTAINERS} {root}\n")
    program.chmod(0o755)
    env = {**place.env, "AWS_EC2_METADATA_DISABLED": "true"}

    def say(*words: str) -> tuple[str, str]:
        """The output of a process of its own, without the modules that it names as they are imported."""
        python = [sys.executable, "-X", "importtime", REMOTERUN]
        done = subprocess.run([*python, *words], cwd=place.folder, env=env, capture_output=True, text=True, timeout=120)
        modules = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE)
        assert done.returncode == 0 and len(modules) > 50, done.stderr[-2000:]
        assert not [each for each in modules if each.startswith(("boto3", "botocore"))], words
        err = "".join(each for each in done.stderr.splitlines(True) if not each.startswith("import time:"))
        assert "AWS" not in err and "warning" not in err, err
        return done.stdout, err

    say("machines", "add", "pod", "--command", "RTX4090", "--program", str(program))
    assert say("run", "-t", "pod", "-y", "--no-git", "echo hi; echo made >result")[0] == "hi\n"
    assert "complete" in say("ps")[0] and say("logs", "1")[0] == "hi\n"
    out, err = say("machines", "rented")
    assert "pod/" in out and "Hosts of `pod`\n" in err
    say("cp", "runs/1/result", "result")
    assert (place.folder / "result").read_text() == "made\n"
    assert "RTX4090" in say("bill", "--by", "machine")[0]
    assert "pod/" in say("machines", "gc", "command", "-y")[0]
    until(lambda: "No host" in say("machines", "rented")[1], 60)
