"""The words for a run's place in the line, and the number of GPUs that is asked for."""

from __future__ import annotations

import pytest

from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Line
from remoterun.parsing import parse_gpus


@pytest.mark.parametrize(
    ("line", "words", "brief"),
    [
        (Line("box", 1, 1), "next in line on box", "next in line"),
        (Line("box", 1, 2, holders=(None,)), "1st of 2 on box; a run of another client is running", "1st of 2"),
        (
            Line("box", 2, 3, (13, 12)),
            "2nd of 3 on box; runs 12 and 13 are running",
            "2nd of 3",
        ),
        (
            Line("box", 11, 23, (12, None, None), ("GPU 0 is used by x of al (process 8)",)),
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
