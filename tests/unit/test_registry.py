"""The client's index of runs and uploads."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.states import OutputsSize, Reason, RunState, RunStatus
from remoterun.errors import HostError, NotFound, RemoterunError
from remoterun.model import MachineType, Run, Upload, new_key
from remoterun.registry import Registry

MACHINE = MachineType("k80", host="me@box", gpus=1, connect_timeout=3.5)


@pytest.fixture
def registry(tmp_path: Path) -> object:
    registry = Registry(tmp_path / "home" / "registry.db")
    yield registry
    registry.close()


def add(registry: Registry, command: str = "true", labels: tuple[str, ...] = ()) -> Run:
    return registry.add_run(new_key(), MACHINE, "home1", command, 100.0, "what", labels)


class TestRuns:
    def test_numbers_go_up_and_never_come_back(self, registry: Registry) -> None:
        runs = [add(registry) for _ in range(3)]
        assert [run.number for run in runs] == [1, 2, 3]
        registry.remove_run(runs[2])
        assert add(registry).number == 4
        assert registry.run("last").number == 4 and registry.run("2") == runs[1]

    def test_as_it_was_recorded(self, registry: Registry) -> None:
        run = add(registry, "echo 'é\n\"'", ("a", "b"))
        assert registry.run(run.number) == run
        assert (run.machine, run.state, run.labels) == (MACHINE, RunState.REQUESTED, ("a", "b"))

    @pytest.mark.parametrize("number", [0, -1, 7, "7", 10**30, "9" * 5000, 2**63])
    def test_absent(self, registry: Registry, number: int | str) -> None:
        with pytest.raises(NotFound):
            registry.run("last")
        add(registry)
        with pytest.raises(NotFound):
            registry.run(number)

    def test_the_newest_and_those_with_a_label(self, registry: Registry) -> None:
        for number in range(6):
            add(registry, str(number), ("even",) if number % 2 == 0 else ("odd", "x"))
        assert [run.command for run in registry.runs(2)] == ["4", "5"]
        assert [run.command for run in registry.runs(2, ["even"])] == ["2", "4"]
        assert [run.command for run in registry.runs(None, ["x", "even"])] == list("012345")

    def test_moves_are_guarded(self, registry: Registry) -> None:
        run = add(registry)
        assert registry.move(run, RunState.RUNNING, 5.0, started=4.0).started == 4.0
        assert registry.move(run, RunState.UPLOADING, 6.0).state is RunState.RUNNING
        ended = registry.move(run, RunState.FAILED, 7.0, reason="exit_nonzero", code=3)
        assert (ended.state, ended.reason, ended.code, ended.started) == (RunState.FAILED, Reason.EXIT_NONZERO, 3, 4.0)
        assert registry.move(run, RunState.COMPLETE, 8.0, code=0) == ended

    def test_corrected_by_its_host(self, registry: Registry) -> None:
        run = add(registry)
        outputs = OutputsSize(1, 2)
        status = RunStatus(run.key, RunState.COMPLETE, Reason.EXITED, 0, ended=9.0, outputs=outputs)
        seen = registry.see(run, status, 10.0)
        assert registry.run(run.number) == seen and seen.final and seen.last_seen == 10.0

    def test_reasons_of_a_newer_version(self, registry: Registry) -> None:
        run = add(registry)
        registry.move(run, RunState.FAILED, 1.0, reason="invented later")
        assert registry.run(run.number).reason is None

    def test_abandoned(self, registry: Registry, tmp_path: Path) -> None:
        assert not registry.abandoned(add(registry))
        body = (
            "import sys; from pathlib import Path; from remoterun.registry import Registry;"
            "from remoterun.model import MachineType, new_key;"
            "Registry(Path(sys.argv[1])).add_run(new_key(), MachineType('m'), 'h', 'c', 1.0)"
        )
        subprocess.run([sys.executable, "-c", body, str(tmp_path / "home/registry.db")], check=True)
        assert registry.abandoned(registry.run("last"))


class TestWhatAHostSays:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"code": 256}, {"code": -256}, {"started": -1.0}, {"ended": 1e12},
        ],
    )  # fmt: skip
    def test_nonsense_is_not_believed(self, registry: Registry, wrong: dict[str, Any]) -> None:
        run = add(registry)
        status = RunStatus(run.key, RunState.RUNNING, started=1.0)
        assert registry.see(run, status, 2.0).state is RunState.RUNNING
        with pytest.raises(HostError, match="makes no sense"):
            registry.see(run, status._replace(**wrong), 3.0)
        assert registry.run(run.number).last_seen == 2.0

    def test_what_an_earlier_version_believed(self, registry: Registry) -> None:
        run = add(registry)
        registry._change("UPDATE runs SET status = ?", ['{"key": "x", "state": "running", "started": "yesterday"}'])
        assert [each.key for each in registry.runs()] == [run.key]


class TestUploads:
    def test_the_newest_first(self, registry: Registry) -> None:
        """By our clock: that of `h2` is wrong."""

        def upload(name: str, home: str, created: float) -> Upload:
            return Upload(name, 1, "ab" * 32, 10, 1, created, "k80", home, "/x")

        for now, item in enumerate((upload("doom", "h1", 7.0), upload("doom", "h2", 5.0), upload("a", "h1", 3.0))):
            registry.record_upload(item, MACHINE, now)
        assert [(item.name, item.home_id) for item, _ in registry.uploads()] == [
            ("a", "h1"),
            ("doom", "h2"),
            ("doom", "h1"),
        ]
        registry.record_upload(upload("doom", "h1", 9.0), MACHINE, None)
        assert [item.home_id for item, _ in registry.uploads("doom")] == ["h2", "h1"]
        registry.record_upload(upload("doom", "h1", 4.0), MACHINE, 9.0)
        assert [(item.home_id, machine) for item, machine in registry.uploads("doom")] == [
            ("h1", MACHINE),
            ("h2", MACHINE),
        ]
        registry.forget_upload("doom", "h1")
        registry.forget_upload("doom", "h1")
        assert [item.home_id for item, _ in registry.uploads("doom")] == ["h2"]


class TestFile:
    def test_private_and_of_this_version(self, registry: Registry, tmp_path: Path) -> None:
        file = tmp_path / "home" / "registry.db"
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version=99")
        database.close()
        with pytest.raises(RemoterunError, match="newer"):
            Registry(file)

    @pytest.mark.parametrize("content", [b"no database at all " * 50])
    def test_damaged(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "registry.db").write_bytes(content)
        with pytest.raises(RemoterunError, match="can't be used"):
            Registry(tmp_path / "registry.db")

    def test_many_at_once_from_nothing(self, tmp_path: Path) -> None:
        body = (
            "import sys; from pathlib import Path; from remoterun.registry import Registry;"
            "from remoterun.model import MachineType, new_key\n"
            "registry = Registry(Path(sys.argv[1]))\n"
            "for _ in range(15):\n"
            "    run = registry.add_run(new_key(), MachineType('m'), 'h', 'c', 1.0)\n"
            "    print(run.number)\n"
        )
        file = str(tmp_path / "registry.db")
        started = [subprocess.Popen([sys.executable, "-c", body, file], stdout=subprocess.PIPE) for _ in range(8)]
        numbers = [int(line) for process in started for line in process.communicate(timeout=30)[0].split()]
        assert sorted(numbers) == list(range(1, 121)) and [process.returncode for process in started] == [0] * 8
