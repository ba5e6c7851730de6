"""The lab itself: hosts are what they claim to be, and every fault is a real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import BASE_IMAGE, Lab, LabHost, local_docker, record
from tests.lab.host import REPOSITORY
from tests.lab.process import PATIENCE, birth, run, until

pytestmark = pytest.mark.lab


@contextmanager
def stream(lab: Lab, host: LabHost, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command over SSH that goes on while the link is broken."""
    words = ["ssh", "-F", str(lab.ssh_config()), host.name, command]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


class TestHost:
    def test_user_has_no_more_than_a_user_has(self, lab: Lab, host_a: LabHost) -> None:
        told = lab.ssh(
            host_a, "id -un; id -Gn; pwd; hostname; command -v python3; echo ${DOCKER_HOST-none}", check=True
        )
        assert told.stdout.splitlines() == ["me", "me docker", "/home/me", "host-a", "/usr/bin/python3", "none"]
        assert lab.ssh(host_a, "cat /etc/shadow").returncode == 1

    def test_sees_nothing_of_this_machine(self, lab: Lab, host_a: LabHost, tmp_path: Path) -> None:
        (tmp_path / "mine").touch()
        assert not host_a.path(str(tmp_path)).exists()
        assert host_a.exec(["ls", "-A", str(REPOSITORY)]).stdout == ""
        assert not any("pytest" in process.command for process in host_a.processes())


class TestLink:
    def test_cut_is_silent_and_healed(self, lab: Lab, host_a: LabHost) -> None:
        go = f"/tmp/{os.urandom(4).hex()}"
        waits = f"until [ -e {go} ]; do sleep 0.05; done"
        with stream(lab, host_a, f"echo one; {waits}; echo two; sleep 0.5; echo three") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"one\n"
            host_a.cut()
            with pytest.raises(TimeoutError):
                socket.create_connection((host_a.address, 22), timeout=0.3)
            host_a.exec(["touch", go], check=True)
            time.sleep(1)
            assert process.poll() is None
            host_a.heal()
            assert process.stdout.read() == b"two\nthree\n"
            assert process.wait(timeout=PATIENCE) == 0


def test_killed_session_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    """Whatever a session that was killed had made is gone some seconds later, without the next one's help."""
    script = (
        "import os, signal\n"
        "from tests.lab import Lab, BASE_IMAGE, record\n"
        "record.NUMBERS = range(200, 250)\n"  # those of others are the first that are free: soon this one, else
        "lab = Lab().__enter__()\n"
        "host = lab.host('doomed').up()\n"
        f"host.exec(['docker', 'run', '-d', {BASE_IMAGE!r}, 'sleep', '602'], check=True)\n"
        "print(lab.network.name, host._init, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    name, init = done.stdout.split()
    until(lambda: not (record.RECORDS / f"{name}.json").exists(), PATIENCE, f"{name} is swept")
    assert birth(int(init)) is None
    assert record.links(name) == []
    assert list(record.firewall_rules(name)) == []
    assert f"{name}-" not in run(["ip", "netns", "list"]).stdout
    assert not list((lab.cache / "sessions").glob(f"{name}-*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{name}-*"))


def test_a_number_that_a_killed_dockerd_has_left_stops_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {str(tmp_path / name): name for name in ("dockerd", Path(sys.executable).name, "containerd")}
    monkeypatch.setattr(local_docker, "PID_FILES", files)
    for path in list(files)[:2]:
        Path(path).write_text(f"{os.getpid()}\n")
    local_docker.forget_dead()
    assert [Path(path).exists() for path in files] == [False, True, False]
