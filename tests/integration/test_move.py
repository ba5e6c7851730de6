"""A run that waits goes on as a new one on another machine; whatever goes wrong, it is never run twice."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.states import Reason, RunState
from remoterun.client import Client
from remoterun.client.runs.following import Item, LogBytes, StateChange
from remoterun.errors import AgentError, HostError, UsageError
from remoterun.model import MachineType, Mount, Run, RunRequest
from remoterun.session import Session
from tests.workshop import User, lie_about_mounts, until

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
    lie_about_mounts(user.place("one"), run.key, b"lie\n")
    moved = client.runs.move(run.number, "two")
    assert (moved.number, moved.where) == (run.number + 1, "two")
    assert client.registry.repeats(moved) == (run.number, [])
    end = ended(client, moved)
    assert (end.state, end.labels, end.outputs) == (RunState.COMPLETE, ("night",), (1, 5))
    assert user.place("two").log(moved.key) == b"mine\ndata\nt0ken\n", "of the version that was mounted then"
    assert client.runs.info(moved.number)[1]["spec"]["machine"] == "two"
    before = ended(client, run)
    assert (before.reason, before.message) == (Reason.MOVED, f"it goes on as run {moved.number}")
    left = [path.read_text() for path in (user.place("one").folder / "runs" / run.key).rglob("*") if path.is_file()]
    assert left and "t0ken" not in "".join(left)
    (tmp_path / "go").touch()
    ended(client, holder)


def test_to_a_pool_and_back(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest("true"))
    second = client.runs.submit(RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"), machine="two")
    until(lambda: client.runs.get(second.number).state is RunState.RUNNING)
    said: list[str] = []
    moved = client.runs.move(run.number, "lab", note=said.append)
    assert moved.where == "lab (two)" and said and said[0].startswith("away is passed over: ")
    back = client.runs.move(moved.number, "one")
    assert back.where == "one"
    with pytest.raises(UsageError, match=f"run {back.number} is on one already"):
        client.runs.move(back.number, "one")
    (tmp_path / "go").touch()
    assert ended(client, back).state is RunState.COMPLETE
    ended(client, holder)
    ended(client, second)


def test_one_that_has_started_or_ended(client: Client, holder: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"run {holder.number} is running, and only a run that waits") as caught:
        client.runs.move(holder.number, "two")
    assert caught.value.hint == f"remoterun stop {holder.number} && remoterun rerun {holder.number} -t two"
    after = client.runs.submit(RunRequest("true", after=(holder.number,)))
    with pytest.raises(UsageError, match=f"run {holder.number} is on `one`, and what waits for it would be on `two`"):
        client.runs.move(after.number, "two")
    (tmp_path / "go").touch()
    ended(client, after)
    with pytest.raises(UsageError, match="is complete, and only a run that waits"):
        client.runs.move(holder.number, "two")


def test_one_for_which_another_run_waits(client: Client, holder: Run, tmp_path: Path) -> None:
    """That one would never know how it ended."""
    first = client.runs.submit(RunRequest("true"))
    second = client.runs.submit(RunRequest("true", after=(first.number,)))
    with pytest.raises(UsageError, match=f"run {second.number} would fail without it") as caught:
        client.runs.move(first.number, "two")
    assert caught.value.hint == f"remoterun stop {second.number}   and start it again with --after"
    assert client.runs.get("last").number == second.number, "nothing has changed"
    client.runs.stop(second.number)
    ended(client, second)
    moved = client.runs.move(first.number, "two")
    (tmp_path / "go").touch()
    assert ended(client, moved).state is RunState.COMPLETE
    ended(client, holder)


def test_one_whose_awaited_run_has_ended(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine also tells of runs about which it was not asked."""
    failed = client.runs.submit(RunRequest("exit 3"), machine="two")
    again = client.runs.submit(RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"), machine="two")
    until(lambda: client.runs.get(again.number).state is RunState.RUNNING)
    waits = client.runs.submit(RunRequest("echo went", after_any=(failed.number,)), machine="two")
    until(lambda: client.runs.get(waits.number).line is not None)
    client.runs.kill(holder.number)
    ask = Session.ask

    def telling_more(session: Session, request: object, *more: object) -> object:
        answer = ask(session, request, *more)  # type: ignore[arg-type]
        if isinstance(answer, api.Statuses):
            answer.runs.append(answer.runs[0]._replace(key="x" * 26))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Session, "ask", telling_more)
        moved = client.runs.move(waits.number, "one")
    assert ended(client, moved).state is RunState.COMPLETE
    assert client.runs.info(moved.number)[1]["spec"].get("after") in (None, [])
    (tmp_path / "go").touch()
    ended(client, again)


def test_it_stays_where_it_was_if_the_other_one_does_not_take_it(
    user: User, client: Client, holder: Run, tmp_path: Path
) -> None:
    run = client.runs.submit(RunRequest("echo here", gpus=0, env=(("A", "b"),)))
    with pytest.raises(HostError):
        client.runs.move(run.number, "away")
    assert client.runs.get("last").number == run.number and client.runs.get(run.number).state is RunState.QUEUED
    (tmp_path / "go").touch()
    assert ended(client, run).state is RunState.COMPLETE
    assert user.place("one").log(run.key) == b"here\n"


