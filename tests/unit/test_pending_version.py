"""A version of an upload that takes shape while its blobs still come."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.packs import pack
from remoterun.agent.shared.protocol import WINDOW, Link, RemoteError, Stream
from remoterun.agent.shared.tree import Entry, Manifest, TreeError
from remoterun.agent.store import pending_version as pending_module
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.store.pending_version import PendingVersion
from tests.workshop import Files, read_files, served, tree_of, until

FILES: Files = {
    "a": b"A", "b/c": os.urandom(200_000), "b/run*": b"#!", "e/empty": None, "link": "-> b/c", "z": b"", "zz": b"A",
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


def in_place(home: Home) -> Files:
    """What stands in tmp/, as it grows."""
    return {
        name: content for tree in Path(home.tmp).glob("upload-*/tree") for name, content in read_files(tree).items()
    }


def nothing_is_left(home: Home) -> None:
    assert os.listdir(home.tmp) == [] and os.listdir(home.leases) == []


@pytest.mark.parametrize("order", range(4))
def test_it_grows_in_whatever_order_blobs_and_manifest_come(home: Home, order: int) -> None:
    chance = random.Random(order)
    manifest, blobs = tree_of(FILES)
    text = manifest.encode()
    cuts = sorted(chance.sample(range(1, len(text)), 5))
    parts: list[Any] = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    contents: list[Any] = list(blobs.values())
    chance.shuffle(contents)
    with PendingVersion(home, {}) as pending:
        while parts or contents:
            which = parts if not contents or (parts and chance.random() < 0.5) else contents
            item = which.pop(0)
            pending.take(item) if which is parts else home.blobs.put(item)
            whole = pending.place()
            assert not whole or not contents or parts
            assert in_place(home).items() <= {**FILES, "b": None, "e": None}.items()
            assert home.uploads.versions("doom") == [], "nobody sees it before it is whole"
        assert pending.place()
        assert in_place(home) == FILES
        version, created = pending.commit("doom")
    assert created and version["digest"] == manifest.digest and version["files"] == len(manifest.files)
    stored = home.uploads.stored("doom")
    assert read_files(Path(stored.folder)) == FILES and stored.manifest().encode() == text
    for folder in ("b", "e", "e/empty"):
        assert stat.S_IMODE(os.stat(os.path.join(stored.folder, folder)).st_mode) == 0o555
    nothing_is_left(home)


def test_the_longest_lines(home: Home) -> None:
    """Each is longer than what is gone through at once."""
    far = os.fsdecode(b"\xe9" * 3000)
    manifest = Manifest([Entry("l", name, target=far) for name in ("a", "b", "d")] + [Entry("d", "c"), Entry("d", "e")])
    assert len(manifest.encode()) > 3 * pending_module.AT_ONCE
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        assert pending.place()
        pending.commit("doom")
    folder = Path(home.uploads.stored("doom").folder)
    assert sorted(os.listdir(folder)) == ["a", "b", "c", "d", "e"] and os.readlink(folder / "d") == far


def test_a_folder_that_somebody_took_away_is_no_missing_blob(home: Home) -> None:
    manifest, _ = tree_of({"1": b"one", "2": b"two"})
    home.blobs.put(b"one")
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        assert not pending.place()
        for tree in Path(home.tmp).glob("upload-*/tree"):
            shutil.rmtree(tree)
        home.blobs.put(b"two")
        with pytest.raises(FileNotFoundError):
            pending.place()


def test_it_says_that_it_lives(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the gc of a machine that shares the home, and can't see our process."""
    monkeypatch.setattr(pending_module, "ALIVE_EVERY", 0.0)
    manifest, _ = tree_of({"1": b"one"})
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        pending.place()
        (folder,) = Path(home.tmp).iterdir()
        os.utime(folder, (1.0, 1.0))
        pending.place()
        assert folder.stat().st_mtime > 1e9


def test_it_stops_at_the_first_blob_that_is_not_here(home: Home) -> None:
    manifest, blobs = tree_of({"1": b"one", "2": b"two", "3": b"three"})
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        home.blobs.put(b"one"), home.blobs.put(b"three")
        assert not pending.place()
        assert in_place(home) == {"1": b"one"} and pending.unplaced > 0
        with pytest.raises(HomeError, match="the content of 2 is not in"):
            pending.commit("doom")
    assert home.uploads.versions("doom") == []
    nothing_is_left(home)


def test_a_damaged_blob_may_still_be_mended(home: Home) -> None:
    manifest, _ = tree_of({"1": b"one"})
    home.blobs.put(b"one")
    blob = Path(home.blobs.path(hashlib.sha256(b"one").hexdigest()))
    blob.chmod(0o600)
    blob.write_bytes(b"")  # as a power cut leaves it
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        assert not pending.place()
        home.blobs.put(b"one")
        assert pending.place()
        pending.commit("doom")
    assert read_files(Path(home.uploads.stored("doom").folder)) == {"1": b"one"}


@pytest.mark.parametrize("begun", [False, True])
def test_the_same_again_makes_no_version(home: Home, begun: bool) -> None:
    manifest, blobs = tree_of(FILES)
    for content in blobs.values():
        home.blobs.put(content)
    first, _ = home.uploads.commit("doom", manifest)
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        if begun:
            assert pending.place()
        assert pending.commit("doom") == (first, False)
        assert {digest.hex() for digest in pending.digests} == set(blobs)
    nothing_is_left(home)


