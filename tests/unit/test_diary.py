"""The diary: which files of a run are alike but for their step."""

from __future__ import annotations

import itertools
import json
import time

from remoterun.client.exports.diary import MOST_FILES, MOST_GROUPS, diary
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
