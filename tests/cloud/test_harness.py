"""The cloud itself: what a test of remoterun stands on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud.cloud import Cloud
from tests.lab import record
from tests.lab.host import REPOSITORY
from tests.lab.lab import cache_folder
from tests.lab.process import run, until

pytestmark = pytest.mark.lab

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


@pytest.mark.parametrize("killed", [False, True], ids=["it ends", "it is killed"])
def test_nothing_is_left_of_a_cloud_whose_owner_is_gone(tmp_path: Path, killed: bool, cloud: Cloud) -> None:
    words = [sys.executable, "-c", OWNER, str(tmp_path)]
    owner = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    with owner:
        assert owner.stdout is not None and owner.stdin is not None
        name = owner.stdout.readline().strip()
        assert left_of(name, owner.pid)
        if killed:
            owner.kill()
        else:
            owner.stdin.close()
        until(lambda: owner.poll() is not None, 90, "the owner ends")
    gone = lambda: not left_of(name, owner.pid)  # noqa: E731
    until(gone, 90, f"nothing of {name} is left", lambda: "\n".join(left_of(name, owner.pid)))


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
