"""Runs on this machine whose disk is full: their ends use the reserve."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoterun.agent.running.engines import EngineError
from remoterun.agent.running.engines.building import BuildJob, make_venv
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import ArchivedTree, run_prefix
from remoterun.agent.shared.spec import EnvironmentSpec
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from tests.bucket_server import BucketServer
from tests.workshop import Place, until, write_files

FILLS = "echo model >model; cat /dev/zero >../filler 2>/dev/null; true"
"""A command that leaves no byte free, and ends with 0."""


@pytest.fixture
def small(small_disk: Callable[[str], Path], environment: Path) -> Iterator[Place]:
    place = Place(small_disk("64m") / "home", environment)
    yield place
    place.close()


def test_a_run_that_fills_the_disk_is_saved(small: Place) -> None:
    key = small.submit(FILLS)
    status = small.until_final(key)
    assert (status["state"], status["code"], status["reason"]) == ("complete", 0, "exited")
    full = f"the disk that holds {small.home.path} is full (`remoterun machines df local`)"
    assert status["message"] == f"{full}, so its log may lack lines"
    assert small.outputs(key) == {"model": b"model\n"}
    assert not Path(small.home.path, "reserve").exists()


def test_the_reserve_is_there_while_runs_go_on(small: Place) -> None:
    key = small.submit("while [ ! -e go ]; do sleep 0.05; done")
    small.until_state(key, RunState.RUNNING)
    reserve = Path(small.home.path, "reserve")
    assert reserve.stat().st_size == 1 << 20
    Path(small.run(key).work, "go").touch()
    small.until_final(key)
    until(lambda: not reserve.exists(), what="it is given back with the last run")


def test_a_run_that_fills_the_disk_has_all_in_the_archive(small: Place) -> None:
    """Notes of what the archive has can't be written then."""
    server = BucketServer()
    try:
        spec = small.spec(FILLS, bucket="s3://mine")
        grant = server.grant(run_prefix(spec.key))
        small.session.ask(api.submit, api.Nothing(), Submission(spec, {}, Manifest([]).encode(), grant).encode())
        status = small.until_final(spec.key, 60)
        assert (status["state"], status["kept"]) == ("complete", True), status
        found = server.below(run_prefix(spec.key))
        assert next(iter(ArchivedTree.decode(found["outputs"]).manifest)).path == "model"
        assert b'"complete"' in found["status.json"]
    finally:
        server.close()


def test_an_environment_for_which_there_is_no_room(small_disk: Callable[[str], Path]) -> None:
    """It is not taken for a Python without `venv`."""
    place = Place(small_disk("6m") / "home")
    try:
        about = EnvironmentSpec("none", "python", place.context)
        key = place.submit("true", environment=about)
        status = place.until_final(key)
        event = place.run(key).events()[-1]
        assert status["reason"] == "disk_full" and status["message"].startswith(("the disk that holds", "[Errno"))
        assert event["hint"].splitlines()[-1] == "remoterun rm runs --failed"
    finally:
        place.close()


def test_a_python_without_ensurepip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's is without that package: that is named then, and only then."""
    write_files(tmp_path, {"ensurepip.py": b"raise ImportError('No module named ensurepip')\n"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = BuildJob(str(tmp_path / "build.log"), lambda _: None, lambda: False)
    with pytest.raises(EngineError, match="Python can't make a virtual environment here") as caught:
        make_venv(sys.executable, str(tmp_path / "venv"), None, job, os.open(os.devnull, os.O_RDONLY))
    assert caught.value.hint == "sudo apt install python3-venv   on that machine"
