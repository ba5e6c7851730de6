"""The log from any byte on, its tail, its times."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import logs
from remoterun.agent.shared.files import tail_start
from remoterun.agent.shared.logs import LogReader, offset_of_tail, offset_since
from tests.homes import log_with

LINES = st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\xff", b"long " * 9, b"\r\n"]), max_size=40).map(b"".join)


@given(LINES, st.integers(0, 45))
def test_the_tail_is_what_tail_says(log: bytes, lines: int) -> None:
    with log_with(log) as file:
        expected = b"".join(_lines(log)[-lines:] if lines else [])
        assert log[offset_of_tail(file, lines) :] == expected


def _lines(log: bytes) -> list[bytes]:
    parts = log.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


@pytest.mark.parametrize("lines", [1, 2, 3, 999, 1000, 1001, 40_000])
def test_the_tail_of_a_large_log(lines: int) -> None:
    log = b"".join(b"line %d\n" % number for number in range(40_000))
    with log_with(log) as file:
        assert log[offset_of_tail(file, lines) :] == b"".join(_lines(log)[-lines:])


def test_one_line_longer_than_a_piece() -> None:
    log = b"a\n" + b"x" * 300_000 + b"\n" + b"y" * 200_000
    with log_with(log) as file:
        assert [offset_of_tail(file, lines) for lines in (1, 2, 3, 4)] == [300_003, 2, 0, 0]


def test_no_log() -> None:
    with log_with(None) as file:
        assert offset_of_tail(file, 3) == offset_since(file, 5.0) == 0
        assert list(LogReader(file, 0, True).pieces(True)) == []


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=12), st.booleans(), st.data())
def test_read_while_it_grows(parts: list[bytes], timed: bool, data: st.DataObject) -> None:
    """Each byte once, in order, with a time no earlier than the one before."""
    whole = b"".join(parts)
    start = data.draw(st.integers(0, len(whole)))
    with log_with(b"", "") as file:
        reader = LogReader(file, start, timed)
        found = []
        size = 0
        for number, part in enumerate(parts):
            with open(file.path, "ab") as log:
                log.write(part)
            size += len(part)
            if data.draw(st.booleans()):
                with open(file.times, "a") as text:
                    text.write(f"{size} {number + 100}.000\n")
            if data.draw(st.booleans()):
                found += list(reader.pieces())
        found += list(reader.pieces(ended=True))
        assert b"".join(piece.data for piece in found) == whole[start:]
        offset = start
        for piece in found:
            assert piece.offset == offset
            offset += len(piece.data)
        times = [piece.time for piece in found if piece.time is not None]
        assert times == sorted(times) and (timed or not times)


def test_pieces_have_the_time_when_their_end_was_seen() -> None:
    with log_with(b"aabbbcc", "2 10.0\n5 20.0\n") as file:
        reader = LogReader(file, 0, True)
        assert [(piece.data, piece.time) for piece in reader.pieces()] == [(b"aa", 10.0), (b"bbb", 20.0)]
        assert [(piece.data, piece.time) for piece in reader.pieces(True)] == [(b"cc", None)]
        assert offset_since(file, 9) == offset_since(file, 10.0) == 0
        assert offset_since(file, 15) == 2
        assert offset_since(file, 21) == 7


def test_half_a_line_of_times() -> None:
    for half in ("4", "4 2"):
        with log_with(b"aabb", f"2 10.0\n{half}") as file:
            reader = LogReader(file, 0, True)
            assert [(piece.data, piece.time) for piece in reader.pieces()] == [(b"aa", 10.0)]
            Path(file.times).write_text("2 10.0\n4 20.0\n")
            assert [(piece.data, piece.time) for piece in reader.pieces()] == [(b"bb", 20.0)]


def test_large_pieces_are_bounded() -> None:
    with log_with(bytes(1_000_000), "1000000 5.0\n") as file:
        for timed in (False, True):
            assert max(len(piece.data) for piece in LogReader(file, 0, timed).pieces()) == logs.PIECE


def test_the_last_lines_of_one_without_lines_are_found_in_bounded_time() -> None:
    read: list[int] = []

    def zeros(start: int, end: int) -> bytes:
        read.append(end - start)
        return bytes(end - start)

    assert tail_start(1 << 50, 3, zeros) == (1 << 50) - sum(read) and sum(read) == 4 << 20
