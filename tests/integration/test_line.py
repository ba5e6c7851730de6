"""A line of runs that wait: one process for all of them, whatever becomes of those before them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.agent.running.queues.line import OwnLine
from remoterun.agent.running.supervisor import supervise
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import After
from remoterun.agent.shared.states import RunState
from tests.workshop import Place, command_line, holding, kill9, pids, until


def supervised(place: Place) -> set[str]:
    """The runs that have a process."""
    words = [words for words in map(command_line, pids()) if place.home.path.encode() in words]
    return {found[found.index(b"--home") + 2].decode() for found in words if b"supervise" in found}


@pytest.fixture
def holder(place: Place, tmp_path: Path) -> str:
    """A run that has the only slot until the file `go` is there."""
    key = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done", slots=1)
    place.until_state(key, RunState.RUNNING)
    return key


def after(place: Place, *others: str, slots: int = 50) -> str:
    """A run that waits for others, in its line."""
    key = place.submit("true", slots=slots, after=tuple(After(other, 1) for other in others))
    until(lambda: place.run(key).status().note)
    return key


def settled(place: Place, keys: set[str]) -> Callable[[], bool]:
    """Whether these have a process, and others don't."""
    return lambda: supervised(place) == keys


def test_only_the_first_has_a_process_and_who_ends_starts_the_next(place: Place, holder: str, tmp_path: Path) -> None:
    """No client takes part."""
    keys = [place.submit(f"echo {number} >>{tmp_path}/order", slots=1) for number in range(8)]
    until(settled(place, {holder, keys[0]}))
    assert {run.key: run.place for run in place.session.ask(api.occupancy, api.Demand(slots=1)).runs} == {
        holder: 0, **{key: place for place, key in enumerate(keys, 1)}
    }  # fmt: skip
    place.drop_session()
    (tmp_path / "go").touch()
    for key in keys:
        assert place.until_final(key)["state"] == "complete"
    assert (tmp_path / "order").read_text().split() == list("01234567")
    until(lambda: not os.listdir(place.home.queue) and not place.home.active_keys() and not supervised(place))


def test_one_that_waits_for_others_has_no_process(place: Place, holder: str, tmp_path: Path) -> None:
    keys = [after(place, holder) for _ in range(4)]
    chain = [after(place, keys[-1])]
    chain.append(after(place, chain[0]))
    until(settled(place, {holder, keys[0]}))
    assert place.run(chain[1]).status().note == "after run 1"
    place.drop_session()
    (tmp_path / "go").touch()
    for key in keys + chain:
        assert place.until_final(key)["state"] == "complete"


def test_those_that_waited_for_others_come_to_their_line(place: Place, holder: str, tmp_path: Path) -> None:
    """All of them, a few at a time; there, too, only the first has a process."""
    second = place.submit(f"until [ -e {tmp_path}/second ]; do sleep 0.02; done", slots=1)
    keys = [after(place, holder, slots=1) for _ in range(7)]
    place.drop_session()
    (tmp_path / "go").touch()
    place.until_state(second, RunState.RUNNING)
    until(lambda: all(OwnLine(place.home).has_come(key) for key in keys))
    line = [key for key, _ in OwnLine(place.home).lines()["slots"]]
    until(settled(place, {second, line[0]}), what=lambda: str(supervised(place)))
    (tmp_path / "second").touch()
    for key in keys:
        assert place.until_final(key)["state"] == "complete"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_that_waits_is_ended(place: Place, holder: str, tmp_path: Path, how: str) -> None:
    """Wherever it stands; the others have their places."""
    keys = [place.submit("true", slots=1) for _ in range(4)]
    awaits = [after(place, holder) for _ in range(2)]
    until(settled(place, {holder, keys[0], awaits[0]}))
    for key in (keys[2], keys[0], awaits[1]):
        place.end(key, how)
        assert place.state(key).final or key == keys[0], "one without a process needs none for its end"
        assert place.until_final(key)["reason"] == ("stopped" if how == "stop" else "killed")
    until(settled(place, {holder, keys[1], awaits[0]}), what=lambda: str(supervised(place)))
    (tmp_path / "go").touch()
    for key in (keys[1], keys[3], awaits[0]):
        assert place.until_final(key)["state"] == "complete"


