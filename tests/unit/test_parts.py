"""A large blob in parts: in any order, twice, with holes, from several connections, and after a cut."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.serve import Server
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.store import parts
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.store.parts import PARTS, Part, listed, seal
from tests.workshop import linked, served, sha256, until

SIZE = 200_000
BLOB = random.Random(1).randbytes(SIZE)
KEY = sha256(b"its name on the way")
_homes = itertools.count()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PATIENCE", 0.1)


def cuts(size: int, points: list[int]) -> list[tuple[int, int]]:
    """(offset, length) of the parts that these points make."""
    edges = sorted({0, size, *(point % size for point in points)})
    return list(zip(edges, (end - start for start, end in itertools.pairwise(edges)), strict=False))


def put(home: Home, offset: int, length: int, blob: bytes = BLOB, piece: int = 50_000, size: int | None = None) -> None:
    part = Part(home, KEY, len(blob) if size is None else size, offset, length)
    try:
        whole = [part.take(blob[at : min(at + piece, offset + length)]) for at in range(offset, offset + length, piece)]
        assert whole == [False] * (len(whole) - 1) + [True]
    finally:
        part.suspend()


def sound(home: Home, digest: str, content: bytes) -> None:
    assert Path(home.blobs.path(digest)).read_bytes() == content
    assert os.listdir(home.partial) == [] == os.listdir(home.tmp)


@given(
    points=st.lists(st.integers(0, SIZE), max_size=12),
    again=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)), max_size=3),
    order=st.randoms(use_true_random=False),
    piece=st.integers(5_000, SIZE),
)
def test_in_any_order_and_some_twice(
    tmp_path_factory: pytest.TempPathFactory, points: list[int], again: list[tuple[int, int]], order: random.Random,
    piece: int,
) -> None:  # fmt: skip
    home = Home.open(str(tmp_path_factory.getbasetemp() / f"parts{next(_homes)}"))
    todo = cuts(SIZE, points) + [(offset, min(length, SIZE - offset)) for offset, length in again]
    order.shuffle(todo)
    for offset, length in todo:
        put(home, offset, length, piece=piece)
    assert sorted(listed(home, KEY)) == sorted(todo)
    seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
    sound(home, sha256(BLOB), BLOB)


class TestSeal:
    @pytest.mark.parametrize("hole", [(0, 1), (SIZE - 1, SIZE), (70_000, 70_001), (50_000, 100_000)])
    def test_a_hole(self, home: Home, impatient: None, hole: tuple[int, int]) -> None:
        """It is waited for, and not for ever; what came stays for the next try."""
        start, end = hole
        todo = [(0, start), (end, SIZE - end)]
        for offset, length in todo:
            if length:
                put(home, offset, length)
        with pytest.raises(HomeError, match="did not come"):
            seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        put(home, start, end - start)
        seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        sound(home, sha256(BLOB), BLOB)

    def test_nothing_at_all(self, home: Home, impatient: None) -> None:
        with pytest.raises(HomeError, match="did not come"):
            seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        assert os.listdir(home.partial) == []

    def test_it_waits_for_what_is_on_its_way(self, home: Home) -> None:
        done: list[object] = []
        put(home, 0, 10_000)
        thread = threading.Thread(target=lambda: done.append(seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)))
        thread.start()
        for offset, length in reversed(cuts(SIZE, [10_000, 60_000, 110_000, 160_000])[1:]):
            assert not done and not home.blobs.has(sha256(BLOB))
            put(home, offset, length)
        thread.join(60)
        assert done == [None]
        sound(home, sha256(BLOB), BLOB)

    def test_nobody_wants_it_any_more(self, home: Home) -> None:
        put(home, 0, 10_000)
        with pytest.raises(HomeError):
            seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: False)
        assert listed(home, KEY) == [(0, 10_000)]

    @pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0, 1])
    def test_another_size(self, home: Home, impatient: None, size: int) -> None:
        put(home, 0, SIZE)
        with pytest.raises(HomeError):
            seal(home, KEY, size, lambda: sha256(BLOB[:size]), lambda: True)
        assert not home.blobs.has(sha256(BLOB[:size]))

    def test_another_content(self, home: Home) -> None:
        """Nothing of it is kept: no part could be told to be the wrong one."""
        put(home, 0, SIZE)
        put(home, 5, 1, blob=b"?" * SIZE)
        with pytest.raises(HomeError) as caught:
            seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        assert caught.value.code == "damaged"
        assert not home.blobs.has(sha256(BLOB)) and os.listdir(home.partial) == []

    def test_a_part_comes_again_and_is_another(self, home: Home) -> None:
        """After it was hashed."""
        put(home, 0, 100_000)
        asked = iter(["", "", ""])

        def said() -> str:
            if next(asked, None) is None and not listed(home, KEY)[1:]:
                put(home, 5, 1, blob=b"?" * SIZE)
                put(home, 100_000, SIZE - 100_000)
            return sha256(BLOB) if listed(home, KEY)[1:] else ""

        with pytest.raises(HomeError) as caught:
            seal(home, KEY, SIZE, said, lambda: True)
        assert caught.value.code == "damaged" and not home.blobs.has(sha256(BLOB))

    @pytest.mark.parametrize("kept", [0, 50_000])
    def test_a_list_that_outlived_its_parts(self, home: Home, kept: int) -> None:
        """As a power cut leaves it. What is short is found out, and the next try begins anew."""
        put(home, 0, 100_000)
        os.truncate(Path(home.partial, KEY), kept)

        def said() -> str:
            if not kept and not listed(home, KEY):
                put(home, 0, SIZE)
            return sha256(BLOB)

        if kept:
            with pytest.raises(HomeError, match="less of a blob"):
                seal(home, KEY, SIZE, said, lambda: True)
            assert os.listdir(home.partial) == []
            put(home, 0, SIZE)
        seal(home, KEY, SIZE, said, lambda: True)
        sound(home, sha256(BLOB), BLOB)

    @pytest.mark.parametrize("sent", [False, True])
    def test_its_client_leaves_before_all_is_sent(self, home: Home, sent: bool) -> None:
        if sent:
            put(home, 0, 10_000)
        with pytest.raises(HomeError):
            seal(home, KEY, SIZE, lambda: "", lambda: False)
        assert bool(os.listdir(home.partial)) is sent and listed(home, KEY) == [(0, 10_000)] * sent

    def test_the_blob_has_come_otherwise(self, home: Home) -> None:
        """Two terminals send the same: the parts of one were swept up with the blob that the other made."""
        home.blobs.put(BLOB)
        put(home, SIZE - 10, 10)
        seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        sound(home, sha256(BLOB), BLOB)

    def test_a_part_that_comes_after_it(self, home: Home) -> None:
        """A part whose sending had begun can't change the blob."""
        late = Part(home, KEY, SIZE, 0, 10)
        put(home, 0, SIZE)
        seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        try:
            late.take(b"?" * 10)
        except (HomeError, OSError):
            pass
        finally:
            late.suspend()
        assert Path(home.blobs.path(sha256(BLOB))).read_bytes() == BLOB


