"""Bodies that were made smaller: what comes out is what went in, or an error, and never more than was said."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.codecs import MAX_RAW, Codec, CodecError, codecs, expand
from remoterun.agent.shared.compression import WINDOW, CompressingStream
from remoterun.agent.shared.frames import MAX_BODY
from remoterun.transfer import codecs as ours
from tests.conftest import require

KEYS = ["z", "zstd"]


def codec_of(key: str) -> Codec:
    require(None if key in codecs() else f"this machine has no {key}")
    return codecs()[key]


@pytest.mark.parametrize("key", KEYS)
@given(raw=st.binary(max_size=5000), level=st.integers(1, 5))
def test_there_and_back(key: str, raw: bytes, level: int) -> None:
    codec = codec_of(key)
    for data in (raw, bytearray(raw), memoryview(raw), memoryview(raw)[1:]):
        body = codec.compress(data, level)
        assert expand({key: len(data)}, body) == bytes(data)
        assert expand({key: len(data)}, bytearray(body)) == bytes(data)


def test_all_of_them_understand_each_other() -> None:
    """The client's library for zlib's format, and zstd's own program."""
    raw = b"".join(b'{"line": %d}\n' % number for number in range(50_000))
    for key, codec in ours.own().items():
        for level in (codec.quick, codec.thorough):
            body = codec.compress(raw, level)
            assert len(body) < len(raw) / 4 and expand({key: len(raw)}, body) == raw
    assert zlib.decompress(ours.own()["z"].compress(raw, 1)) == raw


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python's own zstd comes with 3.14")
def test_pythons_own_zstd_is_the_same() -> None:
    assert importlib.util.find_spec("compression.zstd")
    from remoterun.agent.shared.codecs import _python_zstd, _system_zstd

    own, system = _python_zstd(), _system_zstd()
    assert own is not None
    assert system.expand(own.compress(b"x" * 1000, 3), 1000) == own.expand(system.compress(b"x" * 1000, 3), 1000)


@pytest.mark.parametrize("key", KEYS)
@given(raw=st.binary(min_size=1, max_size=500), data=st.data())
def test_what_is_not_what_was_said(key: str, raw: bytes, data: st.DataObject) -> None:
    body = bytes(codec_of(key).compress(raw, 1))
    what = data.draw(st.sampled_from(["size", "more", "less", "flip", "garbage"]))
    size = len(raw)
    if what == "size":
        size = data.draw(st.integers(-5, 2 * len(raw) + 5).filter(lambda n: n != size))
    elif what == "more":
        body += data.draw(st.binary(min_size=1, max_size=9))
    elif what == "less":
        body = body[: data.draw(st.integers(0, len(body) - 1))]
    elif what == "flip":
        at = data.draw(st.integers(2, len(body) - 1))
        body = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    else:
        body = data.draw(st.binary(max_size=50).filter(lambda garbage: garbage[:1] not in (b"x", b"(")))
    try:
        found = expand({key: size}, body)
    except CodecError:
        return
    assert what == "flip" and len(found) == size, "its SHA-256 tells; but it is as long as was said"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [-1, MAX_RAW + 1, 1 << 40, 1 << 70, "5", None, 1.0, [1], True])
def test_sizes_that_are_refused_at_once(key: str, size: Any) -> None:
    with pytest.raises(CodecError):
        expand({key: size}, codec_of(key).compress(b"x", 1))


@functools.cache
def bomb(key: str) -> bytes:
    codec = codec_of(key)
    return bytes(codec.compress(bytes(64 << 20), codec.thorough))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("said", [0, 1, 1000, MAX_RAW])
def test_a_bomb(key: str, said: int) -> None:
    """A frame that would become 64 MiB makes no more than was said."""
    assert len(bomb(key)) < MAX_BODY
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            expand({key: said}, bomb(key))
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_RAW
    finally:
        tracemalloc.stop()


def test_a_bomb_in_a_bomb() -> None:
    """Expanded once, and not again: what comes out is a body like any other."""
    inner = bomb("z")
    assert expand({"z": len(inner)}, zlib.compress(inner)) == inner


def test_without_the_library(tmp_path: Path) -> None:
    """A machine without zstd has zlib's format; and says so."""
    program = (
        "import ctypes, sys\n"
        "def absent(name): raise OSError(name)\n"
        "ctypes.CDLL = absent\n"
        "sys.modules['compression'] = sys.modules['compression.zstd'] = None\n"
        "from remoterun.agent.shared.codecs import codecs\n"
        "print(*codecs())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["z"]


class Slow:
    """A stream that takes so many bytes a second, by a clock of its own."""

    def __init__(self, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rate, self.now, self.backlog = rate, 0.0, 0.0
        self.sent: list[tuple[int, dict[str, Any]]] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def send(self, body: Any, **header: Any) -> None:
        self.sent.append((len(body), header))
        self.now += len(body) / self.rate


def codec(key: str, monkeypatch_clock: Slow, speed: float) -> Codec:
    def compress(data: Any, level: int) -> bytes:
        monkeypatch_clock.now += len(data) / speed
        return zlib.compress(data, 1)

    return codecs()["z"]._replace(key=key, compress=compress, speed=speed)


class TestCompressing:
    TEXT = b"".join(b'{"line": %d, "of": "many"}\n' % number for number in range(10_000))[: 1 << 18]
    NOISE = os.urandom(1 << 18)

    def squeezed(self, data: bytes, rate: float, monkeypatch: pytest.MonkeyPatch, round_trip: float = 0.0) -> Slow:
        stream = Slow(rate, monkeypatch)
        out = CompressingStream(stream, round_trip, lambda: codec("z", stream, 300e6))  # type: ignore[arg-type]
        for _ in range(200):
            out.send(data, {"n": 1})
        assert all(header["n"] == 1 for _, header in stream.sent)
        return stream

    def test_a_slow_link(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once it is known to be slow, everything is compressed that shrinks, and it stays so."""
        stream = self.squeezed(self.TEXT, 100e6, monkeypatch)
        first = next(number for number, (_, header) in enumerate(stream.sent) if "z" in header)
        assert first <= 3 * WINDOW // len(self.TEXT) + 2
        assert all("z" in header for _, header in stream.sent[first:])

    def test_a_far_host_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert all("z" in header for _, header in self.squeezed(self.TEXT, 50e6, monkeypatch, 0.02).sent)

    def test_a_fast_link(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not any("z" in header for _, header in self.squeezed(self.TEXT, 1e9, monkeypatch).sent)

    def test_what_does_not_shrink(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is tried now and then, as it may become other data."""
        stream = self.squeezed(self.NOISE, 10e6, monkeypatch, 0.02)
        assert not any("z" in header for _, header in stream.sent)
        assert stream.now < 1.1 * 200 * len(self.NOISE) / 10e6

    def test_no_codec_in_common(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Slow(10e6, monkeypatch)
        out = CompressingStream(stream, 0.02, lambda: None)  # type: ignore[arg-type]
        out.send(self.TEXT, {})
        assert stream.sent == [(len(self.TEXT), {})]
