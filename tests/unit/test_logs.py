"""The log from any byte on, its tail, its times, any part of it, and the lines of it that hold a text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import log_search
from remoterun.agent.shared.api import Hit, Hits
from remoterun.agent.shared.files import tail_start
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.log_search import search
from remoterun.agent.shared.logs import LogFile, LogReader, offset_of_tail, offset_since, read_part
from remoterun.agent.shared.protocol import RemoteError
from tests.homes import log_with
from tests.workshop import until

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
            assert max(len(piece.data) for piece in LogReader(file, 0, timed).pieces()) == PIECE


def test_the_last_lines_of_one_without_lines_are_found_in_bounded_time() -> None:
    read: list[int] = []

    def zeros(start: int, end: int) -> bytes:
        read.append(end - start)
        return bytes(end - start)

    assert tail_start(1 << 50, 3, zeros) == (1 << 50) - sum(read) and sum(read) == 4 << 20


TEXTS = st.sampled_from([b"a", b"Loss", b"LOSS 1", b"\n", b"\r", b"\xff", b"\0", "ä".encode(), b"x" * 3000])
LOGS = st.lists(TEXTS, max_size=30).map(b"".join)


def found(log: LogFile, text: str, start: int = 0, most: int = 9) -> tuple[list[tuple[int, str]], int, int]:
    hits = search(log, text, start, most)
    return [(hit.offset, hit.line) for hit in hits.hits], hits.until, hits.total


@given(LOGS, st.integers(-50, 200), st.integers(0, 100))
def test_a_part_is_what_a_slice_says(log: bytes, start: int, size: int) -> None:
    with log_with(log) as file:
        begin, total, data = read_part(file, start, size)
    assert begin == min(max(start + len(log) if start < 0 else start, 0), len(log)) and total == len(log)
    assert data == log[begin : begin + size]


def test_what_an_earlier_host_wrote_is_passed_over() -> None:
    with log_with(b"here\n", "3 10.0\n5 20.0\n", before=100) as file:
        assert read_part(file, 0, 99) == (100, 105, b"here\n")
        assert read_part(file, 102, 99) == (102, 105, b"re\n")
        assert read_part(file, -3, 99) == (102, 105, b"re\n")
        assert search(file, "HERE", 3, 9) == Hits([Hit(100, "here")], 105, 105)
        assert (offset_of_tail(file, 1), offset_since(file, 15.0), offset_since(file, 30.0)) == (100, 103, 105)
        pieces = [(piece.offset, piece.data, piece.time) for piece in LogReader(file, 50, True).pieces()]
        assert pieces == [(100, b"her", 10.0), (103, b"e\n", 20.0)]
    with log_with(None, before=100) as file:
        assert read_part(file, 0, 9) == (100, 100, b"")
        assert search(file, "here", 0, 9) == Hits([], 100, 100)


@given(LOGS, st.sampled_from(["a", "loss", "ss 1", "ä", "\r", "-x"]), st.integers(0, 60), st.integers(1, 5))
def test_a_search_finds_what_python_finds(log: bytes, text: str, start: int, most: int) -> None:
    begin, expected = min(start, len(log)), []
    at, wanted = begin, text.encode().lower()
    for line in log[begin:].split(b"\n"):
        if wanted in line.lower():
            expected.append((at, line.decode("utf-8", "replace")[:300]))
        at += len(line) + 1
    with log_with(log) as file:
        hits, end, total = found(file, text, start, most)
        assert hits == expected[:most] and total == len(log)
        if len(hits) == most:
            assert found(file, text, end, 99)[0] == expected[most:], "it goes on where it stopped"
        else:
            assert end == total


@pytest.mark.parametrize("text", ["", "a\nb", "a\0b", "x" * 1001])
def test_no_text_to_search_for(text: str) -> None:
    with log_with(b"a\n") as file, pytest.raises(RemoteError, match="a text of one line"):
        search(file, text, 0, 9)


def test_the_text_is_no_pattern_and_no_option() -> None:
    with log_with(b"a.c\nabc\n--help\n\xed\xa0\x80\n") as file:
        assert found(file, "a.c")[0] == [(0, "a.c")]
        assert found(file, "--help")[0] == [(8, "--help")]
        assert [at for at, _ in found(file, "\ud800")[0]] == [15]
    odd = "a [b] {1}(c)* ^d$ +e? f|g \\h"
    with log_with(f"a b\n{odd}\n".encode()) as file:
        assert found(file, odd)[0] == [(4, odd)]
        assert found(file, " " * 1000)[0] == []


def test_colours_between_words_are_not_seen() -> None:
    with log_with(b"step \x1b[1m100\x1b[0m of 9\n\x1b[32mstep\x1b[0;1m 200\n") as file:
        assert [at for at, _ in found(file, "step 100 of")[0]] == [0]
        assert [at for at, _ in found(file, "Step 200")[0]] == [22]


def test_a_link_is_no_log() -> None:
    with log_with(None) as file:
        os.symlink("/etc/passwd", file.path)
        assert read_part(file, 0, 99) == (0, 0, b"") and found(file, "root") == ([], 0, 0)


def test_a_search_that_takes_too_long_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log takes no room, and has more bytes than `grep` reads in its time."""
    monkeypatch.setattr(log_search, "PATIENCE", 0.2)
    with log_with(b"needle\n" + b"hay\n" * 1000) as log:
        with open(log.path, "r+b") as file:
            for block in range(1, 200):
                file.seek(block << 28)
                file.write(b"\n")
            file.truncate(200 << 28)

        def goes_on() -> bool:
            """With more time at each try: a busy machine needs some until `grep` runs."""
            monkeypatch.setattr(log_search, "PATIENCE", min(1.5 * log_search.PATIENCE, 3.0))
            hits, end, total = found(log, "needle")
            assert end < total == 200 << 28, "50 GB took no time"
            return hits == [(0, "needle")] and end > 6

        until(goes_on)


def test_a_line_of_any_length_costs_only_its_beginning() -> None:
    with log_with(b"x" * 5_000_000 + b"needle\nneedle\n") as file:
        hits, end, _ = found(file, "needle", 0, 1)
        assert hits == [(0, "x" * 300)] and end == 5_000_007
        assert found(file, "needle", end)[0] == [(5_000_007, "needle")]