class TestPart:
    @pytest.mark.parametrize(
        ("size", "offset", "length"),
        [
            (10, 0, 0), (10, 0, -1), (10, -1, 5), (10, 5, 6), (10, 10, 1), (10, 11, 1), (-1, 0, 1), (0, 0, 1),
            (1 << 62, 1 << 62, 1), (10, -(1 << 62), 1 << 63), (1 << 70, 1 << 69, 1), (1 << 64, 0, 1),
            (1 << 63, (1 << 63) - 1, 1),
        ],
    )  # fmt: skip
    def test_that_is_none(self, home: Home, size: int, offset: int, length: int) -> None:
        with pytest.raises(HomeError):
            Part(home, KEY, size, offset, length)
        assert os.listdir(home.partial) == []

    def test_more_than_was_said(self, home: Home) -> None:
        part = Part(home, KEY, SIZE, 10, 100)
        with pytest.raises(HomeError):
            part.take(BLOB[:101])
        part.suspend()
        assert listed(home, KEY) == []

    def test_cut_in_its_midst_it_comes_again(self, home: Home) -> None:
        part = Part(home, KEY, SIZE, 0, 100_000)
        assert not part.take(BLOB[:99_999])
        part.suspend()
        part.suspend()
        assert listed(home, KEY) == []
        for offset, length in cuts(SIZE, [100_000]):
            put(home, offset, length)
        seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
        sound(home, sha256(BLOB), BLOB)

    def test_a_journal_that_was_cut(self, home: Home) -> None:
        put(home, 0, 100_000)
        put(home, 100_000, 50_000)
        journal = Path(home.partial, KEY + PARTS)
        for length in range(16, 32):
            os.truncate(journal, length)
            assert listed(home, KEY) == [(0, 100_000)]
        os.truncate(journal, 15)
        assert listed(home, KEY) == []

    def test_no_descriptor_leaks(self, home: Home) -> None:
        gc.collect()  # what earlier tests left open
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            put(home, number, 1)
            with pytest.raises(HomeError):
                Part(home, KEY, 1, 1, 1)
        assert len(os.listdir("/proc/self/fd")) == before


