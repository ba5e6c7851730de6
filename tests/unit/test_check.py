"""`check`: what is damaged is found and named, and mended wherever a whole copy is to be had; nothing is made worse."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.spec import GitState
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import outputs
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from remoterun.agent.upkeep.check import Check, mend
from remoterun.model import new_key
from tests.unit.test_gc import blobs, collect, end, everything, make_run, mount, upload
from tests.unit.test_home import missing, put, sound
from tests.workshop import Files, read_files, served, sha256, tree_of, write_files

CONTENT = b"C" * 5000
FILES: Files = {"a": b"A", "b/c": CONTENT, "b/run*": b"#!/bin/sh\n", "link": "-> a", "empty": None}
RUN = b"#!/bin/sh\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


def check(home: Home, repair: bool = True) -> list[dict[str, Any]]:
    """The findings of one check; its progress is looked at, too."""
    findings: list[dict[str, Any]] = []
    last: dict[str, Any] = {}

    def take(at: dict[str, Any] | None = None, finding: dict[str, Any] | None = None) -> None:
        if at is not None:
            assert at["phase"] != last.get("phase") or at["bytes"] >= last["bytes"]
            last.update(at)
        if finding is not None:
            findings.append(finding)

    done = Check(home, repair, take).run()
    assert done.findings == len(findings) and last["phase"] == "files"
    return findings


def damage(path: str, keep_size: bool = True) -> None:
    """As a failing disk does: the same file, another content."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"\0")
        if not keep_size:
            file.truncate(1)
    os.chmod(path, mode)


def whole(home: Home) -> None:
    sound(home)
    assert check(home) == [] and os.listdir(home.tmp) == []


def modes(home: Home) -> dict[str, int]:
    paths = [path for path in Path(home.uploads.folder).rglob("*") if not path.is_symlink()]
    return {str(path): stat.S_IMODE(path.stat().st_mode) for path in paths}


def run_with_outputs(home: Home, files: Files, made: Files) -> RunFolder:
    run = make_run(home, files)
    home.checkout(Manifest.decode(Path(run.source_file).read_bytes()), run.work, private=True)
    write_files(Path(run.work), made)
    outputs.save(home, run, [])
    end(run)
    return run


