"""What a home keeps to itself: the values of variables, only as long as they are needed, and every mode."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.files import locked
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.home import Home
from remoterun.client import Client
from remoterun.config import Config
from remoterun.model import MachineType
from tests.workshop import Files, Place, holding, kill9, read_files, until, write_files

SECRET = "s3cr3t'value"
PATTERN = b"s3cr3t"  # a quotation may stand between


def completes(place: Place) -> str:
    return place.submit(f"[ ${{#TOKEN}} = {len(SECRET)} ]", values={"TOKEN": SECRET})


def fails(place: Place) -> str:
    return place.submit("exit 3", values={"TOKEN": SECRET})


def is_stopped(place: Place) -> str:
    key = place.submit("echo up; sleep 1000", values={"TOKEN": SECRET})
    place.until_says(key, b"up")
    until(lambda: not os.path.exists(place.run(key).values_file))
    assert holding(place.home, PATTERN) == set()
    place.session.ask(api.stop, api.EndRun(key))
    return key


def is_killed(place: Place) -> str:
    key = place.submit("echo up; sleep 1000", values={"TOKEN": SECRET})
    place.until_says(key, b"up")
    place.session.ask(api.kill, api.RunKey(key))
    return key


def is_stopped_while_it_waits(place: Place) -> str:
    first = place.submit("echo up; sleep 1000", slots=1)
    place.until_says(first, b"up")
    key = place.submit("true", values={"TOKEN": SECRET}, slots=1)
    assert holding(place.home, PATTERN) == {place.run(key).values_file}
    place.session.ask(api.stop, api.EndRun(key))
    place.until_final(key)
    place.session.ask(api.kill, api.RunKey(first))
    return key


def runs_out_of_time(place: Place) -> str:
    return place.submit("sleep 1000", values={"TOKEN": SECRET}, timeout=0.1)


def can_not_be_built(place: Place) -> str:
    environment = place.spec("").environment._replace(image="some/image")
    return place.submit("true", values={"TOKEN": SECRET}, environment=environment)


def loses_its_supervisor(place: Place) -> str:
    key = place.submit('echo up; while [ ! -e go ]; do sleep 0.05; done; [ "$TOKEN" ]', values={"TOKEN": SECRET})
    place.until_says(key, b"up")
    kill9(place.supervisor(key))
    until(place.unsupervised(key))
    Path(place.run(key).work, "go").touch()
    place.drop_session()
    assert place.session.alive
    return key


def loses_its_supervisor_while_it_waits(place: Place) -> str:
    """The next one has the value, too."""
    first = place.submit("echo up; while [ ! -e go ]; do sleep 0.05; done", slots=1)
    place.until_says(first, b"up")
    key = place.submit('[ "$TOKEN" ]', values={"TOKEN": SECRET}, slots=1)
    kill9(until(lambda: place.supervisor(key)))
    until(place.unsupervised(key))
    Path(place.run(first).work, "go").touch()
    place.until_final(first)
    place.drop_session()
    place.session.ask(api.runs, api.RunKeys([key]))
    return key


def loses_its_machine(place: Place) -> str:
    """As when the power goes: the next boot finds the run."""
    key = place.submit("echo up; sleep 1000", values={"TOKEN": SECRET})
    place.until_says(key, b"up")
    run = place.run(key)
    kill9(place.supervisor(key))
    until(place.unsupervised(key))
    from remoterun.agent.running.engines.process import ProcessEngine

    assert ProcessEngine(place.home).kill(run)
    events = Path(run.events_file).read_text().replace('"boot":"', '"boot":"earlier-')
    Path(run.events_file).write_text(events)
    place.drop_session()
    assert place.session.alive
    return key


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (completes, "complete"), (fails, "failed"), (is_stopped, "stopped"), (is_killed, "killed"),
        (is_stopped_while_it_waits, "stopped"), (runs_out_of_time, "stopped"), (can_not_be_built, "failed"),
        (loses_its_supervisor, "complete"), (loses_its_supervisor_while_it_waits, "complete"),
        (loses_its_machine, "interrupted"),
    ],
)  # fmt: skip
def test_no_value_outlives_its_run(place: Place, ends: Callable[[Place], str], state: str) -> None:
    key = ends(place)
    status = place.until_final(key)
    assert status["state"] == state, place.run(key).events()
    assert holding(place.home, PATTERN) == set()
    details = place.session.ask(api.run, api.RunKey(key))
    assert details.spec["asked_env"] == ["TOKEN"] and "s3cr3t" not in str(details)


def test_a_home_is_its_users_alone(tmp_path: Path, environment: Path) -> None:
    """Whatever the umask of who starts the agent: only content, which lies behind a closed folder, has other modes."""
    files: Files = {"in": b"in", "sub/run*": b"#!/bin/sh\numask; mkdir made; : >made/file\n"}
    place = Place(tmp_path / "home", environment)
    place.put(files)
    mask = os.umask(0)
    try:
        assert place.session.alive
    finally:
        os.umask(mask)
    key = place.submit("./sub/run; echo x >sub/out; sleep 1000", files)
    place.until_says(key, b"0022")
    until(lambda: os.path.exists(os.path.join(place.run(key).work, "sub/out")))
    work = Path(place.run(key).work)
    modes = {str(path.relative_to(work)): stat.S_IMODE(path.stat().st_mode) for path in [work, *work.rglob("*")]}
    assert modes == {
        ".": 0o755, "in": 0o644, "sub": 0o755, "sub/run": 0o755, "sub/out": 0o644,
        "made": 0o755, "made/file": 0o644,
    }  # fmt: skip
    place.session.ask(api.stop, api.EndRun(key))
    place.until_final(key)
    place.close()
    home = Path(place.home.path)
    content = {Path(place.home.blobs.folder), home / "uploads", home / "envs", Path(place.run(key).out)}
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700
    for path in home.rglob("*"):
        if path.is_symlink() or path.is_relative_to(home / "envs"):
            continue
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & 0o022, path
        if not content & {path, *path.parents}:
            assert not mode & 0o077, path
    assert read_files(Path(place.run(key).out)) == {"made/file": b"", "sub/out": b"x\n"}


def test_a_run_that_waits_for_a_build_keeps_its_values(place: Place) -> None:
    with locked(place.home.lock("env-lib")):
        key = place.submit('[ "$TOKEN" ]', values={"TOKEN": SECRET})
        place.until_state(key, RunState.BUILDING)
        assert holding(place.home, PATTERN) == {place.run(key).values_file}
    assert place.until_final(key)["state"] == "complete"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nobody_else_may_write(tmp_path: Path, elsewhere: bool) -> None:
    """Whatever the umask: an upload, a check and a clean-up by a client that has none."""
    laptop = tmp_path / "laptop" if elsewhere else tmp_path / "home"
    config = Config(laptop, "box", {"box": MachineType("box", home=str(tmp_path / "home"))})
    folder = write_files(tmp_path / "data", {"a": b"A", "b/run*": b"#!/bin/sh\n", "large": os.urandom(3 * PIECE)})
    old = os.umask(0)
    try:
        with Client(config) as client:
            client.uploads.upload(folder, "doom")
            client.machines.check()
            client.machines.gc(keep=1)
    finally:
        os.umask(old)
    home = Home.open(str(tmp_path / "home"))
    paths = [Path(home.path), *Path(home.path).rglob("*")]
    assert len([path for path in paths if path.parent.name == "1"]) == 3
    assert [str(path) for path in paths if not path.is_symlink() and path.stat().st_mode & 0o022] == []
    kept = [Path(home.blobs.folder), *Path(home.blobs.folder).iterdir(), Path(home.uploads.folder), Path(home.runs)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o700}
