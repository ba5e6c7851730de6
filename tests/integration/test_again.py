"""What people do with runs from the second day on: wait for them, run them again, see what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.client import Client, LogBytes, Note
from remoterun.model import MachineType, Run, RunRequest
from tests.workshop import User, until

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
NOBODY = MachineType("gone", host="me@127.0.0.1:1", connect_timeout=2)
"""A machine that refuses connections."""


class Typed:
    """The installed command, for the home and the machines of a `User`."""

    def __init__(self, user: User, folder: Path) -> None:
        self.user, self.folder = user, folder
        home = user.config.home
        home.mkdir(exist_ok=True)
        tables = [
            f'[machines.{m.name}]\nengine = "process"\nhome = "{m.home}"\n' for m in user.config.machines.values()
        ]
        (home / "config.toml").write_text('default = "one"\n' + "".join(tables))
        self.env = {"REMOTERUN_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(folder)}

    def __call__(self, *words: str, status: int = 0, env: dict[str, str] | None = None) -> Any:
        """A CompletedProcess with text."""
        done = subprocess.run(
            [REMOTERUN, *words],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, f"$ remoterun {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def typed(user: User, tmp_path: Path) -> Iterator[Typed]:
    folder = tmp_path / "folder"
    folder.mkdir()
    yield Typed(user, folder)


def log_of(client: Client, number: int) -> bytes:
    return b"".join(item.data for item in client.runs.follow(number) if isinstance(item, LogBytes))


def waits_for(path: Path) -> str:
    """A command that ends once there is a file `path`, with the status that stands in it."""
    return f"until [ -s {path} ]; do sleep 0.02; done; exit $(cat {path})"


class TestWait:
    def test_each_run_is_told_as_it_ends_and_the_status_is_by_the_order_given(
        self, typed: Typed, tmp_path: Path
    ) -> None:
        client = typed.user.client
        go = [tmp_path / f"go{number}" for number in range(3)]
        for file, machine in zip(go, ("one", "two", "one"), strict=True):
            client.runs.submit(RunRequest(waits_for(file)), machine=machine)
        late = typed("wait", "3", "--timeout", "0.3s", status=124)
        assert late.stderr == "run 3 has not ended within 0.3s; it goes on\n" and late.stdout == ""
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(typed, "wait", "--any", "1", "2", "3", status=7)
            go[1].write_text("7")
            assert first.result().stderr.startswith("✗ run 2 failed after ")
        go[2].write_text("5")
        until(lambda: client.runs.get(3).final)
        go[0].write_text("0")
        every = typed("wait", "last", "runs/1", "2", "1", "--json", status=5)
        assert sorted(run["number"] for run in json.loads(every.stdout)) == [1, 2, 3]
        assert len(every.stderr.splitlines()) == 3 and "exit status 5: the command failed" in every.stderr
        assert typed("wait", "1").stderr.startswith("✓ run 1 complete after ")
        assert "there is no run 9" in typed("wait", "1", "9", status=2).stderr

    def test_a_machine_that_is_away_holds_up_no_other_and_is_asked_again(self, user: User, tmp_path: Path) -> None:
        go = tmp_path / "go"
        for machine in ("one", "two"):
            user.client.runs.submit(RunRequest(waits_for(go)), machine=machine)
            until(lambda: user.client.runs.get("last").state is RunState.RUNNING)
        placement = user.client.registry.run(1).placement
        assert placement is not None
        user.client.registry.place(user.client.registry.run(1), replace(placement, machine=NOBODY))
        items = user.client.runs.wait([1, 2])
        lost = next(items)
        assert isinstance(lost, Note) and lost.kind == "lost" and "refused" in lost.text
        go.write_text("0")
        second = next(items)
        assert isinstance(second, Run) and second.number == 2 and second.state is RunState.COMPLETE
        user.client.registry.place(user.client.registry.run(1), placement)
        assert [item.number for item in items if isinstance(item, Run)] == [1]
