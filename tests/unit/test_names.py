"""Words for several things at once: names with `*` below a resource, and several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.agent.shared.measured import Progress, Series
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.cli.main import main
from remoterun.client import Client
from remoterun.client.data.files import matching, split_pattern
from remoterun.client.data.metrics import best_first, compared
from remoterun.config import Config
from remoterun.errors import NotFound, UsageError
from remoterun.model import MachineType, Resource, Run
from remoterun.parsing import parse_range
from tests.recorder import Recorded

PATHS = ("a.json", "b.json", "c/d.json", "c/e/f.json", "c/e/g.txt", "odd[1].txt", "odd1.txt")
TREE = Manifest([Entry("f", path, 1, "ab" * 32) for path in PATHS])


def test_what_a_pattern_names(recorded: Recorded) -> None:
    """A folder with all that is in it; `odd[1].txt` is really called so."""
    recorded.cases(lambda pattern: " ".join(each.path for each in matching(TREE, Resource("runs", "1"), pattern)))


def test_what_names_nothing(recorded: Recorded) -> None:
    for pattern in ("*.png", "*/*/*/*", "A*", "c/e/f.json/*"):
        with recorded.raises(NotFound, pattern):
            matching(TREE, Resource("runs", "1", "models"), pattern)


def test_where_a_pattern_begins(recorded: Recorded) -> None:
    recorded.cases(lambda typed: split_pattern(Resource.parse(typed)))


def test_a_number_is_a_run(recorded: Recorded) -> None:
    recorded.cases(Resource.parse)


def test_ls_and_cp_take_the_number_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where local files go into an upload, it is the name of one of them."""
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for words in (["ls", "7"], ["ls", "last"], ["cp", "7"], ["cp", "7/models", "8"], ["cp", "last", "new"]):
        assert main(words) == 2
        assert "there is no run" in capsys.readouterr().err, words
    assert main(["cp", "7", "uploads/x/"]) == 2
    assert "there is no `7` here" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["3-9", "runs/3-9", "runs/3-9/"])
def test_a_range_of_runs(typed: str) -> None:
    assert parse_range(typed) == range(3, 10)
    assert parse_range("1-1") == range(1, 2)


def test_what_is_not_a_range() -> None:
    not_one = ("3", "-3", "runs/3", "runs/last", "uploads/1-2", "3-9-12", "a-b", "1-" + "9" * 20, "３-９")
    assert [text for text in not_one if parse_range(text) is not None] == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("17-12", "12-17"), ("0-5", "1-5"), ("0-0", "1-2"), ("3-", "3-8"),
        ("1-999999999", "1-10000"), ("runs/9-3", "3-9"),
    ],
)  # fmt: skip
def test_a_range_that_can_not_be_says_what_to_type(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_range(typed)
    assert caught.value.hint == meant
    assert parse_range(meant) or meant.isdecimal()


def test_the_best_run_and_what_differs() -> None:
    def run(number: int, command: str, **best: float | None) -> Run:
        series = [Series(name, best=value) for name, value in best.items()]
        progress = Progress(series=series) if series else None
        return Run(number, "k", RunState.COMPLETE, MachineType("m"), command, 1.0, progress=progress)

    runs = [run(1, "x --lr 1 --n 5"), run(2, "x --lr 2 --n 5", acc=0.2, steps=None), run(3, "x --lr 3 --n 5", acc=0.9)]
    metric, found = best_first(runs)
    assert metric == "acc" and [(each.number, value) for each, value in found] == [(3, 0.9), (2, 0.2), (1, None)]
    assert best_first([*runs, run(4, "x", loss=3.0)])[1][0][0].number == 4, (
        "a loss counts more, and less of it is better"
    )
    assert best_first(runs[:1]) == ("", [(runs[0], None)])
    assert compared(runs) == {"lr": ["1", "2", "3"]}, "and not what is the same in all of them"
    given = [each._replace(params={"seed": str(each.number)}) for each in runs[:2]]
    assert compared([*given, runs[2]]) == {"seed": ["1", "2", ""]}


def test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    with Client(Config(tmp_path)) as client:
        for key in "abc":
            client.connections.registry.add_run(key * 26, MachineType("local"), "local", "true", 1.0, labels=("bad",))
        assert client.runs.numbers(["2-9", "last", 1, "runs/1-2"]) == [2, 3, 1]
        with pytest.raises(NotFound):
            client.runs.numbers([1, "7-9"])
    assert main(["info", "1", "last", "+good", "-bad", "+-odd", "-not-there"]) == 0
    assert capsys.readouterr().out == "run 1: good, -odd\nrun 3: good, -odd\n"
    assert main(["info", "runs/2-3", "-bad", "-good"]) == 0
    assert capsys.readouterr().out == "run 2: no label\nrun 3: -odd\n"


def test_what_is_not_a_change_of_labels(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("+good", "3 +", "good", "1 2", "1 +good --jsno"):
        assert main(["info", *line.split()]) == 2
        recorded.same(capsys.readouterr().err, line)
