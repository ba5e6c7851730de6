"""What files were hashed to before: never said of one that has changed, and not forgotten of one that hasn't."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoterun import stat_cache
from remoterun.agent.shared.tree import walk
from remoterun.stat_cache import HEADER, RACY, StatCache
from tests.workshop import until, write_files

NAME = st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & set(b"/\0") and raw not in (b".", b".."))
DIGEST = hashlib.sha256(b"x").hexdigest()
_folders = itertools.count()


class Stamp:
    """What the cache looks at in a status, for files that are not there."""

    def __init__(self, size: int = 1, mtime: int = 10**18 + 7, ctime: int = 10**18 + 7, inode: int = 5) -> None:
        self.st_size, self.st_mtime_ns, self.st_ctime_ns, self.st_ino = size, mtime, ctime, inode


def stamp(*values: int) -> os.stat_result:
    return Stamp(*values)  # type: ignore[return-value]


LATE = 2 * 10**18
"""Nanoseconds since 1970: long after the stamps."""


def look(cache: StatCache, names: list[bytes]) -> list[bytes]:
    """Ask for all of them, and note afterwards those that are not known: their names."""
    unknown = [name for name in names if cache.known(name, stamp(len(name))) is None]
    for name in unknown:
        cache.note(name, stamp(len(name)), hashlib.sha256(name).hexdigest(), LATE)
    return unknown


class TestWhatIsNoted:
    def test_is_known_and_nothing_else(self, tmp_path: Path) -> None:
        with StatCache(tmp_path, "/data") as cache:
            cache.note(b"a", stamp(), DIGEST, LATE)
        for other in (stamp(2), stamp(1, 5), stamp(1, 10**18 + 7, 5), stamp(1, 10**18 + 7, 10**18 + 7, 6)):
            cache = StatCache(tmp_path, "/data")
            assert cache.known(b"a", other) is None
        with StatCache(tmp_path, "/data") as cache:
            assert cache.known(b"a", stamp()) == DIGEST
        with StatCache(tmp_path, "/other") as cache:
            assert cache.known(b"a", stamp()) is None

    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.sets(NAME, max_size=8), st.booleans(), st.integers(0, 8)), min_size=1, max_size=6))
    def test_what_was_there_the_last_time(
        self, tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[set[bytes], bool, int]]
    ) -> None:
        """Names come and go; some rounds are cut. What was known or noted is known the next time, if still there."""
        folder = tmp_path_factory.getbasetemp() / f"digests{next(_folders)}"
        expected: set[bytes] = set()
        for names, whole, after in rounds:
            listed = sorted(names)
            listed = listed if whole else listed[:after]
            cache = StatCache(folder, "/data")
            assert set(look(cache, listed)) == set(listed) - expected
            cache.close(complete=whole)
            passed = listed[-1] if listed else b""
            expected = set(listed) | (set() if whole else {name for name in expected if name > passed})

    def test_some_that_changed_are_known_the_time_after(self, tmp_path: Path) -> None:
        """All are asked for before the first is noted, as `Reading` does."""
        names = sorted(b"%d" % number for number in range(500))
        with StatCache(tmp_path, "/data") as cache:
            assert look(cache, names) == names
        changed = {name: stamp(999) for name in names[::50]}
        for expected in (sorted(changed), []):
            with StatCache(tmp_path, "/data") as cache:
                unknown = [name for name in names if cache.known(name, changed.get(name, stamp(len(name)))) is None]
                assert unknown == expected
                for name in unknown:
                    cache.note(name, changed[name], DIGEST, LATE)

    @pytest.mark.parametrize("complete", [True, False])
    def test_cut_half_way(self, tmp_path: Path, complete: bool) -> None:
        names = [b"%03d" % number for number in range(100)]
        with StatCache(tmp_path, "/data") as cache:
            look(cache, names)
        cache = StatCache(tmp_path, "/data")
        assert look(cache, [b"000new", *names[1:50]]) == [b"000new"]
        cache.close(complete)
        with StatCache(tmp_path, "/data") as cache:
            assert look(cache, [b"000new", *names]) == [names[0], *(names[50:] if complete else [])]

    def test_left_by_an_error(self, tmp_path: Path) -> None:
        names = [b"%03d" % number for number in range(100)]
        for upto in (30, 60, 100):
            with pytest.raises(KeyboardInterrupt), StatCache(tmp_path, "/data") as cache:
                look(cache, names[:upto])
                raise KeyboardInterrupt
        with StatCache(tmp_path, "/data") as cache:
            assert look(cache, names) == []

    def test_names_of_any_bytes(self, tmp_path: Path) -> None:
        names = sorted([b"a", b"a-b", b"a.b", b"a/b", b"\xff\xfe", "é".encode(), b"new\nline", b"x" * 4096, b"\x01"])
        for expected in (names, []):
            with StatCache(tmp_path, "/da\udcffta\n") as cache:
                assert look(cache, names) == expected

    def test_the_same_time_by_two_threads(self, tmp_path: Path) -> None:
        names = sorted(b"%d" % number for number in range(20_000))
        caches = [StatCache(tmp_path, "/data") for _ in range(4)]
        threads = [threading.Thread(target=look, args=(cache, names)) for cache in caches]
        for thread in threads:
            thread.start()
        for thread, cache in zip(threads, caches, strict=True):
            thread.join()
            cache.close(complete=True)
        with StatCache(tmp_path, "/data") as cache:
            assert [cache.known(name, stamp(len(name))) for name in names] == [
                hashlib.sha256(name).hexdigest() for name in names
            ]
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize(
        ("mtime", "read_at", "noted"),
        [(10**18 + 7, 10**18 + 7 + RACY, False), (10**18 + 7, 10**18 + 8 + RACY, True),
         (10**18, 10**18 + 2 * 10**9, False), (10**18, 10**18 + 3 * 10**9, True), (10**18 + 7, 10**18 - 9**9, False)],
    )  # fmt: skip
    def test_not_soon_after_a_change(self, tmp_path: Path, mtime: int, read_at: int, noted: bool) -> None:
        with StatCache(tmp_path, "/data") as cache:
            cache.note(b"a", stamp(1, mtime), DIGEST, read_at)
        with StatCache(tmp_path, "/data") as cache:
            assert (cache.known(b"a", stamp(1, mtime)) is not None) == noted

    def test_a_change_of_its_owner_is_one(self, tmp_path: Path) -> None:
        """A time of change in the future tells nothing."""
        with StatCache(tmp_path, "/data") as cache:
            cache.note(b"a", stamp(1, 5, LATE + 5), DIGEST, LATE)
        with StatCache(tmp_path, "/data") as cache:
            assert cache.known(b"a", stamp(1, 5, LATE + 5)) is None


class Folder:
    """A folder of real files, as `Reading` looks at it."""

    def __init__(self, root: Path, digests: Path) -> None:
        self.root, self.digests = root, digests

    def look(self) -> dict[str, bool]:
        """Whether each file was known; what was said of it is what it holds."""
        found = {}
        with StatCache(self.digests, str(self.root)) as cache:
            listed = [(entry, status) for entry, status in walk(str(self.root)) if entry.kind == "f"]
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
    folder = Folder(write_files(tmp_path / "data", {"a": b"A", "b": b"B", "sub/c": b"C"}), tmp_path / "digests")
    until(folder.known)
    return folder


class TestChanges:
    def test_same_size_again_and_again(self, folder: Folder) -> None:
        """Within one step of the file system's clock, most of them."""
        for number in range(300):
            (folder.root / "a").write_bytes(b"%d" % (number % 10))
            folder.look()
        until(folder.known)

    def test_same_size_while_it_is_looked_at(self, folder: Folder) -> None:
        stop = threading.Event()

        def write() -> None:
            for number in itertools.count():
                (folder.root / "b").write_bytes(b"%06d" % (number % 1_000_000))
                if stop.wait(0.03 * random.random()):
                    return

        thread = threading.Thread(target=write)
        thread.start()
        try:
            deadline = time.monotonic() + 0.8
            while time.monotonic() < deadline:
                with StatCache(folder.digests, str(folder.root)) as cache:
                    path = folder.root / "b"
                    read_at = time.time_ns()
                    before = path.stat()
                    said = cache.known(b"b", before)
                    content = path.read_bytes()
                    after = path.stat()
                    if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                        holds = hashlib.sha256(content).hexdigest()
                        assert said in (None, holds)
                        cache.note(b"b", after, holds, read_at)
        finally:
            stop.set()
            thread.join()
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


