"""`tensorboard`: the logs of runs that go on are copied while they grow, over lost connections, until their end."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.cli.commands import tensorboard
from remoterun.model import Resource, Run, RunRequest
from tests.workshop import User, until


def start(user: User, machine: str) -> tuple[Run, Path]:
    """A run that has started, and its work tree."""
    run = user.client.runs.submit(RunRequest("until [ -e end ]; do sleep 0.02; done"), user.source({"a": ""}), machine)
    user.place(machine).until_state(run.key, RunState.RUNNING)
    return run, Path(user.place(machine).run(run.key).work)


def holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def test_logs_grow_here_as_they_grow_there(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "EVERY", 0.05)
    runs = {machine: start(user, machine) for machine in ("one", "two")}
    sources = [Resource("runs", str(run.number)) for run, _ in runs.values()]
    copied = {machine: tmp_path / "logs" / "runs" / str(run.number) for machine, (run, _) in runs.items()}
    with contextlib.closing(tensorboard._Copies(user.client, sources)) as copies:
        thread = threading.Thread(target=copies._copy_on, args=(tmp_path / "logs",))
        thread.start()
        for machine, (_, work) in runs.items():
            (work / "logs").mkdir()
            (work / "logs" / "tfevents.1").write_text(machine)
            (work / "logs" / "other").write_text("not wanted")
        for machine, folder in copied.items():
            until(lambda: holds(folder / "logs" / "tfevents.1", machine))  # noqa: B023
        open_file = (copied["two"] / "logs" / "tfevents.1").open()
        user.client.machines.session(user.client.machines.get("two"))._pipe.close()
        with (runs["two"][1] / "logs" / "tfevents.1").open("a") as file:
            file.write(" and more")
        until(lambda: holds(copied["two"] / "logs" / "tfevents.1", "two and more"))
        with open_file:
            assert open_file.read() == "two and more", "it is the same file: TensorBoard has it open"
        (runs["two"][1] / "tfevents.2").write_text("the last")
        for _, work in runs.values():
            (work / "end").touch()
        thread.join(60)
        assert not thread.is_alive(), "both runs have ended, and all has come"
    assert (copied["two"] / "tfevents.2").read_text() == "the last"
    names = {str(path.relative_to(tmp_path / "logs")) for path in (tmp_path / "logs").rglob("*") if path.is_file()}
    one, two = (f"runs/{run.number}" for run, _ in runs.values())
    assert names == {f"{one}/logs/tfevents.1", f"{two}/logs/tfevents.1", f"{two}/tfevents.2"}
