"""Any part of a log, and the lines of it that hold a text."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import log_search
from remoterun.agent.shared.api import Hit, Hits
from remoterun.agent.shared.log_search import search
from remoterun.agent.shared.logs import LogFile, LogReader, offset_of_tail, offset_since, read_part
from remoterun.agent.shared.protocol import RemoteError
from tests.homes import log_with
from tests.workshop import until

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
