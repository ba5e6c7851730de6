"""Bodies with many contents in them, and compressed ones: what was sent comes out, and nothing else is let in."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.frames import MAX_BODY, ProtocolError
from remoterun.agent.shared.packs import (
    LARGE,
    LEAST,
    MOST_PACKED,
    PACK,
    PASS_OVER,
    RECORD_SIZE,
    CompressingStream,
    expand,
    pack,
    unpack,
)
from remoterun.agent.shared.protocol import Stream
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


TEXT = b"some words that come again and again, " * 1000
FAR, NEAR = 0.08, 0.0


class Sent:
    """A stream that notes what is sent."""

    def __init__(self) -> None:
        self.frames: list[tuple[dict[str, Any], bytes]] = []

    def send(self, body: bytes = b"", **header: Any) -> None:
        self.frames.append((header, bytes(body)))


def sent(bodies: list[bytes], round_trip: float) -> list[tuple[dict[str, Any], bytes]]:
    stream = Sent()
    out = CompressingStream(cast(Stream, stream), round_trip)
    for body in bodies:
        out.send(body, {"n": 1})
    assert [expand(header, body) for header, body in stream.frames] == bodies
    assert all(header["n"] == 1 for header, _ in stream.frames)
    return stream.frames


def test_text_is_compressed_on_a_far_link_only() -> None:
    ((header, body),) = sent([TEXT], FAR)
    assert header == {"n": 1, "z": len(TEXT)} and len(body) < len(TEXT) / 5
    assert sent([TEXT], NEAR) == [({"n": 1}, TEXT)]
    assert sent([TEXT[: LEAST - 1]], FAR) == [({"n": 1}, TEXT[: LEAST - 1])]


def test_after_what_does_not_shrink_some_bodies_are_not_tried() -> None:
    frames = sent([os.urandom(10_000)] + [TEXT] * (PASS_OVER + 1), FAR)
    assert ["z" in header for header, _ in frames] == [False] * (PASS_OVER + 1) + [True]


@pytest.mark.parametrize("size", [-1, MAX_BODY + 1, 1 << 62, 5, len(TEXT) + 1, "5", None, True, 5.0])
def test_sizes_that_are_refused(size: Any) -> None:
    with pytest.raises(ProtocolError):
        expand({"z": size}, zlib.compress(TEXT))


@given(body=st.binary(max_size=50), size=st.integers(0, 60))
def test_any_compressed_bytes(body: bytes, size: int) -> None:
    try:
        assert len(expand({"z": size}, body)) == size
    except ProtocolError:
        pass


@pytest.mark.parametrize("more", [zlib.compress(TEXT) + b"x", zlib.compress(TEXT)[:-1]])
def test_more_or_less_than_one_stream(more: bytes) -> None:
    with pytest.raises(ProtocolError):
        expand({"z": len(TEXT)}, more)