def users(finding: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {(user.get("upload") or user["run"], user.get("version") or user["part"], user["path"])
            for user in finding["users"]}  # fmt: skip


def test_a_sound_home(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    home.uploads.commit("doom", put(home, {**FILES, "a": b"B"}))
    pinned = mount(home, "doom")
    run_with_outputs(home, {"main": b"x"}, {"model": b"weights", "run*": RUN})
    make_run(home, {"a": b"A"}, [pinned], git=GitState("c0ffee", diff=home.blobs.put(b"diff")))
    before = everything(home)
    whole(home)
    assert everything(home) == before


@pytest.mark.parametrize("keep_size", [True, False])
def test_a_blob_that_nothing_can_mend(home: Home, keep_size: bool) -> None:
    home.uploads.commit("doom", put(home, FILES))
    home.uploads.commit("other", put(home, {"deep/er/same": CONTENT}))
    run = run_with_outputs(home, {"data": CONTENT}, {"copy": CONTENT})
    blob = home.blobs.path(sha256(CONTENT))
    damage(blob, keep_size)
    broken = Path(blob).read_bytes()
    before = everything(home)
    (finding,) = check(home, repair=False)
    assert everything(home) == before, "it was only looked at"
    assert (finding["what"], finding["problem"], finding["digest"]) == ("blob", "damaged", sha256(CONTENT))
    named = {
        ("doom", 1, "b/c"),
        ("other", 1, "deep/er/same"),
        (run.key, "source", "data"),
        (run.key, "outputs", "copy"),
    }
    assert users(finding) == named and finding["mended"] == ""

    assert users(check(home)[0]) == named
    assert not home.blobs.has(sha256(CONTENT)), "the next upload sends it again"
    assert Path(home.damaged, sha256(CONTENT)).read_bytes() == broken, "nothing is deleted"
    assert Path(home.uploads.folder, "doom/1/b/c").read_bytes() == broken
    (again,) = check(home)
    assert again["problem"] == "missing" and users(again) == named
    assert [home.uploads.versions(name)[-1].get("damaged") for name in ("doom", "other")] == [True, True]
    with served(home) as link:
        assert missing(link, CONTENT) == [(0, 0)]
        assert upload(link, "doom", FILES)["created"], "the version that is there is not whole"
        assert not upload(link, "doom", FILES)["created"]
    assert read_files(Path(home.uploads.folder, "doom/1")) == FILES
    assert [finding["mended"] for finding in check(home)] == ["its blob"] * 2
    assert [version.get("damaged") for version in home.uploads.versions("doom")] == [None]
    assert os.listdir(home.damaged) == []
    whole(home)


def test_what_a_client_brings(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    run = run_with_outputs(home, {"main": b"x"}, {"deep/copy*": CONTENT, "more": b"A"})
    before = modes(home)
    for data in (CONTENT, b"A", RUN):
        damage(home.blobs.path(sha256(data)))
    for data in (CONTENT, RUN):
        damage(home.blobs.path(sha256(data), True))
    assert len(check(home)) == 3
    said: list[dict[str, Any]] = []
    home.blobs.put(CONTENT)
    home.blobs.put(RUN)
    wanted = {bytes.fromhex(sha256(data)) for data in (CONTENT, RUN, b"A")}
    mend(home, wanted, lambda **header: said.append(header))
    assert {line["mended"] for line in said if "mended" in line} == {sha256(CONTENT), sha256(RUN)}
    assert [line["failed"] for line in said if "failed" in line] == [sha256(b"A")]
    assert os.listdir(home.damaged) == [sha256(b"A")], "that one is the only one left"
    assert home.uploads.versions("doom")[0]["damaged"]
    home.blobs.put(b"A")
    mend(home, wanted, lambda **header: said.append(header))
    assert os.listdir(home.damaged) == [] and "damaged" not in home.uploads.versions("doom")[0]
    assert read_files(Path(home.uploads.folder, "doom/1")) == FILES
    assert read_files(Path(run.out)) == {"deep/copy*": CONTENT, "more": b"A"}
    assert modes(home) == before
    whole(home)


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_from_the_twin(home: Home, twin: bool, gone: bool) -> None:
    home.uploads.commit("doom", put(home, {"sub/run*": RUN, "sub/text": RUN}))
    before = modes(home)
    path = home.blobs.path(sha256(RUN), twin)
    if gone and not twin:
        os.unlink(path)
    else:
        damage(path)
    (finding,) = check(home)
    assert finding["mended"] == ("the blob beside it" if twin else "its executable twin")
    assert finding["problem"] == ("missing" if gone and not twin else "damaged")
    assert read_files(Path(home.uploads.folder, "doom/1")) == {"sub/run*": RUN, "sub/text": RUN}
    assert modes(home) == before
    links = {os.stat(os.path.join(home.uploads.folder, "doom/1/sub", name)).st_ino for name in ("run", "text")}
    assert gone or links == {os.stat(home.blobs.path(sha256(RUN), which)).st_ino for which in (False, True)}
    whole(home)


def test_from_a_copy(home: Home) -> None:
    """As an upload's file is one, where a blob has no more links to give."""
    for name in ("one", "two", "three"):
        home.uploads.commit(name, put(home, FILES))
    copy = Path(home.uploads.folder, "two/1/b/c")
    copy.parent.chmod(0o755)
    copy.unlink()
    copy.write_bytes(CONTENT)
    copy.chmod(0o444)
    copy.parent.chmod(0o555)
    damage(home.blobs.path(sha256(CONTENT)))
    (finding,) = check(home)
    assert finding["mended"] == "its copy in uploads/two/1/b/c"
    assert all(read_files(Path(home.uploads.folder, name, "1")) == FILES for name in ("one", "two", "three"))
    whole(home)


def test_a_blob_that_is_gone(home: Home) -> None:
    """Its link in an upload's folder has the content."""
    home.uploads.commit("doom", put(home, FILES))
    os.unlink(home.blobs.path(sha256(CONTENT)))
    assert check(home)[0]["mended"] == "its copy in uploads/doom/1/b/c"
    assert os.stat(home.blobs.path(sha256(CONTENT))).st_nlink == 2, "it takes its space once"
    whole(home)


def test_one_that_nothing_refers_to(home: Home) -> None:
    digest = home.blobs.put(b"unused")
    damage(home.blobs.path(digest))
    assert check(home, repair=False)[0]["mended"] == ""
    (finding,) = check(home)
    assert finding["users"] == [] and "nothing refers to it" in finding["mended"]
    assert os.listdir(home.damaged) == [digest] and blobs(home) == set()
    whole(home)


def test_files_of_folders(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    run = run_with_outputs(home, {"main": b"x"}, {"sub/model": b"weights"})
    before = modes(home)
    top = Path(home.uploads.folder, "doom/1")
    (top / "b").chmod(0o755)
    (top / "b/c").unlink()
    (top / "b/run").unlink()
    (top / "b/run").write_bytes(b"edited")
    (top / "b").chmod(0o555)
    (top / "link").unlink()
    (top / "a").unlink()
    (top / "a").symlink_to("/etc/passwd")
    (top / "empty").chmod(0o755)
    (top / "empty").rmdir()
    out = Path(run.out)
    (out / "sub").chmod(0o755)
    (out / "sub/model").unlink()
    (out / "sub").rmdir()
    expected = {
        ("doom", 1, "b/c", "missing"), ("doom", 1, "b/run", "changed"), ("doom", 1, "link", "missing"),
        ("doom", 1, "a", "changed"), ("doom", 1, "empty", "missing"), (run.key, "outputs", "sub/model", "missing"),
    }  # fmt: skip
    for repair in (False, True):
        findings = check(home, repair)
        assert {(*user, finding["problem"]) for finding in findings for user in users(finding)} == expected
        assert {finding["what"] for finding in findings} == {"file"}
        assert {finding["mended"] for finding in findings} == ({"its blob"} if repair else {""})
    assert read_files(top) == FILES and read_files(out) == {"sub/model": b"weights"}
    assert modes(home) == before
    whole(home)


def test_a_folder_in_place_of_a_file(home: Home) -> None:
    """It may hold what somebody has made: it stays, and it is said."""
    home.uploads.commit("doom", put(home, FILES))
    path = Path(home.uploads.folder, "doom/1/a")
    path.unlink()
    write_files(path, {"mine": b"mine"})
    (finding,) = check(home)
    assert finding["mended"] == "" and "directory" in finding["why"] and (path / "mine").read_bytes() == b"mine"


def test_a_whole_folder(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    run = run_with_outputs(home, {"main": b"x"}, {"model": b"weights"})
    before = modes(home)
    from remoterun.agent.shared.files import remove_tree

    for path in (os.path.join(home.uploads.folder, "doom/1"), run.out):
        remove_tree(path)
    assert {(finding["what"], finding["mended"]) for finding in check(home)} == {("folder", "its blob")}
    assert read_files(Path(home.uploads.folder, "doom/1")) == FILES and modes(home) == before
    whole(home)


class TestLists:
    def test_from_the_folder(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, FILES))
        damage(os.path.join(home.uploads.folder, "doom/1.tree"))
        assert check(home, repair=False)[0]["what"] == "list"
        (finding,) = check(home)
        assert finding["mended"] == "the files of the folder" and users(finding) == {("doom", 1, "")}
        whole(home)

    def test_from_its_blob(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, FILES))
        mount(home, "doom")
        os.unlink(os.path.join(home.uploads.folder, "doom/1.tree"))
        os.unlink(os.path.join(home.uploads.folder, "doom/1/a"))
        findings = check(home)
        assert [(finding["what"], finding["mended"]) for finding in findings] == [
            ("list", "its blob"),
            ("file", "its blob"),
        ]
        whole(home)

    @pytest.mark.parametrize("which", ["tree", "versions", "source", "spec", "outputs"])
    def test_that_nothing_can_mend(self, home: Home, which: str) -> None:
        """Everything else is looked at all the same, and `gc` keeps off."""
        home.uploads.commit("doom", put(home, FILES))
        home.uploads.commit("other", put(home, {"x": b"X" * 100}))
        run = run_with_outputs(home, {"main": b"x"}, {"model": b"weights"})
        paths = {
            "tree": "uploads/doom/1.tree", "versions": "uploads/doom/versions.json", "source": f"runs/{run.key}/source",
            "spec": f"runs/{run.key}/spec.json", "outputs": f"runs/{run.key}/outputs",
        }  # fmt: skip
        damage(os.path.join(home.path, paths[which]))
        if which == "tree":
            os.unlink(os.path.join(home.uploads.folder, "doom/1/a"))
        damage(home.blobs.path(sha256(b"X" * 100)))
        findings = {finding["what"]: finding for finding in check(home)}
        assert set(findings) == {"list", "blob"} and users(findings["blob"]) == {("other", 1, "x")}
        assert findings["list"]["mended"] == ""
        ((named, _, _),) = users({"users": [{**findings["list"]["users"][0], "part": "any", "version": 1}]})
        assert named in ("doom", run.key)
        with pytest.raises(HomeError):
            collect(home)


def test_blobs_for_another_home(home: Home) -> None:
    """Only those that are whole; a list of files counts as one."""
    manifest = put(home, FILES)
    home.uploads.commit("doom", manifest)
    damage(home.blobs.path(sha256(b"A")))
    with served(home) as link:
        stream = link.open("blobs")
        wanted = [sha256(b"A"), sha256(CONTENT), sha256(b"nothing"), manifest.digest, sha256(b"")]
        home.blobs.put(b"")
        stream.send(bytes.fromhex("".join(wanted)))
        stream.end()
        found: dict[str, bytes | None] = {}
        for frame in stream:
            if "d" in frame.header:
                digest = frame.header["d"]
                found[digest] = None if frame.header.get("gone") else b""
            if frame.body:
                found[digest] = (found[digest] or b"") + frame.body
    assert list(found) == wanted
    assert list(found.values()) == [None, CONTENT, None, manifest.encode(), b""]


LOOK = """
import os, sys
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.check import Check
Check(Home.open(sys.argv[1]), False, lambda finding=None, at=None: finding and print(finding["problem"])).run()
"""


def test_a_file_that_cannot_be_read(home: Home) -> None:
    """Not even by its owner: it is not a sound blob."""
    home.uploads.commit("doom", put(home, {"a": b"A"}))
    os.chmod(home.blobs.path(sha256(b"A")), 0)
    if os.geteuid() == 0:  # who may read everything
        for path in [Path(home.path), *Path(home.path).rglob("*")]:
            os.chown(path, 65534, 65534)
        for path in Path(home.path).parents:
            if not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)
    done = subprocess.run([sys.executable, "-c", LOOK, home.path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "damaged\n", done.stderr


def test_too_many_for_one_look(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remoterun.agent.upkeep.detection.MOST", 5)
    many: Files = {str(number): b"%d" % number for number in range(12)}
    home.uploads.commit("doom", put(home, many))
    for data in tree_of(many)[1]:
        os.unlink(home.blobs.path(data))
    for left in (7, 2, 0):
        totals = Check(home, True, lambda **_: None).run()
        assert totals.more == left
    whole(home)


def test_a_run_that_is_gone_is_no_finding(home: Home) -> None:
    run = make_run(home, {"main": b"x"})
    os.unlink(run.spec_file)
    Path(home.runs, new_key()).mkdir()
    assert check(home) == []