def test_a_chain_whose_first_run_fails_ends_without_a_process_for_each(place: Place, holder: str) -> None:
    chain = [after(place, holder)]
    for _ in range(5):
        chain.append(after(place, chain[-1]))
    until(settled(place, {holder, chain[0]}))
    for key in chain[1:]:  # the first one starts it, where it looks at a run that has no place in the line yet
        Path(place.run(key).supervisor_log).unlink(missing_ok=True)
    place.end(holder, "kill")
    for key in chain:
        assert place.until_final(key)["reason"] == "after_failed"
    assert not any(os.path.exists(place.run(key).supervisor_log) for key in chain[1:])


@pytest.mark.parametrize("by", ["end", "follower", "list"])
def test_the_first_of_the_line_dies(place: Place, holder: str, tmp_path: Path, by: str) -> None:
    """Whose end frees the slot starts it again; so does any contact about any run of the line."""
    first, second = (place.submit("true", slots=1) for _ in range(2))
    until(lambda: place.run(first).supervised())
    until(lambda: kill9(place.supervisor(first)) or supervised(place) == {holder})  # two may have been started at once
    until(place.unsupervised(first))
    if by == "follower":
        with place.session.stream(api.follow, api.Follow(second)) as stream:
            stream.end()
            until(settled(place, {holder, first}))
    elif by == "list":
        place.session.ask(api.runs, api.RunKeys([second]))
        until(settled(place, {holder, first}))
    place.drop_session()
    (tmp_path / "go").touch()
    for key in (first, second):
        assert place.until_final(key)["state"] == "complete"


@pytest.mark.parametrize("line", ["slots", "after"])
def test_the_one_before_dies_unseen(place: Place, holder: str, tmp_path: Path, line: str) -> None:
    """Its supervisor: the first of the line starts it again, and no client is needed."""
    if line == "slots":
        keys = [place.submit("true", slots=1) for _ in range(2)]
    else:
        keys = [after(place, holder) for _ in range(2)]
    until(settled(place, {holder, keys[0]}))
    place.drop_session()
    before = place.supervisor(holder)
    kill9(before)
    until(lambda: place.supervisor(holder) not in (before, None))
    (tmp_path / "go").touch()
    for key in (holder, *keys):
        assert place.until_final(key)["state"] == "complete"


@pytest.mark.parametrize("format", [99, 0], ids=["of another remoterun", "damaged"])
def test_one_that_cannot_be_read_gives_back_what_it_holds(
    place: Place, holder: str, tmp_path: Path, format: int
) -> None:
    """Once its command has ended; its supervisor died unseen, and no other one can read what was asked of it."""
    waits, last = (place.submit("true", slots=1) for _ in range(2))
    Path(place.run(holder).spec_file).write_text(json.dumps({"format": format}) if format else "{")
    before = place.supervisor(holder)
    kill9(before)
    until(lambda: place.supervisor(holder) not in (before, None))
    Path(place.run(last).spec_file).write_text("{")
    assert place.state(waits) is RunState.QUEUED
    (tmp_path / "go").touch()
    assert place.until_final(waits)["state"] == "complete"
    until(lambda: place.state(last).final, what="nor does it block the line")
    assert place.state(holder) is RunState.INTERRUPTED and place.run(holder).state()[1]["message"].startswith("its rec")
    until(lambda: not place.home.active_keys() and not os.listdir(place.home.queue))
    for key in (holder, last):
        assert supervise(place.home, key) == 0, "a supervisor that comes too late gives back what there is"
        until(lambda: not place.home.active_keys())
        shutil.rmtree(place.run(key).path)


def test_it_has_the_variables_of_its_own_session(
    place: Place, holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the run that starts it; where they were saved until then, nothing of them is left."""
    keys = []
    for who in ("one", "two", "three"):
        place.drop_session()
        monkeypatch.setenv("WHO", f"session-{who}")
        keys.append(place.submit("echo $WHO", slots=1))
    until(settled(place, {holder, keys[0]}))
    (tmp_path / "go").touch()
    for key, who in zip(keys, ("one", "two", "three"), strict=True):
        assert place.until_final(key)["state"] == "complete"
        assert place.log(key) == f"session-{who}\n".encode()
        assert not os.path.exists(place.run(key).environ_file)
    assert not [path for path in holding(place.home, b"session-") if not path.endswith("/log")]
