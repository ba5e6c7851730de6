"""Parts of a new file that an old one has: put together with what is missing they are the new file, always; and of a
file that changed a little, little is missing."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import delta
from remoterun.agent.shared.delta import BLOCK, PROBE, RECORD_SIZE, BlockFinder, DeltaError, parsed, records

SMALL_BLOCK = 64
AT_ONCE = 64


def in_small_blocks(old: list[bytes], new: bytes, at_once: int, offset: int = 0) -> tuple[bytes, int]:
    """`put_together` with blocks of 64 bytes, so that a file of some kilobytes has as many as a large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "BLOCK", SMALL_BLOCK)
        return put_together(old, new, at_once, offset, SMALL_BLOCK)


def put_together(old: list[bytes], new: bytes, at_once: int, offset: int = 0, block: int = BLOCK) -> tuple[bytes, int]:
    """(the new file as the other side would make it, bytes that were sent for it)."""
    views = [memoryview(file) for file in old]
    finder = BlockFinder(views, len(new))
    made = bytearray(new[:offset])
    sent = 0
    for start in range(offset, len(new), at_once * block):
        data = new[start : start + at_once * block]
        body = records(data)
        assert len(body) == RECORD_SIZE * -(-len(data) // block)
        places = finder.find(start, parsed(body))
        assert len(places) == -(-len(data) // block)
        for number, place in enumerate(places):
            part = data[number * block : (number + 1) * block]
            if place is None:
                made += part
                sent += len(part)
            else:
                which, where = place
                assert 0 <= where <= len(old[which]) - len(part)
                made += old[which][where : where + len(part)]
    return bytes(made), sent


CONTENT = st.one_of(
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 99), st.integers(0, 6000)),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=100), st.integers(0, 60)),
    st.builds(bytes, st.integers(0, 3000)),
    st.binary(max_size=300),
)


@st.composite
def edits(draw: st.DrawFn, old: list[bytes]) -> bytes:
    """A new file made of the old ones: pieces of them in any order, and other bytes."""
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        if old and draw(st.booleans()):
            file = draw(st.sampled_from(old))
            start = draw(st.integers(0, len(file)))
            parts.append(file[start : draw(st.integers(start, len(file)))])
        else:
            parts.append(draw(CONTENT))
    return b"".join(parts)


@given(st.data())
def test_it_is_the_new_file(data: st.DataObject) -> None:
    old = data.draw(st.lists(CONTENT, max_size=3))
    new = data.draw(edits(old))
    at_once = data.draw(st.integers(1, AT_ONCE))
    offset = data.draw(st.integers(0, len(new)))
    assert in_small_blocks(old, new, at_once, offset)[0] == new


@given(st.data())
def test_a_single_edit_of_random_bytes(data: st.DataObject) -> None:
    """Sent are the blocks that were touched, and what lies between an insertion's end and the next block that is
    looked for: at most one round of questions is in vain."""
    chance = random.Random(data.draw(st.integers(0, 999)))
    old = chance.randbytes(40_000)
    at = data.draw(st.integers(0, len(old)))
    size = data.draw(st.integers(0, 2000))
    what = data.draw(st.sampled_from(["insert", "delete", "replace", "append", "truncate", "prepend"]))
    new = {
        "insert": old[:at] + chance.randbytes(size) + old[at:],
        "delete": old[:at] + old[at + size :],
        "replace": old[:at] + chance.randbytes(len(old[at : at + size])) + old[at + size :],
        "append": old + chance.randbytes(size),
        "truncate": old[:at],
        "prepend": chance.randbytes(size) + old,
    }[what]
    made, sent = in_small_blocks([old], new, AT_ONCE)
    assert made == new
    new_bytes = size if what in ("insert", "replace", "append", "prepend") else 0
    assert sent <= new_bytes + 40 * SMALL_BLOCK
    if what in ("replace", "append", "truncate"):  # nothing has moved
        assert sent <= new_bytes + 2 * SMALL_BLOCK


MB = 1 << 20


def blocks_sent(old: list[bytes], new: bytes) -> float:
    made, sent = put_together(old, new, AT_ONCE)
    assert made == new
    return sent / BLOCK


