"""Manifests in their canonical form, hostile ones, and the folder that nothing leaves."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.tree import (
    HEADER,
    ChangedWhileRead,
    Entry,
    Landing,
    Manifest,
    SpecialFile,
    TreeError,
    check_path,
    hash_file,
    link_stays_inside,
    show,
    walk,
)

PART = st.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & set(b"/\0") and raw not in (b".", b".."))
PATH = st.lists(PART, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
TARGET = st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
ENTRY = st.one_of(
    st.builds(lambda p, s, d, x: Entry("f", p, s, d, x), PATH, st.integers(0, 2**60), DIGEST, st.booleans()),
    st.builds(lambda p, t: Entry("l", p, target=t), PATH, TARGET),
    st.builds(lambda p: Entry("d", p), PATH),
)


@given(st.lists(ENTRY, max_size=12), st.randoms())
def test_round_trip_and_one_form(entries: list[Entry], random: object) -> None:
    try:
        manifest = Manifest(entries)
    except TreeError:
        return
    data = manifest.encode()
    assert data.isascii()
    again = Manifest.decode(data)
    assert again.entries == manifest.entries and again.encode() == data
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert Manifest(entries).digest == manifest.digest == hashlib.sha256(data).hexdigest()


def test_the_form_stays_as_it_is() -> None:
    """A digest is written down in registries and run folders: it may never change."""
    manifest = Manifest(
        [
            Entry("d", "z"),
            Entry("f", os.fsdecode(b"b\xff\n"), 3, "ab" * 32, True),
            Entry("f", "é", 0, hashlib.sha256(b"").hexdigest()),
            Entry("l", "a", target="b/../c"),
        ]
    )
    assert manifest.encode() == (
        b'remoterun-tree 1\n["l","a","b/../c"]\n'
        b'["f","b\\udcff\\n",3,"' + b"ab" * 32 + b'",1]\n["d","z"]\n'
        b'["f","\\u00e9",0,"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",0]\n'
    )
    assert manifest.digest == "a16aae588263de6f39ffe550e5bf501de47ee9e3c3d7afe7b85491a938181cbc"


ROW = '["f","%s",1,"' + "ab" * 32 + '",0]'
HOSTILE = [
    *(ROW % path for path in (
        "", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", ".", "..", "a\\u0000b", "\\ud800", "x" * 256,
        "/".join(["d" * 200] * 30),
    )),
    ROW % "a" + "\n" + ROW % "a",
    ROW % "a" + "\n" + ROW % "a/b",
    '["l","a","/etc"]\n' + ROW % "a/b",
    '["l","a","/etc"]\n["d","a/b/c"]',
    '["l","a",""]', '["l","a","x\\u0000y"]', '["l","a","\\ud800"]', '["l","a",1]', '["l","a"]',
    '["f","a",-1,"' + "ab" * 32 + '",0]',
    '["f","a",1.5,"' + "ab" * 32 + '",0]',
    '["f","a",true,"' + "ab" * 32 + '",0]',
    '["f","a",1,"../../x",0]', '["f","a",1,"",0]', '["f","a",1,"' + "AB" * 32 + '",0]',
    '["f","a",1,"' + "ab" * 32 + '",2]',
    '["x","a"]', '["d","a","b"]', '["d",1]', '["d"]', "[]", "{}", "null", "1", '"d"', "", "[" * 5000, "{]", '["d","a"',
    '[["d"],"a"]', '["f","a",1e400,"' + "ab" * 32 + '",0]', '["f","a",' + "9" * 5000 + ',"' + "ab" * 32 + '",0]',
]  # fmt: skip


@pytest.mark.parametrize("rows", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_manifests(rows: str) -> None:
    with pytest.raises(TreeError):
        Manifest.decode(HEADER + rows.encode() + b"\n")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for text in (data, HEADER + data):
        try:
            Manifest.decode(text)
        except TreeError:
            pass


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=5)))
def test_any_json(row: object) -> None:
    try:
        Manifest.decode(HEADER + json.dumps(row).encode() + b"\n")
    except TreeError:
        pass


def test_of_another_version() -> None:
    with pytest.raises(TreeError):
        Manifest.decode(b"remoterun-tree 2\n")


def test_below_and_find() -> None:
    manifest = Manifest([Entry("f", "a/b", 1, "ab" * 32), Entry("d", "a/e"), Entry("f", "ab", 2, "cd" * 32)])
    assert [entry.path for entry in manifest.below("a").entries] == ["b", "e"]
    assert manifest.below("a/b").entries == (Entry("f", "b", 1, "ab" * 32),)
    assert manifest.below("a/e").entries == ()
    assert manifest.below("") is manifest
    for absent in ("b", "a/", "a/b/c", "A"):
        with pytest.raises(KeyError):
            manifest.below(absent)


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside(text: str) -> None:
    try:
        check_path(text)
    except TreeError:
        return
    assert not text.startswith("/") and os.path.normpath(text) == text and ".." not in text.split("/")


@given(PATH, TARGET)
def test_links_by_their_text(path: str, target: str) -> None:
    inside = link_stays_inside(path, target)
    reached = os.path.normpath(os.path.join("/root", os.path.dirname(path), target))
    assert inside == (not target.startswith("/") and (reached == "/root" or reached.startswith("/root/")))


@given(st.text())
def test_shown_names_have_no_control_characters(text: str) -> None:
    assert show(text).isprintable()


class TestWalk:
    def test_everything_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/b/f").write_bytes(b"12")
        (tmp_path / "empty/in").mkdir(parents=True)
        (tmp_path / "x").touch(0o755)
        (tmp_path / "l").symlink_to("a")
        (tmp_path / "skipped").mkdir()
        (tmp_path / "skipped/f").touch()
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "sock"))
            special: list[str] = []
            found = {item.entry for item in walk(str(tmp_path), ["skipped"], special)}
        assert found == {
            Entry("f", "a/b/f", 2), Entry("d", "empty/in"), Entry("f", "x", 0, "", True), Entry("l", "l", target="a"),
        }  # fmt: skip
        assert sorted(special) == ["pipe", "sock"]
        with pytest.raises(SpecialFile):
            list(walk(str(tmp_path)))

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        assert list(walk(str(tmp_path / "absent"))) == []

    def test_a_file_that_grows_is_not_hashed(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"x" * (8 << 20))
        stop = threading.Event()

        def grow() -> None:
            while not stop.is_set():
                with path.open("ab") as file:
                    file.write(b"y")

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            with pytest.raises(ChangedWhileRead):
                for _ in range(50):
                    hash_file(str(path))
        finally:
            stop.set()
            thread.join()


class TestLanding:
    def test_folders_and_places(self, tmp_path: Path) -> None:
        with Landing(str(tmp_path)) as landing:
            for path in ("a/b/c", "a/b/d", "e", "a/f", "a/b/g"):
                folder, name = landing.place(path)
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=folder))
            landing.folder("only/folder")
            landing.folder("")
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
            "a/b/c", "a/b/d", "a/b/g", "a/f", "e",
        ]  # fmt: skip
        assert (tmp_path / "only/folder").is_dir()

    @pytest.mark.parametrize("path", ["", "../x", "/x", "a/../../x", "a//b", "."])
    def test_paths_that_lead_out(self, tmp_path: Path, path: str) -> None:
        with Landing(str(tmp_path)) as landing, pytest.raises(TreeError):
            landing.place(path)

    def test_no_descriptor_leaks(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        (tmp_path / "file").touch()
        with Landing(str(tmp_path)) as landing:
            for number in range(50):
                landing.place(f"a/{number}/b/c")
                with pytest.raises(TreeError):
                    landing.place("file/x/y")
                landing.folder("")
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("target", ["outside", "../outside", "/"])
    def test_a_link_on_the_way(self, tmp_path: Path, target: str) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        root.mkdir()
        outside.mkdir()
        (root / "a").symlink_to(outside if target == "outside" else target)
        with Landing(str(root)) as landing:
            for path in ("a/x", "a/b/x"):
                with pytest.raises(TreeError):
                    landing.place(path)
        assert not list(outside.iterdir())

    def test_a_link_that_appears(self, tmp_path: Path) -> None:
        """Somebody swaps a folder for a link that points out, again and again, while files land."""
        root, outside = tmp_path / "root", tmp_path / "outside"
        (outside / "b").mkdir(parents=True)
        (root / "a/b").mkdir(parents=True)
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                try:
                    os.rename(root / "a", root / "kept")
                    os.symlink(outside, root / "a")
                    os.unlink(root / "a")
                    os.rename(root / "kept", root / "a")
                except OSError:
                    pass

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for number in range(1500):
                with Landing(str(root)) as landing:
                    try:
                        folder, name = landing.place(f"a/b/{number}")
                        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
                    except (TreeError, FileNotFoundError):
                        pass
        finally:
            stop.set()
            thread.join()
        assert [path for path in outside.rglob("*") if path != outside / "b"] == []
