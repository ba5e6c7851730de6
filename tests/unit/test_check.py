"""`check`: what is damaged is found, named and set aside, so that the next upload sends it; nothing is made worse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.files import remove_tree
from remoterun.agent.shared.spec import GitState
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.check import Check
from remoterun.model import new_key
from tests.homes import (
    blobs,
    check,
    collect,
    damage,
    everything,
    make_run,
    missing,
    mount,
    put,
    run_with_outputs,
    upload,
    whole,
)
from tests.workshop import Files, read_files, served, sha256, tree_of, write_files

CONTENT = b"C" * 5000
FILES: Files = {"a": b"A", "b/c": CONTENT, "b/run*": b"#!/bin/sh\n", "link": "-> a", "empty": None}
RUN = b"#!/bin/sh\n"


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
def test_a_damaged_blob(home: Home, keep_size: bool) -> None:
    home.uploads.commit("doom", put(home, FILES))
    home.uploads.commit("other", put(home, {"deep/er/same": CONTENT}))
    run = run_with_outputs(home, {"data": CONTENT}, {"copy": CONTENT})
    blob = home.blobs.path(sha256(CONTENT))
    damage(blob, keep_size)
    broken = Path(blob).read_bytes()
    before = everything(home)
    (finding,) = check(home, set_aside=False)
    assert everything(home) == before, "it was only read"
    assert (finding["what"], finding["problem"], finding["digest"]) == ("blob", "damaged", sha256(CONTENT))
    named = {
        ("doom", 1, "b/c"),
        ("other", 1, "deep/er/same"),
        (run.key, "source", "data"),
        (run.key, "outputs", "copy"),
    }
    assert users(finding) == named and finding["size"] == len(CONTENT)

    assert users(check(home)[0]) == named
    assert not home.blobs.has(sha256(CONTENT)), "the next upload sends it again"
    assert Path(home.damaged, sha256(CONTENT)).read_bytes() == broken, "nothing is deleted"
    assert Path(home.uploads.folder, "doom/1/b/c").read_bytes() == broken
    (again,) = check(home)
    assert again["problem"] == "missing" and users(again) == named
    assert [home.uploads.versions(name)[-1].get("damaged") for name in ("doom", "other")] == [True, True]
    with served(home) as link:
        assert missing(link, CONTENT) == [(0, 0)]
        assert upload(link, "doom", FILES)["created"], "the version is not whole"
        assert not upload(link, "doom", FILES)["created"]
        assert read_files(Path(home.uploads.folder, "doom/1")) == FILES
        assert [users(finding) for finding in check(home)] == [
            {("other", 1, "deep/er/same")}, {(run.key, "outputs", "copy")},
        ]  # fmt: skip
        assert [home.uploads.versions(name)[0].get("damaged") for name in ("doom", "other")] == [None, True]
        assert os.listdir(home.damaged) == [], "its blob is whole again"
        assert missing(link, CONTENT) == [] and upload(link, "other", {"deep/er/same": CONTENT})["created"]
    run.remove()
    whole(home)


@pytest.mark.parametrize("gone", [False, True])
def test_a_plain_blob_whose_twin_is_whole(home: Home, gone: bool) -> None:
    home.uploads.commit("doom", put(home, {"sub/run*": RUN, "sub/text": RUN}))
    path = home.blobs.path(sha256(RUN))
    if gone:
        os.unlink(path)
    else:
        damage(path)
    (finding,) = check(home)
    assert finding["problem"] == ("missing" if gone else "damaged")
    assert users(finding) == {("doom", 1, "sub/run"), ("doom", 1, "sub/text")}
    with served(home) as link:
        upload(link, "doom", {"sub/run*": RUN, "sub/text": RUN})
    assert check(home) == [] and os.listdir(home.uploads.folder) == ["doom"]
    whole(home)


def test_a_damaged_twin(home: Home) -> None:
    home.uploads.commit("doom", put(home, {"sub/run*": RUN, "sub/text": RUN}))
    damage(home.blobs.path(sha256(RUN), True))
    (finding,) = check(home)
    assert (finding["problem"], users(finding)) == ("damaged", {("doom", 1, "sub/run")})
    with served(home) as link:
        assert missing(link, RUN) == [], "its content is here"
        assert upload(link, "doom", {"sub/run*": RUN, "sub/text": RUN})["created"]
    whole(home)


def test_one_that_nothing_refers_to(home: Home) -> None:
    digest = home.blobs.put(b"unused")
    damage(home.blobs.path(digest))
    (finding,) = check(home)
    assert finding["users"] == [] and os.listdir(home.damaged) == [digest] and blobs(home) == set()
    whole(home)


def test_files_of_folders(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    run = run_with_outputs(home, {"main": b"x"}, {"sub/model": b"weights"})
    top = Path(home.uploads.folder, "doom/1")
    (top / "b").chmod(0o755)
    (top / "b/c").unlink()
    (top / "b/run").unlink()
    (top / "b/run").write_bytes(b"edited")
    (top / "b").chmod(0o555)
    (top / "link").unlink()
    write_files(top / "a.new", {"mine": b"mine"})
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
    findings = check(home)
    assert {(*user, finding["problem"]) for finding in findings for user in users(finding)} == expected
    assert {finding["what"] for finding in findings} == {"file"} and home.uploads.versions("doom")[0]["damaged"]
    with served(home) as link:
        upload(link, "doom", FILES)
    assert read_files(top) == FILES
    assert [users(finding) for finding in check(home)] == [{(run.key, "outputs", "sub/model")}]


def test_a_copy_counts_as_much_as_a_link(home: Home) -> None:
    """As an upload's file is one, where a blob has no more links to give."""
    home.uploads.commit("doom", put(home, FILES))
    copy = Path(home.uploads.folder, "doom/1/b/c")
    copy.parent.chmod(0o755)
    copy.unlink()
    copy.write_bytes(CONTENT)
    copy.chmod(0o444)
    copy.parent.chmod(0o555)
    whole(home)


