"""A run that waits goes to another machine, under its number; whatever goes wrong, it is never run twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.states import Reason, RunState, RunStatus
from remoterun.client import Client, Item, LogBytes, Note, StateChange, following, moving
from remoterun.errors import HostError, UsageError
from remoterun.model import MachineType, Mount, Run, RunRequest
from remoterun.session import Session
from tests.workshop import Place, User, until

AWAY = MachineType("away", host="me@127.0.0.1:1", connect_timeout=5)


def ended(client: Client, run: Run) -> Run:
    return until(lambda: found if (found := client.runs.get(run.number)).final else None)


@pytest.fixture
def client(user: User) -> Client:
    """Of machines that take one run at a time."""
    machines = {name: replace(machine, slots=1) for name, machine in user.config.machines.items()}
    pool = MachineType("lab", pool=("away", "two"))
    user.config = replace(user.config, machines={**machines, "away": AWAY, "lab": pool})
    return user.new_client()


@pytest.fixture
def holder(user: User, client: Client, tmp_path: Path) -> Run:
    """A run that keeps the slot of `one` until the file `go` is there."""
    run = client.runs.submit(RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"))
    return until(lambda: found if (found := client.runs.get(run.number)).state is RunState.RUNNING else None)


def keys(place: Place) -> list[str]:
    return place.home.run_keys()


def test_with_source_mounts_values_and_number(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("data\n")
    client.uploads.upload(tmp_path / "data", "doom", "one")
    request = RunRequest(
        'cat mine data/data; echo "$TOKEN"; cat mine > made',
        mounts=(Mount.parse("uploads/doom:data"),),
        env=(("TOKEN", "t0ken"),),
        labels=("night",),
    )
    run = client.runs.submit(request, user.source({"mine": "mine\n"}))
    (tmp_path / "data").write_text("newer\n")
    client.uploads.upload(tmp_path / "data", "doom", "one")
    moved = client.runs.move(run.number, "two")
    assert (moved.number, moved.key, moved.where) == (run.number, run.key, "two")
    end = ended(client, run)
    assert (end.state, end.labels, end.outputs) == (RunState.COMPLETE, ("night",), {"files": 1, "size": 5})
    assert user.place("two").log(run.key) == b"mine\ndata\nt0ken\n", "of the version that was mounted then"
    assert keys(user.place("one")) == [holder.key], "nothing is left where it waited"
    assert client.runs.info(run.number)[1]["spec"]["machine"] == "two"
    (tmp_path / "go").touch()
    ended(client, holder)


def test_to_a_pool_and_back(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest("true"))
    second = client.runs.submit(RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"), machine="two")
    until(lambda: client.runs.get(second.number).state is RunState.RUNNING)
    said: list[str] = []
    assert client.runs.move(run.number, "lab", note=said.append).where == "lab (two)"
    assert said and said[0].startswith("away is passed over: ")
    assert client.runs.move(run.number, "one").where == "one"
    with pytest.raises(UsageError, match=f"run {run.number} is on one already"):
        client.runs.move(run.number, "one")
    (tmp_path / "go").touch()
    assert ended(client, run).state is RunState.COMPLETE
    assert keys(user.place("two")) == [second.key]
    ended(client, holder)
    ended(client, second)


def test_one_that_has_started_or_ended(client: Client, holder: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"run {holder.number} has started on one") as caught:
        client.runs.move(holder.number, "two")
    assert caught.value.hint == f"remoterun stop {holder.number} && remoterun rerun {holder.number} -t two"
    after = client.runs.submit(RunRequest("true", after=(holder.number,)))
    with pytest.raises(UsageError, match=f"run {after.number} waits for run {holder.number} on one") as caught:
        client.runs.move(after.number, "two")
    assert caught.value.hint == f"remoterun stop {after.number} && remoterun rerun {after.number} -t two"
    (tmp_path / "go").touch()
    ended(client, after)
    with pytest.raises(UsageError, match="has ended already"):
        client.runs.move(holder.number, "two")


def test_one_for_which_another_run_waits(client: Client, holder: Run, tmp_path: Path) -> None:
    """That one would never know how it ended."""
    first = client.runs.submit(RunRequest("true"))
    second = client.runs.submit(RunRequest("true", after=(first.number,)))
    with pytest.raises(UsageError, match=f"run {second.number} waits for run {first.number} on one"):
        client.runs.move(first.number, "two")
    third = client.runs.submit(RunRequest("true", after=(second.number,)))
    with pytest.raises(
        UsageError, match=f"runs {second.number} and {third.number} wait for run {first.number}"
    ) as caught:
        client.runs.move(first.number, "two")
    stop, then = (caught.value.hint or "").splitlines()
    assert stop == f"remoterun stop {second.number} {third.number} && remoterun machines move {first.number} -t two"
    assert f"-t two --after {first.number}" in then
    for run in (second, third):
        client.runs.stop(run.number)
    assert client.runs.move(first.number, "two").where == "two"
    (tmp_path / "go").touch()
    assert ended(client, first).state is RunState.COMPLETE


def test_one_whose_awaited_run_has_ended(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    failed = client.runs.submit(RunRequest("exit 3"), machine="two")
    again = client.runs.submit(RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"), machine="two")
    until(lambda: client.runs.get(again.number).state is RunState.RUNNING)
    waits = client.runs.submit(RunRequest("echo went", after_any=(failed.number,)), machine="two")
    until(lambda: client.runs.get(waits.number).line is not None)
    client.runs.kill(holder.number)
    assert client.runs.move(waits.number, "one").where == "one"
    assert ended(client, waits).state is RunState.COMPLETE
    assert client.runs.info(waits.number)[1]["spec"].get("after") in (None, [])
    (tmp_path / "go").touch()
    ended(client, again)


def test_it_stays_where_it_was_if_the_other_one_does_not_take_it(
    user: User, client: Client, holder: Run, tmp_path: Path
) -> None:
    run = client.runs.submit(RunRequest("echo here", gpus=0, env=(("A", "b"),)))
    with pytest.raises(HostError):
        client.runs.move(run.number, "away")
    assert client.runs.get(run.number).state is RunState.QUEUED and client.runs.get(run.number).where == "one"
    (tmp_path / "go").touch()
    assert ended(client, run).state is RunState.COMPLETE
    assert user.place("one").log(run.key) == b"here\n"


class Follower:
    """Somebody who follows a run meanwhile."""

    def __init__(self, user: User, run: Run) -> None:
        self.items: list[Item] = []
        self._config = user.config
        self._thread = threading.Thread(target=self._follow, args=(run,))
        self._thread.start()
        until(lambda: any(isinstance(item, StateChange) for item in self.items))

    def _follow(self, run: Run) -> None:
        with Client(self._config) as client:
            for item in client.runs.follow(run.number):
                self.items.append(item)

    def story(self) -> tuple[list[str], bytes]:
        """(states and moves in their order, the log) once it has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        told = [
            item.state.value if isinstance(item, StateChange) else f"moved to {item.text}"
            for item in self.items
            if isinstance(item, StateChange) or (isinstance(item, Note) and item.kind == "moved")
        ]
        return told, b"".join(item.data for item in self.items if isinstance(item, LogBytes))


