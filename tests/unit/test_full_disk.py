"""A full disk: what arrives leaves a margin, cut transfers give way at once, and nothing that makes room needs room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.agent.shared.api import Examine
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.store.reserve import free_space
from remoterun.agent.upkeep.doctor import examine
from tests.homes import collect, end, make_run, missing, put, send, sound
from tests.workshop import Files, call, create_run, fill, served, sha256, spec_of

FILES: Files = {"a": b"A", "b/c": b"C" * 5000, "run*": b"#!/bin/sh\n"}


@pytest.fixture
def small(small_disk: Callable[[str], Path]) -> Home:
    return Home.open(str(small_disk("2m") / "home"))


def disk_of(home: Home) -> Path:
    return Path(home.path).parent


def send_all(home: Home, *blobs: bytes) -> None:
    with served(home) as link:
        missing(link, *blobs)
        send(link, *blobs)


class TestReserve:
    def test_an_upload_leaves_a_margin(self, small: Home) -> None:
        before = small.reserve.room()
        assert 0 < before < free_space(small.path)
        with pytest.raises(RemoteError) as caught:
            send_all(small, *(os.urandom(30_000) for _ in range(100)))
        assert caught.value.code == "disk_full" and small.path in caught.value.message
        assert free_space(small.path) >= 2 << 20 >> 6 and small.reserve.room() < PIECE
        assert os.listdir(small.tmp) == os.listdir(small.partial) == []
        sound(small)

    def test_what_fits_arrives(self, small: Home) -> None:
        blob = os.urandom(PIECE)
        send_all(small, blob)
        assert small.blobs.has(sha256(blob))

    def test_a_run_needs_the_margin(self, small: Home) -> None:
        """Without it there may be no room to write down that it has ended: it would be "mounting" for ever."""
        (disk_of(small) / "filler").write_bytes(bytes(free_space(small.path) - (2 << 20 >> 6) + 4096))
        with pytest.raises(HomeError) as caught:
            create_run(small, spec_of())
        assert caught.value.code == "disk_full"
        assert os.listdir(small.tmp) == os.listdir(small.runs) == os.listdir(small.active) == []
        (disk_of(small) / "filler").unlink()
        create_run(small, spec_of())

    def test_it_is_made_once_and_released_once(self, small: Home) -> None:
        free, room = free_space(small.path), small.reserve.room()
        small.reserve.make()
        small.reserve.make()
        assert free - free_space(small.path) == 2 << 20 >> 6 == room - small.reserve.room()
        fill(disk_of(small))
        assert small.reserve.release() and not small.reserve.release()
        assert free_space(small.path) == 2 << 20 >> 6
        small.reserve.make()
        assert free_space(small.path) == 2 << 20 >> 6, "there is no room for it"


class TestInodes:
    """A disk without inodes has room for bytes: that it is full would send people the wrong way."""

    @pytest.fixture
    def small(self, small_disk: Callable[[str], Path]) -> Home:
        return Home.open(str(small_disk("2m,nr_inodes=80") / "home"))

    def test_an_upload(self, small: Home) -> None:
        with pytest.raises(RemoteError, match="is out of inodes: it has too many files$") as caught:
            send_all(small, *(os.urandom(10) for _ in range(100)))
        assert caught.value.code == "disk_full"

    def test_doctor(self, small: Home) -> None:
        (disk,) = (check for check in examine(small, Examine("process")) if check.name == "disk")
        assert disk.detail == "2 MB free of 2 MB at " + small.path
        for number in range(60):
            Path(small.path, str(number)).touch()
        (disk,) = (check for check in examine(small, Examine("process")) if check.name == "disk")
        assert not disk.ok and disk.detail.endswith("is out of inodes: it has too many files")

    def test_doctor_of_a_disk_that_can_only_be_read(self, small: Home) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk_of(small))], check=True)
        (disk,) = (check for check in examine(Home.open(small.path), Examine("process")) if check.name == "disk")
        assert disk.detail == "read-only: " + small.path and disk.fix is not None
        assert "mount it for writing" in disk.fix and "rm" not in disk.fix.split()


class TestCutTransfers:
    def remain(self, home: Home) -> None:
        """What a cut transfer left a moment ago."""
        Path(home.partial, "a" * 64).write_bytes(bytes(100_000))
        folder = Path(home.tmp, "upload-99999999-0a1b2c3d")
        folder.mkdir()
        (folder / "big").write_bytes(bytes(100_000))
        home.blobs.put(bytes(100_000))
        Path(home.leases, "99999999-0a").write_bytes(bytes.fromhex(sha256(bytes(100_000))))

    @pytest.mark.parametrize("full", [False, True])
    def test_gc(self, small: Home, full: bool) -> None:
        """On a full disk they go at once."""
        self.remain(small)
        if full:
            fill(disk_of(small))
        done = collect(small)
        assert done.freed == (300_000 if full else 0) and bool(done.kept) is not full

    def test_the_next_contact(self, small: Home) -> None:
        self.remain(small)
        self.contact(small)
        assert os.listdir(small.partial) and os.listdir(small.tmp)
        fill(disk_of(small))
        self.contact(small)
        assert not os.listdir(small.partial) and not os.listdir(small.tmp)
        assert free_space(small.path) >= 200_000

    def contact(self, home: Home) -> None:
        words = [sys.executable, "-m", "remoterun.agent", "serve", "--home", home.path]
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=True)

    def test_one_that_goes_on_stays(self, small: Home) -> None:
        blob = os.urandom(300_000)
        with served(small) as link:
            missing(link, blob)
            call(link, "put", (blob, {"d": sha256(blob), "s": len(blob), "n": [0]}))
            fill(disk_of(small))
            assert collect(small).freed == 0 and small.blobs.partial_size(sha256(blob))
            (disk_of(small) / "filler").unlink()
            call(link, "seal", digest=sha256(blob), size=len(blob))
        sound(small)


class TestNoByteFree:
    def test_gc(self, small: Home) -> None:
        for number in range(3):
            small.uploads.commit("doom", put(small, {"n": b"%d" % number * 50_000}))
        fill(disk_of(small))
        assert free_space(small.path) == 0
        done = collect(small, keep=1)
        assert done.counts == {"versions": 2, "blobs": 2} and done.freed > 100_000
        assert [version["version"] for version in small.uploads.versions("doom")] == [3]
        sound(small)

    def test_an_upload_is_removed(self, small: Home) -> None:
        small.uploads.commit("doom", put(small, FILES))
        fill(disk_of(small))
        with served(small) as link:
            assert call(link, "remove_upload", name="doom") == {"removed": True}
        assert small.uploads.newest() == []

    def test_a_run_is_removed(self, small: Home) -> None:
        run = make_run(small, FILES)
        for state in (RunState.BUILDING, RunState.MOUNTING, RunState.RUNNING, RunState.SAVING):
            run.move(state, reason="exited")
        end(run)
        small.unmark_active(run.key)
        fill(disk_of(small))
        with served(small) as link:
            assert call(link, "remove_run", key=run.key) == {"removed": True}
        assert not os.path.exists(run.path)
