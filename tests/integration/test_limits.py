"""Runs that want more memory than they may have: by their own limit, and by that of the control group they are in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.counters import OOM_FILES, path_of
from remoterun.agent.shared import api
from remoterun.agent.shared.states import RunState
from remoterun.errors import UsageError
from tests.conftest import require
from tests.lab import BASE_IMAGE
from tests.workshop import Place, running, until

EATS = "exec python3 -c 'held = []\nwhile True: held.append(bytearray(4 << 20))'"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "home")
    yield place
    place.close()


def out_of_memory(place: Place, key: str, message: str | None) -> None:
    status = place.until_final(key)
    found = status["state"], status["reason"], status["code"], status["message"]
    assert found == ("failed", "out_of_memory", 137, message), place.run(key).events()


LIMIT = "it may use 100M: a smaller batch, or a higher `--memory`"


def test_a_limit_of_its_own(place: Place) -> None:
    """What runs in the background counts, too, and ends with it."""
    key = place.submit(f"sleep 1004.875 & echo x >out; ({EATS}) & wait", memory=100 << 20)
    out_of_memory(place, key, LIMIT)
    assert place.outputs(key) == {"out": b"x\n"} and not running("1004.875")


@pytest.mark.parametrize("asked", [{"cpus": 1000}, {"memory": 1 << 50}])
def test_more_than_its_machine_has(place: Place, asked: dict[str, int]) -> None:
    lacks = place.session.ask(api.occupancy, api.Demand(**asked)).lacks  # type: ignore[arg-type]
    assert lacks is not None
    with pytest.raises(UsageError, match=lacks):
        place.submit("true", **asked)
    assert place.home.run_keys() == []


@pytest.mark.docker
def test_a_limit_in_docker(place: Place, local_docker: Any) -> None:
    environment = place.spec("true").environment._replace(base=BASE_IMAGE, variant="none")
    out_of_memory(place, place.submit(EATS, engine="docker", memory=100 << 20, environment=environment), LIMIT)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a limit of memory, in which whatever this process starts meanwhile is."""
    old = next(filter(os.path.exists, map(path_of(os.getpid()), OOM_FILES)), "")
    below = "memory" if old.endswith("oom_control") else ""
    new = Path("/sys/fs/cgroup", below, f"remoterun-test-{os.getpid()}")
    require(None if os.geteuid() == 0 and old else "no control groups can be made here")
    new.mkdir()
    try:
        (new / ("memory.limit_in_bytes" if below else "memory.max")).write_text(str(400 << 20))
        yield new
    finally:
        Path(os.path.dirname(old), "cgroup.procs").write_text(str(os.getpid()))
        until(lambda: _is_removed(new))


def _is_removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


@pytest.mark.parametrize("lost", [False, True])
def test_the_limit_of_its_control_group(group: Path, tmp_path: Path, lost: bool) -> None:
    """As that of a job; also where the supervisor died, and the next one is in another group."""
    place = Place(tmp_path / "home")
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        key = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; {EATS}")
        place.until_state(key, RunState.RUNNING)
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        if lost:
            place.lose_supervisor(key)
            place.drop_session()
        (tmp_path / "go").touch()
        if lost:
            until(lambda: place.run(key).exit_code() is not None)
            place.until_status(key)
        out_of_memory(place, key, None)
        other = place.submit("kill -9 $$")
        assert place.until_final(other)["reason"] == "exit_nonzero", "the count that was there before is not its own"
    finally:
        place.close()
