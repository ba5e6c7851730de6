"""The client's index of runs and uploads."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.records import from_json
from remoterun.agent.shared.states import Reason, RunState
from remoterun.errors import NotFound, RemoterunError
from remoterun.model import MachineType, Renting, Run, Upload, by_our_clock, new_key
from remoterun.registry import Registry
from remoterun.registry.database import OLDEST
from tests.recorder import Recorded
from tests.workshop import fill

MACHINE = MachineType("k80", host="me@box", gpus=1, connect_timeout=3.5)


@pytest.fixture
def registry(tmp_path: Path) -> object:
    registry = Registry(tmp_path / "home" / "registry.db")
    yield registry
    registry.close()


def add(registry: Registry, command: str = "true", labels: tuple[str, ...] = ()) -> Run:
    return registry.add_run(new_key(), MACHINE, command, 100.0, "what", labels)


def said(run: Run, **status: Any) -> RunStatus:
    return by_our_clock(from_json(RunStatus, {"key": run.key, **status}))


class TestRuns:
    def test_numbers_go_up_and_never_come_back(self, registry: Registry) -> None:
        runs = [add(registry) for _ in range(3)]
        assert [run.number for run in runs] == [1, 2, 3]
        registry.remove_run(runs[2])
        assert add(registry).number == 4
        assert registry.run("last").number == 4 and registry.run("2") == runs[1]

    def test_labels_of_two_clients(self, registry: Registry, tmp_path: Path) -> None:
        run = add(registry, labels=("old",))
        with contextlib.closing(Registry(tmp_path / "home" / "registry.db")) as other:
            known = other.run(1)
            registry.label(run, ["a"], ["old"])
            assert other.label(known, ["b"], []).labels == ("a", "b")

    def test_what_a_person_says_of_a_run(self, registry: Registry) -> None:
        run = add(registry)
        assert (run.pinned, run.hidden, run.remark) == (False, False, "")
        registry.annotate(run, pinned=True)
        noted = registry.annotate(run, remark="best so far é\udcff")
        assert noted == run._replace(pinned=True, remark="best so far é\udcff")
        assert registry.annotate(run, pinned=False, hidden=True, remark="") == run._replace(hidden=True)
        assert [each.number for each in registry.runs()] == [1] and registry.runs(hidden=False) == []
        assert registry.update(run, said(run, state="running"), 5.0).number == 1 and registry.run(1).hidden

    def test_changes_of_another_process_are_seen(self, registry: Registry, tmp_path: Path) -> None:
        before = registry.changes_of_others()
        run = add(registry)
        assert registry.changes_of_others() == before
        with contextlib.closing(Registry(tmp_path / "home" / "registry.db")) as other:
            other.label(run, ["b"], [])
        assert registry.changes_of_others() != before

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

    def test_the_newest_ones(self, registry: Registry) -> None:
        for number in range(6):
            add(registry, str(number))
        assert [run.command for run in registry.runs(2)] == ["4", "5"]
        assert [run.command for run in registry.runs()] == list("012345")

    def test_moves_are_guarded(self, registry: Registry) -> None:
        run = add(registry)
        assert registry.change_state(run, RunState.RUNNING, 5.0, started=4.0).started == 4.0
        assert registry.change_state(run, RunState.UPLOADING, 6.0).state is RunState.RUNNING
        ended = registry.change_state(run, RunState.FAILED, 7.0, reason="exit_nonzero", code=3)
        assert (ended.state, ended.reason, ended.code, ended.started) == (RunState.FAILED, Reason.EXIT_NONZERO, 3, 4.0)
        assert registry.change_state(run, RunState.COMPLETE, 8.0, code=0) == ended

    def test_corrected_by_its_host(self, registry: Registry) -> None:
        run = add(registry)
        status = {"state": "complete", "reason": "exited", "code": 0, "ended": 9.0, "outputs": {"files": 1, "size": 2}}
        seen = registry.update(run, said(run, **status), 10.0)
        assert registry.run(run.number) == seen and seen.final and seen.last_seen == 10.0

    def test_reasons_of_a_newer_version(self, registry: Registry) -> None:
        run = add(registry)
        registry.change_state(run, RunState.FAILED, 1.0, reason="invented later")
        assert registry.run(run.number).reason is None

    def test_the_host_that_was_got_stands_beside_what_was_asked_for(self, registry: Registry) -> None:
        run = add(registry)
        assert (run.placed, run.host, run.home_id) == (None, MACHINE, None)
        got = MachineType("k80-7", host="me@10.0.0.7")
        placed = registry.set_host(run, got, "home1")
        assert (placed.machine, placed.placed, placed.host, placed.home_id) == (MACHINE, got, got, "home1")
        assert registry.run(run.number) == placed

    def test_the_times_of_the_first_steps(self, registry: Registry) -> None:
        run = registry.change_state(add(registry), RunState.PROVISIONING, 5.0)
        run = registry.change_state(run, RunState.UPLOADING, 6.0)
        run = registry.update(run, said(run, state="running", started=9.0), 9.5)
        assert (run.provisioning, run.uploading) == (5.0, 6.0) and registry.run(run.number) == run
        record = run.record()
        assert (record["provisioning"], record["uploading"]) == ("1970-01-01T00:00:05.000Z", "1970-01-01T00:00:06.000Z")

    def test_abandoned(self, registry: Registry, tmp_path: Path) -> None:
        assert not registry.abandoned(add(registry))
        body = (
            "import sys; from pathlib import Path; from remoterun.registry import Registry;"
            "from remoterun.model import MachineType, new_key;"
            "Registry(Path(sys.argv[1])).add_run(new_key(), MachineType('m'), 'c', 1.0)"
        )
        subprocess.run([sys.executable, "-c", body, str(tmp_path / "home/registry.db")], check=True)
        assert registry.abandoned(registry.run("last"))

    @pytest.mark.parametrize(
        ("changed", "is_gone"),
        [
            ({}, False),
            ({"began": "1"}, True),
            ({"boot": "before", "processes": "pid:[1]"}, True),
            ({"boot": "before", "name": "desktop", "pid": 999999999}, False),
            ({"processes": "pid:[1]", "pid": 999999999}, False),
        ],
        ids=["itself", "its number is another's", "a boot before", "another machine", "another container"],
    )
    def test_a_client_is_more_than_its_number(
        self, registry: Registry, tmp_path: Path, changed: dict[str, Any], is_gone: bool
    ) -> None:
        run = add(registry)
        with contextlib.closing(sqlite3.connect(tmp_path / "home/registry.db")) as database, database:
            pid, began, machine = json.loads(database.execute("SELECT client_pid FROM runs").fetchone()[0])
            client = {"pid": pid, "began": began, **machine, **changed}
            stored = json.dumps([client.pop("pid"), client.pop("began"), client])
            database.execute("UPDATE runs SET client_pid = ?", (stored,))
        assert registry.abandoned(run) is is_gone


class TestWhatAHostSays:
    def test_nonsense_is_not_believed(self, recorded: Recorded) -> None:
        status = {"key": "k", "state": "running", "started": 1.0}
        assert by_our_clock(from_json(RunStatus, status)).state is RunState.RUNNING
        recorded.cases(lambda wrong: by_our_clock(from_json(RunStatus, {**status, **json.loads(wrong)})), ValueError)

    def test_only_what_is_known_is_kept(self, registry: Registry) -> None:
        """SQLite would make nothing any more of a status that is nested too deep, or of half a character."""
        deep: dict[str, Any] = {}
        for _ in range(2000):
            deep = {"deeper": deep}
        run = add(registry)
        status = {"state": "running", "more": deep, "message": "\udcff" * 3 + "x" * 100_000}
        seen = registry.update(run, said(run, **status), 2.0)
        assert registry.run(run.number) == seen and seen.message is not None
        assert seen.message.startswith("???x") and len(seen.message) == 10_000
        assert registry.change_state(run, RunState.COMPLETE, 3.0, code=0).final

    def test_by_our_clock(self) -> None:
        """Its own is two days behind."""
        status = {"key": "k", "state": "complete", "started": 1000.0, "ended": 1010.0}
        seen = by_our_clock(from_json(RunStatus, status), -172_800.0)
        assert (seen.started, seen.ended, seen.created) == (173_800.0, 173_810.0, None)

    @pytest.mark.parametrize("home_id", ["\ud800", "\udcff", "a\x00b"])
    def test_any_name_of_a_home(self, registry: Registry, home_id: str) -> None:
        placed = registry.set_host(add(registry), MACHINE, home_id)
        assert placed.placed is not None and registry.runs() == [placed]


class TestUploads:
    def test_the_newest_first(self, registry: Registry) -> None:
        """By our clock: that of `h2` is wrong."""

        def upload(name: str, home: str, created: float) -> Upload:
            return Upload(name, 1, "ab" * 32, 10, 1, created, "k80", home, "/x")

        for now, item in enumerate((upload("doom", "h1", 7.0), upload("doom", "h2", 5.0), upload("a", "h1", 3.0))):
            registry.uploads.record(item, MACHINE, now)
        assert [(item.name, item.home_id) for item, _ in registry.uploads.versions()] == [
            ("a", "h1"),
            ("doom", "h2"),
            ("doom", "h1"),
        ]
        registry.uploads.record(upload("doom", "h1", 9.0), MACHINE, None)
        assert [item.home_id for item, _ in registry.uploads.versions("doom")] == ["h2", "h1"]
        registry.uploads.record(upload("doom", "h1", 4.0), MACHINE, 9.0)
        assert [(item.home_id, machine) for item, machine in registry.uploads.versions("doom")] == [
            ("h1", MACHINE),
            ("h2", MACHINE),
        ]
        registry.uploads.forget_copy("doom", "h1")
        registry.uploads.forget_copy("doom", "h1")
        assert [item.home_id for item, _ in registry.uploads.versions("doom")] == ["h2"]


A, B, C = (letter * 64 for letter in "abc")


class TestNumbers:
    """A number means one content, on whatever machine."""

    def see(
        self, registry: Registry, home: str, label: int, digest: str, created: float = 1.0, now: float | None = None
    ) -> int:
        upload = Upload("doom", label, digest, 10, 1, created, home, home)
        return registry.uploads.record(upload, replace(MACHINE, name=home), now).version

    def known(self, registry: Registry) -> list[tuple[int, str, str]]:
        """(number, the first letter of the content, home), the newest first."""
        return [(each.version, each.digest[0], each.home_id) for each, _ in registry.uploads.versions("doom")]

    def test_the_same_content_has_one_number_on_all_machines(self, registry: Registry) -> None:
        assert self.see(registry, "local", 4, A) == 4, "as another client calls it"
        assert self.see(registry, "box", 2, A) == 4
        assert self.known(registry) == [(4, "a", "local"), (4, "a", "box")]
        assert self.see(registry, "box", 1, B, now=6.0) == 5, "what is uploaded gets the next one"
        assert registry.uploads.highest("doom") == (5, B) and registry.uploads.highest("other") == (0, "")

    def test_two_contents_never_share_one(self, registry: Registry) -> None:
        """Two laptops have used the name: box has another content as its version 1."""
        assert self.see(registry, "local", 1, A, now=5.0) == 1
        assert self.see(registry, "box", 1, B, created=2.0) == 2
        assert [number for number, _, _ in self.known(registry)] == [1, 2], "the newest is the one that is newer"
        assert self.see(registry, "box", 1, B) == 2, "however often it is seen"
        assert self.see(registry, "box", 2, C, created=7.0) == 3, "2 is taken here"
        assert [number for number, _, _ in self.known(registry)] == [1, 3, 2]

    def test_which_one_is_the_newest_is_not_for_any_home_to_say(self, registry: Registry) -> None:
        """Others may upload there, too: what they did is the newest one on that home only."""
        assert self.see(registry, "local", 1, A, now=5.0) == 1
        assert self.see(registry, "box", 1, A) == 1
        assert self.see(registry, "box", 2, B, created=9e9) == 2
        assert self.see(registry, "box", 10**18, C, created=9e9) == 3, "no home can have so many"
        assert self.known(registry)[0] == (1, "a", "local")
        assert self.see(registry, "local", 4, "d" * 64, created=6.0) == 4, "as another client calls it"
        assert self.known(registry)[0] == (1, "a", "local")
        newest = [registry.uploads.versions("doom", home_id=home)[0][0].version for home in ("local", "box", "other")]
        assert newest == [4, 3, 1]
        assert self.see(registry, "other", 5, "e" * 64, now=7.0) == 5, "what this client uploads is newer than that"
        assert registry.uploads.versions("doom", home_id="local")[0][0].version == 5

    def test_what_others_uploaded_is_in_the_order_of_its_home(self, registry: Registry) -> None:
        for number, digest in ((1, A), (2, B), (3, C)):
            self.see(registry, "box", number, digest, created=float(number))
        assert [number for number, _, _ in self.known(registry)] == [3, 2, 1]

    def test_a_content_that_comes_back_is_a_version_of_its_own(self, registry: Registry, tmp_path: Path) -> None:
        assert [self.see(registry, "box", number, digest, now=float(number)) for number, digest in (
            (1, A), (2, B), (3, A),
        )] == [1, 2, 3]  # fmt: skip
        with contextlib.closing(Registry(tmp_path / "other.db")) as other:
            assert [self.see(other, "box", *seen) for seen in ((2, B, 2.0), (1, A, 3.0))] == [2, 1]
            assert [registry.uploads.versions("doom")[0][0].version for registry in (registry, other)] == [3, 1]

    def test_a_number_is_not_given_again_after_its_version_was_removed(self, registry: Registry) -> None:
        for number, digest in ((1, A), (2, B)):
            self.see(registry, "box", number, digest, now=float(number))
        registry.uploads.forget_copy("doom", "box", B)
        registry.uploads.remove("doom", 2)
        assert self.known(registry) == [(1, "a", "box")] and registry.uploads.highest("doom") == (2, B)
        assert self.see(registry, "box", 2, C, now=8.0) == 3
        assert self.see(registry, "box", 2, B) == 2, "it is there again"
        registry.uploads.forget_copy("doom", "box")
        assert self.known(registry) == [] and registry.uploads.highest("doom")[0] == 0, (
            "nobody has any: the name is free"
        )

    def test_who_read_what(self, registry: Registry) -> None:
        self.see(registry, "box", 1, A, now=1.0)
        one, two = add(registry), registry.add_run("k2", MACHINE, "true", 1.0)
        for run in (two, one, two):
            registry.uploads.record_read(run, "doom", A)
        assert registry.uploads.readers("doom") == {A: [one.number, two.number]} and registry.uploads.readers("x") == {}
        registry.remove_run(one)
        assert registry.uploads.readers("doom") == {A: [two.number]}


VERSION_10 = """
    CREATE TABLE old (
        number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, machine TEXT NOT NULL, host TEXT,
        home_id TEXT, state TEXT NOT NULL, command TEXT NOT NULL, description TEXT, labels TEXT NOT NULL DEFAULT '[]',
        created REAL NOT NULL, last_seen REAL, client_pid INTEGER, status TEXT NOT NULL DEFAULT '{}',
        steps TEXT NOT NULL DEFAULT '{}', renting TEXT, again TEXT NOT NULL DEFAULT '', asked TEXT NOT NULL DEFAULT '',
        pinned INTEGER NOT NULL DEFAULT 0, hidden INTEGER NOT NULL DEFAULT 0, remark TEXT NOT NULL DEFAULT ''
    );
    INSERT INTO old SELECT number, key, machine, json_remove(placed, '$.queue', '$.prefix'), home_id, state, command,
        description, labels, created, last_seen, client_pid, status, '{"provisioning": 5.0}', renting, again, digest,
        pinned, 0, remark FROM runs;
    DROP TABLE runs;
    ALTER TABLE old RENAME TO runs;
    PRAGMA user_version=10;
