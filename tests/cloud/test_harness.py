"""The cloud itself, what a test of remoterun stands on: nothing is left of it; and `make play`, which shows it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud import fixtures
from tests.cloud.cloud import Cloud
from tests.conftest import require
from tests.lab import Lab, record
from tests.lab.host import REPOSITORY
from tests.lab.lab import cache_folder
from tests.lab.process import run, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

OWNER = """
import os, subprocess, sys
from tests.cloud.cloud import Cloud
from tests.commands import REMOTERUN
from tests.lab import BASE_IMAGE, Lab

with Lab() as lab, Cloud(lab) as cloud:
    cloud.s3.ready()
    env = {**os.environ, **cloud.environment(), "REMOTERUN_HOME": sys.argv[1]}
    words = [REMOTERUN, "run", "-y", "-t", "t4", "--no-git", "--image", BASE_IMAGE, "true"]
    subprocess.run(words, env=env, cwd=sys.argv[1], stdout=subprocess.DEVNULL, check=True)
    assert cloud.alive()
    print(lab.network.name, flush=True)
    sys.stdin.read()
"""


def test_nothing_is_left_of_a_cloud_whose_owner_is_killed(tmp_path: Path, cloud: Cloud) -> None:
    words = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert left_of(name, owner.pid)
        owner.kill()
    gone = lambda: not left_of(name, owner.pid)  # noqa: E731
    until(gone, 90, f"nothing of {name} is left", lambda: "\n".join(left_of(name, owner.pid)))


TYPED = """
. {file}; shopt -s expand_aliases; cd {folder}
remoterun run -q -t box --no-git "python -c 'print(6 * 7)'"
ssh box whoami
remoterun run -q -t t4 --no-git -y "echo rented"
remoterun doctor aws | grep login
"""


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
            assert done.stdout.startswith("42\nme\nrented\n") and "login" in done.stdout, done
            (name,) = re.findall(r"/(rrlab\d+)-[^/]*/play\.sh$", file)
            assert left_of(name, playing.pid)
        finally:
            playing.send_signal(signal.SIGINT)
            assert playing.wait(120) == 0
    assert left_of(name, playing.pid) == []


def left_of(name: str, owner: int) -> list[str]:
    """Namespaces, links, mounts, processes and files of a lab. Its name is given to another one when it is gone."""
    with record.locked():
        if any(each.name == name and each.owner != owner for each in record.records()):
            return []
    spaces = [line.split()[0] for line in run(["ip", "netns", "list"]).stdout.splitlines()]
    found = [f"namespace {each}" for each in spaces if each.startswith(f"{name}-")]
    found += [f"link {each}" for each in record.links(name)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{name}-" in command and "tests.lab" not in command:
                found.append(f"process {entry.name}: {command[:200]}")
    return found + [f"folder {each}" for each in (cache_folder() / "sessions").glob(f"{name}-*")]