def test_a_whole_folder(home: Home) -> None:
    home.uploads.commit("doom", put(home, FILES))
    run = run_with_outputs(home, {"main": b"x"}, {"model": b"weights"})
    for path in (os.path.join(home.uploads.folder, "doom/1"), run.out):
        remove_tree(path)
    assert [(finding["what"], users(finding)) for finding in check(home)] == [
        ("folder", {("doom", 1, "")}),
        ("folder", {(run.key, "outputs", "")}),
    ]


@pytest.mark.parametrize("which", ["tree", "versions", "source", "spec", "outputs"])
def test_a_list(home: Home, which: str) -> None:
    """Everything else is inspected all the same, and `gc` frees nothing."""
    home.uploads.commit("doom", put(home, FILES))
    home.uploads.commit("other", put(home, {"x": b"X" * 100}))
    run = run_with_outputs(home, {"main": b"x"}, {"model": b"weights"})
    paths = {
        "tree": "uploads/doom/1.tree", "versions": "uploads/doom/versions.json", "source": f"runs/{run.key}/source",
        "spec": f"runs/{run.key}/spec.json", "outputs": f"runs/{run.key}/outputs",
    }  # fmt: skip
    damage(os.path.join(home.path, paths[which]))
    damage(home.blobs.path(sha256(b"X" * 100)))
    findings = {finding["what"]: finding for finding in check(home)}
    assert set(findings) == {"list", "blob"} and users(findings["blob"]) == {("other", 1, "x")}
    ((named, _, _),) = users({"users": [{**findings["list"]["users"][0], "part": "any", "version": 1}]})
    assert named in ("doom", run.key) and named in findings["list"]["why"]
    assert Path(home.path, paths[which]).exists()
    with pytest.raises(HomeError):
        collect(home)
    if which == "tree":
        with served(home) as link:
            assert upload(link, "doom", FILES)["created"] and upload(link, "other", {"x": b"X" * 100})["created"]
        whole(home)


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
    monkeypatch.setattr("remoterun.agent.upkeep.check.MOST", 5)
    many: Files = {str(number): b"%d" % number for number in range(12)}
    home.uploads.commit("doom", put(home, many))
    for data in tree_of(many)[1]:
        os.unlink(home.blobs.path(data))
    findings: list[dict[str, Any]] = []
    totals = Check(home, True, lambda finding: findings.append(finding)).run()
    assert (len(findings), totals.more) == (5, 7)
    with served(home) as link:
        upload(link, "doom", many)
    whole(home)


def test_a_run_that_is_gone_is_no_finding(home: Home) -> None:
    run = make_run(home, {"main": b"x"})
    os.unlink(run.spec_file)
    Path(home.runs, new_key()).mkdir()
    assert check(home) == []
