"""Who uses a machine and who waits for it: GPUs of one run, the place in the line, and guesses from earlier runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.cli.render import machine_views
from remoterun.client import Client
from remoterun.client.runs.following import Note
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, MachineType, Run, RunRequest
from tests.lab import gpu
from tests.lab.gpu import Gpu, GpuProcess
from tests.workshop import User, begun, create_run, ended, until

SHOW = 'echo "gpus=$CUDA_VISIBLE_DEVICES"'


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine has two GPUs, as far as `nvidia-smi` says; the folder to change them in."""
    folder = tmp_path / "cards"
    folder.mkdir()
    gpu.install(folder, [Gpu(), Gpu()], str(folder / "share/lab-gpus"))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def one_slot(user: User) -> Client:
    """A client of `one`, which takes one run at a time."""
    user.config = replace(
        user.config, machines={name: replace(each, slots=1) for name, each in user.config.machines.items()}
    )
    return user.new_client()


def waits(file: Path) -> str:
    """A command that ends once the file is there."""
    return f"until [ -e {file} ]; do sleep 0.02; done"


def log(user: User, run: Run) -> str:
    return user.place("one").log(run.key).decode()


class TestGpusOfARun:
    def test_as_many_as_it_asks_for(self, cards: Path, user: User) -> None:
        for asked, shown in ((1, {Gpu.uuid(0)}), (ALL_GPUS, {Gpu.uuid(0), Gpu.uuid(1)}), (0, {""}), (None, {""})):
            run = ended(user.client, user.client.runs.submit(RunRequest(SHOW, gpus=asked)))
            assert set(log(user, run).strip().partition("=")[2].split(",")) == shown, asked
            assert run.host == user.config.machines["one"], "one conversation for all runs of a machine"

    def test_the_setting_of_the_machine_where_nothing_is_asked_for(self, cards: Path, user: User) -> None:
        user.config = replace(user.config, machines={"one": replace(user.config.machines["one"], gpus=2)})
        client = user.new_client()
        assert "000000000001" in log(user, ended(client, client.runs.submit(RunRequest(SHOW))))
        assert log(user, ended(client, client.runs.submit(RunRequest(SHOW, gpus=0)))) == "gpus=\n"

    def test_more_than_there_are(self, cards: Path, user: User) -> None:
        with pytest.raises(UsageError, match="asks for 3 GPUs, and its machine has 2"):
            user.client.runs.submit(RunRequest(SHOW, gpus=3))
        assert not user.client.connections.registry.runs(), "no number is lost"
        place = user.place("one")
        handed = create_run(place.home, place.spec("true", gpus=4)).key  # as by an older client
        status = place.until_status(handed)
        assert (status["state"], status["reason"]) == ("failed", "no_capacity") and "has 2" in status["message"]

    def test_all_of_none(self, user: User) -> None:
        with pytest.raises(UsageError, match="asks for all GPUs, and `one` has none"):
            user.client.runs.submit(RunRequest(SHOW, gpus=ALL_GPUS))
        assert not user.client.connections.registry.runs()

    def test_several_nodes(self, user: User) -> None:
        """Only where somebody else starts them at once; a pool's machines are asked one by one."""
        pool = MachineType("both", pool=("one", "two"))
        user.config = replace(user.config, machines={**user.config.machines, "both": pool})
        client = user.new_client()
        for name in ("one", "both"):
            with pytest.raises(UsageError, match="`--nodes` needs a cluster"):
                client.runs.submit(RunRequest("true", nodes=2), machine=name)
        assert not client.connections.registry.runs()
        assert ended(client, client.runs.submit(RunRequest("true", nodes=1))).code == 0


