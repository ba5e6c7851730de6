"""Sets of runs: each combination of values once, whatever happens to the client that makes them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.model import Run
from tests import commands
from tests.recorder import Recorded
from tests.workshop import User, until

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
    (user.root / "folder" / "train.sh").write_text('echo "$@" $REMOTERUN_PARAM_lr; [ "$2" != 64 ]\n')
    line = ["--framework", "none", "--no-git", "-y", "--param", "lr=0.1,0.01", "--param", "units=64,128"]
    words = ["run", *line, "sh train.sh :lr: :units:"]
    assert "runs       4, of lr × units\n" in typed(*words[:1], "--dry-run", *words[1:]).stdout
    done = typed(*words, status=1)
    assert done.stderr.startswith("Casting runs 1–4 (4 runs: lr × units)…\n")
    assert done.stderr.count("exit status 1") == 2
    logs = [typed("logs", str(number), status=number % 2).stdout for number in range(1, 5)]
    assert logs == ["0.1 64 0.1\n", "0.1 128 0.1\n", "0.01 64 0.01\n", "0.01 128 0.01\n"]
    told = json.loads(typed("info", "2", "--json").stdout)
    assert told["spec"]["params"] == told["set"]["params"] == {"lr": "0.1", "units": "128"}
    assert {run.of.key for run in runs_of(user) if run.of} == {runs_of(user)[0].key} == {told["spec"]["of"]}
    again = json.loads(typed("rerun", "2", "-b", "--json").stdout)
    assert again["set"] is None and json.loads(typed("info", "5", "--json").stdout)["spec"]["params"]["lr"] == "0.1"
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
