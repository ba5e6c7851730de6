"""Any part of a log, and the lines of it that hold a text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.running import log_search
from remoterun.agent.running.log_search import read_part, search
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.run_folder import RunFolder
from tests.homes import run_with
from tests.workshop import until

TEXTS = st.sampled_from([b"a", b"Loss", b"LOSS 1", b"\n", b"\r", b"\xff", b"\0", "ä".encode(), b"x" * 3000])
LOGS = st.lists(TEXTS, max_size=30).map(b"".join)


@given(LOGS, st.integers(-50, 200), st.integers(0, 100))
def test_a_part_is_what_a_slice_says(log: bytes, start: int, size: int) -> None:
    with run_with(log) as run:
        begin, total, data = read_part(run, "log", start, size, 0)
    assert begin == min(max(start + len(log) if start < 0 else start, 0), len(log)) and total == len(log)
    assert data == log[begin : begin + size]


def test_what_an_earlier_host_wrote_is_passed_over() -> None:
    with run_with(b"here\n") as run:
        assert read_part(run, "log", 0, 99, 100) == (100, 105, b"here\n")
        assert read_part(run, "log", 102, 99, 100) == (102, 105, b"re\n")
        assert read_part(run, "log", -3, 99, 100) == (102, 105, b"re\n")
        assert search(run, "log", "HERE", 3, 9, 100) == ([(100, "here")], 105, 105)
    with run_with(None) as run:
        assert read_part(run, "log", 0, 9, 100) == (100, 100, b"")
        assert search(run, "log", "here", 0, 9, 100) == ([], 100, 100)


@given(LOGS, st.sampled_from(["a", "loss", "ss 1", "ä", "\r", "-x"]), st.integers(0, 60), st.integers(1, 5))
def test_a_search_finds_what_python_finds(log: bytes, text: str, start: int, most: int) -> None:
    begin, expected = min(start, len(log)), []
    at, wanted = begin, text.encode().lower()
    for line in log[begin:].split(b"\n"):
        if wanted in line.lower():
            expected.append((at, line.decode("utf-8", "replace")[:300]))
        at += len(line) + 1
    with run_with(log) as run:
        hits, end, total = search(run, "log", text, start, most, 0)
        assert hits == expected[:most] and total == len(log)
        if len(hits) == most:
            assert search(run, "log", text, end, 99, 0)[0] == expected[most:], "it goes on where it stopped"
        else:
            assert end == total


@pytest.mark.parametrize("text", ["", "a\nb", "a\0b", "x" * 1001])
def test_no_text_to_search_for(text: str) -> None:
    with run_with(b"a\n") as run, pytest.raises(HomeError, match="a text of one line"):
        search(run, "log", text, 0, 9, 0)


def test_the_text_is_no_pattern_and_no_option() -> None:
    with run_with(b"a.c\nabc\n--help\n\xed\xa0\x80\n") as run:
        assert search(run, "log", "a.c", 0, 9, 0)[0] == [(0, "a.c")]
        assert search(run, "log", "--help", 0, 9, 0)[0] == [(8, "--help")]
        assert [at for at, _ in search(run, "log", "\ud800", 0, 9, 0)[0]] == [15]
    odd = "a [b] {1}(c)* ^d$ +e? f|g \\h"
    with run_with(f"a b\n{odd}\n".encode()) as run:
        assert search(run, "log", odd, 0, 9, 0)[0] == [(4, odd)]
        assert search(run, "log", " " * 1000, 0, 9, 0)[0] == []


def test_colours_between_words_are_not_seen() -> None:
    with run_with(b"step \x1b[1m100\x1b[0m of 9\n\x1b[32mstep\x1b[0;1m 200\n") as run:
        assert [at for at, _ in search(run, "log", "step 100 of", 0, 9, 0)[0]] == [0]
        assert [at for at, _ in search(run, "log", "Step 200", 0, 9, 0)[0]] == [22]


def test_a_link_is_no_log(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    os.mkdir(run.io)
    os.symlink("/etc/passwd", run.log)
    assert read_part(run, "log", 0, 99, 0) == (0, 0, b"")
    assert search(run, "log", "root", 0, 9, 0) == ([], 0, 0)


def test_a_search_that_takes_too_long_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log takes no room, and has more bytes than `grep` reads in its time."""
    monkeypatch.setattr(log_search, "PATIENCE", 0.2)
    run = RunFolder(str(tmp_path))
    os.mkdir(run.io)
    Path(run.log).write_bytes(b"needle\n" + b"hay\n" * 1000)
    with open(run.log, "r+b") as file:
        for block in range(1, 200):
            file.seek(block << 28)
            file.write(b"\n")
        file.truncate(200 << 28)

    def found() -> bool:
        """With more time at each try: a busy machine needs some until `grep` runs."""
        monkeypatch.setattr(log_search, "PATIENCE", min(1.5 * log_search.PATIENCE, 3.0))
        hits, end, total = search(run, "log", "needle", 0, 9, 0)
        assert end < total == 200 << 28, "50 GB took no time"
        return hits == [(0, "needle")] and end > 6

    until(found)


def test_a_line_of_any_length_costs_only_its_beginning() -> None:
    with run_with(b"x" * 5_000_000 + b"needle\nneedle\n") as run:
        hits, end, _ = search(run, "log", "needle", 0, 1, 0)
        assert hits == [(0, "x" * 300)] and end == 5_000_007
        assert search(run, "log", "needle", end, 9, 0)[0] == [(5_000_007, "needle")]