"""
"""Makes a file of today's as that version had it: its columns can't be empty where these can."""


class TestFile:
    def test_private_and_of_this_version(self, registry: Registry, tmp_path: Path) -> None:
        add(registry)
        file = tmp_path / "home" / "registry.db"
        beside = [file.with_name(f"registry.db{end}") for end in ("", "-wal", "-shm")]
        assert [stat.S_IMODE(path.stat().st_mode) for path in beside] == [0o600] * 3
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version=99")
        database.close()
        with pytest.raises(RemoterunError, match="made by a newer remoterun"):
            Registry(file)

    def test_of_the_version_before(self, registry: Registry, tmp_path: Path) -> None:
        """Runs stay, with all that was known of them, and the next one gets the next number."""
        run = registry.set_host(add(registry, labels=["a"]), MACHINE, "h")
        run = registry.annotate(run, pinned=True, remark="é\udcff")
        run = registry.change_state(run, RunState.PROVISIONING, 5.0)
        registry.save_digest(run, "d")
        file = tmp_path / "home" / "registry.db"
        with sqlite3.connect(file) as database:
            database.executescript(VERSION_10)
        database.close()
        with contextlib.closing(Registry(file)) as again:
            assert again.run(run.number) == run and again.asked(run) == "d" and again.hosts() == [MACHINE]
            later = again.set_host(add(again), MACHINE, "h")
            assert later.number == run.number + 1 and again.hosts() == [MACHINE]

    def test_of_a_version_before_the_oldest(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "registry.db") as database:
            database.execute(f"PRAGMA user_version={OLDEST - 1}")
        database.close()
        with pytest.raises(RemoterunError, match="from before its first release"):
            Registry(tmp_path / "registry.db")

    def test_a_fact_that_is_new_has_its_column(self, registry: Registry, tmp_path: Path) -> None:
        run = registry.annotate(add(registry), remark="r")
        file = tmp_path / "home" / "registry.db"
        with sqlite3.connect(file) as database:
            database.execute("ALTER TABLE runs DROP COLUMN pinned")
        database.close()
        with contextlib.closing(Registry(file)) as again:
            assert again.run(run.number) == run and again.annotate(run, pinned=True).pinned

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "registry.db").write_bytes(b"no database at all " * 50)
        with pytest.raises(RemoterunError, match="can't be used"):
            Registry(tmp_path / "registry.db")


class TestLostFiles:
    def test_one_that_was_emptied_is_not_a_new_one(self, tmp_path: Path) -> None:
        file = tmp_path / "registry.db"
        with contextlib.closing(Registry(file)) as registry:
            add(registry)
        file.write_bytes(b"")
        with pytest.raises(RemoterunError, match="is empty, and it was not") as caught:
            Registry(file)
        assert caught.value.hint is not None and caught.value.hint.endswith(f"`rm {file}`")
        file.unlink()
        with contextlib.closing(Registry(file)) as registry:
            assert registry.runs() == [], "what the hint says lets a new one begin"

    def test_one_whose_making_was_cut(self, tmp_path: Path) -> None:
        (tmp_path / "registry.db").touch()
        with contextlib.closing(Registry(tmp_path / "registry.db")) as registry:
            assert add(registry).number == 1


class TestADiskThatCannotBeWritten:
    """What is there is read, what is learned is known as long as the process lives, and one line says so."""

    def looked_at(self, file: Path, full: str) -> None:
        warnings: list[str] = []
        with contextlib.closing(Registry(file, warnings.append)) as registry:
            (run,) = registry.runs()
            assert (run.command, run.state) == ("true", RunState.QUEUED)
            running = registry.update(run, said(run, state="running", started=5.0), 6.0)
            assert running.state is RunState.RUNNING
            ended = registry.change_state(running, RunState.FAILED, 7.0, reason="killed", code=9)
            assert (ended.state, ended.reason, ended.code, ended.started) == (RunState.FAILED, Reason.KILLED, 9, 5.0)
            registry.mark_abandoned(run)
            assert registry.abandoned(run)
            with pytest.raises(RemoterunError, match=full):
                registry.save_renting(run, Renting(9.0, 2, 1, "s3://songs"))
            seen = registry.save_renting(run._replace(renting=Renting(9.0, 3, 1, "")), Renting(9.0, 2, 1, "s3://songs"))
            assert registry.run(1) == seen and (seen.state, seen.code, seen.attempt) == (RunState.FAILED, 9, 1)
            with pytest.raises(RemoterunError, match=full) as caught:
                add(registry)
            assert caught.value.hint is not None
        assert len(warnings) == 1 and re.search(full, warnings[0])
        with contextlib.closing(Registry(file, warnings.append)) as registry:
            assert registry.run(1).state is RunState.QUEUED, "nothing was written"

    def test_once_there_is_room_again_the_file_is_read_and_written(
        self, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = small_disk("2m")
        warnings: list[str] = []
        with contextlib.closing(Registry(folder / "registry.db", warnings.append)) as registry:
            run = add(registry)
            before = set(folder.iterdir())
            fill(folder)
            assert registry.change_state(run, RunState.QUEUED, 2.0).state is RunState.QUEUED and len(warnings) == 1
            version = registry.changes_of_others()
            for filler in set(folder.iterdir()) - before:
                filler.unlink()
            monkeypatch.setattr(registry._db, "_try_again_at", 0.0)
            assert registry.changes_of_others() != version
            registry.change_state(run, RunState.RUNNING, 3.0)
            with contextlib.closing(Registry(folder / "registry.db")) as other:
                assert other.run(1).state is RunState.RUNNING
                add(other)
            assert len(registry.runs()) == 2

    def test_read_only(self, small_disk: Callable[[str], Path]) -> None:
        folder = small_disk("2m")
        with contextlib.closing(Registry(folder / "registry.db")) as registry:
            registry.change_state(add(registry), RunState.QUEUED, 2.0)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        self.looked_at(folder / "registry.db", "its file system is read-only")

    @pytest.mark.parametrize("open_before", [False, True])
    def test_full(self, small_disk: Callable[[str], Path], open_before: bool) -> None:
        folder = small_disk("2m")
        with contextlib.closing(Registry(folder / "registry.db")) as registry:
            registry.change_state(add(registry), RunState.QUEUED, 2.0)
            with contextlib.ExitStack() as stack:
                if open_before:
                    other = stack.enter_context(contextlib.closing(Registry(folder / "registry.db")))
                    assert len(other.runs()) == 1
                else:
                    registry.close()
                fill(folder)
                self.looked_at(folder / "registry.db", f"the disk that holds {folder} is full")