PASSED = ["queued", "building", "mounting", "running", "saving", "complete"]


def test_who_follows_it_goes_along(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest(f"echo there; until [ -e {tmp_path}/go ]; do sleep 0.02; done"))
    stale = client.registry.run(run.number)
    follower = Follower(user, run)
    with ThreadPoolExecutor(1) as pool, Client(user.config) as other:
        waited = pool.submit(lambda: list(other.runs.wait([run.number], 60)))
        client.runs.move(run.number, "two")
        until(lambda: client.runs.get(run.number).state is RunState.RUNNING)
        # what is learnt of the machine where it was comes too late
        client.registry.see(stale, RunStatus(run.key, RunState.INTERRUPTED, Reason.MOVED), 1.0)
        client.registry.move(stale, RunState.INTERRUPTED, 1.0, reason="host_lost")
        assert client.runs.get(run.number).state is RunState.RUNNING
        (tmp_path / "go").touch()
        assert follower.story() == (["queued", "moved to two", *PASSED], b"there\n")
        assert [item.state for item in waited.result() if isinstance(item, Run)] == [RunState.COMPLETE]
    ended(client, holder)


def test_one_that_is_refused_there_is_put_back(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.runs.submit(RunRequest('echo "$A"', env=(("A", "b"),)))
    ask = Session.ask

    def refusing(session: Session, request: object, *more: object) -> object:
        if request is api.submit and session.machine.name == "two":
            raise HostError("two: its disk is full")
        return ask(session, request, *more)  # type: ignore[arg-type]

    follower = Follower(user, run)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "ask", refusing)
        with pytest.raises(HostError, match="disk is full"):
            client.runs.move(run.number, "two")
    assert client.runs.get(run.number).state is RunState.QUEUED
    (tmp_path / "go").touch()
    assert ended(client, run).state is RunState.COMPLETE
    assert user.place("one").log(run.key) == b"b\n" and keys(user.place("two")) == []
    told, log = follower.story()  # what is taken and put back between two looks may not be seen
    assert (told[-3:], log) == (["running", "saving", "complete"], b"b\n") and "interrupted" not in told


