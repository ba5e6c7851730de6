"""Large blobs in pieces, as an agent takes and gives them: whatever is there already, whatever is cut, whoever lies."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.serve import Server
from remoterun.agent.shared.frames import ProtocolError
from remoterun.agent.shared.pieces import (
    PIECE,
    find_pieces,
    pack_numbers,
    piece_count,
    piece_hashes,
    unpack_numbers,
    whole_hash,
)
from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.store import pieces
from remoterun.agent.store.home import Home
from tests.homes import put as put_files
from tests.workshop import ask, at_once, call, linked, served, sha256

NEW = random.Random(1).randbytes(5 * PIECE + 77)
KEY = sha256(NEW)
NUMBERS = list(range(6))


def piece(number: int, content: bytes = NEW) -> bytes:
    return content[number * PIECE : (number + 1) * PIECE]


def hashes(content: bytes = NEW) -> bytes:
    return b"".join(hashlib.sha256(piece(number, content)).digest() for number in range(piece_count(len(content))))


def missing(link: Link, content: bytes = NEW, **arguments: Any) -> list[int]:
    asked = {"digest": sha256(content), "size": len(content), **arguments}
    return unpack_numbers(ask(link, "missing_pieces", hashes(content), **asked).read(), len(content))


def numbered(body: bytes, *numbers: int, content: bytes = NEW) -> tuple[bytes, dict[str, Any]]:
    """What is sent of a piece that occurs at these places."""
    return body, {"d": sha256(content), "s": len(content), "n": [*numbers]}


def put(link: Link, *numbers: int, content: bytes = NEW) -> None:
    call(link, "put", *(numbered(piece(number, content), number, content=content) for number in numbers))


def seal(link: Link, content: bytes = NEW) -> None:
    call(link, "seal", digest=sha256(content), size=len(content))


def arrived(home: Home, content: bytes = NEW) -> None:
    assert Path(home.blobs.path(sha256(content))).read_bytes() == content
    assert os.listdir(home.partial) == [] == os.listdir(home.tmp)


@given(
    old=st.lists(st.integers(0, 3), max_size=4),
    new=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    cut=st.lists(st.integers(0, 3), max_size=4),
    rest=st.sampled_from([0, 1, PIECE - 1]),
)
def test_what_is_found_and_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], new: list[int], cut: list[int], rest: int
) -> None:
    """Together with the missing pieces it is the new file; nothing is missing that stood in its place."""
    content = b"".join(bytes([number]) * PIECE for number in new) + b"e" * rest
    before = b"".join(bytes([number]) * PIECE for number in old)
    folder = tmp_path_factory.getbasetemp()
    (folder / "partial").write_bytes(b"".join(bytes([number]) * PIECE for number in cut)[: len(content)])
    (folder / "old").write_bytes(before)
    with open(folder / "partial", "r+b", buffering=0) as partial, open(folder / "old", "rb") as like:
        lacking = find_pieces(partial.fileno(), len(content), 0, hashes(content), like.fileno())
        for number in lacking:
            os.pwrite(partial.fileno(), piece(number, content), number * PIECE)
        assert whole_hash(partial.fileno(), len(content)) == sha256(content)
    for number in lacking:
        assert piece(number, before) != piece(number, content)
    assert piece_hashes_of(folder / "partial") == hashes(content)


def piece_hashes_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        size = path.stat().st_size
        return piece_hashes(file.fileno(), size, range(piece_count(size)))


@pytest.mark.parametrize("body", [b"x", pack_numbers([6]), pack_numbers([0, 1 << 31])])
def test_what_are_no_numbers(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_numbers(body, len(NEW))


class TestUp:
    @pytest.mark.parametrize("seed", range(4))
    def test_in_any_order_over_two_connections(self, home: Home, seed: int) -> None:
        order = random.Random(seed).sample(NUMBERS, 6)
        with served(home) as one, served(home) as two:
            assert missing(one) == NUMBERS
            at_once(partial(put, link, *part) for link, part in ((one, order[:4]), (two, order[2:])))
            seal(two)
        arrived(home)

    def test_another_client_goes_on_after_a_cut(self, home: Home) -> None:
        with linked(Server(home).handle) as (link, cut):
            missing(link)
            put(link, 4, 1)
            cut()
        with served(home) as link:
            assert missing(link) == [0, 2, 3, 5]
            put(link, 0, 2, 3, 5)
            seal(link)
        arrived(home)

    def test_what_a_power_cut_has_damaged_is_asked_for_again(self, home: Home) -> None:
        with served(home) as link:
            put(link, *NUMBERS)
            with open(os.path.join(home.partial, KEY), "r+b") as file:
                file.seek(2 * PIECE)
                file.write(bytes(PIECE))
            with pytest.raises(RemoteError) as caught:
                seal(link)
            assert caught.value.code == "damaged" and not home.blobs.has(KEY)
            assert missing(link) == [2]
            put(link, 2)
            seal(link)
        arrived(home)

    def test_the_version_before_under_that_path(self, home: Home) -> None:
        old = NEW[: 2 * PIECE] + b"!" + NEW[2 * PIECE + 1 :]
        home.uploads.commit("doom", put_files(home, {"big": old, "other": NEW[: 3 * PIECE] + bytes(2 * PIECE)}))
        with served(home) as link:
            assert missing(link, name="doom", path="elsewhere") == NUMBERS
            assert missing(link, name="doom", path="big") == [2]
            put(link, 2)
            seal(link)
        arrived(home)
        assert Path(home.blobs.path(sha256(old))).read_bytes() == old

    @pytest.mark.parametrize("name", ["nothing", "doom"])
    def test_there_is_no_version_before(self, home: Home, name: str) -> None:
        home.uploads.commit("doom", put_files(home, {"small": b"small"}))
        with served(home) as link:
            assert missing(link, name=name, path="small") == NUMBERS
            assert missing(link, name=name, path="../../etc/passwd") == NUMBERS

    def test_the_same_piece_elsewhere_in_the_file(self, home: Home) -> None:
        content = piece(0) + bytes(3 * PIECE) + piece(1)
        with served(home) as link:
            assert missing(link, content) == [0, 1, 2, 3, 4]
            call(link, "put", numbered(bytes(PIECE), 1, 3, content=content))
            assert missing(link, content) == [0, 4], "number 2 is copied from where it is"
            put(link, 0, 4, content=content)
            seal(link, content)
        arrived(home, content)

    @pytest.mark.parametrize("linked_already", [False, True])
    def test_a_crash_in_the_midst_of_adopting(self, home: Home, linked_already: bool) -> None:
        path = Path(home.partial, KEY)
        path.write_bytes(NEW)
        path.chmod(0o444)
        if linked_already:
            os.makedirs(os.path.dirname(home.blobs.path(KEY)), exist_ok=True)
            os.link(path, home.blobs.path(KEY))
        with served(home) as link:
            assert missing(link) == []
            seal(link)
        arrived(home)
        assert os.stat(home.blobs.path(KEY)).st_mode & 0o777 == 0o444

    def test_a_late_piece_does_not_change_the_blob(self, home: Home) -> None:
        with served(home) as link:
            put(link, *NUMBERS)
            seal(link)
            call(link, "put", numbered(bytes(PIECE), 0))
            seal(link)
        arrived(home)

    def test_two_who_seal_the_same_at_once(self, home: Home) -> None:
        for number in NUMBERS:
            pieces.write_piece(home, KEY, len(NEW), [number], piece(number))
        at_once([partial(pieces.seal, home, KEY, len(NEW))] * 4)
        arrived(home)

    def test_it_is_deleted_on_the_way(self, home: Home) -> None:
        """By a gc on a full disk, say: the seal is refused, and the next try sends all of it."""
        with served(home) as link:
            put(link, 0, 1, 2)
            pieces.discard(home, KEY)
            put(link, 3, 4, 5)
            with pytest.raises(RemoteError):
                seal(link)
            assert missing(link) == [0, 1, 2]

    @pytest.mark.parametrize(
        "header",
        [
            {"d": "x"}, {"d": "../../../../etc/passwd"}, {"d": None}, {"s": -1}, {"s": "many"}, {"s": 1 << 70},
            {"s": None}, {"n": 0}, {"n": [-1]}, {"n": [6]}, {"n": ["0"]}, {"n": [0.0]}, {"n": [[0]]}, {"n": [0, 5]},
            {"n": [1 << 60]}, {"z": 1 << 62}, {"z": -1}, {"z": 10}, {"s": PIECE - 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_is_refused(self, home: Home, header: dict[str, Any]) -> None:
        with served(home) as link:
            with pytest.raises(RemoteError) as caught:
                call(link, "put", (piece(0), {"d": KEY, "s": len(NEW), "n": [0], **header}))
            assert caught.value.code == "bad_stream"
        assert os.listdir(home.partial) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            {"digest": "x"}, {"digest": "../x"}, {"size": -1}, {"size": 1}, {"first": -1}, {"first": 1},
            {"first": 1 << 70}, {"name": "../x"},
        ],
        ids=str,
    )  # fmt: skip
    def test_questions_that_are_refused(self, home: Home, arguments: dict[str, Any]) -> None:
        with served(home) as link, pytest.raises(RemoteError):
            missing(link, **arguments)
        assert os.listdir(home.partial) == []

    @pytest.mark.parametrize("arguments", [{"digest": "x"}, {"size": -1}, {"size": len(NEW) - 1}, {"size": 1 << 62}])
    def test_seals_that_are_refused(self, home: Home, arguments: dict[str, Any]) -> None:
        with served(home) as link:
            put(link, *NUMBERS)
            with pytest.raises(RemoteError):
                call(link, "seal", **{"digest": KEY, "size": len(NEW), **arguments})
            assert not home.blobs.has(KEY)
            seal(link)
        arrived(home)

    def test_a_blob_that_does_not_fit(self, small_disk: Callable[[str], Path]) -> None:
        small = Home.open(str(small_disk("4m") / "home"))
        with served(small) as link, pytest.raises(RemoteError) as caught:
            missing(link)
        assert caught.value.code == "disk_full" and os.listdir(small.partial) == []

    def test_a_disk_that_becomes_full(self, small_disk: Callable[[str], Path]) -> None:
        small = Home.open(str(small_disk("8m") / "home"))
        with linked(Server(small).handle) as (link, _):
            assert missing(link) == NUMBERS
            filler = Path(small.path).parent / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 5 << 20)
            with pytest.raises(RemoteError) as caught:
                put(link, *NUMBERS)
            assert caught.value.code == "disk_full"
            filler.unlink()
            left = missing(link)
            assert 0 < len(left) < 6, "what had come is not sent again"
            put(link, *left)
            seal(link)
        arrived(small)


class TestDown:
    def ask(self, link: Link, first: int, end: int, digest: str = KEY) -> bytes:
        return ask(link, "piece_hashes", digest=digest, first=first, end=end).read()

    def test_hashes(self, home: Home) -> None:
        home.blobs.put(NEW)
        with served(home) as link:
            assert self.ask(link, 0, 6) == hashes() == self.ask(link, -5, 1 << 62)
            assert self.ask(link, 4, 5) == hashes()[4 * 32 : 5 * 32]
            assert self.ask(link, 6, 9) == self.ask(link, 5, 2) == b""

    def test_pieces(self, home: Home) -> None:
        home.blobs.put(NEW)
        with served(home) as link:
            came = ask(link, "fetch_pieces", pack_numbers([5, 0, 2]), digest=KEY)
            assert [bytes(frame.body) for frame in came] == [piece(5), piece(0), piece(2)]

    @pytest.mark.parametrize("numbers", [pack_numbers([6]), b"x", pack_numbers([1 << 31])])
    def test_pieces_that_there_are_not(self, home: Home, numbers: bytes) -> None:
        home.blobs.put(NEW)
        with served(home) as link, pytest.raises(RemoteError):
            ask(link, "fetch_pieces", numbers, digest=KEY).read()

    @pytest.mark.parametrize("digest", [KEY, "x", "../../../../etc/passwd", ""])
    def test_a_blob_that_is_not_here(self, home: Home, digest: str) -> None:
        with served(home) as link:
            for op, arguments in (("piece_hashes", {"first": 0, "end": 1}), ("fetch_pieces", {})):
                with pytest.raises(RemoteError):
                    ask(link, op, digest=digest, **arguments).read()