class TestTheLine:
    def test_its_place_and_who_runs(self, user: User, one_slot: Client, tmp_path: Path) -> None:
        go, client = tmp_path / "go", one_slot
        first = begun(client, client.runs.submit(RunRequest(waits(go))))
        second, third = (client.runs.submit(RunRequest(text)) for text in (waits(go), "echo third"))
        runs = {run.number: run for run in client.runs.list()}
        places = [(line.place, line.of, line.holders) for run in (second, third) if (line := runs[run.number].line)]
        assert places == [(1, 2, (first.number,)), (2, 2, (first.number,))]
        assert runs[first.number].line is None
        known, _ = client.runs.info(third.number)
        assert known.line is not None and known.line.place == 2
        note = next(item for item in client.runs.follow(third.number) if isinstance(item, Note) and item.kind == "line")
        assert note.text.startswith("2nd of 2 on one") and note.text.endswith(f"; run {first.number} is running")
        go.touch()
        assert ended(client, third).line is None

    def test_a_run_of_another_client_has_no_number_here(
        self, user: User, one_slot: Client, tmp_path: Path, new_client_of: Callable[[User], Client]
    ) -> None:
        go, other = tmp_path / "go", new_client_of(user)
        begun(other, other.runs.submit(RunRequest(waits(go))))
        mine = one_slot.runs.submit(RunRequest("true"))
        line = one_slot.runs.get(mine.number).line
        assert line is not None and line.holders == (None,)
        go.touch()
        ended(one_slot, mine)


class TestStatus:
    def test_each_machine_its_gpus_runs_and_lines(
        self, cards: Path, user: User, one_slot: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        go = tmp_path / "go"
        gpu.write_processes(cards, [GpuProcess(os.getpid(), gpu=0, name="theirs")])
        first = begun(one_slot, one_slot.runs.submit(RunRequest(waits(go), gpus=1)))
        second, third = (one_slot.runs.submit(RunRequest(waits(go), gpus=count)) for count in (1, 0))
        begun(one_slot, third)
        found = {status.machine.name: status for status in one_slot.machines.status(wait=60)}
        assert set(found) == {"one", "two", "local"} and all(status.there for status in found.values())
        there = found["one"].there
        assert there is not None and there.cpus and there.memory_free and there.disk_free and there.slots == 1
        assert [(card.run, [user.name for user in card.others]) for card in there.gpus] == [
            ("", ["theirs"]),
            (first.key, []),
        ]
        assert {run.number: (run.place, run.of) for run in there.runs} == {
            first.number: (0, 0),
            second.number: (1, 1),
            third.number: (0, 0),
        }
        machine_views.machines_status([found["one"]], as_json=False)
        said = capsys.readouterr().out
        assert re.search(rf"GPU 1 +Tesla K80, 0 bytes of 12 GB: run {first.number}, running for", said), said
        assert re.search(r"GPU 0 .*: theirs of \S+ \(process \d+\)", said)
        assert f"slots    0 of 1 free\n  waits    run {second.number}, next in line for 1 GPU: " in said
        go.touch()
        gpu.write_processes(cards, [])
        for run in (first, second, third):
            ended(one_slot, run)

    def test_one_that_is_away_holds_nobody_up(
        self, user: User, silent: MachineType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = ended(user.client, user.client.runs.submit(RunRequest("true")))
        user.client.connections.registry.set_host(run, silent, "x" * 16)
        user.config = replace(user.config, machines={"silent": silent, **user.config.machines})
        client = user.new_client()
        client.machines.session(client.machines.get("two"))  # starting an agent may take seconds by itself
        # the one that is there may be slow, too
        found = until(lambda: (seen := client.machines.status(["silent", "two"]))[1].there is not None and seen)
        assert [status.there is not None for status in found] == [False, True]
        assert found[0].unreached == "silent does not answer within 2 s"
        assert found[0].last_seen == user.client.connections.registry.run(run.number).last_seen
        machine_views.machines_status(found, as_json=True)
        assert [each["reachable"] for each in json.loads(capsys.readouterr().out)] == [False, True]


@pytest.fixture
def new_client_of(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[User], Client]:
    """Another laptop of the same machines."""

    def make(user: User) -> Client:
        client = Client(replace(user.config, home=tmp_path / "other laptop"))
        request.addfinalizer(client.close)
        return client

    return make