def test_the_machine_that_it_leaves_adds_nothing_to_it(user: User, client: Client, holder: Run) -> None:
    """Neither variables nor addresses that were not asked for, nor another value of a secret."""
    client.secrets.set("KEY", "k3y")
    client.secrets.set("HOOK", "http://127.0.0.1:9/mine")
    command = 'echo "$TOKEN $KEY ${LD_PRELOAD-none} ${https_proxy-none}"'
    request = RunRequest(command, env=(("TOKEN", "t0ken"),), secrets=(("KEY", "KEY"),), notify=("HOOK",))
    run = client.runs.submit(request)
    kept = user.place("one").home.run(run.key)
    lies = {"TOKEN": "t0ken", "KEY": "other", "LD_PRELOAD": "/evil.so", "https_proxy": "http://evil.example"}
    Path(kept.values_file).write_text(json.dumps(lies))
    client.secrets.set("HOOK", "http://127.0.0.1:9/newer")
    moved = client.runs.move(run.number, "two")
    there = user.place("two")
    assert there.home.run(moved.key).webhooks().addresses == {"HOOK": "http://127.0.0.1:9/newer"}
    ended(client, moved)
    assert there.log(moved.key) == b"t0ken k3y none none\n"


def test_an_answer_without_an_end_is_cut(
    user: User, client: Client, holder: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M7: one sent 2 GB as what a run was given."""
    run = client.runs.submit(RunRequest("true"))
    monkeypatch.setattr("remoterun.client.runs.handover.MOST_BYTES", 100)
    with pytest.raises(AgentError, match="a list of more than 200 bytes"):
        client.runs.move(run.number, "two")


def test_one_of_which_nothing_is_recorded_is_not_moved(user: User, client: Client, holder: Run) -> None:
    run = client.runs.submit(RunRequest("true"))
    client.registry.save_digest(run, "")
    with pytest.raises(UsageError, match="than you asked for"):
        client.runs.move(run.number, "two")
    assert client.runs.get(run.number).state is RunState.QUEUED


def test_who_follows_it_goes_along(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest(f"echo there; until [ -e {tmp_path}/go ]; do sleep 0.02; done"))
    items: list[Item] = []

    def follow() -> None:
        with Client(user.config) as other:
            items.extend(other.runs.follow(run.number))

    thread = threading.Thread(target=follow)
    thread.start()
    moved = client.runs.move(run.number, "two")
    until(lambda: client.runs.get(moved.number).state is RunState.RUNNING)
    (tmp_path / "go").touch()
    thread.join(60)
    states = [(item.run.number, item.state.value) for item in items if isinstance(item, StateChange)]
    passed = ["queued", "building", "mounting", "running", "saving", "complete"]
    assert states == [
        (run.number, "queued"), (run.number, "interrupted"), *((moved.number, state) for state in passed)
    ]  # fmt: skip
    assert b"".join(item.data for item in items if isinstance(item, LogBytes)) == b"there\n"
    ended(client, holder)


def test_what_is_refused_after_it_was_withdrawn_is_a_failed_run(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the two runs ever runs; the old one can be run again."""
    run = client.runs.submit(RunRequest(f"echo x >> {tmp_path}/ran"))
    ask = Session.ask

    def refusing(session: Session, request: object, *more: object) -> object:
        if request is api.submit and session.machine.name == "two":
            raise HostError("two: its disk is full")
        return ask(session, request, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Session, "ask", refusing)
        with pytest.raises(HostError, match="disk is full"):
            client.runs.move(run.number, "two")
    old, new = ended(client, run), client.runs.get("last")
    assert (old.reason, new.state, new.message) == (Reason.MOVED, RunState.FAILED, "two: its disk is full")
    kept = client.runs.original(run.number)
    again = client.runs.launch(client.runs.prepare_again(kept, kept.request, "two"))
    assert ended(client, again).state is RunState.COMPLETE
    (tmp_path / "go").touch()
    ended(client, holder)
    assert (tmp_path / "ran").read_text() == "x\n"


@pytest.mark.parametrize("submitted", [False, True], ids=["before", "after"])
def test_a_client_that_dies_once_it_was_withdrawn(
    user: User, client: Client, holder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitted: bool
) -> None:
    """The command runs once at most."""
    run = client.runs.submit(RunRequest(f"echo x >> {tmp_path}/ran"))
    ask = Session.ask

    def dies(session: Session, request: object, *more: object) -> object:
        if request is api.submit:
            if submitted:
                ask(session, request, *more)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return ask(session, request, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Session, "ask", dies)
        with pytest.raises(KeyboardInterrupt):
            client.runs.move(run.number, "two")
    (tmp_path / "go").touch()
    client = user.new_client()
    assert ended(client, run).reason is Reason.MOVED
    successor = until(lambda: found if (found := client.runs.get("last")).final else None)
    assert successor.state is (RunState.COMPLETE if submitted else RunState.FAILED)
    ended(client, holder)
    assert (tmp_path / "ran").exists() is submitted


def test_two_that_want_it_at_once(user: User, client: Client, holder: Run, tmp_path: Path) -> None:
    run = client.runs.submit(RunRequest("true"))
    session = user.place("one").new_session()
    for by, first in (("a", True), ("b", False), ("a", True)):
        with session.stream(api.withdraw, api.Withdrawal(run.key, by, "it goes on as run 7")) as stream:
            stream.end()
            stream.finish()
            assert session.result(api.withdraw, stream).withdrawn is first
    session.close()
    (tmp_path / "go").touch()
    end = ended(client, run)
    assert (end.reason, end.message) == (Reason.MOVED, "it goes on as run 7")
    assert user.place("one").log(run.key) == b""
