"""What the agent finds out about its machine, where that takes thought."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.doctor import examine, kills_user_processes
from tests.workshop import Files, write_files

YES, NO = "[Login]\nKillUserProcesses=yes\n", "[Login]\n# KillUserProcesses=yes\nKillUserProcesses = no\n"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, False),
        ({"etc/systemd/logind.conf": "[Login]\n#KillUserProcesses=yes\n"}, False),
        ({"usr/lib/systemd/logind.conf": YES}, True),
        ({"usr/lib/systemd/logind.conf": YES, "etc/systemd/logind.conf": NO}, False),
        ({"etc/systemd/logind.conf": NO, "run/systemd/logind.conf.d/x.conf": YES}, True),
        ({"usr/lib/systemd/logind.conf.d/20.conf": YES, "etc/systemd/logind.conf.d/10.conf": NO}, True),
        ({"usr/lib/systemd/logind.conf.d/20.conf": YES, "etc/systemd/logind.conf.d/20.conf": NO}, False),
        ({"etc/systemd/logind.conf.d/x": YES}, False),
        ({"etc/systemd/logind.conf.d/x.conf": "\xff\n" + YES}, True),
    ],
)
def test_systemd_that_ends_what_a_user_leaves_behind(tmp_path: Path, files: Files, kills: bool) -> None:
    write_files(tmp_path, files)
    assert kills_user_processes(str(tmp_path)) is kills


@pytest.mark.parametrize(
    ("engine", "ok", "said"),
    [
        ("auto", None, "Docker is not running here, so runs use a virtual environment"),
        ("docker", False, "Docker is not running here"),
        ("podman", False, "Podman is not installed here"),
        ("process", None, "not needed: runs use a virtual environment"),
    ],
)
def test_where_docker_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, ok: bool | None, said: str
) -> None:
    """It is a fault only where the machine was given that engine: elsewhere every run works."""
    tool = tmp_path / "tools" / "docker"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    checks = {check.name: check for check in examine(Home.open(str(tmp_path / "home")), engine, 0, "")}
    check = checks[engine if engine == "podman" else "docker"]
    assert (check.ok, check.detail) == (ok, said)
    assert bool(check.fix) == (ok is False)
