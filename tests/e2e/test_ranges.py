"""A range such as `12-17` is a word of every command that takes runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import Place, make_place
from tests.e2e.said import talk
from tests.recorder import Recorded

RUN = ("run", "-y", "--framework", "none", "-b")
TRAIN = """mkdir -p m; echo $REMOTERUN_PARAM_lr > m/lr; echo '{"step": 1, "val_loss": '$REMOTERUN_PARAM_lr'}'"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With five runs: the second and the fourth fail, the third is removed, the fifth reports nothing."""
    place = make_place(tmp_path)
    place.run("machines", "add", "plain", "local", "--engine", "process", "--default", "-y")
    for lr, end in (("0.3", ""), ("0.1", "; exit 3"), ("0", ""), ("0.2", "; rm -r m; exit 4")):
        place.run(*RUN, "-e", f"REMOTERUN_PARAM_lr={lr}", TRAIN + end)
    place.run(*RUN, "true")
    place.run("wait", "1-5", status=3)
    place.run("rm", "3")
    return place


def test_runs_that_have_ended(place: Place, tmp_path: Path, recorded: Recorded) -> None:
    assert place.run("wait", "4-5", "1-2", status=4).stderr.count("run ") == 4
    table = [line.split() for line in place.run("ps", "1-5").stdout.splitlines()]
    assert table[0][:4] == ["RUN", "STATE", "val_loss", "lr"]
    assert [row[0] for row in table[1:]] == ["2", "4", "1", "5"], "the best first, last what reports nothing"
    assert table[1][1:5] == ["failed", "(3)", "0.1", "0.1"]
    assert [run["params"] for run in place.json("ps", "1", "4-5")] == [{"lr": "0.2"}, {"lr": "0.3"}, {}]
    assert [run["number"] for run in place.json("ps", "1-5", "--state", "failed", "-n", "1")] == [4]
    assert [run["number"] for run in place.json("metrics", "1-4")] == [1, 2, 4]
    assert "<h1>Runs 1, 2 and 4</h1>" in place.run("report", "1-4").stdout

    done = place.run("cp", "1-5/m", str(tmp_path / "all"), status=2)
    copied = {str(path.relative_to(tmp_path / "all")): path.read_text() for path in tmp_path.glob("all/*/*")}
    assert copied == {"1/lr": "0.3\n", "2/lr": "0.1\n"} and done.stderr.count("error: there is no runs/") == 2
    place.run("cp", "runs/1-2/m/lr", cwd=tmp_path)
    assert (tmp_path / "2" / "lr").read_text() == "0.1\n"

    assert place.run("rerun", "1-4", "--failed", "-e", "REMOTERUN_PARAM_lr=0.5", "true").stdout == "6-7\n"
    assert place.json("wait", "6-7")[0]["params"] == {"lr": "0.5"}
    assert place.run("rerun", "6-7", "--failed").stdout == ""
    assert place.run("rerun", "1", "--failed").stdout == "" and place.run("rerun", "4", "--failed").stdout == "8\n"
    place.run("wait", "8", status=4)

    say = recorded.commands(place.run)
    for command in ("stop", "kill"):
        say(command, "1-7")
    for words in ("logs 1-5", "info 1-5", "rerun 1-5 --edit", "cp 1-5/m -", "cp 1-5/m uploads/x", "ls runs/1-5"):
        say(*words.split(), status=2)
    listed = re.compile(r"  runs/1 .*  runs/2 .*  runs/4 ", re.DOTALL)
    talk(place.spawn("rm", "1-4"), listed, None, "Remove these 3 runs? [y/N] ", "y", "removed runs/4")
    assert [run["number"] for run in place.json("ps", "-a")] == [5, 6, 7, 8]


def test_runs_that_go_on(place: Place) -> None:
    """One is at work, and two wait behind it."""
    place.run("machines", "add", "other", "local", "--engine", "process", "--slots", "1", "-y")
    for _ in range(3):
        place.run(*RUN, "-t", "other", "echo up; sleep 1000")
    said = place.run("rerun", "6-8", "--failed").stderr
    assert said == "Nothing is run again: none of these runs has ended without being complete\n"
    place.follow_until("6", "up")
    first, *others = place.run("stop", "1-8").stderr.splitlines()
    assert first == "runs 1, 5 have ended already: complete"
    assert sum("stopping; " in line for line in others) in (1, 2)
    place.run("wait", "6-8", status=143)
    assert {run["state"] for run in place.json("ps", "6-8")} == {"stopped"}


@pytest.mark.parametrize("typed", ["17-12", "0-5", "1-99999", "3-", "3-9"])
def test_a_range_without_a_run(tmp_path: Path, typed: str, recorded: Recorded) -> None:
    """Every command says the same of it."""
    place = make_place(tmp_path)
    said = {place.run(command, typed, status=2).stderr for command in ("stop", "wait", "ps", "rm", "cp", "rerun")}
    recorded.same(said.pop())
    assert not said
