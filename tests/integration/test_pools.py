"""Pools: which of several machines gets a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.client.runs import placement
from remoterun.client.runs.preparing import Talk
from remoterun.errors import HostError, UsageError
from remoterun.model import MachineType, Run, RunRequest
from tests.workshop import User, begun, ended

AWAY = MachineType("away", host="me@127.0.0.1:1", connect_timeout=5)


@pytest.fixture(autouse=True)
def time_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents start slowly on a machine that has much to do."""
    monkeypatch.setattr(placement, "POOL_WAIT", 60.0)


def of_a_pool(user: User, *names: str, slots: int = 1, **more: MachineType) -> Client:
    """A client whose `lab` are these machines, each of which takes so many runs at a time."""
    known = {name: replace(machine, slots=slots) for name, machine in user.config.machines.items()}
    lab = MachineType("lab", pool=names)
    user.config = replace(user.config, default="lab", machines={**known, **more, "lab": lab})
    return user.new_client()


def host(run: Run) -> str:
    assert run.placed is not None
    return run.placed.name


def test_the_first_that_is_free_else_the_shortest_line(
    user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = of_a_pool(user, "two", "one")
    request = RunRequest(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    runs = [client.runs.submit(request) for _ in range(2)]
    assert [host(begun(client, run)) for run in runs] == ["two", "one"]
    runs += [client.runs.submit(request) for _ in range(3)]
    assert [host(run) for run in runs[2:]] == ["two", "one", "two"]
    shown = {run.number: run for run in client.runs.list()}
    assert {run.where for run in shown.values()} == {"lab (one)", "lab (two)"}
    last = shown[runs[-1].number]
    assert last.line is not None and (last.line.machine, last.line.place, last.line.of) == ("two", 2, 2)
    run_views.runs_table(list(shown.values()), verbose=False)
    assert "lab (two)" in capsys.readouterr().out
    assert (last.record()["machine"], last.record()["host"]) == ("lab", "two")
    (tmp_path / "go").touch()
    for run in runs:
        assert ended(client, run).state is RunState.COMPLETE
    known, details = client.runs.info(runs[0].number)
    assert details["spec"]["machine"] == "two", "hints that the agent gives name a machine that can be asked"
    run_views.run_info(known, details)
    assert "machine       two of lab (this machine)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (("away", "gone"), "gone is passed over: there is no machine type `gone`; away is "),
        (("silent",), "silent is passed over: silent does not answer within 1"),
    ],
)
def test_who_is_away_or_silent_is_passed_over_and_named(
    user: User, silent: MachineType, others: tuple[str, ...], told: str
) -> None:
    client = of_a_pool(user, *others, "two", away=AWAY, silent=silent)
    said: list[str] = []
    run = client.runs.launch(client.runs.prepare(RunRequest("true")), Talk(note=said.append))
    assert host(run) == "two"
    assert len(said) == 1 and said[0].startswith(told)
    ended(client, run)


def test_all_are_away(user: User, silent: MachineType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "POOL_WAIT", 1.0)
    client = of_a_pool(user, "away", "silent", away=AWAY, silent=silent)
    with pytest.raises(HostError, match="no machine of the pool `lab` takes the run") as caught:
        client.runs.submit(RunRequest("true"))
    away, late = (caught.value.evidence or "").splitlines()
    assert away.startswith("away: ") and late == "silent: silent does not answer within 1 s"
    assert not client.connections.registry.runs(), "no number is lost"


def test_what_a_machine_lacks(user: User) -> None:
    client = of_a_pool(user, "one", "two")
    with pytest.raises(HostError) as caught:
        client.runs.submit(RunRequest("true", gpus=2))
    assert caught.value.evidence == "\n".join(
        f"{name}: the run asks for 2 GPUs, and its machine has none" for name in ("one", "two")
    )
    assert not client.connections.registry.runs(), "no number is lost"


def test_where_one_machine_is_meant(user: User, tmp_path: Path) -> None:
    client = of_a_pool(user, "one", "two")
    (tmp_path / "data").write_text("data\n")
    for ask in (
        lambda: client.machines.df("lab"),
        lambda: client.machines.gc("lab"),
        lambda: client.machines.check("lab"),
        lambda: client.machines.ssh("lab"),
        lambda: client.machines.fabric("lab"),
    ):
        with pytest.raises(UsageError, match="`lab` is a pool of several machines") as caught:
            ask()
        assert caught.value.hint == "name one of them: one, two"
    for to in ("lab", None):  # the default one
        assert client.uploads.upload(tmp_path / "data", "doom", to).upload.machine == "one", "a run brings it elsewhere"
    assert [upload.name for upload in client.uploads.list()] == ["doom"]
    assert [status.machine.name for status in client.machines.status(["lab"])] == ["one", "two"]


def test_a_pool_of_the_registry_is_as_it_was(user: User) -> None:
    client = of_a_pool(user, "one", "two")
    run = ended(client, client.runs.submit(RunRequest("true")))
    assert client.connections.registry.run(run.number).machine == MachineType("lab", pool=("one", "two"))
    assert json.loads(json.dumps(run.record()))["machine"] == "lab"
