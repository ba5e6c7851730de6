"""What is made of runs: the diary of files that are alike but for their step, the curves of a report, a card."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from pathlib import Path

import pytest

from remoterun.client.exports import report
from remoterun.client.exports.diary import (
    MOST_BYTES,
    MOST_FILES,
    MOST_GROUPS,
    MOST_STEPS,
    MOST_TEXT,
    Diary,
    diary,
    fitting,
)
from remoterun.client.exports.publishing import NO_VALUES
from remoterun.client.exports.report import MOST_POINTS, chart, thinned
from remoterun.errors import UsageError
from remoterun.ui import page
from tests.recorder import Recorded


def groups(*paths: str) -> dict[str, list[float]]:
    return {each.name: [step for step, _ in each.steps] for each in diary(paths)}


def test_the_number_that_differs_is_the_step(recorded: Recorded) -> None:
    def found(title: str) -> object:
        paths = json.loads(title)
        assert groups(*paths) == groups(*reversed(paths))
        return groups(*paths)

    recorded.cases(found)


def test_what_kind_a_group_is_by_its_files_names() -> None:
    found = diary([f"step{n}.{ending}" for n in (1, 2) for ending in ("JPG", "ogg", "webm", "txt")])
    assert {each.name: each.kind for each in found} == {
        "step*.JPG": "image",
        "step*.ogg": "sound",
        "step*.webm": "video",
        "step*.txt": "text",
    }
    assert found[0].steps == ((1.0, "step1.JPG"), (2.0, "step2.JPG"))


def test_what_a_group_counts() -> None:
    paths = [
        text.format(n) for n in (1, 2) for text in ("epoch_{}/a.png", "Epochs/{}.png", "fakes{}.png", "step-{}.png")
    ]
    paths += ["epoch3/iter1.png", "epoch4/iter1.png", "epoch3/iter2.png"]
    assert {group.name: group.unit for group in diary(paths)} == {
        "epoch_*/a.png": "epoch",
        "Epochs/*.png": "epoch",
        "fakes*.png": "step",
        "step-*.png": "step",
        "epoch3/iter*.png": "step",
        "epoch4/iter*.png": "step",
    }


def test_a_report_has_the_colours_of_the_page() -> None:
    style = (Path(page.__file__).parent / "static" / "style.css").read_text()
    pairs = re.findall(r"--c(\d): (#\w+);", style)
    html = Path(report.__file__).with_suffix(".html").read_text()
    shown = re.findall(r"--c(\d): light-dark\((#\w+), (#\w+)\)", html)
    wanted = list(zip([colour for _, colour in pairs[:8]], [colour for _, colour in pairs[8:]], strict=True))
    assert [(light, dark) for _, light, dark in shown] == wanted and len(wanted) == 8


def test_groups_that_tensorboard_and_wandb_named() -> None:
    """Also where there is one file of them, or several of a step."""
    wandb = "wandb/offline-run-20261202_094240-i6og38q8/files/media/images/"
    found = groups(
        "logs/train/events.media/fakes/grid/step-0.png",
        "logs/train/events.media/fakes/grid/step-10.png",
        "events.media/sample/step-5.txt",
        f"{wandb}fakes_19_a1118f2b3c4d5e6f7a8b.png",
        f"{wandb}many_19_a1118f2b3c4d5e6f7a8b.png",
        f"{wandb}many_19_b1118f2b3c4d5e6f7a8b.png",
        f"{wandb}many_20_b1118f2b3c4d5e6f7a8b.png",
    )
    assert found == {
        "fakes": [19],
        "logs/train/fakes/grid": [0, 10],
        "many": [19, 20],
        "many 2": [19],
        "sample": [5],
    }


def test_hostile_names() -> None:
    assert groups("x٣.png", "x٤.png", "x³.png", "x½.png", "x１.png", "x２.png") == {}
    assert groups("step" + "9" * 400 + ".png", "step" + "8" * 400 + ".png") == {}
    assert groups("x" + "9" * 15 + ".png", "x1.png") == {"x*.png": [1, 999_999_999_999_999]}
    assert groups("\udcff\n<script>1.png", "\udcff\n<script>2.png") == {"\udcff\n<script>*.png": [1, 2]}
    assert groups("", ".png", "/", "1/", "*1.png", "*2.png") == {"**.png": [1, 2]}
    long = "/".join("1" for _ in range(2000))
    assert list(groups(f"{long}/1.png", f"{long}/2.png").values()) == [[1, 2]]


def test_a_million_names_are_bounded() -> None:
    begun = time.process_time()
    same = diary(f"step{number}.png" for number in itertools.count())
    assert [len(each.steps) for each in same] == [MOST_FILES]
    many = diary(f"{number}x/step{place}.png" for number in itertools.count() for place in range(1 + number % 2))
    assert len(many) <= MOST_GROUPS
    assert diary(f"step{number}.json" for number in range(1_000_000)) == []
    hostile = diary("step--" * 600 + "1 " * 300 + f"{number}.png" for number in range(5000))
    assert len(hostile) == 1
    assert time.process_time() - begun < 20


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


def test_a_curve_keeps_its_peaks() -> None:
    points = [(float(step), math.sin(step / 500)) for step in range(100_000)]
    points[4321] = (4321.0, 9.0)
    points[4322] = (4322.0, -9.0)
    found = thinned(points)
    assert len(found) <= MOST_POINTS and {points[4321], points[4322]} <= set(found)
    assert found == sorted(found) and set(found) <= set(points)
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_numbers_beside_a_chart() -> None:
    shown = chart("loss", {3: [(0.0, 0.12), (950.0, 3.9)]})
    assert re.findall(r'"end">(.*?)<', shown) == ["1", "2", "3"]
    assert re.findall(r'"middle">(.*?)<', shown) == ["0", "200", "400", "600", "800"]


def test_odd_curves() -> None:
    assert chart("x", {1: [], 2: []}) == ""
    small, large = 5e-324, 1e99
    for odd in ([(5.0, 0.0)], [(0.0, 7.0)] * 2, [(1e18, large), (1e18 + 512, -large)], [(0.0, small), (1.0, 0.0)]):
        drawn = chart('"<&', {1: odd, 2: []})
        points = re.findall(r"([\d.-]+),([\d.-]+)", re.findall(r'points="(.*?)"', drawn)[0])
        assert len(points) == len(odd) and all(0 <= float(number) <= 560 for pair in points for number in pair), odd
        assert "&quot;&lt;&amp;" in drawn and "<&" not in drawn


def test_a_command_is_shown_unasked_without_values_alone(recorded: Recorded) -> None:
    recorded.cases(lambda command: "shown" if NO_VALUES.fullmatch(command) else "asked about")
