"""`df`: sizes that add up to what the disk holds, and what removing something would give back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.api import UsageTotals
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.usage import UsageReport
from tests.homes import collect, damage, make_run, missing, mount, put, run_with_outputs, upload
from tests.workshop import Files, served, write_files


def usage(home: Home) -> tuple[UsageTotals, dict[tuple[str, str], dict[str, Any]]]:
    """(totals, rows by kind and name)."""
    rows: list[dict[str, Any]] = []
    totals = UsageReport(home, lambda row: rows.append(row)).run()
    return totals, {(row["kind"], row["name"]): row for row in rows}


def held(home: Home) -> int:
    """Bytes of all files, each once."""
    return sum({status.st_ino: status.st_size for status in map(os.lstat, files_of(home))}.values())


def files_of(home: Home) -> list[Path]:
    return [path for path in Path(home.path).rglob("*") if path.is_file() and not path.is_symlink()]


def alone(home: Home, kind: str, name: str) -> int:
    return int(usage(home)[1][kind, name]["alone"])


def test_size_and_alone(home: Home) -> None:
    shared, one, two = b"S" * 1000, b"1" * 100, b"2" * 10
    home.uploads.commit("one", put(home, {"shared": shared, "again": shared, "own": one}))
    home.uploads.commit("one", put(home, {"shared": shared, "own": two}))
    home.uploads.commit("two", put(home, {"shared": shared}))
    lists = {name: sum(path.stat().st_size for path in Path(home.uploads.folder, name).iterdir() if path.is_file())
             for name in ("one", "two")}  # fmt: skip
    totals, rows = usage(home)
    assert rows["upload", "one"]["size"] - lists["one"] == 1110 and rows["upload", "one"]["alone"] - lists["one"] == 110
    assert rows["upload", "two"]["size"] - lists["two"] == 1000 and rows["upload", "two"]["alone"] == lists["two"]
    assert [version["version"] for version in rows["upload", "one"]["versions"]] == [1, 2]
    assert (totals.blobs, totals.size, totals.shared, totals.shared_size) == (3, 1110, 1, 1000)
    assert totals.total == held(home) and totals.disk > totals.free > 0


@pytest.mark.parametrize("which", ["one", "two", "run"])
def test_removing_gives_back_what_is_alone(home: Home, which: str) -> None:
    files: Files = {"shared": b"S" * 1000, "deep/tool*": b"#!" * 50, "own": which.encode() * 100}
    for name in ("one", "two"):
        home.uploads.commit(name, put(home, {**files, name: name.encode() * 77}))
    run = run_with_outputs(home, {"shared": b"S" * 1000, "main": b"main"}, {"model": b"M" * 500, "tool*": b"#!x"})
    Path(run.log).write_bytes(b"log" * 30)
    Path(run.work).mkdir()
    Path(run.work, "left").write_bytes(b"left")
    row = usage(home)[1]["run", run.key]
    assert (row["log"], row["work"], row["state"]) == (90, 4, "complete")
    collect(home)
    before = held(home)
    kind, name = ("run", run.key) if which == "run" else ("upload", which)
    expected = alone(home, kind, name)
    if which == "run":
        run.remove()
        home.unmark_active(run.key)
    else:
        home.uploads.remove(which)
    collect(home)
    locks = sum(path.stat().st_size for path in Path(home.locks).iterdir())
    assert locks == 0 and before - held(home) == expected


def test_everything_else(home: Home) -> None:
    put(home, {"unused": b"U" * 70})
    home.uploads.commit("doom", put(home, {"a": b"A" * 30, "run*": b"#!"}))
    make_run(home, {}, [mount(home, "doom")])
    Path(home.partial, "f" * 64).write_bytes(b"half")
    write_files(Path(home.tmp, "upload-99999999-0a"), {"x": b"tmp"})
    write_files(Path(home.damaged), {"d" * 64: b"damaged"})
    write_files(Path(home.envs, "venv-0"), {"ready": b"", "bin/python": b"python"})
    home.blobs.put(b"leased")
    with served(home) as link:
        missing(link, b"leased")
        totals, rows = usage(home)
    assert {kind: rows[kind, ""]["size"] for kind in ("unreferenced", "leased", "partial", "temporary", "damaged")} == {
        "unreferenced": 70, "leased": 6, "partial": 4, "temporary": 3, "damaged": 7,
    }  # fmt: skip
    assert rows["environment", "venv-0"]["alone"] == 6 and rows["environment", "venv-0"]["used"] > 0
    assert totals.total == held(home)
    assert collect(home, after=1e7).freed >= 70 + 4 + 3
    assert ("unreferenced", "") not in usage(home)[1]


def test_what_cannot_be_read_is_said(home: Home) -> None:
    home.uploads.commit("doom", put(home, {"a": b"A"}))
    damage(os.path.join(home.uploads.folder, "doom/1.tree"))
    run = make_run(home, {"main": b"x"})
    damage(run.spec_file)
    totals, rows = usage(home)
    assert rows["upload", "doom"]["damaged"] and ("run", run.key) in rows
    assert totals.total == held(home)


def test_a_removal_meanwhile(home: Home) -> None:
    with served(home) as link:
        upload(link, "doom", {"a": b"A"})
    os.unlink(os.path.join(home.uploads.folder, "doom/versions.json"))
    assert usage(home)[1]["upload", "doom"]["versions"] == []


@pytest.mark.parametrize(
    ("name", "files", "contents"),
    [
        ("venv-1", {"ready": "", "contents": "Python, cowsay", "requirements.txt": "x"}, "Python, cowsay"),
        ("lib-3", {"trainer/x.py": ""}, "the trainer"),
        ("venv-4", {}, ""),
    ],
)
def test_environments_are_named_by_what_is_in_them(home: Home, name: str, files: Files, contents: str) -> None:
    write_files(Path(home.envs, name), files)
    assert usage(home)[1]["environment", name]["contents"] == contents
