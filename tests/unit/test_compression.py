"""Bodies that are compressed on far links, and what nobody should expand."""

from __future__ import annotations

import os
import zlib
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.frames import MAX_BODY, ProtocolError
from remoterun.agent.shared.packs import LEAST, PASS_OVER, CompressingStream, expand
from remoterun.agent.shared.protocol import Stream

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
def test_any_bytes(body: bytes, size: int) -> None:
    try:
        assert len(expand({"z": size}, body)) == size
    except ProtocolError:
        pass


@pytest.mark.parametrize("more", [zlib.compress(TEXT) + b"x", zlib.compress(TEXT)[:-1]])
def test_more_or_less_than_one_stream(more: bytes) -> None:
    with pytest.raises(ProtocolError):
        expand({"z": len(TEXT)}, more)
