"""A large blob put together of what is there and of what is sent, over a real link: whatever happens on the way."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoterun.agent.serve import Server
from remoterun.agent.shared import api
from remoterun.agent.shared.delta import BLOCK, PROBE, RECORD_SIZE, BlockFinder, BlockRecord, OldPlace, records
from remoterun.agent.shared.protocol import Link, LinkClosed, RemoteError, Stream
from remoterun.agent.store.home import Home
from remoterun.hosts.local import LocalHost
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.transfer import Progress, read_tree, send_tree
from remoterun.transfer.sending import WHOLE
from tests.unit.test_delta import forged
from tests.workshop import linked, served, sha256, until, write_files

BLOCKS = 16
OLD = random.Random(1).randbytes(40 * BLOCK + 1234)
KEY = sha256(b"its name on the way")
_homes = itertools.count()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.open(str(tmp_path / "home"))
    home.blobs.put(OLD)
    return home


def patch(
    link: Link,
    new: bytes,
    offset: int = 0,
    like: list[str] | None = None,
    upto: int | None = None,
    digest: Callable[[bytes], str] = lambda content: sha256(content),
) -> int:
    """Send as the client does: how many bytes were sent. `upto`: no more of the file than that, and no end. `digest`:
    what is told to be that of all that was told of."""
    asked, sent = [], 0
    stream = link.open("patch", size=len(new), key=KEY, offset=offset, like=[sha256(OLD)] if like is None else like)

    def answer() -> int:
        frame = stream.receive(60)
        data = asked.pop(0)
        assert frame is not None and len(frame.body) == -(-len(data) // BLOCK) and not set(frame.body) - {0, 1}
        wanted = b"".join(data[n * BLOCK : (n + 1) * BLOCK] for n, flag in enumerate(frame.body) if flag)
        for at in range(0, len(wanted), 100_000):
            stream.send(wanted[at : at + 100_000])
        return len(wanted)

    end = len(new) if upto is None else upto
    for start in range(offset, end, BLOCKS * BLOCK):
        data = new[start : start + BLOCKS * BLOCK]
        stream.send(records(data), w=1, u=digest(new[: start + len(data)]))
        asked.append(data)
        if len(asked) > 2:
            sent += answer()
    while asked:
        sent += answer()
    if upto is None:
        stream.send(b"", h=sha256(new))
        stream.end()
        stream.finish(60)
    return sent


def ended() -> bool:
    """Whether no agent of this process works on a patch any more."""
    return not any("patch" in thread.name for thread in threading.enumerate())


def arrived(home: Home, new: bytes) -> None:
    assert Path(home.blobs.path(sha256(new))).read_bytes() == new
    assert Path(home.blobs.path(sha256(OLD))).read_bytes() == OLD, "the old one stays as it is"
    assert os.listdir(home.partial) == [] == os.listdir(home.tmp)


def edited(content: bytes, distance: int) -> bytes:
    """A byte is another each so many, but never a block's first ones."""
    changed = bytearray(content)
    for at in range(distance // 2, len(content), distance):
        changed[at] ^= 1
    return bytes(changed)


NOISE = random.Random(2).randbytes(3 * BLOCK)
NEW = {
    "identical": (OLD, 0),
    "appended": (OLD + NOISE, 5),
    "truncated": (OLD[:-70_000], 0),
    "truncated to a block": (OLD[:BLOCK], 0),
    "inserted at the start": (b"!" + OLD, 2),
    "inserted": (OLD[:900_001] + NOISE[:77_777] + OLD[900_001:], 4),
    "deleted": (OLD[:900_001] + OLD[1_000_777:], 3),
    "edited": (OLD[:900_001] + NOISE[:9] + OLD[900_010:], 1),
    "edited all over": (b"".join(b"!" + OLD[at + 1 : at + BLOCK] for at in range(0, len(OLD), BLOCK)), 41),
    "edited in some midsts": (edited(OLD, 300_000), 9),
    "inserted, and edited later": (OLD[:900_001] + NOISE[:77_777] + edited(OLD[900_001:], 800_000), 7),
    "the first block": (NOISE[:BLOCK] + OLD[BLOCK:], 1),
    "the last byte": (OLD[:-1] + b"!", 1),
    "twice": (OLD + OLD, 20),
    "another": (random.Random(3).randbytes(20 * BLOCK + 5), 21),
    "one byte": (b"x", 1),
    "the old one and zeros": (OLD + bytes(5 * BLOCK), 6),
}


@pytest.mark.parametrize("what", NEW)
@pytest.mark.parametrize("told", ["the digests", "no digests", "wrong digests", "some wrong digests"])
def test_it_arrives(home: Home, what: str, told: str) -> None:
    """That of all so far spares a look at each block, where it is right; and where it is not, nothing else changes."""
    new, most = NEW[what]
    digest: dict[str, Callable[[bytes], str]] = {
        "the digests": sha256,
        "no digests": lambda content: "",
        "wrong digests": lambda content: sha256(content + b"?"),
        "some wrong digests": lambda content: sha256(content)[len(content) // BLOCK // BLOCKS % 2 :],
    }
    with served(home) as link:
        sent = patch(link, new, digest=digest[told])
        assert -(-sent // BLOCK) <= most
    arrived(home, new)


LONG = random.Random(4).randbytes(320 * BLOCK)
"""Of which the records come in twenty frames."""


@pytest.mark.parametrize(
    ("new", "most"),
    [(LONG, 0), (LONG + NOISE, 1), (NOISE[:77_777] + LONG, 6), (edited(LONG, len(LONG)), 6)],
    ids=["identical", "appended", "inserted at the start", "edited in the middle"],
)
def test_what_did_not_change_is_not_looked_at_block_by_block(
    home: Home, new: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    find = BlockFinder.find

    def counted(self: BlockFinder, start: int, blocks: Sequence[BlockRecord]) -> list[OldPlace | None]:
        looked.append(start)
        return find(self, start, blocks)

    monkeypatch.setattr(BlockFinder, "find", counted)
    digest = home.blobs.put(LONG)
    with served(home) as link:
        patch(link, new, like=[digest])
    assert Path(home.blobs.path(sha256(new))).read_bytes() == new
    assert len(looked) <= most


def test_empty(home: Home) -> None:
    with served(home) as link:
        assert patch(link, b"") == 0
    arrived(home, b"")


@pytest.mark.parametrize(
    "like", [[], ["ab" * 32], ["x"], [""], ["../../../../etc/passwd"], ["ab" * 32] * 99, [sha256(b"")]], ids=str
)
def test_the_old_one_is_not_there(home: Home, like: list[str]) -> None:
    """Somebody has deleted it since the client looked, or the client says what can't be."""
    home.blobs.put(b"")
    new = NEW["edited"][0]
    with served(home) as link:
        assert patch(link, new, like=like) == len(new)
    arrived(home, new)


def test_it_is_deleted_on_the_way(home: Home) -> None:
    new = OLD + NOISE
    with served(home) as link:
        stream = link.open("patch", size=len(new), key=KEY, offset=0, like=[sha256(OLD)])
        stream.send(records(new[: 32 * BLOCK]), w=1)
        assert stream.receive(60)
        os.unlink(home.blobs.path(sha256(OLD)))
        stream.send(records(new[32 * BLOCK :]), w=1)
        frame = stream.receive(60)
        assert frame is not None and sum(frame.body) == 4
        stream.send(new[40 * BLOCK :])
        stream.send(b"", h=sha256(new))
        stream.end()
        stream.finish(60)
    assert Path(home.blobs.path(sha256(new))).read_bytes() == new


def test_the_same_is_deleted_on_the_way(home: Home) -> None:
    """Nothing was written, as it is all of the old one; and then it must be."""
    with served(home) as link:
        stream = link.open("patch", size=len(OLD), key=KEY, offset=0, like=[sha256(OLD)])
        stream.send(records(OLD), w=1)
        assert stream.receive(60)
        os.unlink(home.blobs.path(sha256(OLD)))
        stream.send(b"", h=sha256(OLD))
        stream.end()
        stream.finish(60)
    arrived(home, OLD)


def test_of_several(home: Home) -> None:
    other = home.blobs.put(NOISE * 3)
    new = OLD[: 20 * BLOCK] + NOISE * 3 + OLD[20 * BLOCK :]
    with served(home) as link:
        assert patch(link, new, like=[sha256(OLD), "ab" * 32, other]) <= 9 * BLOCK
    arrived(home, new)


class TestCuts:
    @settings(max_examples=12)
    @given(
        what=st.sampled_from(sorted(NEW)),
        shares=st.lists(st.floats(0, 1), min_size=1, max_size=4),
        wait=st.booleans(),
    )
    def test_it_goes_on(
        self, tmp_path_factory: pytest.TempPathFactory, what: str, shares: list[float], wait: bool
    ) -> None:
        home = Home.open(str(tmp_path_factory.getbasetemp() / f"patch{next(_homes)}"))
        home.blobs.put(OLD)
        new = NEW[what][0]
        have = 0
        for share in sorted(shares):
            upto = have + int(share * (len(new) - have))
            with linked(Server(home).handle) as (link, cut):
                patch(link, new, have, upto=upto)
                if wait:
                    link.call("uploads")
                cut()
            until(ended, what="the agent's end")
            with served(home) as link:
                there = link.call("begun")["partial"].get(KEY, 0)
            assert have <= there <= len(new), "what came is not lost"
            have = there
        with served(home) as link:
            patch(link, new, have)
        arrived(home, new)

    def test_after_each_answer(self, home: Home) -> None:
        """What was answered to be there is there the next time, although nothing of it had been written."""
        new = NEW["inserted"][0]
        have = 0
        for _ in range(10):
            with linked(Server(home).handle) as (link, cut):
                patch(link, new, have, upto=min(len(new), have + 4 * BLOCK))
                link.call("uploads")
                cut()
            until(ended, what="the agent's end")
            now = home.blobs.partial_size(KEY)
            assert now > have or now == len(new)
            assert Path(home.partial, KEY).read_bytes() == new[:now]
            have = now
        with served(home) as link:
            patch(link, new, have)
        arrived(home, new)

    def test_two_clients_send_the_same(self, home: Home) -> None:
        new = NEW["inserted"][0]
        with served(home) as one, served(home) as two:
            stream = one.open("patch", size=len(new), key=KEY, offset=0, like=[sha256(OLD)])
            stream.send(records(new[: 4 * BLOCK]), w=1)
            assert stream.receive(60)
            patch(two, new)
            assert Path(home.blobs.path(sha256(new))).read_bytes() == new
            stream.cancel()
            until(ended, what="the agent's end")
        with served(home) as link:
            patch(link, new, link.call("begun")["partial"].get(KEY, 0))
        arrived(home, new)


@contextlib.contextmanager
def begun(home: Home, new: bytes, **changed: Any) -> Iterator[Stream]:
    arguments = {"size": len(new), "key": KEY, "offset": 0, "like": [sha256(OLD)], **changed}
    with served(home) as link:
        yield link.open("patch", **arguments)


def refused(stream: Stream) -> RemoteError:
    with pytest.raises((RemoteError, LinkClosed)) as caught:
        stream.end()
        stream.finish(60)
    assert isinstance(caught.value, RemoteError)
    return caught.value


@pytest.mark.parametrize("large", [WHOLE + 5, 3 * WHOLE])
def test_a_block_that_has_the_checksum_of_another(tmp_path: Path, large: int) -> None:
    """By chance, or because somebody made it so: the client sends all of the file then."""
    old = random.Random(4).randbytes(large)
    new = old[:BLOCK] + forged(old[BLOCK : 2 * BLOCK]) + old[2 * BLOCK :]
    session = Session(MachineType("here"), LocalHost(tmp_path / "home"))
    try:
        for content in (old, new):
            folder = write_files(tmp_path / "s", {"a": content})
            manifest, _ = send_tree(session, read_tree(folder), {}, Progress(), "doom")
            session.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
            version = "2" if content == new else "1"
            assert (tmp_path / "home/uploads/doom" / version / "a").read_bytes() == content
    finally:
        session.close()


class TestHostile:
    @pytest.fixture(autouse=True)
    def _sound(self, home: Home) -> Iterator[None]:
        yield
        blobs = [path for path in Path(home.blobs.folder).rglob("*") if path.is_file()]
        assert [path.read_bytes() for path in blobs] == [OLD]
        with served(home) as link:
            patch(link, OLD + NOISE, link.call("begun")["partial"].get(KEY, 0) * 0)
        arrived(home, OLD + NOISE)

    def test_another_digest(self, home: Home) -> None:
        for new in (NEW["edited"][0], OLD):
            with begun(home, new) as stream:
                stream.send(records(new), w=1)
                frame = stream.receive(60)
                assert frame is not None
                for number, flag in enumerate(frame.body):
                    if flag:
                        stream.send(new[number * BLOCK : (number + 1) * BLOCK])
                stream.send(b"", h=sha256(b"x"))
                assert refused(stream).code == "damaged"
            assert os.listdir(home.partial) == []

    def test_a_block_that_only_seems_to_be_there(self, home: Home) -> None:
        """Same checksum, same first bytes: it is not taken for what it isn't."""
        new = OLD[:BLOCK] + forged(OLD[BLOCK : 2 * BLOCK]) + OLD[2 * BLOCK :]
        with begun(home, new) as stream:
            stream.send(records(new), w=1)
            frame = stream.receive(60)
            assert frame is not None and not any(frame.body)
            stream.send(b"", h=sha256(new))
            assert refused(stream).code == "damaged"

    def test_the_old_one_is_damaged(self, home: Home) -> None:
        """And so that it can't be seen from the records."""
        path = Path(home.blobs.path(sha256(OLD)))
        path.chmod(0o644)
        path.write_bytes(forged(OLD[:BLOCK]) + OLD[BLOCK:])
        with begun(home, OLD) as stream:
            stream.send(records(OLD), w=1)
            frame = stream.receive(60)
            assert frame is not None and not any(frame.body)
            stream.send(b"", h=sha256(OLD))
            try:
                assert refused(stream).code == "damaged"
            finally:
                path.write_bytes(OLD)

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            ([({}, b"not asked for")], "bad_stream"),
            ([({"z": 5}, b"not deflated")], "bad_stream"),
            ([({"z": 1 << 62}, b"")], "bad_stream"),
            ([({"w": 1}, b"")], "bad_stream"),
            ([({"w": 1}, b"x" * (RECORD_SIZE + 1))], "bad_stream"),
            ([({"w": 1}, bytes(RECORD_SIZE * 42))], "bad_stream"),
            ([({"w": 1}, bytes(RECORD_SIZE * 40)), ({"w": 1}, bytes(RECORD_SIZE * 2))], "bad_stream"),
            ([({"w": 1}, bytes(RECORD_SIZE * 41)), ({"w": 1}, bytes(RECORD_SIZE))], "bad_stream"),
            ([({"w": 1}, bytes(RECORD_SIZE * 2)), ({}, bytes(2 * BLOCK + 1))], "bad_stream"),
            ([({"w": 1}, records(OLD)), ({}, b"x")], "bad_stream"),
            ([({"h": sha256(OLD)}, b"")], "bad_stream"),
            ([({"w": 1}, records(OLD)), ({"h": sha256(OLD)}, b""), ({}, b"more")], "bad_stream"),
            ([({"w": 1}, records(OLD)), ({"h": sha256(OLD)}, b""), ({"h": sha256(OLD)}, b"")], ""),
            ([({"w": 1}, records(OLD)), ({"h": "../../../x"}, b"")], "damaged"),
            ([({"w": 1}, records(OLD)), ({"h": ""}, b"")], ""),
            ([({"w": 1}, bytes(RECORD_SIZE * 3)), ({}, bytes(BLOCK)), ({"h": sha256(OLD)}, b"")], "bad_stream"),
            ([], "bad_stream"),
        ],
        ids=range(17),
    )  # fmt: skip
    def test_frames(self, home: Home, frames: list[tuple[dict[str, Any], bytes]], code: str) -> None:
        with begun(home, OLD) as stream:
            for header, body in frames:
                stream.send(body, **header)
            stream.end()
            try:
                stream.finish(60)
                assert code in ("", "bad_stream") and sha256(OLD) in str(frames)
            except RemoteError as error:
                assert error.code == code or not code

    @pytest.mark.parametrize(
        "changed",
        [
            {"size": -1}, {"size": "x"}, {"size": None}, {"size": 1e308}, {"size": 1 << 70}, {"offset": -1},
            {"offset": 1}, {"offset": 1 << 62}, {"offset": "x"}, {"key": "../x"}, {"key": "/etc/passwd"}, {"key": 5},
            {"like": 5}, {"like": [5]}, {"like": None}, {"like": [None, []]}, {"more": 1}, {"like": {"a": 1}},
        ],
        ids=str,
    )  # fmt: skip
    def test_arguments(self, home: Home, changed: dict[str, Any]) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with begun(home, OLD, **changed) as stream:
            refused(stream)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before, what="no descriptor leaks")

    def test_records_without_an_end(self, home: Home) -> None:
        """Of a file that is said to be endless; none of its bytes come, so memory is what grows."""
        with begun(home, OLD, size=1 << 62) as stream:
            body = os.urandom(RECORD_SIZE * 1024)
            with pytest.raises(RemoteError):
                for _ in range(600):
                    stream.send(body, w=1)
                    stream.receive(60)

    def test_very_many_records_at_once(self, home: Home) -> None:
        """More than any client asks: looking for each among all others would take the agent hours."""
        with begun(home, OLD, size=1 << 62) as stream, pytest.raises(RemoteError):
            for _ in range(5):
                stream.send((b"\0\0\0\0" + OLD[: PROBE - 1] + b"!") * 60_000, w=1)
                stream.receive(60)
