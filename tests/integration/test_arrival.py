"""What git tracks arrives on the host as it is on disk, whatever it is called and whatever git is set to do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.client.runs.following import LogBytes
from remoterun.model import RunRequest
from remoterun.source import snapshot
from tests.workshop import User

LIST = r"""
import hashlib, json, os, sys
found = {}
for folder, folders, names in os.walk(b"."):
    for name in names + [each for each in folders if os.path.islink(os.path.join(folder, each))]:
        path = os.path.join(folder, name)
        shown = os.fsdecode(os.path.relpath(path, b"."))
        if os.path.islink(path):
            found[shown] = ["link", os.fsdecode(os.readlink(path))]
        else:
            data = open(path, "rb").read()
            found[shown] = ["file", hashlib.sha256(data).hexdigest(), bool(os.stat(path).st_mode & 0o100)]
print(json.dumps(found, sort_keys=True))
"""


SETTINGS = """
[diff]
    noprefix = true
    external = false
[core]
    autocrlf = true
    quotepath = false
[color]
    ui = always
[status]
    showUntrackedFiles = no
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[User]:
    made = User(tmp_path_factory.mktemp("user"), environment)
    yield made
    made.close()


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`git(*words)` in a new repository of a user with unusual settings."""
    (tmp_path / "gitconfig").write_text(SETTINGS)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = tmp_path / "repository"
    folder.mkdir()

    def call(*words: str) -> None:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    call.folder = folder  # type: ignore[attr-defined]
    call("init", "-q")
    return call


def arrived(user: User, folder: Path, command: str = 'python3 -c "$LIST"', **options: Any) -> Any:
    """What the command prints, as JSON, when run from `folder`."""
    request = RunRequest(command, env=(("LIST", LIST), ("LC_ALL", "C.UTF-8")))
    with snapshot(folder, **options) as source:
        run = user.client.runs.submit(request, source)
    log = b"".join(item.data for item in user.client.runs.follow(run.number) if isinstance(item, LogBytes))
    assert user.client.runs.get(run.number).code == 0, log.decode("utf-8", "replace")
    return json.loads(log)


def here(folder: Path) -> Any:
    """The same list of this machine's folder, without what git does not track."""
    done = subprocess.run(["python3", "-c", LIST], cwd=folder, check=True, capture_output=True)
    return {name: about for name, about in json.loads(done.stdout).items() if not name.startswith(".git/")}


def test_names_contents_modes_and_links(user: User, git: Any) -> None:
    folder: Path = git.folder
    for name in (
        b"plain.txt",
        b"with space",
        b"quo'te\"s",
        b"new\nline",
        "na\u00efve \u2603".encode(),
        b"latin\xe9",
        b"-dash",
        b"a\tb",
    ):
        path = os.path.join(os.fsencode(folder), name)
        with open(path, "wb") as file:
            file.write(b"content of " + name)
    (folder / "binary").write_bytes(bytes(range(256)) * 50)
    (folder / "crlf.txt").write_bytes(b"one\r\ntwo\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("plain.txt")
    (folder / "dangling").symlink_to("/nowhere/at/all")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "file").write_text("deep")
    git("add", "-A")
    git("commit", "-q", "-m", "all")
    assert arrived(user, folder) == here(folder)


def test_before_the_first_commit_nothing_is_left_behind(user: User, git: Any) -> None:
    """There is no commit to record a diff against: one that came all the same would belong to no run."""
    (git.folder / "a").write_text("a\n")
    git("add", "a")
    assert list(arrived(user, git.folder)) == ["a"]
    assert "leased" not in {use.kind for use in user.client.machines.df().uses}