def test_an_agent_may_see_it_taken_and_its_state_when_it_is_back(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who follows it goes on."""
    run = client.runs.submit(RunRequest("echo b"))
    ask, result, back = Session.ask, Session.result, threading.Event()

    def refusing(session: Session, request: object, *more: object) -> object:
        if request is api.submit and session.machine.name == "two":
            raise HostError("two: its disk is full")
        return ask(session, request, *more)  # type: ignore[arg-type]

    def late(session: Session, request: object, stream: object) -> object:
        found = result(session, request, stream)  # type: ignore[arg-type]
        if request is api.follow and found.status.reason is Reason.MOVED:
            assert back.wait(60)
            (status,) = ask(session, api.runs, api.RunKeys([run.key])).runs
            return found._replace(status=status)
        return found

    monkeypatch.setattr(Session, "result", late)
    follower = Follower(user, run)
    monkeypatch.setattr(Session, "ask", refusing)
    with pytest.raises(HostError, match="disk is full"):
        client.runs.move(run.number, "two")
    back.set()
    (tmp_path / "go").touch()
    told, log = follower.story()
    assert (told[-3:], log) == (["running", "saving", "complete"], b"b\n") and "interrupted" not in told
    ended(client, holder)


@pytest.mark.parametrize("handed_over", [False, True], ids=["before", "after"])
def test_a_client_that_dies_once_it_was_taken(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    """The same command finishes it, and the command runs once."""
    run = client.runs.submit(RunRequest(f"echo x >> {tmp_path}/ran"))
    do = moving._hand_over

    def dies(*values: object, **named: object) -> object:
        if handed_over:
            do(*values, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moving, "_hand_over", dies)
        with pytest.raises(KeyboardInterrupt):
            client.runs.move(run.number, "two")
    (tmp_path / "go").touch()
    client = user.new_client()
    left = ended(client, run)
    assert (left.state, left.reason, left.where) == (RunState.INTERRUPTED, Reason.MOVED, "one")
    monkeypatch.setattr(following, "MOVE_WAIT", 0.1)
    for live in (True, False):
        states = [item.state for item in client.runs.follow(run.number, live=live) if isinstance(item, StateChange)]
        assert states == [RunState.QUEUED, RunState.INTERRUPTED]
    assert client.runs.move(run.number, "two").where == "two"
    assert ended(client, run).state is RunState.COMPLETE
    assert (tmp_path / "ran").read_text() == "x\n" and keys(user.place("one")) == [holder.key]


def test_two_that_want_it_at_once(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest("true"))
    session = user.place("one").new_session()
    for by, first in (("a", True), ("b", False), ("a", True)):
        with session.stream(api.withdraw, api.Withdrawal(run.key, by)) as stream:
            stream.end()
            stream.finish()
            assert session.result(api.withdraw, stream).withdrawn is first
    session.close()
    (tmp_path / "go").touch()
    assert ended(client, run).reason is Reason.MOVED
    assert user.place("one").log(run.key) == b""