class TestTheFile:
    NAMES = [b"%03d" % number for number in range(60)]
    RECORD = stat_cache._RECORD.size + 3

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        with StatCache(tmp_path, "/data") as cache:
            look(cache, self.NAMES)
        (file,) = tmp_path.iterdir()
        return file

    def said(self, folder: Path) -> list[bytes]:
        """Names that are known; of each, what is said is right."""
        found = []
        cache = StatCache(folder, "/data")
        for name in self.NAMES:
            digest = cache.known(name, stamp(len(name)))
            assert digest in (None, hashlib.sha256(name).hexdigest())
            found += [name] if digest else []
        cache.close(complete=False)
        return found

    def test_damaged_anywhere(self, file: Path) -> None:
        """Nothing wrong is said: else a file would be refused as changed again and again, or taken for another."""
        whole = file.read_bytes()
        chance = random.Random(1)
        for _ in range(300):
            data = bytearray(whole)
            at = chance.randrange(len(data))
            data[at] ^= 1 << chance.randrange(8)
            file.write_bytes(data)
            assert self.said(file.parent) == self.NAMES[: max(0, at - len(HEADER)) // self.RECORD]

    def test_cut_anywhere(self, file: Path) -> None:
        whole = file.read_bytes()
        for length in range(0, len(whole), 13):
            file.write_bytes(whole[:length])
            known = self.said(file.parent)
            assert known == self.NAMES[: len(known)] and len(known) >= (length - len(HEADER)) // self.RECORD

    @pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"remoterun-digests 1\n" + b"x" * 500, HEADER, HEADER + b"x"])
    def test_another_one(self, file: Path, data: bytes) -> None:
        file.write_bytes(data)
        with StatCache(file.parent, "/data") as cache:
            assert look(cache, self.NAMES) == self.NAMES
        assert self.said(file.parent) == self.NAMES

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(data=st.binary(max_size=400))
    def test_any_bytes(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        folder = tmp_path_factory.getbasetemp() / f"digests{next(_folders)}"
        with StatCache(folder, "/data") as cache:
            look(cache, self.NAMES[:1])
        (file,) = folder.iterdir()
        file.write_bytes(HEADER + data)
        assert self.said(folder) == []

    def test_mended_by_the_next_look(self, file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with StatCache(file.parent, "/data") as cache:
            assert 0 < len(look(cache, self.NAMES)) < len(self.NAMES)
        assert self.said(file.parent) == self.NAMES

    def test_a_full_disk(self, small_disk: Callable[[str], Path]) -> None:
        """It costs reading, the next time: no error, and what was there stays."""
        disk = small_disk("1m")
        names = sorted(b"%d" % number for number in range(30_000))
        with StatCache(disk / "digests", "/data") as cache:
            look(cache, self.NAMES)
        with StatCache(disk / "digests", "/data") as cache:
            assert look(cache, names) == names
        assert self.said(disk / "digests") == self.NAMES
        assert len(list((disk / "digests").iterdir())) == 1, "nothing unfinished is left"

    def test_a_full_disk_at_the_end(self, small_disk: Callable[[str], Path]) -> None:
        """When what was noted is written, not when it is noted."""
        disk = small_disk("1m")
        with StatCache(disk / "digests", "/data") as cache:
            look(cache, self.NAMES)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with StatCache(disk / "digests", "/data") as cache:
            assert look(cache, [*self.NAMES, b"zz"]) == [b"zz"]
        assert self.said(disk / "digests") == self.NAMES
        assert len(list((disk / "digests").iterdir())) == 1, "nothing unfinished is left"

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with StatCache(tmp_path / "file" / "digests", "/data") as cache:
            look(cache, self.NAMES)

    def test_what_a_killed_one_left(self, file: Path) -> None:
        left = file.parent / f".{file.name}.1-2.tmp"
        left.touch()
        os.utime(left, (1, 1))
        fresh = file.parent / f".{file.name}.3-4.tmp"
        fresh.touch()
        with StatCache(file.parent, "/data") as cache:
            look(cache, [b"new"])
        assert fresh.exists() and not left.exists()

    def test_the_folders_used_last_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stat_cache, "KEPT", 3)
        for number in range(6):
            with StatCache(tmp_path, f"/data{number}") as cache:
                look(cache, self.NAMES)
            for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
                os.utime(path, (1000 + age, 1000 + age))
            with StatCache(tmp_path, "/data0") as cache:  # used, though it was made first
                assert look(cache, self.NAMES) == []
        assert len(list(tmp_path.iterdir())) == 3

    def test_little_memory_for_files_that_get_no_record(self, tmp_path: Path) -> None:
        """As those whose times lie in the future, by this machine's clock."""
        with StatCache(tmp_path, "/data") as cache:
            look(cache, self.NAMES)
        tracemalloc.start()
        try:
            with StatCache(tmp_path, "/data") as cache:
                for number in range(20_000):
                    name = b"file/%08d" % number
                    assert cache.known(name, stamp()) is None
                    cache.note(name, stamp(), DIGEST, 0)
            assert tracemalloc.get_traced_memory()[1] < 300_000
        finally:
            tracemalloc.stop()

    def test_little_memory(self, tmp_path: Path) -> None:
        names = [b"folder/%08d" % number for number in range(20_000)]
        tracemalloc.start()
        try:
            for changed in (0, 7):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                with StatCache(tmp_path, "/data") as cache:
                    for number, name in enumerate(names):
                        size = changed if number % 3 == 0 else 1
                        if cache.known(name, stamp(size)) is None:
                            cache.note(name, stamp(size), DIGEST, LATE)
                assert tracemalloc.get_traced_memory()[1] - before < 50 * len(names)
        finally:
            tracemalloc.stop()
