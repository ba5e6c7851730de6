"""Guesses when a run can start, the words for its place in the line, and the number of GPUs that is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from remoterun.agent.running.occupancy import starts
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Line, about
from remoterun.parsing import parse_gpus


@pytest.mark.parametrize(
    ("room", "holding", "waiting", "expected"),
    [
        (2, [], [(1, None), (1, None), (1, 5.0)], [0.0, 0.0, None]),
        (1, [(1, 60.0)], [(1, 30.0), (1, 30.0), (1, None)], [60.0, 90.0, 120.0]),
        (2, [(1, 60.0), (1, 10.0)], [(1, 100.0), (1, None)], [10.0, 60.0]),
        (1, [(1, None)], [(1, 30.0), (1, 30.0)], [None, None]),
        (4, [(2, 50.0), (1, 20.0)], [(4, 10.0), (1, None)], [50.0, 60.0]),
        (4, [(2, None)], [(4, 10.0), (1, None)], [None, None]),
        (2, [], [(3, 1.0)], [None]),
    ],
    ids=["free", "one after the other", "the first end", "not known", "large one first", "never ends", "too large"],
)
def test_first_come_first_served(room: int, holding: Any, waiting: Any, expected: Any) -> None:
    assert starts(room, holding, waiting) == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "less than a minute"),
        (60, "about 1 min"),
        (1190, "about 20 min"),
        (7300, "about 2 h"),
        (2e5, "about 2 days"),
    ],
)
def test_about(seconds: float, words: str) -> None:
    assert about(seconds) == words


@pytest.mark.parametrize(
    ("line", "words", "brief"),
    [
        (Line("box", 1, 1), "next in line on box", "next in line"),
        (Line("box", 1, 2, holders=(None,)), "1st of 2 on box; a run of another client is running", "1st of 2"),
        (
            Line("box", 2, 3, 1200.0, (13, 12)),
            "2nd of 3 on box, starts in about 20 min; runs 12 and 13 are running",
            "2nd of 3, about 20 min",
        ),
        (
            Line("box", 11, 23, None, (12, None, None), ("GPU 0 is used by x of al (process 8)",)),
            "11th of 23 on box; run 12 and 2 runs of other clients are running; GPU 0 is used by x of al (process 8)",
            "11th of 23",
        ),
    ],
)
def test_the_words_for_a_place(line: Line, words: str, brief: str) -> None:
    assert (str(line), line.brief) == (words, brief)


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("0", 0), ("all", ALL_GPUS), ("ALL", ALL_GPUS)])
def test_a_number_of_gpus(text: str, number: int) -> None:
    assert parse_gpus(text) == number


@pytest.mark.parametrize("text", ["-1", "", "two", "1.5", "99999"])
def test_what_is_not_a_number_of_gpus(text: str) -> None:
    with pytest.raises(UsageError):
        parse_gpus(text)
