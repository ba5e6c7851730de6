"""How much of the diaries of runs has room in a report."""

from __future__ import annotations

import itertools

import pytest

from remoterun.client.exports.diary import MOST_BYTES, MOST_STEPS, MOST_TEXT, Diary, diary, fitting
from remoterun.errors import UsageError


def steps(groups: list[Diary]) -> list[list[float]]:
    return [[step for step, _ in group.steps] for group in groups]


def test_too_many_steps_are_thinned_evenly() -> None:
    paths = [f"step{step}.png" for step in range(1, 6001)]
    (found,) = steps(fitting(diary(paths), dict.fromkeys(paths, 1)))
    assert len(found) == MOST_STEPS and (found[0], found[-1]) == (1, 6000)
    assert {after - before for before, after in itertools.pairwise(found)} <= {10, 11}


def test_a_report_has_a_bound_of_bytes() -> None:
    paths = [f"{kind}/step{step}.png" for kind in "ab" for step in range(1, 101)]
    found = fitting(diary(paths), dict.fromkeys(paths, MOST_BYTES // 100))
    assert 45 <= len(found[0].steps) == len(found[1].steps) <= 50, "those of both at the same steps"
    with pytest.raises(UsageError, match="one step has more"):
        fitting(diary(paths), dict.fromkeys(paths, MOST_BYTES))


def test_of_a_text_its_beginning_counts() -> None:
    paths = [f"step{step}.txt" for step in range(1, 101)]
    (found,) = fitting(diary(paths), dict.fromkeys(paths, 1 << 50))
    assert len(found.steps) == 100 and 100 * MOST_TEXT < MOST_BYTES
