"""Files of runs that go on, in another run while they grow: over two machines, lost connections and the run's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.client.mirroring import Mirror, placed
from remoterun.model import Resource, Run, RunRequest
from tests.workshop import User, until

Start = Callable[..., tuple[Run, Path]]


@pytest.fixture
def start(user: User) -> Iterator[Start]:
    """`start(machine, files)`: a run that has started, with these files as its source, and its work tree."""

    def start(machine: str, files: dict[str, str] | None = None) -> tuple[Run, Path]:
        request = RunRequest("until [ -e end ]; do sleep 0.02; done")
        run = user.client.runs.submit(request, user.source(dict(files or {"a": ""})), machine)
        place = user.place(machine)
        place.until_state(run.key, RunState.RUNNING)
        return user.client.runs.get(run.number), Path(place.run(run.key).work)

    yield start


def mirror(user: User, source: Run, into: Run, sub: str = "", why: Callable[[str], None] = pytest.fail) -> Mirror:
    resource = Resource("runs", str(source.number), sub)
    return user.client.files.mirror(resource, into.number, "events", why)


def holds(path: Path, text: str) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() == text


def test_files_grow_on_another_machine_and_the_end_comes_whole(user: User, start: Start) -> None:
    source, here = start("one", {"old.events": "of the source", "a": ""})
    into, there = start("two")
    mirrored = there / "runs" / str(source.number)
    it = mirror(user, source, into)
    (here / "logs").mkdir()
    (here / "logs" / "events.1").write_text("one")
    (here / "logs" / "other").write_text("not wanted")
    until(holds(mirrored / "logs" / "events.1", "one"))
    with (here / "logs" / "events.1").open("a") as file:
        file.write(" two")
    (here / "events.2").write_text("x" * 3_000_000)
    until(holds(mirrored / "logs" / "events.1", "one two"))
    until(holds(mirrored / "events.2", "x" * 3_000_000))
    (here / "events.2").write_text("anew")
    until(holds(mirrored / "events.2", "anew"))
    with (here / "events.2").open("a") as file:
        file.write(" and the last")
    (here / "end").touch()
    assert it.wait(60)
    assert holds(mirrored / "events.2", "anew and the last")()
    names = [str(path.relative_to(mirrored)) for path in mirrored.rglob("*") if path.is_file()]
    assert sorted(names) == ["events.2", "logs/events.1"]


@pytest.mark.parametrize("machine", ["one", "two"])
def test_a_lost_connection_is_made_again_and_nothing_comes_twice(user: User, start: Start, machine: str) -> None:
    source, here = start("one")
    into, there = start("two")
    mirrored = there / "runs" / str(source.number) / "logs" / "events"
    (here / "logs").mkdir()
    (here / "logs" / "events").write_text("one")
    it = mirror(user, source, into, "logs")
    until(holds(mirrored, "one"))
    user.client.machines.session(user.client.machines.get(machine))._pipe.close()
    with (here / "logs" / "events").open("a") as file:
        file.write(" two")
    until(holds(mirrored, "one two"))
    it.close()
    assert it.wait(60)


def test_what_ended_meanwhile_is_told(user: User, start: Start) -> None:
    source, _ = start("one")
    into, there = start("two")
    (there / "end").touch()
    user.place("two").until_final(into.key)
    told: list[str] = []
    assert mirror(user, source, into, why=told.append).wait(60)
    assert told


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "", "a\0", 3, None])
def test_a_host_names_no_place_outside(path: object) -> None:
    with pytest.raises(ValueError):
        placed({"path": path, "offset": 0})
    with pytest.raises((ValueError, LookupError)):
        placed({"path": "a", "offset": -1} if path else {"path": "a"})
