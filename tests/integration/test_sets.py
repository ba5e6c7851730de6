"""Sets of runs: each combination of values once, whatever happens to the client that makes them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.queues.line import OwnLine
from remoterun.agent.shared.states import RunState
from remoterun.model import Run, new_key
from tests import commands
from tests.conftest import require
from tests.recorder import Recorded
from tests.workshop import Place, User, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "search_with_optuna.py"
Say = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(user: User, tmp_path: Path) -> Iterator[Any]:
    """The installed command, for the home and the machines of `user`: what `commands.run` returns; with `start` a
    process."""
    folder, home = tmp_path / "folder", user.config.home
    folder.mkdir()
    home.mkdir(exist_ok=True)
    tables = [f'[machines.{m.name}]\nengine = "process"\nhome = "{m.home}"\n' for m in user.config.machines.values()]
    (home / "config.toml").write_text('default = "one"\n' + "".join(tables))
    env = {"REMOTERUN_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def say(*words: str, status: int = 0, start: bool = False) -> Any:
        if start:
            return subprocess.Popen(
                [commands.REMOTERUN, *words], cwd=folder, env={**os.environ, **env}, stderr=subprocess.DEVNULL
            )
        done = commands.run(words, folder, env, 120)
        assert done.returncode == status, f"$ remoterun {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    yield say


def runs_of(user: User) -> list[Run]:
    return list(user.client.runs.all_known())


def test_a_set_is_ordinary_runs_with_their_values(user: User, typed: Say, recorded: Recorded) -> None:
    (user.root / "folder" / "train.sh").write_text(
        'echo "$@" $REMOTERUN_PARAM_lr; echo "val_loss: 0.$2"; [ "$2" != 64 ]\n'
    )
    line = ["--framework", "none", "--no-git", "-y", "--param", "lr=0.1,0.01", "--param", "units=64,128"]
    words = ["run", *line, "sh train.sh :lr: :units:"]
    assert "runs       4, of lr × units\n" in typed(*words[:1], "--dry-run", *words[1:]).stdout
    done = typed(*words, status=1)
    assert done.stderr.startswith("Casting runs 1–4 (4 runs: lr × units)…\n")
    assert done.stderr.count("exit status 1") == 2
    logs = [typed("logs", str(number), status=number % 2).stdout for number in range(1, 5)]
    assert [log.split("\n")[0] for log in logs] == ["0.1 64 0.1", "0.1 128 0.1", "0.01 64 0.01", "0.01 128 0.01"]
    typed("run", "--framework", "none", "--no-git", "-y", "-b", "true")
    table = [re.sub(" +", " ", line) for line in typed("ps", "-n", "2").stdout.splitlines()]
    assert table[1].startswith("1–4 4 of 4 done, 2 failed one ") and len(table) == 3, table
    assert table[1].endswith(" lr × units: best val_loss 0.128 (run 2)"), table
    assert len(typed("ps", "sh train").stdout.splitlines()) == 5
    told = json.loads(typed("info", "2", "--json").stdout)
    assert told["spec"]["params"] == told["set"]["params"] == {"lr": "0.1", "units": "128"}
    assert {run.of.key for run in runs_of(user) if run.of} == {runs_of(user)[0].key} == {told["spec"]["of"]}
    again = json.loads(typed("rerun", "2", "-b", "--json").stdout)
    assert again["set"] is None and json.loads(typed("info", "6", "--json").stdout)["spec"]["params"]["lr"] == "0.1"
    say = recorded.commands(typed)
    say("run", "--param", "lr=0:1", "true", status=2)
    say("run", "--param", "lr=1,2", "train --lr :lt:", status=2)
    say("run", "--random", "3", "true", status=2)
    say("run", "--param", "lr=1,2", "--set", "a b", "true", status=2)


def test_the_same_line_adds_what_is_missing(user: User, typed: Say, recorded: Recorded) -> None:
    say = recorded.commands(typed)
    line = ["--framework", "none", "--no-git", "-y", "-b", "--set", "night", "--param", "lr=1e-4:1:log"]
    say("run", *line, "--random", "3", "true")
    say("run", *line, "--random", "5", "true")
    say("run", *line, "--random", "5", "true")
    say("run", *line, "--random", "5", "false", status=2)
    drawn = [run.of.params["lr"] for run in runs_of(user) if run.of is not None]
    assert len(drawn) == 5 == len(set(drawn))


def test_each_combination_is_handed_over_once_however_often_its_client_is_killed(
    user: User, typed: Any, tmp_path: Path
) -> None:
    order, place = tmp_path / "order", user.place("one")
    words = ["run", "--framework", "none", "--no-git", "-y", "-b", "--set", "night", "--param", "n=1:40:int"]
    words += [f"echo :n: >>{order}"]
    for enough in (1, 13, 26):
        process = typed(*words, start=True)
        until(lambda: process.poll() is not None or len(place.home.run_keys()) >= enough, what="runs arrive")  # noqa: B023
        process.kill()
        process.wait()
    done = typed(*words)
    assert "1-40" in done.stdout, done.stderr
    user.client.runs.again(runs_of(user))
    assert [run.number for run in runs_of(user)] == list(range(1, 41)) and len(place.home.run_keys()) == 40
    for run in runs_of(user):
        assert place.until_final(run.key)["state"] == "complete"
    assert sorted(map(int, order.read_text().split())) == list(range(1, 41))


def test_so_many_of_a_set_are_at_work_with_no_client_there(place: Place, tmp_path: Path) -> None:
    """Others behind them are not blocked; whoever ends lets the next one begin."""
    first = new_key()
    wait = f"touch {tmp_path}/$REMOTERUN_RUN_KEY; until [ -e {tmp_path}/go$REMOTERUN_RUN_KEY ]; do sleep 0.02; done"
    keys = [first, *(new_key() for _ in range(4))]
    for key in keys:
        place.submit(wait, key=key, of=first, at_once=2, slots=4, env={"REMOTERUN_RUN_KEY": key})
    other = place.submit("true", slots=4)
    assert place.until_final(other)["state"] == "complete"
    place.until_state(keys[1], RunState.RUNNING)
    assert "another run of its set" in (place.run(keys[2]).status().note or "another run of its set")
    place.drop_session()
    for at, key in enumerate(keys):
        until(lambda: (tmp_path / key).exists())  # noqa: B023
        began = {each for each in keys if (tmp_path / each).exists()}
        assert began <= set(keys[: at + 2]), "two at once, in their order"
        until(lambda: len(OwnLine(place.home).held()) == min(2, len(keys) - at))  # noqa: B023
        (tmp_path / f"go{key}").touch()
        place.until_final(key)
    until(lambda: not os.listdir(place.home.queue))


def test_the_example_searches_with_optuna(user: User, typed: Any, tmp_path: Path) -> None:
    require(None if importlib.util.find_spec("optuna") else "optuna is not installed")
    script = (
        'import sys; lr, units = map(float, sys.argv[1:]); print("val_loss:", abs(lr - 0.01) + abs(units - 64) / 64)'
    )
    (tmp_path / "folder" / "train.py").write_text(script)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path / "folder", check=True)
    words = [sys.executable, str(EXAMPLE), "one", "python3 train.py {lr} {units}"]
    env = {**os.environ, "REMOTERUN_HOME": str(user.config.home)}
    found = subprocess.run(words, cwd=tmp_path / "folder", env=env, capture_output=True, text=True, timeout=120)
    assert found.stdout.count("run ") == 20 == len(runs_of(user)), found.stdout + found.stderr
    assert all(run.labels == ("search",) for run in runs_of(user))
    lines = [float(line.split()[-1]) for line in found.stdout.splitlines()]
    assert lines[-1] == pytest.approx(min(lines[:-1]), rel=0.01)
