"""Words for several things at once: names with `*` below a resource, and several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.cli.app import run_range
from remoterun.cli.main import main
from remoterun.client import Client
from remoterun.client.data.files import matching, split_pattern
from remoterun.config import Config
from remoterun.errors import NotFound, UsageError
from remoterun.model import MachineType, Resource
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
    fits = run_range(typed)
    assert fits is not None and [number for number in range(20) if fits(number)] == [3, 4, 5, 6, 7, 8, 9]


def test_what_is_not_a_range() -> None:
    assert [run_range(text) for text in ("3", "3-", "-3", "runs/3", "runs/last", "uploads/1-2")] == [None] * 6
    with pytest.raises(UsageError) as caught:
        run_range("9-3")
    assert caught.value.hint == "runs/3-9"


def test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path))
    with Client(Config(tmp_path)) as client:
        for key in "abc":
            client.connections.registry.add_run(key * 26, MachineType("local"), "local", "true", 1.0, labels=("bad",))
    assert main(["info", "1", "last", "+good", "-bad", "+-odd", "-not-there"]) == 0
    assert capsys.readouterr().out == "run 1: good, -odd\nrun 3: good, -odd\n"
    assert main(["info", "runs/2-3", "-bad", "-good"]) == 0
    assert capsys.readouterr().out == "run 2: no label\nrun 3: -odd\n"


def test_what_is_not_a_change_of_labels(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("+good", "3 +", "good", "1 2", "1 +good --jsno"):
        assert main(["info", *line.split()]) == 2
        recorded.same(capsys.readouterr().err, line)
