"""What a home keeps to itself: the values of variables, only as long as they are needed, and every mode."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.files import locked
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.home import Home
from remoterun.client import Client
from remoterun.config import Config
from remoterun.model import MachineType
from tests.webhook_server import PATH, all_told, submit, webhook_server
from tests.workshop import Files, Place, holding, read_files, until, write_files

SECRET = "h1dden'value"
PATTERN = b"h1dden"  # a quotation may stand between
Start = Callable[..., str]


@pytest.fixture
def place(kept_place: Place) -> Place:
    return kept_place


def completes(place: Place, start: Start) -> str:
    return start(f"echo one; printf '\\033[31mtwo\\033[0m'; [ ${{#TOKEN}} = {len(SECRET)} ]")


def fails(place: Place, start: Start) -> str:
    return start("exit 3")


def is_stopped(place: Place, start: Start) -> str:
    key = start("echo up; sleep 1000")
    place.until_says(key, b"up")
    until(lambda: not os.path.exists(place.run(key).values_file))
    assert holding(place.home, PATTERN) == set()
    place.session.ask(api.end, api.EndRuns([key]))
    return key


def is_killed(place: Place, start: Start) -> str:
    key = start("echo up; sleep 1000")
    place.until_says(key, b"up")
    place.session.ask(api.end, api.EndRuns([key], None))
    return key


def is_stopped_while_it_waits(place: Place, start: Start) -> str:
    first = place.submit("echo up; sleep 1000", slots=1)
    place.until_says(first, b"up")
    key = start("true", slots=1)
    assert holding(place.home, PATTERN) == {place.run(key).values_file}
    place.session.ask(api.end, api.EndRuns([key]))
    place.until_final(key)
    place.session.ask(api.end, api.EndRuns([first], None))
    return key


def runs_out_of_time(place: Place, start: Start) -> str:
    return start("sleep 1000", timeout=0.1)


def can_not_be_built(place: Place, start: Start) -> str:
    environment = place.spec("").environment._replace(image="some/image")
    return start("true", environment=environment)


def loses_its_supervisor(place: Place, start: Start) -> str:
    key = start('echo up; while [ ! -e go ]; do sleep 0.05; done; [ "$TOKEN" ]')
    place.until_says(key, b"up")
    place.lose_supervisor(key)
    Path(place.run(key).work, "go").touch()
    place.drop_session()
    assert place.session.alive
    return key


def loses_its_supervisor_while_it_waits(place: Place, start: Start) -> str:
    """The next one has the value, too."""
    first = place.submit("echo up; while [ ! -e go ]; do sleep 0.05; done", slots=1)
    place.until_says(first, b"up")
    key = start('[ "$TOKEN" ]', slots=1)
    place.lose_supervisor(key)
    Path(place.run(first).work, "go").touch()
    place.until_final(first)
    place.drop_session()
    place.session.ask(api.runs, api.RunKeys([key]))
    return key


def loses_its_machine(place: Place, start: Start) -> str:
    """As when the power goes: the next boot finds the run."""
    key = start("echo up; sleep 1000")
    place.until_says(key, b"up")
    place.until_state(key, RunState.RUNNING)  # recorded with its boot, after the command has begun
    run = place.run(key)
    events = Path(run.events_file).read_text().replace('"boot":"', '"boot":"earlier-')
    Path(run.events_file).write_text(events)
    place.lose_supervisor(key)
    from remoterun.agent.running.engines.process import ProcessEngine

    # All end at one moment: the wrapper is not there any more to record the command's end.
    os.kill(json.loads(Path(run.path, "process.json").read_text())["pid"], signal.SIGSTOP)
    assert ProcessEngine(place.home).kill(run)
    place.drop_session()
    assert place.session.alive
    return key


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (completes, {"state": "complete", "reason": "exited", "exit_status": 0, "log": "one\ntwo", "why": None}),
        (fails, {"state": "failed", "reason": "exit_nonzero", "exit_status": 3, "why": "the command failed"}),
        (is_stopped, {"state": "stopped"}),
        (is_killed, {"state": "killed", "reason": "killed", "log": "up"}),
        (is_stopped_while_it_waits, {"state": "stopped", "duration": None}),
        (runs_out_of_time, {"state": "stopped"}),
        (can_not_be_built, {"state": "failed"}),
        (loses_its_supervisor, {"state": "complete"}),
        (loses_its_supervisor_while_it_waits, {"state": "complete"}),
        (loses_its_machine, {"state": "interrupted", "reason": "host_rebooted"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_end_is_told_once_and_no_value_outlives_it(
    place: Place, ends: Callable[[Place, Start], str], told: dict[str, Any]
) -> None:
    with webhook_server() as server:
        address = server.url + PATH
        key = ends(place, lambda command, **more: submit(place, command, address, values={"TOKEN": SECRET}, **more))
        all_told(place, key)
        status = place.until_final(key)
    assert status["state"] == told["state"], place.run(key).events()
    ((path, body),) = server.posts
    assert path == PATH and body["id"] == f"{key}/1" and body["event"] == "run_ended"
    assert {name: body[name] for name in told} == told
    assert not [event for event in place.run(key).events() if "notify" in event.get("note", "")]
    assert holding(place.home, PATTERN) == holding(place.home, b"s3cr3t") == set()
    details = place.session.ask(api.run, api.RunKey(key))
    assert details.spec["asked_env"] == ["TOKEN"] and PATTERN.decode() not in str(details)


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
    place.session.ask(api.end, api.EndRuns([key]))
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
