"""The Docker engine of this machine itself, as a user's laptop may have one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import leavings
from tests.lab.error import LabError
from tests.lab.images import BASE_IMAGE, Images, archived_id
from tests.lab.process import PATIENCE, Process, birth, kill, listed, run, tail, until
from tests.lab.record import RECORDS, locked

FOLDER = RECORDS / "local-docker"  # a file for each process that uses a dockerd of ours
DATA = "local-docker"
PID_FILES = {"/run/docker.pid": "dockerd", "/run/docker/containerd/containerd.pid": "containerd"}


class LocalDocker:
    """An engine that `docker` finds without being told where."""

    def load_image(self, archive: Path) -> None:
        """Load what `docker save` wrote."""
        run(["docker", "load", "--quiet", "--input", str(archive)], timeout=600)

    def image_id(self, ref: str) -> str | None:
        """The image's content address; None if the engine doesn't have it."""
        found = run(["docker", "image", "inspect", "--format", "{{.Id}}", ref], check=False)
        return None if found.returncode else found.stdout.strip()

    def save_image(self, ref: str, archive: Path) -> None:
        """Write an image to a file, which appears whole."""
        new = archive.with_name(f".{archive.name}.{os.getpid()}")
        run(["docker", "save", "--output", str(new), ref], timeout=600)
        new.replace(archive)


@contextmanager
def local_docker(cache: Path, images: Images) -> Iterator[LocalDocker]:
    """Use the engine that runs; if none does, start one and stop it when its last user leaves."""
    engine = LocalDocker()
    mine = FOLDER / f"{os.getpid()}-{birth(os.getpid())}"
    with locked():
        if not answers() or _ours():
            FOLDER.mkdir(parents=True, exist_ok=True)
            mine.touch()
            if not answers():
                _start(cache)
    try:
        if engine.image_id(BASE_IMAGE) != archived_id(images.archive()):
            engine.load_image(images.archive())
        yield engine
    finally:
        mine.unlink(missing_ok=True)
        sweep_local_docker()


def answers() -> bool:
    """Whether an engine answers where `docker` looks for one."""
    return run(["docker", "version", "--format", "{{.Server.Version}}"], check=False, timeout=30).returncode == 0


def sweep_local_docker() -> None:
    """Stop a dockerd of ours that nobody uses any more."""
    with locked():
        for user in FOLDER.glob("*-*"):
            pid, born = user.name.split("-")
            if birth(int(pid)) != int(born):
                user.unlink(missing_ok=True)
        if any(FOLDER.glob("*-*")):
            return
        pids = _ours()
        kill(pids, signal.SIGTERM)
        until(lambda: not any(map(birth, pids)), PATIENCE, f"dockerd {pids} ends", lambda: tail(FOLDER / "dockerd.log"))


def _ours() -> list[int]:
    """The dockerd that a lab started, if one runs."""
    config = str(FOLDER / "daemon.json")
    return [each.pid for each in _all() if each.command == f"dockerd --config-file {config}"]


def _all() -> list[Process]:
    return listed(Path("/proc"))


def forget_dead() -> None:
    """A dockerd that was killed leaves its number, and the next one takes any process that has it by now for that."""
    for name, program in PID_FILES.items():
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path(name).read_text())
            if not any(each.pid == pid and Path(each.command.split(" ")[0]).name == program for each in _all()):
                Path(name).unlink()


def _start(cache: Path) -> None:
    forget_dead()
    data = cache / DATA
    data.mkdir(parents=True, exist_ok=True)
    config = FOLDER / "daemon.json"
    config.write_text(json.dumps({"data-root": str(data), "exec-opts": ["native.cgroupdriver=cgroupfs"]}))
    log = FOLDER / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setsid", "--fork", "dockerd", "--config-file", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name != leavings.VARIABLE},  # for all sessions
        )
    process.wait(PATIENCE)

    def ready() -> bool:
        if answers():
            return True
        if not _ours():
            raise LabError("dockerd doesn't start", tail(log))
        return False

    until(ready, PATIENCE, "dockerd answers", lambda: tail(log), pause=0.1)
    left = run(["docker", "ps", "--all", "--quiet"]).stdout.split()  # by a session that was killed
    if left:
        run(["docker", "rm", "--force", "--volumes", *left])
