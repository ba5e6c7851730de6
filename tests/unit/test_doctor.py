"""What the agent finds out about its machine, where that takes thought."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remoterun.agent.shared.api import Examine
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.doctor import examine
from remoterun.cli.commands.doctor import _clock
from tests.workshop import write_files


@pytest.mark.parametrize("said", ["b true", "b false", None])
def test_systemd_that_ends_what_a_user_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    tools = tmp_path / "tools"
    tools.mkdir()
    if said is not None:
        write_files(tools, {"busctl*": f"#!/bin/sh\necho {said}\n"})
    monkeypatch.setenv("PATH", f"{tools}")
    names = [check.name for check in examine(Home.open(str(tmp_path / "home")), Examine("process"))]
    assert ("logout" in names) is (said == "b true")


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
    tools = write_files(tmp_path, {"docker*": "#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n"})
    monkeypatch.setenv("PATH", str(tools))
    checks = {check.name: check for check in examine(Home.open(str(tmp_path / "home")), Examine(engine))}
    check = checks[engine if engine == "podman" else "docker"]
    assert (check.ok, check.detail) == (ok, said)
    assert bool(check.fix) == (ok is False)


def test_which_clock_is_ahead() -> None:
    assert _clock(172_900.0, 99.0, 100.0).detail == "2 d 0 h ahead of this machine's"
    assert _clock(10.0, 100.0, 101.0).detail == "1 min 30 s behind this machine's"
