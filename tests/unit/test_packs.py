"""Bodies with many contents in them: what was packed comes out, and nothing else is let in."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.frames import MAX_BODY, ProtocolError
from remoterun.agent.shared.packs import LARGE, MOST_PACKED, PACK, RECORD_SIZE, pack, unpack
from remoterun.transfer.sending import BATCH

CONTENTS = st.lists(st.binary(max_size=300), min_size=1, max_size=20)


def packed(contents: list[bytes]) -> bytes:
    return pack([(hashlib.sha256(content).digest(), content) for content in contents])


@given(CONTENTS)
def test_there_and_back(contents: list[bytes]) -> None:
    body = packed(contents)
    assert len(body) == sum(len(content) + RECORD_SIZE for content in contents)
    found = [(digest, bytes(content)) for digest, content in unpack(body, len(contents))]
    assert found == [(hashlib.sha256(content).digest(), content) for content in contents]


def test_the_largest_pack_is_one_frame() -> None:
    """A full one of as many files as are asked for at once, and the largest content in a pack of its own."""
    assert PACK + MOST_PACKED * RECORD_SIZE <= MAX_BODY and BATCH <= MOST_PACKED
    assert len(packed([bytes(LARGE)])) == MAX_BODY


@given(CONTENTS, st.data())
def test_what_is_no_pack(contents: list[bytes], data: st.DataObject) -> None:
    """Another count, bytes more or less, another length in a record: refused before the first content."""
    body = bytearray(packed(contents))
    count = len(contents)
    what = data.draw(st.sampled_from(["count", "more", "less", "length"]))
    if what == "count":
        count = data.draw(st.integers(-(1 << 70), 1 << 70).filter(lambda n: n != count))
        # another count may be right by chance, if contents look like records
        assert count != len(contents)
    elif what == "more":
        body += data.draw(st.binary(min_size=1, max_size=50))
    elif what == "less":
        del body[data.draw(st.integers(0, len(body) - 1)) :]
    else:
        at = data.draw(st.integers(0, count - 1)) * RECORD_SIZE + 32
        (size,) = struct.unpack_from("!I", body, at)
        struct.pack_into("!I", body, at, data.draw(st.integers(0, (1 << 32) - 1).filter(lambda n: n != size)))
    with pytest.raises(ProtocolError):
        next(unpack(bytes(body), count))


@given(st.binary(max_size=400), st.integers(-3, 12) | st.integers())
def test_any_bytes(body: bytes, count: int) -> None:
    """Either refused, or every byte is accounted for."""
    try:
        found = list(unpack(body, count))
    except ProtocolError:
        return
    assert len(found) == count
    assert count * RECORD_SIZE + sum(len(content) for _, content in found) == len(body)


def test_a_pack_of_none_is_refused() -> None:
    """A peer that sends them without an end would keep the other side busy for ever."""
    with pytest.raises(ProtocolError):
        list(unpack(b"", 0))
