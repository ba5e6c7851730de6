"""A home: uploads and runs that survive a kill at any moment, blobs that are what their name says."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.packs import pack
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.agent.store import outputs
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from tests.homes import missing, put, send, sound
from tests.recorder import Recorded
from tests.workshop import Files, ask, at_once, call, create_run, fill, read_files, served, sha256, spec_of, tree_of

FILES: Files = {"a": b"A", "b/c": b"C" * 5000, "b/run*": b"#!/bin/sh\n", "link": "-> a", "empty": None, "zero": b""}


class TestOpen:
    def test_made_once(self, tmp_path: Path) -> None:
        first = Home.open(str(tmp_path / "deep" / "home"))
        assert Home.open(first.path).id == first.id and len(first.id) == 16
        assert stat.S_IMODE(os.stat(first.path).st_mode) == 0o700

    def test_after_somebody_made_room_by_hand(self, home: Home) -> None:
        for folder in (home.envs, home.tmp, home.queue):
            os.rmdir(folder)
        assert Home.open(home.path).id == home.id
        assert all(map(os.path.isdir, (home.envs, home.tmp, home.queue)))

    def test_of_another_format_or_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "home.json").write_text('{"format": 3, "id": "x"}')
        with pytest.raises(HomeError, match="format 3, and this remoterun knows 2: upgrade it"):
            Home.open(str(tmp_path))
        (tmp_path / "home.json").write_text("{")
        with pytest.raises(HomeError, match="damaged"):
            Home.open(str(tmp_path))

    def test_where_none_can_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(HomeError):
            Home.open(str(tmp_path / "file" / "home"))
        with pytest.raises(HomeError):
            Home.open(str(tmp_path / "file"))


class TestUploads:
    def test_versions(self, home: Home) -> None:
        first, created = home.uploads.commit("doom", put(home, FILES))
        assert created and (first["version"], first["files"], first["size"]) == (1, 4, 5011)
        assert home.uploads.commit("doom", put(home, FILES)) == (first, False)
        second, created = home.uploads.commit("doom", put(home, {"a": b"B"}))
        assert created and second["version"] == 2
        assert home.uploads.stored("doom").about == second
        assert home.uploads.stored("doom", first["digest"]).about == first
        again, created = home.uploads.commit("doom", put(home, FILES))
        assert not created and home.uploads.stored("doom").about == again, "what came last is the newest one"
        assert dict(again, created=0) == dict(first, created=0) and again["created"] >= second["created"]
        assert read_files(Path(home.uploads.stored("doom", first["digest"]).folder)) == FILES
        assert [item["name"] for item in home.uploads.newest()] == ["doom"]
        sound(home)

    def test_a_damaged_version_is_replaced(self, home: Home) -> None:
        version, _ = home.uploads.commit("doom", put(home, FILES))
        home.uploads.commit("doom", put(home, {"a": b"B"}))
        os.unlink(f"{home.uploads.folder}/doom/1.tree")
        home.uploads.write_versions("doom", [dict(each, damaged=True) for each in home.uploads.versions("doom")])
        again, created = home.uploads.commit("doom", put(home, FILES))
        assert created and dict(again, created=0) == dict(version, created=0)
        assert [each["version"] for each in home.uploads.versions("doom")] == [2, 1]
        sound(home)

    def test_nothing_is_stored_twice(self, home: Home) -> None:
        home.uploads.commit("one", put(home, FILES))
        home.uploads.commit("two", put(home, {**FILES, "more": b"C" * 5000}))
        blob = os.stat(home.blobs.path(sha256(b"C" * 5000)))
        for path in ("one/1/b/c", "two/1/b/c", "two/1/more"):
            assert os.stat(os.path.join(home.uploads.folder, path)).st_ino == blob.st_ino

    def test_removed_and_made_again(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, FILES))
        assert home.uploads.remove("doom") and not home.uploads.remove("doom")
        assert home.uploads.versions("doom") == [] and not os.path.exists(os.path.join(home.uploads.folder, "doom"))
        with pytest.raises(HomeError, match="no upload"):
            home.uploads.stored("doom")
        assert home.uploads.commit("doom", put(home, FILES))[1]
        sound(home)

    def test_missing_blobs_are_named(self, home: Home) -> None:
        manifest, _ = tree_of({"a/b": b"never sent"})
        with pytest.raises(HomeError, match="a/b") as caught:
            home.uploads.commit("doom", manifest)
        assert caught.value.code == "missing_blob"
        assert home.uploads.newest() == [] and os.listdir(home.tmp) == []

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-a", "a\n", "a" * 101, "é", "a\0"])
    def test_names(self, home: Home, name: str) -> None:
        for use in (home.uploads.versions, home.uploads.remove):
            with pytest.raises(HomeError):
                use(name)

    def test_at_the_same_time(self, home: Home) -> None:
        manifests = [put(home, {**FILES, "n": str(number)}) for number in range(8)]
        at_once(partial(home.uploads.commit, "doom", manifest) for manifest in manifests)
        versions = home.uploads.versions("doom")
        assert [item["version"] for item in versions] == list(range(1, 9))
        assert {item["digest"] for item in versions} == {manifest.digest for manifest in manifests}
        sound(home)


class TestBlobs:
    def test_the_executable_twin(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, {"plain": b"same", "run*": b"same"}))
        plain, run = (os.stat(os.path.join(home.uploads.folder, "doom/1", name)) for name in ("plain", "run"))
        assert (stat.S_IMODE(plain.st_mode), stat.S_IMODE(run.st_mode)) == (0o444, 0o555)
        assert plain.st_ino != run.st_ino
        assert os.stat(home.blobs.executable_twin(sha256(b"same"))).st_ino == run.st_ino

    @pytest.mark.parametrize("private", [True, False])
    def test_checkout(self, home: Home, tmp_path: Path, private: bool) -> None:
        home.checkout(put(home, FILES), str(tmp_path / "out"), private)
        assert read_files(tmp_path / "out") == FILES
        modes = {path: stat.S_IMODE((tmp_path / "out" / path).stat().st_mode) for path in ("a", "b/run", "b")}
        assert modes == (
            {"a": 0o644, "b/run": 0o755, "b": 0o755} if private else {"a": 0o444, "b/run": 0o555, "b": 0o555}
        )
        if private:
            (tmp_path / "out" / "a").write_text("changed")
            sound(home)

    def test_checkout_onto_another_disk(self, home: Home, small_disk: Callable[[str], Path]) -> None:
        """Where no hard link leads, nor one more: a copy."""
        out = small_disk("1m") / "out"
        home.checkout(put(home, FILES), str(out), private=False)
        assert read_files(out) == FILES
        modes = {path: stat.S_IMODE((out / path).stat().st_mode) for path in ("a", "b/run", "b")}
        assert modes == {"a": 0o444, "b/run": 0o555, "b": 0o555}
        assert (out / "a").stat().st_nlink == 1

    @pytest.mark.parametrize("mended", [False, True])
    def test_of_another_size_when_it_was_asked_for(self, home: Home, mended: bool) -> None:
        """What an answer to a client said of a blob is no more than that."""
        manifest = put(home, FILES)
        digest = sha256(b"C" * 5000)
        path = Path(home.blobs.path(digest))
        path.chmod(0o644)
        path.write_bytes(b"C" * 10)
        with served(home) as link:
            asking = link.open("missing")
            asking.send(b"".join(bytes.fromhex(entry.digest) for entry in manifest.files))
            answer = asking.receive(20)
            assert answer is not None and not answer.body
            if mended:
                path.unlink()
                home.blobs.put(b"C" * 5000)
            if mended:
                call(link, "commit_upload", manifest.encode(), name="doom")
                sound(home)
            else:
                with pytest.raises(RemoteError) as caught:
                    call(link, "commit_upload", manifest.encode(), name="doom")
                assert caught.value.code == "damaged" and home.uploads.versions("doom") == []

    @pytest.mark.parametrize("left", [b"", b"C" * 10])
    @pytest.mark.parametrize("private", [True, False])
    def test_a_damaged_blob_is_refused(self, home: Home, tmp_path: Path, left: bytes, private: bool) -> None:
        """As a power cut may leave it."""
        manifest = put(home, FILES)
        path = Path(home.blobs.path(sha256(b"C" * 5000)))
        path.chmod(0o644)
        path.write_bytes(left)
        with pytest.raises(HomeError, match="b/c") as caught:
            home.checkout(manifest, str(tmp_path / "out"), private)
        assert caught.value.code in ("damaged", "missing_blob")

    def test_a_truncated_file_is_not_a_blob(self, home: Home, tmp_path: Path) -> None:
        digest = home.blobs.put(b"content")
        path = Path(home.blobs.path(digest))
        path.chmod(0o644)
        path.write_bytes(b"")
        assert not home.blobs.has(digest)
        assert home.blobs.put(b"content") == digest
        assert path.read_bytes() == b"content" and home.blobs.has(home.blobs.put(b""))

    def test_adopting_keeps_the_content(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"new")
        for _ in range(2):
            home.blobs.adopt(str(path), sha256(b"new"))
        assert path.read_bytes() == b"new" and os.stat(path).st_ino == os.stat(home.blobs.path(sha256(b"new"))).st_ino
        sound(home)


class TestPut:
    BLOB = os.urandom(3 * PIECE + 17)

    def test_many(self, home: Home) -> None:
        blobs = [b"", b"x", self.BLOB, *(str(number).encode() for number in range(200))]
        with served(home) as link:
            assert missing(link, *blobs) == [(number, 0) for number in range(len(blobs))]
            send(link, *blobs)
            assert missing(link, *blobs) == []
        assert os.listdir(home.partial) == []
        sound(home)

    @pytest.mark.parametrize(
        ("header", "body"),
        [
            ({}, b"no blob"),
            ({"p": 2}, pack([(hashlib.sha256(b"x").digest(), b"x")])),
            ({"p": 1}, pack([(hashlib.sha256(b"x").digest(), b"y")])),
            ({"d": sha256(b"x"), "s": 1}, b"x"),
        ],
        ids=range(4),
    )
    def test_what_is_refused(self, home: Home, header: dict[str, Any], body: bytes) -> None:
        """Pieces with a wrong header: test_pieces.py."""
        with served(home) as link:
            with pytest.raises(RemoteError):
                call(link, "put", (body, header))
            assert missing(link, b"x") == [(0, 0)]
            send(link, b"x")
        sound(home)


class TestRuns:
    def test_made_once(self, home: Home) -> None:
        source = put(home, FILES)
        spec = spec_of()
        run = create_run(home, spec, source, values={"TOKEN": "secret"})
        events = run.events()
        assert create_run(home, spec._replace(number=2), source).spec() == spec
        assert run.events() == events and [event["state"] for event in events] == ["queued"]
        assert home.run_keys() == home.active_keys() == [spec.key]

    @pytest.mark.parametrize("key", ["", "..", "a/b", "UPPER123", "short", "x" * 41, "abcdefgh\n"])
    def test_keys(self, home: Home, key: str) -> None:
        with pytest.raises(HomeError):
            create_run(home, spec_of(key=key))

    def test_a_source_that_is_not_here(self, home: Home) -> None:
        with pytest.raises(HomeError) as caught:
            create_run(home, spec_of(), tree_of({"a": b"never sent"})[0])
        assert caught.value.code == "missing_blob" and home.run_keys() == []

    def test_one_that_cannot_be_marked(self, home: Home) -> None:
        """Its mark comes after its folder, as who sees a mark alone removes it; without its mark it is not there."""
        os.rmdir(home.active)
        Path(home.active).touch()
        with pytest.raises(NotADirectoryError):
            create_run(home, spec_of())
        assert home.run_keys() == []


def test_outputs_with_a_name_elsewhere(home: Home, tmp_path: Path) -> None:
    """Somebody writes to it there: it is copied."""
    run = create_run(home, spec_of(), put(home, {}))
    (tmp_path / "mine").write_bytes(b"mine")
    os.makedirs(run.work)
    for number in range(2):
        os.link(tmp_path / "mine", os.path.join(run.work, str(number)))
    outputs.save(home, run)
    (tmp_path / "mine").write_bytes(b"other")
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o644
    assert read_files(Path(run.out)) == {"0": b"mine", "1": b"mine"}
    sound(home)


class TestFullDisk:
    @pytest.fixture
    def small(self, small_disk: Callable[[str], Path]) -> Home:
        return Home.open(str(small_disk("2m") / "home"))

    def test_commit_with_executables(self, small: Home) -> None:
        blob = os.urandom(1200 << 10)
        manifest = put(small, {"a/run*": blob})
        with served(small) as link, pytest.raises(RemoteError) as caught:
            call(link, "commit_upload", manifest.encode(), name="doom")
        assert caught.value.code == "disk_full"
        assert small.uploads.newest() == [] and os.listdir(small.tmp) == []
        sound(small)
        assert small.uploads.commit("doom", put(small, {"a/run": blob}))[1]
        sound(small)

    def test_stop_and_kill_need_no_room(self, small: Home) -> None:
        run = create_run(small, spec_of(), put(small, {}))
        fill(Path(small.path))
        assert run.stop_asked() is None and not run.kill_asked()
        run.ask_stop(7.0)
        run.ask_kill()
        assert run.stop_asked() == 10.0 and run.kill_asked()

    def test_a_home_cannot_be_made(self, small: Home) -> None:
        fill(Path(small.path))
        with pytest.raises(HomeError) as caught:
            for number in range(2000):
                Home.open(os.path.join(small.path, str(number)))
        assert caught.value.code == "disk_full"


def test_requests_that_make_no_sense(home: Home, recorded: Recorded) -> None:
    """Each has an error for an answer, and the next request is served."""
    before = sorted(path for path in Path(home.path).rglob("*"))

    def answer(title: str) -> None:
        op, _, arguments = title.partition(" ")
        try:
            call(link, op.strip("-"), Manifest([]).encode(), **json.loads(arguments))
        finally:
            assert call(link, "uploads") == {"uploads": []}

    with served(home) as link:
        recorded.cases(answer, RemoteError)
    assert [path for path in Path(home.path).rglob("*") if path not in before and path.parent.name != "locks"] == []


def test_a_file_outside_is_not_sent(home: Home, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    manifest = put(home, {"a": b"A", "link": f"-> {tmp_path}/secret"})
    home.uploads.commit("doom", manifest)
    doom = {"kind": "upload", "name": "doom"}
    with served(home) as link:
        for name in ("../../../secret", "/etc/passwd", f"{tmp_path}/secret"):
            with pytest.raises(RemoteError):
                call(link, "get", os.fsencode(name) + b"\0", resource=doom)
        frames = list(ask(link, "get", b"link\0nothing\0a\0", resource=doom))
    assert ["gone" in frame.header for frame in frames] == [True, True, False] and frames[2].body == b"A"


def test_entries_of_one_size_only(home: Home) -> None:
    """A manifest that lies about a size makes no upload."""
    digest = home.blobs.put(b"four")
    with pytest.raises(HomeError):
        home.uploads.commit("doom", Manifest([Entry("f", "a", 5, digest)]))