# -- over a link


def send_parts(link: Link, todo: list[tuple[int, int]], blob: bytes = BLOB, **more: Any) -> dict[str, Any]:
    stream = link.open("put")
    for offset, length in todo:
        header: dict[str, Any] = {"k": KEY, "s": len(blob), "o": offset, "n": length, **more}
        for at in range(offset, offset + length, PIECE):
            stream.send(blob[at : min(at + PIECE, offset + length)], **header)
            header = {}
    stream.end()
    return stream.finish()


def begun(link: Link) -> set[tuple[int, int]]:
    """What the agent says that it has of the blob, as ranges."""
    return {(offset, length) for offset, length in link.call("begun")["parts"].get(KEY, [])}


def sealed(link: Link, h: Any, **arguments: Any) -> None:
    stream = link.open("seal", **{"key": KEY, "size": SIZE, **arguments})
    stream.send(b"", h=h)
    stream.end()
    stream.finish(20)


class TestOverLinks:
    def test_several_lanes(self, home: Home) -> None:
        todo = cuts(SIZE, list(range(0, SIZE, 7_000)))
        with served(home) as one, served(home) as two:
            threads = [
                threading.Thread(target=send_parts, args=(one, todo[::2])),
                threading.Thread(target=send_parts, args=(two, todo[1::2])),
            ]
            stream = one.open("seal", key=KEY, size=SIZE)
            until(lambda: os.listdir(home.partial), what="it is asked for before the first part comes")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            with pytest.raises(TimeoutError):
                stream.finish(0.05)  # nobody has said what it must be
            stream.send(b"", h=sha256(BLOB))
            stream.end()
            stream.finish(20)
        sound(home, sha256(BLOB), BLOB)

    def test_goes_on_after_a_cut(self, home: Home) -> None:
        """Only the part that was under way comes again."""
        chance = random.Random(3)
        todo = cuts(SIZE, [chance.randrange(SIZE) for _ in range(20)])
        chance.shuffle(todo)
        for number, (offset, length) in enumerate(todo):
            with linked(Server(home).handle) as (link, cut):
                there = begun(link)
                assert sum(size for _, size in there) == sum(size for _, size in todo[:number])
                send_parts(link, [(offset, length)])
                if number + 1 < len(todo):  # the next one comes in part
                    at, size = todo[number + 1]
                    stream = link.open("put")
                    stream.send(BLOB[at : at + size // 2], k=KEY, s=SIZE, o=at, n=size)
                cut()
        with served(home) as link:
            sealed(link, h=sha256(BLOB))
        sound(home, sha256(BLOB), BLOB)

    def test_a_blob_that_was_begun_in_parts_is_not_begun_from_the_start(self, home: Home) -> None:
        """The partial file is as long as its last part's end, and has holes: nobody may go on at its end."""
        digest = sha256(BLOB)
        part = Part(home, digest, SIZE, 150_000, 50_000)
        part.take(BLOB[150_000:])
        with served(home) as link:
            stream = link.open("missing")
            stream.send(bytes.fromhex(digest))
            stream.end()
            assert [frame.body for frame in stream] == [bytes(12)]
            assert link.call("begun")["partial"] == {}

    def test_hundreds_of_thousands_of_parts(self, home: Home) -> None:
        """Of 50 GB and more; what is said of them must fit into a frame."""
        with open(os.path.join(home.partial, KEY + PARTS), "wb") as journal:
            for number in range(200_000):
                if number % 50_000:
                    journal.write(parts._PART.pack(number << 20, 1 << 20))
        with open(os.path.join(home.partial, KEY), "wb") as file:
            os.truncate(file.fileno(), 200_000 << 20)
        with served(home) as link:
            there = begun(link)
        assert sum(length for _, length in there) == (200_000 - 4) << 20

    def test_parts_with_as_many_holes_as_there_can_be(self, home: Home) -> None:
        with open(os.path.join(home.partial, KEY + PARTS), "wb") as journal:
            for number in range(0, 300_000, 3):
                journal.write(parts._PART.pack(number, 1))
        Path(home.partial, KEY).write_bytes(bytes(300_000))
        with served(home) as link:
            there = begun(link)
            assert there and all(offset % 3 == 0 and length == 1 for offset, length in there)

    @pytest.mark.parametrize(
        "header",
        [
            {"k": "x"}, {"k": "../../../../etc/passwd"}, {"k": ""}, {"k": 5}, {"s": "many"}, {"s": -1}, {"s": None},
            {"o": -1}, {"o": 1 << 62}, {"o": "x"}, {"n": 0}, {"n": -1}, {"n": 1 << 62}, {"n": []},
            {"s": 1 << 70, "o": 1 << 66, "n": 10}, {"s": 1e308}, {"z": 1 << 62}, {"z": -1}, {"z": 10},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_is_refused(self, home: Home, header: dict[str, Any]) -> None:
        with served(home) as link:
            with pytest.raises(RemoteError):
                send_parts(link, [(0, 10)], **header)
            assert begun(link) == set()
            send_parts(link, [(0, SIZE)])
            sealed(link, h=sha256(BLOB))
        sound(home, sha256(BLOB), BLOB)

    @pytest.mark.parametrize("offset", [1 << 40, 1 << 62, (1 << 63) - 11])
    def test_a_part_at_an_absurd_place(self, home: Home, offset: int) -> None:
        """Refused, or a file of holes that takes no room and is not a blob."""
        with served(home) as link:
            stream = link.open("put")
            try:
                stream.send(b"x" * 10, k=KEY, s=offset + 10, o=offset, n=10)
                stream.end()
                stream.finish()
            except RemoteError:
                pass
            path = Path(home.partial, KEY)
            assert not path.exists() or path.stat().st_blocks * 512 <= 1 << 16
            link.call("begun")
            stream = link.open("seal", key=KEY, size=offset + 10)
            stream.send(b"", h=sha256(b"x"))
            stream.end()
            with pytest.raises((TimeoutError, RemoteError)):
                stream.finish(0.2)
            stream.cancel()
            until(lambda: not any("seal" in thread.name for thread in threading.enumerate()))
        assert not any(Path(home.blobs.folder).rglob("*"))

    @pytest.mark.parametrize(
        "arguments",
        [
            {"key": "x"}, {"key": "../x"}, {"key": 5}, {"h": "x"}, {"h": None}, {"h": 5}, {"size": "x"}, {"size": None},
            {"size": -1}, {"size": 0}, {"more": 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_seals_that_are_refused(self, home: Home, arguments: dict[str, Any]) -> None:
        with served(home) as link:
            send_parts(link, [(0, SIZE)])
            with pytest.raises(RemoteError):
                sealed(link, **{"h": sha256(BLOB), **arguments})
        assert not home.blobs.has(hashlib.sha256(BLOB).hexdigest())


def test_two_who_seal_the_same_at_once(tmp_path: Path) -> None:
    """As when a try is repeated while the agent of the cut one still lives: both see the last part come."""
    for number in range(30):
        home = Home.open(str(tmp_path / str(number)))
        put(home, 0, SIZE - 1)
        errors: list[BaseException] = []

        def one(home: Home = home, errors: list[BaseException] = errors) -> None:
            try:
                seal(home, KEY, SIZE, lambda: sha256(BLOB), lambda: True)
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        put(home, SIZE - 1, 1)
        for thread in threads:
            thread.join(60)
        assert not errors
        assert Path(home.blobs.path(sha256(BLOB))).read_bytes() == BLOB
