"""The lab itself: hosts are what they claim to be, and every fault is a real one."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import BASE_IMAGE, Docker, Gpu, GpuProcess, Lab, LabError, LabHost, LocalDocker, record
from tests.lab import only_what_was_there as only
from tests.lab.host import REPOSITORY
from tests.lab.process import PATIENCE, birth, run, until

pytestmark = pytest.mark.lab

NewHost = Callable[..., LabHost]


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


def refused(host: LabHost) -> bool:
    try:
        socket.create_connection((host.address, host.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


class TestHost:
    def test_user_runs_a_container_over_ssh(self, lab: Lab, host_a: LabHost) -> None:
        command = f'docker run --rm {BASE_IMAGE} python3 -c "print(6*7)"'
        done = lab.ssh(host_a, command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")

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

    def test_leak_is_found(self, lab: Lab, host_a: LabHost) -> None:
        with pytest.raises(LabError, match="1 more: sleep 77"), only(host_a, grace=0.2):
            lab.ssh(host_a, "setsid -f sleep 77 >/dev/null 2>&1 </dev/null", check=True)
        host_a.exec(["pkill", "-f", "sleep 77"], check=True)

    def test_class_of_tests_leaves_nothing(
        self, lab: Lab, host_a: LabHost, only_what_was_there: Callable[[LabHost], None]
    ) -> None:
        only_what_was_there(host_a)
        lab.ssh(host_a, "true", check=True)


class TestLink:
    def test_cut_is_silent_and_healed(self, lab: Lab, host_a: LabHost) -> None:
        with stream(lab, host_a, "echo one; sleep 0.5; echo two; sleep 0.5; echo three") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"one\n"
            host_a.cut()
            with pytest.raises(TimeoutError):
                socket.create_connection((host_a.address, 22), timeout=0.3)
            time.sleep(1)
            assert process.poll() is None
            host_a.heal()
            assert process.stdout.read() == b"two\nthree\n"
            assert process.wait(timeout=10) == 0

    def test_sever_ends_connections(self, lab: Lab, host_a: LabHost) -> None:
        with only(host_a), stream(lab, host_a, "echo one; sleep 60") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"one\n"
            host_a.sever()
            assert process.wait(timeout=5) == 255
            assert lab.ssh(host_a, "true").returncode == 0
            host_a.exec(["pkill", "-x", "sleep", "-u", "me"])  # sshd leaves the command alone when the link dies

    def test_reject_and_accept(self, lab: Lab, host_a: LabHost) -> None:
        host_a.reject()
        host_a.reject()
        assert refused(host_a)
        host_a.accept()
        assert not refused(host_a)

    def test_mend_undoes_everything(self, lab: Lab, host_a: LabHost) -> None:
        host_a.cut()
        host_a.reject()
        host_a.stop_sshd()
        host_a.kill_dockerd()
        host_a.mend()
        assert lab.ssh(host_a, "docker version").returncode == 0
        host_a.down()
        host_a.mend()
        assert lab.ssh(host_a, "docker version").returncode == 0


class TestPower:
    def test_power_cut_and_up_again(self, lab: Lab, host_a: LabHost) -> None:
        lab.ssh(host_a, f"docker run -d --name worker {BASE_IMAGE} sleep 600 && echo kept > file && sync", check=True)
        boot = host_a.boot_id()
        with stream(lab, host_a, "echo one; sleep 60") as process:
            assert process.stdout is not None
            process.stdout.readline()
            host_a.down()
            assert not host_a.is_up()
            assert host_a.processes() == []
            with pytest.raises(LabError, match="switched off"):
                host_a.exec(["true"])
            time.sleep(0.3)
            assert process.poll() is None  # nobody told the client
        host_a.up()
        assert host_a.boot_id() != boot
        state = "docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' worker"
        assert lab.ssh(host_a, f"cat file; {state}; docker rm worker").stdout == "kept\nexited 255\nworker\n"


class TestDockerd:
    def test_killed_dockerd_leaves_containers_alone(self, lab: Lab, host_a: LabHost) -> None:
        lab.ssh(host_a, f"docker run -d --rm --init --name worker {BASE_IMAGE} sleep 601", check=True)
        host_a.kill_dockerd()
        assert "Is the docker daemon running" in lab.ssh(host_a, "docker ps").stderr
        assert any("sleep 601" in process.command for process in host_a.processes())
        host_a.start_dockerd()
        until(lambda: lab.ssh(host_a, "docker ps -aq").stdout == "", PATIENCE, "the container is gone")

    def test_live_restore(self, lab: Lab, new_host: NewHost) -> None:
        host = new_host(live_restore=True)
        lab.ssh(host, f"docker run -d --name worker {BASE_IMAGE} sh -c 'sleep 2.71; exit 7'", check=True)
        host.stop_dockerd()
        until(lambda: not any("sleep 2.71" in each.command for each in host.processes()), PATIENCE, "it ends")
        host.start_dockerd()
        state = "docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' worker"
        until(
            lambda: lab.ssh(host, state).stdout == "exited 7\n",
            10,
            "the exit code",
            lambda: lab.ssh(host, state).stdout,
        )


class TestVariants:
    def test_small_home_is_really_full(self, lab: Lab, new_host: NewHost) -> None:
        host = new_host(home_size="16m", docker=Docker.ABSENT)
        full = lab.ssh(host, "dd if=/dev/zero of=big bs=1M count=32")
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        lab.ssh(host, "rm big", check=True)
        host.fill_home(leave=1 << 20)
        assert lab.ssh(host, "head -c 2000000 /dev/zero > some").returncode == 1
        host.free_home()
        assert lab.ssh(host, "head -c 2000000 /dev/zero > some").returncode == 0
        host.down()
        host.up()
        assert lab.ssh(host, "stat -c %s some").stdout == "2000000\n"

    def test_changed_host_key_is_refused(self, lab: Lab, new_host: NewHost) -> None:
        host = new_host(docker=Docker.ABSENT)
        assert lab.ssh(host, "true").returncode == 0
        host.new_host_keys()
        done = lab.ssh(host, "true")
        assert (done.returncode, "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr) == (255, True)
        lab.trust(host)
        assert lab.ssh(host, "true").returncode == 0
        host.down()
        host.up()
        assert lab.ssh(host, "true").returncode == 0


class TestGpus:
    def test_cards_and_processes(self, lab: Lab, new_host: NewHost) -> None:
        host = new_host(docker=Docker.ABSENT, gpus=[Gpu(), Gpu("Tesla T4", 15360, used_mib=900, utilization=35)])
        assert lab.ssh(host, "nvidia-smi -L").stdout.splitlines() == [
            f"GPU 0: Tesla K80 (UUID: {Gpu.uuid(0)})",
            f"GPU 1: Tesla T4 (UUID: {Gpu.uuid(1)})",
        ]
        plain = "nvidia-smi --query-gpu=index,name,memory.total,memory.used --format=csv,noheader,nounits"
        assert lab.ssh(host, plain).stdout == "0, Tesla K80, 11441, 0\n1, Tesla T4, 15360, 900\n"
        full = "nvidia-smi --query-gpu=memory.free,utilization.gpu --format=csv -i 1"
        assert lab.ssh(host, full).stdout == "memory.free [MiB], utilization.gpu [%]\n14460 MiB, 35 %\n"
        who = "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory --format=csv,noheader"
        assert lab.ssh(host, who).stdout == ""
        host.set_gpu_processes([GpuProcess(pid=4321, gpu=1, used_mib=900)])
        assert lab.ssh(host, who).stdout == f"{Gpu.uuid(1)}, 4321, 900 MiB\n"
        wrong = lab.ssh(host, "nvidia-smi --query-gpu=colour --format=csv")
        assert (wrong.returncode, "not a valid field" in wrong.stdout) == (2, True)


@pytest.mark.docker
def test_local_docker(local_docker: LocalDocker) -> None:
    assert local_docker.image_id(BASE_IMAGE)
    assert run(["docker", "run", "--rm", BASE_IMAGE, "echo", "here"]).stdout == "here\n"


def test_killed_session_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    """Whatever a session that was killed had made is gone some seconds later, without the next one's help."""
    script = (
        "import os, signal\n"
        "from tests.lab import Lab, BASE_IMAGE\n"
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