def test_gc_leaves_what_it_needs(home: Home) -> None:
    from remoterun.agent.upkeep.gc import Collection

    manifest, blobs = tree_of({"1": b"one", "2": b"two"})
    with PendingVersion(home, {}) as pending:
        pending.take(manifest.encode())
        home.blobs.put(b"one")
        assert not pending.place()
        home.blobs.put(b"two")
        Collection(home, None, False, 0.0, False, lambda **_: None).run()
        assert pending.place(), "gc took a blob that a lease protects, or the folder of a process that lives"
        pending.commit("doom")
    assert read_files(Path(home.uploads.stored("doom").folder)) == {"1": b"one", "2": b"two"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"remoterun-tree 2\n", "not a manifest of this version"),
        (b'remoterun-tree 1\n["f","../out",1,"%s",0]\n' % (b"0" * 64), "leaves its folder"),
        (b'remoterun-tree 1\n["l","a","/tmp"]\n["f","a/b",1,"%s",0]\n' % (b"0" * 64), "lies below a"),
        (b'remoterun-tree 1\n["f","' + b"a" * 70_000, "not a line of a manifest"),
    ],
)
def test_a_bad_manifest_is_refused_and_nothing_is_left(home: Home, text: bytes, said: str) -> None:
    with PendingVersion(home, {}) as pending, pytest.raises(TreeError, match=said):
        for at in range(0, len(text), 1000):
            pending.take(text[at : at + 1000])
            pending.place()
    nothing_is_left(home)


# -- the request


def ask(link: Link, contents: list[bytes]) -> int:
    """How many of them are missing there."""
    stream = link.open("missing")
    stream.send(b"".join(hashlib.sha256(content).digest() for content in contents))
    stream.end()
    return int(stream.finish(10)["blobs"])


def put(stream: Stream, content: bytes) -> None:
    stream.send(pack([(hashlib.sha256(content).digest(), content)]), p=1)


def test_the_answer_comes_with_the_last_blob(home: Home) -> None:
    files: Files = {f"{n:03}": b"%d" % n for n in range(100)}
    manifest, blobs = tree_of(files)
    with served(home) as link:
        assert ask(link, list(blobs.values())) == 100
        commit, coming = link.open("commit_upload", name="doom"), link.open("put")
        commit.send(manifest.encode(), last=1)
        for content in sorted(blobs.values(), key=int)[:-1]:
            put(coming, content)
        until(lambda: len(os.listdir(home.tmp)) == 1 and len(in_place(home)) == 99)
        assert home.uploads.versions("doom") == []
        put(coming, b"99")
        assert commit.finish(10)["created"], "though neither stream has been ended"
        coming.end()
        coming.finish(10)
    assert read_files(Path(home.uploads.stored("doom").folder)) == files
    nothing_is_left(home)


def test_what_comes_to_another_process_is_found(home: Home) -> None:
    manifest, blobs = tree_of({"1": b"one"})
    with served(home) as link:
        assert ask(link, [b"one"]) == 1
        commit = link.open("commit_upload", name="doom")
        commit.send(manifest.encode(), last=1)
        until(lambda: len(os.listdir(home.tmp)) == 1)
        home.blobs.put(b"one")
        assert commit.finish(10)["created"]


@pytest.mark.parametrize("state", ["there", "lacking", "damaged"])
def test_a_long_list_blocks_nothing(home: Home, state: str) -> None:
    """More of it than the window, whether its first file is there, still to come, or never will be."""
    first = b"first"
    far = os.fsdecode(b"\xe9" * 4000)  # in a list, six times as long
    entries = [Entry("f", "0", len(first), hashlib.sha256(first).hexdigest())]
    entries += [Entry("l", f"1/{n:07}", target=far) for n in range(4 * WINDOW // 24_000)]
    manifest = Manifest(entries)
    text = manifest.encode()
    assert len(text) > 3 * WINDOW
    if state != "lacking":
        home.blobs.put(first)
    if state == "there":
        home.uploads.commit("doom", manifest)
    if state == "damaged":
        blob = Path(home.blobs.path(hashlib.sha256(first).hexdigest()))
        blob.chmod(0o600)
        blob.write_bytes(b"other")
        blob.write_bytes(b"longer than that")
    with served(home) as link:
        assert ask(link, [first, b"another"]) == 1 + (state == "lacking")
        commit, coming = link.open("commit_upload", name="doom"), link.open("put")
        for at in range(0, len(text), PIECE):
            if state == "lacking" and at == WINDOW // PIECE * PIECE // 2:
                put(coming, first)
            commit.send(text[at : at + PIECE], **({"last": 1} if at + PIECE >= len(text) else {}))
        commit.end()
        if state == "damaged":
            with pytest.raises(RemoteError, match="the content of 0 is damaged"):
                commit.finish(60)
        else:
            assert commit.finish(60)["created"] == (state == "lacking")
        coming.end()
        coming.finish(10)
    assert os.listdir(home.tmp) == []


def test_a_cut_leaves_nothing(home: Home) -> None:
    manifest, _ = tree_of({"1": b"one", "2": b"two"})
    home.blobs.put(b"one")
    with served(home) as link:
        assert ask(link, [b"one", b"two"]) == 1
        commit = link.open("commit_upload", name="doom")
        commit.send(manifest.encode())
        until(lambda: len(os.listdir(home.tmp)) == 1 and in_place(home) == {"1": b"one"})
        commit.cancel()
        until(lambda: os.listdir(home.tmp) == [])
    assert home.uploads.versions("doom") == []


def test_a_name_that_is_none_is_refused_at_once(home: Home) -> None:
    with served(home) as link:
        commit = link.open("commit_upload", name="../x")
        with pytest.raises(RemoteError, match="is not a name for an upload"):
            commit.finish(10)