class TestFilesOfSomeMegabytes:
    """With blocks as they are."""

    OLD = random.Random(1).randbytes(24 * MB + 12_345)

    @pytest.mark.parametrize(
        ("edit", "most"),
        [
            (lambda old: old, 0),
            (lambda old: old[:-5], 0),
            (lambda old: old[: 10 * MB + 17], 0),
            (lambda old: old + b"more", 1),
            (lambda old: old + random.Random(2).randbytes(MB), 17),
            (lambda old: old[: 9 * MB] + b"!" + old[9 * MB + 1 :], 1),
            (lambda old: old[: 9 * MB] + random.Random(2).randbytes(300_000) + old[9 * MB + 300_000 :], 6),
            (lambda old: b"!" + old, 2),
            (lambda old: old[:5_000_001] + b"!" + old[5_000_001:], 2),
            (lambda old: old[:5_000_001] + random.Random(2).randbytes(MB) + old[5_000_001:], 34),
            (lambda old: old[:5_000_001] + old[5_000_777:], 2),
            (lambda old: old[:5_000_001] + old[7_000_777:], 34),
            (lambda old: old[12 * MB :] + old[: 12 * MB], 34),
            (lambda old: b"".join(old[at : at + 6 * MB] for at in range(24 * MB, -1, -6 * MB)), 60),
        ],
        ids=["same", "shorter", "half", "a few more", "1 MB more", "one byte", "300 kB in place", "one before",
             "one byte in", "1 MB in", "776 bytes out", "2 MB out", "halves swapped", "quarters reversed"],
    )  # fmt: skip
    def test_edits(self, edit: Callable[[bytes], bytes], most: int) -> None:
        assert blocks_sent([self.OLD], edit(self.OLD)) <= most

    def test_of_several_files(self) -> None:
        """Each half of another one, at its own place."""
        a, b = self.OLD[: 8 * MB], random.Random(3).randbytes(8 * MB)
        assert blocks_sent([a, b], a[: 4 * MB] + b[4 * MB :]) == 0
        assert blocks_sent([b, a], a + random.Random(4).randbytes(BLOCK)) == 1

    def test_none_that_is_like_it(self) -> None:
        """Everything is sent, and that no search goes on and on is what the limit of time is for."""
        new = random.Random(5).randbytes(4 * MB)
        assert blocks_sent([self.OLD], new) == 64
        assert blocks_sent([], new) == 64 and blocks_sent([b""], new) == 64

    def test_zeros_that_were_inserted_and_deleted(self) -> None:
        old = self.OLD[: 4 * MB] + bytes(4 * MB) + self.OLD[4 * MB : 8 * MB]
        assert blocks_sent([old], self.OLD[: 4 * MB] + bytes(6 * MB) + self.OLD[4 * MB : 8 * MB]) <= 34 + 32
        assert blocks_sent([bytes(8 * MB)], bytes(6 * MB) + b"!" + bytes(2 * MB)) <= 34

    def test_rows_that_look_alike(self) -> None:
        """Each begins as all others do: the first bytes of a block tell nothing."""
        old = b"".join(b"the same beginning of each row %08d\n" % number for number in range(200_000))
        middle = len(old) // 2 // 40 * 40
        blocks_sent([old], old[:middle] + b"one row more\n" + old[middle:])
        assert blocks_sent([old], old + b"the last row\n") <= 1


def test_the_same_checksum_and_first_bytes_is_taken_for_the_same() -> None:
    """What the digest of the whole is for: see tests/integration/test_patch.py."""
    old = random.Random(6).randbytes(BLOCK)
    new = forged(old)
    assert new != old and put_together([old], new, AT_ONCE) == (old, 0)


def forged(block: bytes) -> bytes:
    """Another block with the same CRC-32, length and first bytes."""
    changed = block[:PROBE] + bytes(byte ^ 1 for byte in block[PROBE : PROBE + 20]) + block[PROBE + 20 : -4]
    wanted, basis = zlib.crc32(block), zlib.crc32(changed + bytes(4))
    rows = [(zlib.crc32(changed + (1 << bit).to_bytes(4, "little")) ^ basis, 1 << bit) for bit in range(32)]
    left, tail = wanted ^ basis, 0
    for bit in reversed(range(32)):  # it is linear: solve for the last four bytes
        pivot = next(((value, bits) for value, bits in rows if value >> bit == 1), None)
        if pivot is None:
            continue
        rows = [(v ^ pivot[0], b ^ pivot[1]) if v >> bit & 1 else (v, b) for v, b in rows]
        if left >> bit & 1:
            left, tail = left ^ pivot[0], tail ^ pivot[1]
    new = changed + tail.to_bytes(4, "little")
    assert left == 0 and zlib.crc32(new) == wanted and len(new) == len(block)
    return new


@given(st.binary(max_size=200))
def test_records_that_are_none(body: bytes) -> None:
    if len(body) % RECORD_SIZE:
        with pytest.raises(DeltaError):
            parsed(body)
    else:
        assert len(parsed(body)) == len(body) // RECORD_SIZE


@given(
    st.lists(st.binary(max_size=300), max_size=3),
    st.integers(0, 1 << 62),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=PROBE, max_size=PROBE)), max_size=20),
    st.integers(0, 1 << 62),
)
def test_records_that_lie(old: list[bytes], size: int, blocks: list[tuple[int, bytes]], start: int) -> None:
    """Whatever they say, no place is outside of the old files."""
    found = BlockFinder([memoryview(file) for file in old], size).find(start, blocks)
    assert len(found) == len(blocks)
    for number, place in enumerate(found):
        if place is not None:
            which, where = place
            assert 0 <= where <= len(old[which]) - max(0, min(BLOCK, size - start - number * BLOCK))
