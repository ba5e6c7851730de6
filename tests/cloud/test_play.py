"""`make play`: what it prints is all that another terminal needs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud import fixtures
from tests.conftest import require
from tests.lab import Lab
from tests.lab.host import REPOSITORY

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

TYPED = (
    """
. {file}; shopt -s expand_aliases; cd {folder}
"""
    + """
remoterun run -q -t box --no-git "python -c 'print(6 * 7)'"
ssh box whoami
remoterun machines rented
remoterun doctor aws | grep login
"""
)


def test_another_terminal_has_a_box_and_a_cloud_until_it_ends(tmp_path: Path) -> None:
    require(Lab.missing() or fixtures.why_missing())
    with subprocess.Popen(
        [sys.executable, "-m", "tests.play"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as playing:
        try:
            assert playing.stdout is not None
            printed = ""
            while "^C ends" not in printed:
                line = playing.stdout.readline()
                assert line, printed
                printed += line
            (file,) = re.findall(r"^    \. (/.*/play\.sh)$", printed, re.MULTILINE)
            words = ["bash", "-c", TYPED.format(file=file, folder=tmp_path)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
            assert done.stdout.startswith("42\nme\n") and "login" in done.stdout, done
            assert done.stderr == "No host is rented\n"
        finally:
            playing.send_signal(signal.SIGINT)
            assert playing.wait(120) == 0
    assert not Path(file).exists()
