"""Files of runs and uploads as a client lists, copies and reads them; what is removed, and labels."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import NoneType

import pytest

from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.client.runs.mounts import send_resource
from remoterun.errors import AlreadyExists, HomeMissing, HostError, NotFound, UnsafePath, UsageError
from remoterun.model import MachineType, Mount, Rental, Resource, Run, RunFilter, RunRequest
from remoterun.transfer import Progress
from tests.workshop import Files, Place, User, read_files, sha256, tree_of, until, write_files

MODEL: Files = {"models/a.json": b"A", "models/b.json": b"BB", "models/w.bin": b"W" * 9, "logs/x.json": b"X"}


@pytest.fixture
def doom(user: User, tmp_path: Path) -> User:
    user.client.uploads.upload(write_files(tmp_path / "model", MODEL), "doom")
    return user


@contextmanager
def away(place: Place) -> Iterator[None]:
    """No home can be there for a while, as where its disk is not mounted."""
    folder = place.folder
    aside = folder.rename(folder.with_name("away"))
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def test_names_with_stars(doom: User, tmp_path: Path) -> None:
    files = doom.client.files
    assert [entry.path for entry in files.list(Resource.parse("uploads/doom/models/*.json"))[0]] == [
        "a.json", "b.json",
    ]  # fmt: skip
    done = files.copy("uploads/doom/models/*.json", tmp_path / "first")
    assert read_files(tmp_path / "first") == {"a.json": b"A", "b.json": b"BB"} and done.files == done.listed == 2
    files.copy("uploads/doom/**/*.json", tmp_path / "second")
    assert set(read_files(tmp_path / "second")) == {"models/a.json", "models/b.json", "logs/x.json"}
    with pytest.raises(NotFound, match=r"nothing in uploads/doom/models matches `\*.png`"):
        files.copy("uploads/doom/models/*.png", tmp_path / "third")
    assert not (tmp_path / "third").exists()
    with pytest.raises(AlreadyExists):
        (tmp_path / "first" / "a.json").write_bytes(b"mine")
        files.copy("uploads/doom/models/*.json", tmp_path / "first")


def test_bytes_and_archives(doom: User, tmp_path: Path) -> None:
    files = doom.client.files
    got = io.BytesIO()
    files.read("uploads/doom/models/w.bin", got.write, archive=True)
    files.read("uploads/doom/models/*.json", got.write)
    assert got.getvalue() == b"W" * 9 + b"A" + b"BB"
    with pytest.raises(UsageError, match="uploads/doom/models is a folder"):
        files.read("uploads/doom/models", got.write)
    got = io.BytesIO()
    files.read("uploads/doom", got.write, archive=True)
    with tarfile.open(fileobj=io.BytesIO(got.getvalue())) as archive:
        assert {item.uname or item.uid for item in archive} == {0}
        archive.extractall(tmp_path / "out", filter="data")
    assert read_files(tmp_path / "out") == MODEL


def test_a_run_that_is_removed_while_it_is_copied(user: User, tmp_path: Path) -> None:
    run = user.client.runs.submit(RunRequest("echo one > log.txt"))
    user.place("one").until_final(run.key)
    (tmp_path / "log.txt").write_text("mine")

    def overwrite(path: str) -> bool:
        user.client.runs.remove(run.number)
        for blob in Path(user.place("one").home.path, "blobs").rglob("*"):
            if blob.is_file():
                blob.unlink()
        return True

    with pytest.raises(NotFound, match=f"run {run.number} was removed while it was copied"):
        user.client.files.copy(f"runs/{run.number}", tmp_path, overwrite)


def test_labels_and_what_removed_runs_were_on(user: User) -> None:
    runs = user.client.runs
    one, two = (runs.submit(RunRequest("true", labels=("a",)), machine=name) for name in ("one", "two"))
    assert runs.label(one.number, ("b", "c"), ("a", "c")).labels == ("b",)
    assert runs.label(one.number, ("b",)).labels == ("b",) == runs.get(one.number).labels
    assert [run.number for run in runs.list(wanted=RunFilter(labels=("b",)))] == [one.number]
    for run, machine in ((one, "one"), (two, "two")):
        user.place(machine).until_final(run.key)
        assert runs.remove(run.number) == machine
    with pytest.raises(NotFound):
        runs.label(one.number, ("b",))


class TestVersions:
    """One numbering over all machines."""

    def put(self, user: User, text: str, to: str | None = None) -> tuple[int, bool]:
        """(the version, whether it is new) of an upload `doom` with this text in its file."""
        file = user.root / "doom.txt"
        file.write_text(text)
        done = user.client.uploads.upload(file, "doom", to)
        return done.upload.version, done.created

    def read(self, user: User, resource: str) -> str:
        got = io.BytesIO()
        user.client.files.read(resource, got.write)
        return got.getvalue().decode()

    def folders(self, user: User, name: str) -> list[str]:
        """What a person finds who looks into the home of a machine."""
        home = user.place(name).home
        return sorted(os.listdir(home.uploads.folder_of("doom"))) if home.uploads.versions("doom") else []

    def mounted(self, user: User, resource: str, machine: str) -> Run:
        request = RunRequest("cat in/*", mounts=(Mount.parse(f"{resource}:in"),))
        run = user.client.runs.submit(request, machine=machine)
        user.place(machine).until_final(run.key)
        return user.client.runs.get(run.number)

    def test_a_number_means_one_content_wherever_it_lies(self, user: User, tmp_path: Path) -> None:
        assert [self.put(user, text, "one") for text in ("a", "b", "c")] == [(1, True), (2, True), (3, True)]
        assert self.put(user, "c", "two") == (3, True), "what is v3 on one machine is v3 on the other"
        assert self.put(user, "c", "two") == (3, False)
        assert self.put(user, "d", "two") == (4, True)
        assert self.put(user, "d", "one") == (4, True)
        assert self.put(user, "a", "two") == (5, True), "an old content that is uploaded anew is the newest"
        assert self.folders(user, "two") == ["3", "3.tree", "4", "4.tree", "5", "5.tree", "versions.json"]
        assert self.folders(user, "one")[::2] == ["1", "2", "3", "4", "versions.json"]
        # wherever a resource goes
        assert [self.read(user, f"uploads/doom@{number}/doom.txt") for number in (1, 2, 3, 4, 5)] == list("abcda")
        assert self.read(user, "uploads/doom/doom.txt") == "a"
        user.client.files.copy("uploads/doom@v2", tmp_path / "second")
        assert read_files(tmp_path / "second") == {"doom.txt": b"b"}
        (entry,) = user.client.files.list(Resource.parse("uploads/doom@2"))[0]
        assert entry.digest == sha256(b"b")
        with pytest.raises(NotFound, match="there is no version 9 of the upload `doom`") as caught:
            self.read(user, "uploads/doom@9/doom.txt")
        assert caught.value.hint == "remoterun ls uploads/doom --versions"
        with pytest.raises(UsageError, match="a version stays as it is"):
            user.client.uploads.add(user.root / "doom.txt", Resource.parse("uploads/doom@2"))

    def test_a_version_is_mounted_where_it_is_needed(self, user: User) -> None:
        for text in ("a", "b"):
            self.put(user, text, "one")
        old, new = self.mounted(user, "uploads/doom@1", "two"), self.mounted(user, "uploads/doom", "two")
        assert [user.place("two").log(run.key) for run in (old, new)] == [b"a", b"b"]
        assert self.folders(user, "two") == ["1", "1.tree", "2", "2.tree", "versions.json"]
        spec = user.client.runs.info(old.number)[1]["spec"]
        assert spec["mounts"][0]["typed"] == "uploads/doom@1"
        listed = user.client.uploads.versions("doom")
        assert [(each.version, each.runs, {copy.machine for copy in each.copies}) for each in listed] == [
            (1, (old.number,), {"one", "two"}), (2, (new.number,), {"one", "two"}),
        ]  # fmt: skip
        user.client.runs.remove(old.number)
        assert user.client.uploads.versions("doom")[0].runs == ()
        with pytest.raises(NotFound):
            self.mounted(user, "uploads/doom@7", "two")

    def test_one_version_is_removed_everywhere(self, user: User) -> None:
        for text in ("a", "b", "a"):
            self.put(user, text, "one")
        self.mounted(user, "uploads/doom@2", "two")
        assert set(user.client.uploads.remove("doom", 2)[0]) == {"one", "two"}
        assert self.folders(user, "two") == []
        assert [each.version for each in user.client.uploads.versions("doom")] == [1, 3]
        user.client.uploads.remove("doom", 1)
        assert self.read(user, "uploads/doom@3/doom.txt") == "a", "it has the same content"
        assert self.put(user, "d", "two") == (4, True)
        user.client.uploads.remove("doom", 4)
        assert self.put(user, "e", "two") == (5, True), "no run's records may speak of another content"
        with pytest.raises(NotFound, match="no version 2"):
            user.client.uploads.remove("doom", 2)
        assert set(user.client.uploads.remove("doom")[0]) == {"one", "two"} and user.client.uploads.list() == []

    @pytest.mark.parametrize("name, other, whole", [("one", "two", True), ("two", "one", False)])
    def test_what_can_not_be_reached_is_removed_at_the_next_contact(
        self, user: User, name: str, other: str, whole: bool
    ) -> None:
        """Whichever machine is asked first: the others give up their copies at once."""
        for machine in ("one", "two"):
            number, _ = self.put(user, "a", machine)
        with away(user.place(name)):
            removed, remaining = user.new_client().uploads.remove("doom", None if whole else number)
            assert removed == [other] and "home" in remaining[name].message
            assert self.folders(user, other) == []
            with pytest.raises(NotFound, match="no upload `doom`"):
                user.client.uploads.versions("doom")
        assert self.folders(user, name) == ["1", "1.tree", "versions.json"]
        assert user.new_client().uploads.list() == [], "that is a contact"
        assert self.folders(user, name) == []

    def test_a_removal_that_was_not_reached_is_void_once_the_content_is_uploaded_again(self, user: User) -> None:
        for name in ("one", "two"):
            self.put(user, "a", name)
        with away(user.place("one")):
            user.new_client().uploads.remove("doom")
            self.put(user, "a", "two")
        listed = user.new_client().uploads.list()
        assert [[copy.machine for copy in each.copies] for each in listed] == [["two", "one"]]

    def test_a_machine_with_another_home_gets_uploads_again(self, user: User, environment: Path) -> None:
        """Each from another copy, without a word; what lay only there is named, and nothing of it is forgotten."""
        for text, name in (("a", "one"), ("a", "two"), ("b", "two"), ("c", "one"), ("c", "two")):
            self.put(user, text, name)
        (user.root / "big").write_text("big")
        user.client.uploads.upload(user.root / "big", "big", "two")
        before = self.mounted(user, "uploads/doom", "two")
        old = user.place("two")
        old.close()
        aside = old.folder.rename(old.folder.with_name("away"))
        user.places["two"] = home = Place(old.folder, environment)
        client = user.new_client()
        try:
            assert self.read(user, "uploads/doom/doom.txt") == "c" and self.read(user, "uploads/doom@1/doom.txt") == "a"
            listed = client.uploads.versions("doom")
            assert [[(copy.machine, type(copy.fault)) for copy in each.copies] for each in listed] == [
                [("one", NoneType)], [("two", HomeMissing)], [("one", NoneType)],
            ]  # fmt: skip
            assert [each.machine for each in listed] == ["one", "two", "one"]
            for resource, text in (("uploads/doom@1", b"a"), ("uploads/doom", b"c")):
                assert home.log(self.mounted(user, resource, "two").key) == text
            for resource in ("uploads/big", "uploads/doom@2", f"runs/{before.number}"):
                with pytest.raises(HomeMissing, match="gone") as caught:
                    client.runs.submit(RunRequest("true", mounts=(Mount.parse(f"{resource}:in"),)), machine="two")
            with pytest.raises(HomeMissing, match="`uploads/big@1` lay on two, whose home is gone") as caught:
                client.files.list(Resource.parse("uploads/big"))
            assert f"remoterun upload {user.root}/big --name big   uploads it again" in (caught.value.hint or "")
            assert client.connections.registry.run("last").number == before.number + 2, "what is refused has no number"
            with pytest.raises(HomeMissing):
                client.uploads.add(user.root / "big", Resource.parse("uploads/big/more"))
            client.uploads.upload(user.root / "big", "big", "two")
            assert [copy.fault for each in client.uploads.list() for copy in each.copies] == [None] * 3
        finally:
            user.new_client()
            home.close()
            user.places["two"] = old
            old.folder.rename(old.folder.with_name("new"))
            aside.rename(old.folder)
        found = user.client.uploads.versions("doom")
        assert [{copy.machine for copy in each.copies} for each in found] == [{"one", "two"}, {"two"}, {"one", "two"}]
        assert self.read(user, "uploads/doom@2/doom.txt") == "b", "it was not mounted for a while"

    def test_a_file_that_is_added_goes_where_the_newest_version_is(self, user: User) -> None:
        """And not to another machine that has a copy, also where that one does not answer."""
        self.put(user, "a", "two")
        self.mounted(user, "uploads/doom", "one")
        (user.root / "more").write_text("more")
        user.client.uploads.add(user.root / "more", Resource.parse("uploads/doom/"))
        newest = user.client.uploads.versions("doom")[-1]
        assert [copy.machine for copy in newest.copies] == ["two"]
        self.mounted(user, "uploads/doom", "one")
        with away(user.place("two")), pytest.raises(HostError):
            user.new_client().uploads.add(user.root / "more", Resource.parse("uploads/doom/again"))
        assert len(user.new_client().uploads.versions("doom")) == 2

    def test_two_laptops(self, user: User, tmp_path: Path) -> None:
        """The other one has numbers of its own, and neither ever means two contents."""
        other = Client(replace(user.config, home=tmp_path / "other"))
        file = tmp_path / "doom.txt"
        with other:
            for text in ("x", "y"):
                file.write_text(text)
                other.uploads.upload(file, "doom", "two")
            assert self.put(user, "a", "one") == (1, True)
            assert self.put(user, "b", "two") == (4, True), "what the other one has there has a number by now"
            known = {each.version: each.digest for each in user.client.uploads.versions("doom")}
            assert {number: known[number] for number in (1, 4)} == {1: digest_of("a"), 4: digest_of("b")}
            assert {known[2], known[3]} == {digest_of("x"), digest_of("y")}
            assert self.read(user, "uploads/doom/doom.txt") == "b"
            file.write_text("z")
            assert other.uploads.upload(file, "doom", "two").upload.version == 5
            assert [each.digest for each in other.uploads.versions("doom") if each.version == 5] == [digest_of("z")]
            assert self.put(user, "c", "two") == (6, True)

    def test_ls_shows_what_there_is_wherever_it_lies(self, user: User, tmp_path: Path) -> None:
        self.put(user, "a", "two")
        (tmp_path / "other.txt").write_text("o")
        user.client.uploads.upload(tmp_path / "other.txt", "other", "one")
        made = user.client.runs.submit(RunRequest("echo made > file"), machine="one")
        user.place("one").until_final(made.key)
        read = RunRequest("cat in/file", mounts=(Mount.parse(f"runs/{made.number}:in"),))
        user.place("two").until_final(user.client.runs.submit(read, machine="two").key)
        expected = [("doom", 1, ["two"]), ("other", 1, ["one"])]
        rented = MachineType("rented", gpus=1, rental=Rental("folder", ("small",)))
        all_of_them = {**user.config.machines, "rented": rented}
        with (
            Client(replace(user.config, default="two")) as elsewhere,
            Client(replace(user.config, default="rented", machines=all_of_them)) as without_bucket,
        ):
            for client in (user.client, elsewhere, without_bucket):  # no outputs, and whatever the default machine is
                found = client.uploads.list()
                assert [(each.name, each.version, [copy.machine for copy in each.copies]) for each in found] == expected
        self.mounted(user, "uploads/other", "two")
        user.place("one").home.uploads.remove("other")
        assert [copy.machine for copy in user.client.uploads.list()[1].copies] == ["two"]
        with Client(replace(user.config, home=tmp_path / "laptop2")) as other:
            assert [each.name for each in other.uploads.list()] == ["doom"], "it is there for a run only"
        user.client.uploads.remove("other")
        assert [each.name for each in user.client.uploads.list()] == ["doom"]

    def test_what_others_uploaded_is_the_newest_on_its_own_machine_only(self, user: User, tmp_path: Path) -> None:
        """Another laptop, or the machine itself, says that it has a newer version of an upload."""
        for name, content in (("mine", b"mine"), ("other", b"other")):
            write_files(tmp_path / name, {"file": content})
        user.client.uploads.upload(tmp_path / "mine", "code", "one")
        with Client(replace(user.config, home=tmp_path / "laptop2")) as laptop2:
            laptop2.uploads.upload(tmp_path / "other", "code", "one")
            laptop2.uploads.upload(tmp_path / "other", "theirs", "one")
        user.client.uploads.list()

        def read(resource: str, machine: str) -> bytes:
            request = RunRequest("cat in/file", mounts=(Mount.parse(f"{resource}:in"),))
            run = user.client.runs.submit(request, machine=machine)
            user.place(machine).until_final(run.key)
            return user.place(machine).log(run.key)

        assert read("uploads/code", "two") == b"mine"
        assert read("uploads/code", "one") == b"other"
        (theirs,) = (run for run in user.client.connections.registry.runs() if run.host.name == "one")
        original = user.client.runs.original(theirs.number)
        assert [tree.recorded for tree in original.mounts.values()] == [False], "for that machine alone"
        assert read("uploads/code@2", "two") == b"other"
        user.client.connections.registry.uploads.forget_copy("code", user.place("one").home.id, None)
        assert read("uploads/code", "two") == b"mine", "that it was copied there for a run makes it nobody's newest"
        before = user.client.connections.registry.run("last").number
        with pytest.raises(UsageError, match="its newest version is `uploads/theirs@1`, on one") as caught:
            read("uploads/theirs", "two")
        assert "uploads/theirs@1:PATH" in (caught.value.hint or "")
        assert user.client.connections.registry.run("last").number == before
        assert read("uploads/theirs", "one") == read("uploads/theirs@1", "two") == b"other"

    def test_gc_frees_outputs_that_were_sent_for_a_mount(self, user: User) -> None:
        """They stay with their run, and are sent again; what a run needs, or is about to need, is not freed."""
        client, two = user.client, user.place("two")
        made = client.runs.submit(RunRequest("echo made > file"), machine="one")
        user.place("one").until_final(made.key)
        mounts = (Mount.parse(f"runs/{made.number}:in"),)

        def is_there_after_gc() -> bool:
            with Client(user.config) as other:
                other.machines.gc("two")
            return two.home.blobs.has(sha256(b"made\n"))

        live = client.runs.submit(RunRequest("cat in/file; sleep 1019.5", mounts=mounts), machine="two")
        two.until_state(live.key, RunState.RUNNING)
        assert two.home.uploads.names() == [] and is_there_after_gc()
        client.runs.kill(live.number)
        two.until_final(live.key)
        until(two.unsupervised(live.key))
        assert not is_there_after_gc()
        again = client.runs.original(live.number)
        ended = client.runs.launch(client.runs.prepare_again(again, again.request._replace(command="cat in/file")))
        two.until_final(ended.key)
        until(two.unsupervised(ended.key))
        assert two.log(ended.key) == b"made\n"
        session = client.machines.session(client.machines.get("two"))
        assert not is_there_after_gc()
        send_resource(client.files._connections, mounts[0].resource, session, Progress())
        assert is_there_after_gc(), "a run is about to be handed over that mounts it"
        last = client.runs.submit(RunRequest("cat in/file", mounts=mounts), machine="two")
        two.until_final(last.key)
        until(two.unsupervised(last.key))
        assert two.log(last.key) == b"made\n"

    def test_a_machine_that_does_not_answer(self, user: User) -> None:
        self.put(user, "a", "one")
        self.put(user, "a", "two")
        gone = MachineType("two", host="me@127.0.0.1:1", connect_timeout=2)
        with sqlite3.connect(user.config.home / "registry.db") as database:
            database.execute("UPDATE copies SET machine = ? WHERE machine LIKE '%two%'", (json.dumps(to_json(gone)),))
        database.close()
        (doom,) = user.client.uploads.list(wait=5)
        reached = {copy.machine: copy for copy in doom.copies}
        assert reached["one"].fault is None and reached["two"].fault and reached["two"].seen
        assert self.read(user, "uploads/doom/doom.txt") == "a", "it comes from where it can be had"


def digest_of(text: str) -> str:
    """Of the tree with a file `doom.txt`."""
    return tree_of({"doom.txt": text.encode()})[0].digest


class TestLinksOnTheWay:
    """Links of a repository in which one works, `mine/`: to a folder beside it, to git's own, and within."""

    @pytest.fixture
    def work(self, doom: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        work = tmp_path / "mine"
        (tmp_path / "outside").mkdir()
        (work / "inside").mkdir(parents=True)
        subprocess.run(["git", "init", "-q", work], check=True)
        for name, goal in (("out", "../outside"), ("hooks", ".git/hooks"), ("in", "inside"), ("own", "../outside")):
            (work / name).symlink_to(goal)
        subprocess.run(["git", "add", "out", "hooks", "in"], cwd=work, check=True)
        monkeypatch.chdir(work)
        return work

    def test_cp_is_not_led_out_by_a_repository(self, doom: User, work: Path) -> None:
        before = sorted(os.listdir(work / ".git/hooks"))
        targets = ("out", "out/deeper", "hooks", "inside/../out")
        for target, into in [*((target, False) for target in targets), ("hooks", True)]:
            with pytest.raises(UnsafePath, match=r"is a link, which leads to `.*(outside|hooks)`") as refused:
                doom.client.files.copy("uploads/doom", Path(target), into=into)
            assert refused.value.hint and os.path.realpath(target) in refused.value.hint
            assert not os.listdir(work.parent / "outside") and sorted(os.listdir(work / ".git/hooks")) == before

    def test_cp_goes_where_a_person_leads_it(self, doom: User, work: Path) -> None:
        for target, into in (("out", True), ("own", False), ("own/x", False), ("in", False)):
            doom.client.files.copy("uploads/doom", Path(target), into=into)
            assert read_files(Path(os.path.realpath(target))) == MODEL
            shutil.rmtree(work.parent / "outside")
            (work.parent / "outside").mkdir()

    def test_cp_without_a_repository(self, doom: User, work: Path) -> None:
        """Who made the link is not known: it came in an archive, perhaps."""
        shutil.rmtree(work / ".git")
        with pytest.raises(UnsafePath, match="is a link"):
            doom.client.files.copy("uploads/doom", Path("out"))
        doom.client.files.copy("uploads/doom", Path("in"))
        assert read_files(work / "inside") == MODEL

    def test_cp_makes_no_link_into_gits_own(self, doom: User, work: Path, tmp_path: Path) -> None:
        (tmp_path / "model/run-9").symlink_to("sub/../.git/hooks")
        doom.client.uploads.upload(tmp_path / "model", "doom")
        done = doom.client.files.copy("uploads/doom", Path("."))
        assert not os.path.lexists("run-9") and "`run-9` was left out: git may run" in done.warnings[0]
