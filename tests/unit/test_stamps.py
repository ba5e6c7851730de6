"""What files were hashed to before: never said of one that has changed, and not forgotten of one that hasn't."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun import stamps
from remoterun.agent.shared.tree import walk
from remoterun.stamps import RACY, Stamps
from tests.workshop import at_once, fill, until, write_files

NAME = st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & set(b"/\0") and raw not in (b".", b".."))
DIGEST = hashlib.sha256(b"x").hexdigest()
_folders = itertools.count()


def stamp(size: int = 1, mtime: int = 10**18 + 7, ctime: int = 10**18 + 7, inode: int = 5) -> Any:
    """What the cache looks at in a status, of a file that is not there."""
    return SimpleNamespace(st_size=size, st_mtime_ns=mtime, st_ctime_ns=ctime, st_ino=inode)


LATE = 2 * 10**18
"""Nanoseconds since 1970: long after the stamps."""


def look(cache: Stamps, names: list[bytes]) -> list[bytes]:
    """Ask for all of them, and note afterwards those that are not known: their names."""
    unknown = [name for name in names if cache.known(name, stamp(len(name))) is None]
    for name in unknown:
        cache.note(name, stamp(len(name)), hashlib.sha256(name).hexdigest(), LATE)
    return unknown


class TestWhatIsNoted:
    def test_is_known_and_nothing_else(self, tmp_path: Path) -> None:
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            cache.note(b"a", stamp(), DIGEST, LATE)
        for other in (stamp(2), stamp(1, 5), stamp(1, 10**18 + 7, 5), stamp(1, 10**18 + 7, 10**18 + 7, 6)):
            cache = Stamps(tmp_path / "stamps.db", "/data")
            assert cache.known(b"a", other) is None
            cache.close(complete=False)
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert cache.known(b"a", stamp()) == DIGEST
        with Stamps(tmp_path / "stamps.db", "/other") as cache:
            assert cache.known(b"a", stamp()) is None

    @given(st.lists(st.tuples(st.sets(NAME, max_size=8), st.booleans(), st.integers(0, 8)), min_size=1, max_size=6))
    def test_what_was_there_the_last_time(
        self, tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[set[bytes], bool, int]]
    ) -> None:
        """Names come and go; some rounds are cut. What was known or noted is known the next time, if still there."""
        file = tmp_path_factory.getbasetemp() / f"{next(_folders)}.db"
        expected: set[bytes] = set()
        for names, whole, after in rounds:
            listed = sorted(names)
            listed = listed if whole else listed[:after]
            cache = Stamps(file, "/data")
            assert set(look(cache, listed)) == set(listed) - expected
            cache.close(complete=whole)
            passed = listed[-1] if listed else b""
            expected = set(listed) | (set() if whole else {name for name in expected if name > passed})

    def test_some_that_changed_are_known_the_time_after(self, tmp_path: Path) -> None:
        """All are asked for before the first is noted, as `Reading` does."""
        names = sorted(b"%d" % number for number in range(500))
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert look(cache, names) == names
        changed = {name: stamp(999) for name in names[::50]}
        for expected in (sorted(changed), []):
            with Stamps(tmp_path / "stamps.db", "/data") as cache:
                unknown = [name for name in names if cache.known(name, changed.get(name, stamp(len(name)))) is None]
                assert unknown == expected
                for name in unknown:
                    cache.note(name, changed[name], DIGEST, LATE)

    @pytest.mark.parametrize("complete", [True, False])
    def test_cut_half_way(self, tmp_path: Path, complete: bool) -> None:
        names = [b"%03d" % number for number in range(100)]
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            look(cache, names)
        cache = Stamps(tmp_path / "stamps.db", "/data")
        assert look(cache, [b"000new", *names[1:50]]) == [b"000new"]
        cache.close(complete)
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert look(cache, [b"000new", *names]) == [names[0], *(names[50:] if complete else [])]

    def test_names_of_any_bytes(self, tmp_path: Path) -> None:
        names = sorted([b"a", b"a-b", b"a.b", b"a/b", b"\xff\xfe", "é".encode(), b"new\nline", b"x" * 4096, b"\x01"])
        for expected in (names, []):
            with Stamps(tmp_path / "stamps.db", "/da\udcffta\n") as cache:
                assert look(cache, names) == expected

    def test_the_same_time_by_two_threads(self, tmp_path: Path) -> None:
        names = sorted(b"%d" % number for number in range(20_000))
        caches = [Stamps(tmp_path / "stamps.db", "/data") for _ in range(4)]
        at_once(partial(look, cache, names) for cache in caches)
        for cache in caches:
            cache.close(complete=True)
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert [cache.known(name, stamp(len(name))) for name in names] == [
                hashlib.sha256(name).hexdigest() for name in names
            ]

    @pytest.mark.parametrize(
        ("mtime", "read_at", "noted"),
        [(10**18 + 7, 10**18 + 7 + RACY, False), (10**18 + 7, 10**18 + 8 + RACY, True),
         (10**18, 10**18 + 2 * 10**9, False), (10**18, 10**18 + 3 * 10**9, True), (10**18 + 7, 10**18 - 9**9, False)],
    )  # fmt: skip
    def test_not_soon_after_a_change(self, tmp_path: Path, mtime: int, read_at: int, noted: bool) -> None:
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            cache.note(b"a", stamp(1, mtime), DIGEST, read_at)
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert (cache.known(b"a", stamp(1, mtime)) is not None) == noted

    def test_a_change_of_its_owner_is_one(self, tmp_path: Path) -> None:
        """A time of change in the future tells nothing."""
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            cache.note(b"a", stamp(1, 5, LATE + 5), DIGEST, LATE)
        with Stamps(tmp_path / "stamps.db", "/data") as cache:
            assert cache.known(b"a", stamp(1, 5, LATE + 5)) is None


class Folder:
    """A folder of real files, as `Reading` looks at it."""

    def __init__(self, root: Path, file: Path) -> None:
        self.root, self.file = root, file

    def look(self) -> dict[str, bool]:
        """Whether each file was known; what was said of it is what it holds."""
        found = {}
        with Stamps(self.file, str(self.root)) as cache:
            listed = [(entry, status) for entry, status in walk(str(self.root), (), []) if entry.kind == "f"]
            said = [cache.known(os.fsencode(entry.path), status) for entry, status in listed]
            for (entry, _), digest in zip(listed, said, strict=True):
                read_at = time.time_ns()
                path = self.root / entry.path
                holds = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest is not None:
                    assert digest == holds, f"a change of {entry.path} was missed"
                else:
                    cache.note(os.fsencode(entry.path), path.stat(), holds, read_at)
                found[entry.path] = digest is not None
        return found

    def known(self) -> bool:
        return all(self.look().values())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(write_files(tmp_path / "data", {"a": b"A", "b": b"B", "sub/c": b"C"}), tmp_path / "stamps.db")
    until(folder.known)
    return folder


class TestChanges:
    def test_same_size_again_and_again(self, folder: Folder) -> None:
        """Within one step of the file system's clock, most of them."""
        for number in range(300):
            (folder.root / "a").write_bytes(b"%d" % (number % 10))
            folder.look()
        until(folder.known)

    def test_the_time_is_set_back(self, folder: Folder) -> None:
        path = folder.root / "a"
        for number in range(50):
            old = path.stat()
            path.write_bytes(b"%d" % (number % 10))
            os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
            assert path.stat().st_mtime_ns == old.st_mtime_ns and path.stat().st_size == old.st_size
            assert not folder.look()["a"]

    def test_another_file_in_its_place(self, folder: Folder) -> None:
        """Older than what was there, and of the same size: `mv`, as programs save."""
        other = folder.root.parent / "other"
        old = (folder.root / "a").stat()
        other.write_bytes(b"Z")
        os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
        os.replace(other, folder.root / "a")
        assert not folder.look()["a"]

    def test_two_change_places(self, folder: Folder) -> None:
        for name in ("a", "b"):
            os.utime(folder.root / name, ns=(10**18 + 7, 10**18 + 7))
        until(folder.known)
        os.rename(folder.root / "a", folder.root / "x")
        os.rename(folder.root / "b", folder.root / "a")
        os.rename(folder.root / "x", folder.root / "b")
        assert folder.look() == {"a": False, "b": False, "sub/c": True}
        until(folder.known)

    def test_new_and_deleted_ones(self, folder: Folder) -> None:
        (folder.root / "b").unlink()
        write_files(folder.root, {"0": b"0", "a.b": b"x", "sub/d": b"D"})
        assert folder.look() == {"0": False, "a": True, "a.b": False, "sub/c": True, "sub/d": False}
        until(folder.known)

    def test_a_folder_becomes_a_file(self, folder: Folder) -> None:
        (folder.root / "sub/c").unlink()
        (folder.root / "sub").rmdir()
        (folder.root / "sub").write_bytes(b"C")
        assert folder.look() == {"a": True, "b": True, "sub": False}

    def test_written_in_place_through_a_map(self, folder: Folder) -> None:
        import mmap

        with open(folder.root / "a", "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            content[0:1] = b"M"
            content.flush()
        assert not folder.look()["a"]


class TestTheDatabase:
    NAMES = [b"%04d" % number for number in range(1500)]
    """More than are read in one go."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return self.filled(tmp_path / "stamps.db")

    def filled(self, file: Path) -> Path:
        with Stamps(file, "/data") as cache:
            look(cache, self.NAMES)
        return file

    def said(self, file: Path) -> list[bytes]:
        """Names that are known; of each, what is said is right."""
        found = []
        cache = Stamps(file, "/data")
        for name in self.NAMES:
            digest = cache.known(name, stamp(len(name)))
            assert digest in (None, hashlib.sha256(name).hexdigest())
            found += [name] if digest else []
        cache.close(complete=False)
        return found

    def test_holds_them_all(self, file: Path) -> None:
        assert self.said(file) == self.NAMES
        assert file.stat().st_mode & 0o777 == 0o600

    def test_damaged_anywhere(self, file: Path) -> None:
        """Nothing wrong is said: else a file would be refused as changed again and again, or taken for another. And it
        is used again after one look at all files, or two where it had to be made anew."""
        whole = file.read_bytes()
        chance = random.Random(1)
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(chance.choice([1, 1, 300])):
                data[chance.randrange(len(data) if chance.random() < 0.8 else 200)] ^= 1 << chance.randrange(8)
            file.write_bytes(data)
            self.said(file)
            self.looked_at_till_known(file)

    def looked_at_till_known(self, file: Path) -> None:
        for _ in range(3):
            with Stamps(file, "/data") as cache:
                if not look(cache, self.NAMES):
                    return
        raise AssertionError("it never knows all of them")

    def test_cut_anywhere(self, file: Path) -> None:
        whole = file.read_bytes()
        for length in range(0, len(whole), len(whole) // 25):
            file.write_bytes(whole[:length])
            self.said(file)
            self.looked_at_till_known(file)

    @pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"SQLite format 3\0", b"x" * 99])
    def test_something_else_in_its_place(self, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "stamps.db"
        file.write_bytes(data)
        self.looked_at_till_known(file)

    def test_a_full_disk(self, small_disk: Callable[[str], Path]) -> None:
        """It costs reading, the next time: no error, and nothing wrong."""
        disk = small_disk("1m")
        names = sorted(b"%d" % number for number in range(30_000))
        file = self.filled(disk / "stamps.db")
        with Stamps(file, "/data") as cache:
            look(cache, names)
        self.said(file)
        assert [path.name for path in disk.iterdir()] == ["stamps.db"], "nothing unfinished is left"

    def test_a_full_disk_at_the_end(self, small_disk: Callable[[str], Path]) -> None:
        """When what was noted is written, not when it is noted."""
        disk = small_disk("1m")
        file = self.filled(disk / "stamps.db")
        fill(disk)
        with Stamps(file, "/data") as cache:
            assert look(cache, [*self.NAMES, b"zz"]) == [b"zz"]
        assert self.said(file) == self.NAMES

    def test_one_that_another_process_holds(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stamps, "BUSY_SECONDS", 0.05)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with Stamps(file, "/data") as cache:
                assert look(cache, self.NAMES) == self.NAMES
        assert self.said(file) == self.NAMES

    def test_one_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with Stamps(tmp_path / "file" / "stamps.db", "/data") as cache:
            look(cache, self.NAMES)

    def test_one_that_is_too_large_begins_anew(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stamps, "MOST_BYTES", 1000)
        assert self.said(file) == []

    def test_little_memory(self, tmp_path: Path) -> None:
        """Also for files that get no row, as those whose times lie in the future by this machine's clock."""
        names = [b"folder/%08d" % number for number in range(20_000)]
        tracemalloc.start()
        try:
            for changed, read_at in ((0, 0), (0, LATE), (7, LATE), (8, 0)):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                with Stamps(tmp_path / "stamps.db", "/data") as cache:
                    for number, name in enumerate(names):
                        size = changed if number % 3 == 0 else 1
                        if cache.known(name, stamp(size)) is None:
                            cache.note(name, stamp(size), DIGEST, read_at)
                assert tracemalloc.get_traced_memory()[1] - before < 50 * len(names)
        finally:
            tracemalloc.stop()
