"""`gc`: frees what nothing refers to, and nothing else, at any moment."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.engines.docker import _image
from remoterun.agent.running.engines.process import ProcessEngine
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.files import locked
from remoterun.agent.shared.spec import GitState, ResolvedMount
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import leases, outputs
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.stale_files import LEFT
from remoterun.model import new_key
from tests.homes import (
    DAY,
    Mounted,
    blobs,
    collect,
    end,
    everything,
    make_run,
    mount,
    put,
    sound,
    upload,
)
from tests.workshop import NO_PACKAGES, Files, fill, read_files, served, sha256, tree_of, until, write_files

FILES: Files = {"a": b"A", "b/c": b"C" * 5000, "b/run*": b"#!/bin/sh\n", "link": "-> a", "empty": None}


class TestBlobs:
    def test_what_nothing_refers_to(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, FILES))
        put(home, {"x": b"X" * 1000, "y": b"Y" * 10})
        home.blobs.executable_twin(sha256(b"X" * 1000))
        before = everything(home)
        told = collect(home, dry_run=True)
        assert everything(home) == before, "it was only asked"
        assert told.counts == {"blobs": 3} and told.freed == 2010
        done = collect(home)
        assert (done.counts, done.freed) == (told.counts, told.freed)
        assert set(before) - set(everything(home)) == {
            os.path.relpath(home.blobs.path(sha256(data), twin), home.path)
            for data, twin in ((b"X" * 1000, False), (b"X" * 1000, True), (b"Y" * 10, False))
        }
        assert collect(home).parts == {}
        sound(home)

    def test_an_upload_that_was_removed(self, home: Home) -> None:
        """At once: no age keeps what the user has just deleted."""
        with served(home) as link:
            upload(link, "doom", FILES)
            upload(link, "other", {"a": b"A"})
            assert os.listdir(home.leases) == []
            home.uploads.remove("doom")
            assert collect(home).freed == 5000 + 2 * 10
            home.uploads.remove("other")
            assert collect(home).freed == 1
        assert blobs(home) == set()

    def test_all_that_a_run_refers_to_stays(self, home: Home) -> None:
        home.uploads.commit("doom", put(home, FILES))
        diff = home.blobs.put(b"diff")
        pinned = mount(home, "doom")
        run = make_run(home, {"main.py": b"print()", "run*": b"#!"}, [pinned], git=GitState("c0ffee", diff=diff))
        home.checkout(Manifest.decode(Path(run.source_file).read_bytes()), run.work, private=True)
        write_files(Path(run.work), {"model": b"weights", "tool*": b"#!tool"})
        home.uploads.remove("doom")
        before = blobs(home)
        assert collect(home).parts == {} and blobs(home) == before
        manifest, _ = outputs.save(home, run)
        end(run)
        collect(home)
        context, content = tree_of(NO_PACKAGES)
        kept = {sha256(data) for data in (b"print()", b"#!", b"weights", b"#!tool", b"diff", *content.values())}
        assert blobs(home) == kept | {context.digest, pinned.tree, sha256(b"#!tool") + ".x"}
        assert read_files(Path(run.out)) == {"model": b"weights", "tool*": b"#!tool"}
        run.remove()
        assert collect(home).counts == {"blobs": len(kept) + 3} and blobs(home) == set()

    @pytest.mark.parametrize("which", ["tree", "versions", "source", "outputs", "spec", "mount", "context"])
    def test_a_list_that_cannot_be_read(self, home: Home, which: str) -> None:
        """Nobody knows what it refers to: nothing is freed."""
        home.uploads.commit("doom", put(home, FILES))
        pinned = mount(home, "doom")
        run = make_run(home, {"main.py": b"x"}, [pinned])
        write_files(Path(run.work), {"model": b"weights"})
        outputs.save(home, run)
        context = tree_of(NO_PACKAGES)[0].digest
        path = {
            "tree": os.path.join(home.uploads.folder, "doom/1.tree"),
            "versions": os.path.join(home.uploads.folder, "doom/versions.json"),
            "source": run.source_file,
            "outputs": run.outputs_file,
            "spec": run.spec_file,
            "mount": home.blobs.path(pinned.tree),
            "context": home.blobs.path(context),
        }[which]
        put(home, {"x": b"X"})
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.write(b"\0\0")
        before = everything(home)
        with pytest.raises(HomeError, match="can't be read") as caught:
            collect(home, keep=1)
        assert caught.value.code == "damaged" and ("doom" in caught.value.message or run.key in caught.value.message)
        assert everything(home) == before

    def test_linked_elsewhere(self, home: Home, tmp_path: Path) -> None:
        """A file that somebody has linked out of the home gives nothing back."""
        put(home, {"x": b"X" * 100})
        os.link(home.blobs.path(sha256(b"X" * 100)), tmp_path / "mine")
        done = collect(home)
        assert done.counts == {"blobs": 1} and done.freed == 0
        assert (tmp_path / "mine").read_bytes() == b"X" * 100

    def test_files_that_are_no_blobs_stay(self, home: Home) -> None:
        folder = Path(home.blobs.folder, "ab")
        folder.mkdir(exist_ok=True)
        (folder / "note").write_text("not ours")
        assert collect(home).parts == {} and (folder / "note").exists()


class TestVersions:
    def versions(self, home: Home) -> list[int]:
        return [version["version"] for version in home.uploads.versions("doom")]

    def fill(self, home: Home, count: int = 4) -> None:
        for number in range(1, count + 1):
            home.uploads.commit("doom", put(home, {"same": b"same", "n": b"%d" % number * 100}))

    def test_the_newest_stay(self, home: Home) -> None:
        self.fill(home)
        assert collect(home).parts == {} and self.versions(home) == [1, 2, 3, 4]
        before = everything(home)
        told = collect(home, keep=2, dry_run=True)
        assert everything(home) == before
        done = collect(home, keep=2)
        assert (done.counts, done.freed) == (told.counts, told.freed) and done.counts == {"versions": 2, "blobs": 2}
        assert [(item["upload"], item["version"]) for item in done.parts["versions"]["items"]] == [
            ("doom", 1),
            ("doom", 2),
        ]
        assert self.versions(home) == [3, 4]
        assert sorted(os.listdir(os.path.join(home.uploads.folder, "doom"))) == [
            "3",
            "3.tree",
            "4",
            "4.tree",
            "versions.json",
        ]
        sound(home)
        assert home.uploads.commit("doom", put(home, {"n": b"5"}))[0]["version"] == 5
        assert os.listdir(home.tmp) == []

    @pytest.mark.parametrize(
        ("sub", "by_digest", "spared"),
        [("", True, {1}), ("n", True, {1}), ("", False, {1, 2, 3, 4}), ("n", False, {1, 2, 3, 4})],
    )
    def test_one_that_a_run_mounts(self, home: Home, sub: str, by_digest: bool, spared: set[int]) -> None:
        """Which one is not always said: then none goes that it may be."""
        self.fill(home, 1)
        digest = home.uploads.stored("doom").about["digest"]
        pinned = mount(home, "doom", sub, digest=digest if by_digest else None)
        if not by_digest and not sub:
            pinned = Mounted(pinned.spec, ResolvedMount("data", home.blobs.put(Manifest([]).encode())))
        self.fill(home)
        run = make_run(home, {}, [pinned])
        collect(home, keep=1)
        assert set(self.versions(home)) == spared | {4}
        end(run)
        collect(home, keep=1)
        assert self.versions(home) == [4]
        sound(home)

    def test_none_at_all_is_refused(self, home: Home) -> None:
        with pytest.raises(HomeError, match="at least 1"):
            collect(home, keep=0)


class TestWhatWasCut:
    def test_temporary(self, home: Home) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        for pid in (dead.pid, os.getpid()):
            write_files(Path(home.tmp, f"upload-{pid}-0a1b2c3d"), {"big": b"B" * 1000})
            Path(home.tmp, f"in-{pid}-7").write_bytes(b"in")
        assert collect(home).kept["temporary"]["count"] == 2
        told = collect(home, after=LEFT + 5, dry_run=True)
        done = collect(home, after=LEFT + 5)
        assert done.freed == told.freed == 1002
        assert sorted(os.listdir(home.tmp)) == [f"in-{os.getpid()}-7", f"upload-{os.getpid()}-0a1b2c3d"]

    def test_partial(self, home: Home) -> None:
        for name in ("a" * 64, "b" * 64):
            Path(home.partial, name).write_bytes(b"half")
        assert collect(home).kept["partial"]["bytes"] == 8 and len(os.listdir(home.partial)) == 2
        with open(os.path.join(home.partial, "a" * 64), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as its sender does
            assert collect(home, after=leases.CUT + 5).counts == {"partial": 1}
            assert os.listdir(home.partial) == ["a" * 64]
        assert collect(home, after=leases.CUT + 5).freed == 4 and os.listdir(home.partial) == []

    def test_remains(self, home: Home) -> None:
        """Of a commit, of a removal, and of a run, each cut in its midst."""
        home.uploads.commit("doom", put(home, {"a": b"A"}))
        write_files(Path(home.uploads.folder, "doom"), {"2/new": b"new", "2.tree": b"tree"})
        write_files(Path(home.uploads.folder, "gone"), {"1/old": b"old"})
        write_files(Path(home.runs, new_key()), {"work/x": b"x"})
        told = collect(home, dry_run=True)
        done = collect(home)
        assert done.counts == told.counts == {"remains": 4} and done.freed == told.freed == 11
        assert os.listdir(home.uploads.folder) == ["doom"] and os.listdir(home.runs) == []
        sound(home)


class TestEnvironments:
    @pytest.fixture
    def names(self, home: Home) -> dict[str, str]:
        """Folders of envs/: of the run of `make_run`, of another one, and of a build that was cut."""
        run = make_run(home, {})
        engine = ProcessEngine(home)
        library, venv = (os.path.basename(path) for path in engine.folders(Environment.of(run.spec())))
        names = {"venv": venv, "lib": library, "other": "venv-0123456789abcdef", "cut": "venv-cut"}
        for kind, name in names.items():
            files: Files = {"venv/bin/python*": b"P" * 100}
            write_files(Path(home.envs, name), files if kind == "cut" else {**files, "ready": b""})
        self.run = run
        return names

    def test_only_if_asked_and_unused(self, home: Home, names: dict[str, str]) -> None:
        assert collect(home, after=8 * DAY).counts == {"environments": 1}
        assert not os.path.exists(os.path.join(home.envs, names["cut"]))
        assert collect(home, envs=True).kept["environments"]["count"] == 1
        told = collect(home, after=8 * DAY, envs=True, dry_run=True)
        done = collect(home, after=8 * DAY, envs=True)
        assert done.freed == told.freed == 100
        assert sorted(os.listdir(home.envs)) == sorted([names["lib"], names["venv"]]), "a run needs them that goes on"
        end(self.run)
        assert collect(home, envs=True).kept["environments"]["count"] == 2
        assert collect(home, after=8 * DAY, envs=True).counts["environments"] == 2 and os.listdir(home.envs) == []

    def test_one_that_is_being_built(self, home: Home, names: dict[str, str]) -> None:
        with locked(home.lock(names["cut"]), patience=0):
            assert collect(home, dry_run=True).parts == {} and collect(home).parts == {}
        assert collect(home).counts == {"environments": 1}

    def test_what_an_image_has_alone(self) -> None:
        def image(name: str, size: int, *layers: str) -> dict[str, Any]:
            return {
                "Id": "sha256:" + name, "RepoTags": [f"{name}:1"], "Size": size, "Created": "2026-01-02T03:04:05.6Z",
                "RootFS": {"Layers": list(layers)},
            }  # fmt: skip

        base, bundled = image("python", 100, "1"), image("remoterun-base", 700, "1", "2")
        top = image("remoterun-env", 750, "1", "2", "3")
        known = {item["Id"]: item for item in (base, bundled, top)}
        assert [_image(item, known).alone for item in (base, bundled, top)] == [0, 0, 50]
        del known[top["Id"]]
        found = _image(bundled, known)
        assert (found.name, found.size, found.alone, found.used) == ("remoterun-base:1", 700, 600, 1767323045.0)


# -- at the same time as others


def test_one_at_a_time(home: Home) -> None:
    with locked(home.lock("gc"), patience=0), pytest.raises(HomeError, match="another `gc`") as caught:
        collect(home)
    assert caught.value.code == "busy"


def test_leases_on_a_full_disk(small_disk: Callable[[str], Path]) -> None:
    """One that can't be written protects nothing, and says so; what it held before stays held."""
    small = Home.open(str(small_disk("1m") / "home"))
    lease = small.lease()
    lease.add(bytes(32))
    fill(Path(small.path))
    with pytest.raises(OSError, match="No space"):
        lease.add(os.urandom(32 * 40000))
    found: set[bytes] = set()
    leases.read(small.leases, found, time.time(), sweep=True)
    assert found == {bytes(32)}
    lease.drop()
    until(lambda: os.listdir(small.leases) == [])
