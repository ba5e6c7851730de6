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


SITE = {
    "scontrol*": "#!/bin/sh\necho 'Configuration data as of 2026-12-02'\necho 'MaxArraySize            = 1001'\n"
    "echo 'SLURM_VERSION           = 20.11.9'\n",
    "sinfo*": "#!/bin/sh\necho 'short*|idle|(null)|16|64000|2:00:00|c1'\n"
    "echo 'gpu|mix|gpu:a100:4(S:0-1)|64|512000|2-00:00:00|g1'\n",
    "sacctmgr*": "#!/bin/sh\necho 'sacctmgr: error: slurmdbd: Connection refused' >&2; exit 1\n",
}
"""What the commands of a site print, whose database is down: a stand-in for a cluster with other partitions."""


@pytest.mark.parametrize(("gpus", "partition", "hours"), [(0, "short", 2), (1, "gpu", 4), (8, "", None)])
def test_what_a_login_node_proposes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, partition: str, hours: int | None
) -> None:
    """A partition that has the GPUs, the default one if it can be; no more time than it allows; and the user's quota of
    the disk that has the home. What the site does not say is no fault."""
    home = Home.open(str(tmp_path / "home"))
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    source = max(
        (row for row in rows if f"{home.path}/".startswith(row[1].rstrip("/") + "/")), key=lambda row: len(row[1])
    )[0]
    quota = f"#!/bin/sh\necho '  {source} 9765625* 0 48828125 7days 90 0 0'; exit 1\n"
    monkeypatch.setenv("PATH", f"{write_files(tmp_path / 'tools', {**SITE, 'quota*': quota})}:/usr/bin:/bin")
    checks = {check.name: check for check in examine(home, Examine("process", gpus, queue="slurm"))}
    said = checks["to type"].scheduling
    assert said is not None and said.partition == partition and said.time == (hours and hours * 3600)
    assert checks["slurm"].detail == "20.11.9" and checks["max array"].detail == "1001"
    assert checks["accounts"].ok is None and checks["accounts"].detail == "not known"
    assert checks["shared home"].detail.endswith("10.0 of your 50.0 GB used")
