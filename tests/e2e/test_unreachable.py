"""What the commands show of a run whose machine does not answer."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.model import MachineType, Run, Upload, new_key
from remoterun.registry import Registry
from tests.commands import REMOTERUN
from tests.e2e.conftest import Place
from tests.e2e.said import talk
from tests.workshop import until


@pytest.fixture
def silent() -> Iterator[MachineType]:
    """A machine that takes connections and never says a word, for longer than a test may last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yield MachineType("box", host=f"me@127.0.0.1:{port}", connect_timeout=500)


def recorded(place: Place, machine: MachineType, state: RunState) -> Run:
    """A run that was seen three hours ago: a figure that stays the same for minutes."""
    place.patient = False
    seen = time.time() - 3 * 3600
    home = Path(place.env["REMOTERUN_HOME"])
    with contextlib.closing(Registry(home / "registry.db")) as registry:
        run = registry.add_run(new_key(), machine, "python train.py", seen - 120)
        run = registry.set_host(run, machine, "home")
        registry.change_state(run, RunState.RUNNING, seen, started=seen - 20)
        if state.final:
            registry.change_state(run, state, seen, reason="exit_nonzero", code=3, ended=seen - 10)
        (home / "logs").mkdir(exist_ok=True)
        if state.final:
            (home / "logs" / f"{run.key}.log").write_bytes(b"a\nlast\xff")
        return registry.run(run.number)


def test_a_run_that_goes_on(place: Place, silent: MachineType) -> None:
    recorded(place, silent, RunState.RUNNING)
    done = place.run("ps")
    assert re.search(r"^ *1  running, seen 3h ago  box ", done.stdout, re.MULTILINE)
    assert re.search(r"^warning: box does not answer within 2 s \(--wait 30s waits longer\)", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    done = place.run("info", "1", "--wait", "1s")
    assert "running, seen 3h ago" in done.stdout and "python train.py" in done.stdout
    assert "box does not answer within 1 s" in done.stderr
    done = place.run("logs", "1", "--no-follow", status=125)
    assert "box does not answer within 2 s; run 1 is running, seen 3h ago" in done.stderr
    done = place.run("top", "--wait", "1s", status=125)
    assert done.stderr.startswith("warning: box does not answer within 1 s") and "No run" not in done.stderr
    config = f'[machines.box]\nhost = "{silent.host}"\nconnect_timeout = 500\n'
    Path(place.env["REMOTERUN_HOME"], "config.toml").write_text(config)
    done = place.run("machines", "status", "box", "--wait", "1s")
    assert done.stdout == "box is away, last seen 3 hours ago\n  box does not answer within 1 s\n"


def test_older_runs_that_go_on_are_counted(place: Place, silent: MachineType) -> None:
    """Where newer ones take all the rows."""
    for state in (RunState.RUNNING, RunState.RUNNING, RunState.FAILED, RunState.RUNNING):
        recorded(place, silent, state)
    more = "2 older runs may go on still; `remoterun ps -a --state active` asks\n"
    assert more in place.run("ps", "-n", "1", "--wait", "1s").stderr
    for words in (["-n", "4"], ["-a"], ["-n", "1", "--state", "queued"]):
        assert "older run" not in place.run("ps", *words, "--wait", "1s").stderr


def test_a_run_that_has_ended(place: Place, silent: MachineType) -> None:
    recorded(place, silent, RunState.FAILED)
    done = place.run("logs", "1", status=3)
    assert done.stdout == "a\nlast\udcff"
    assert "box does not answer within 2 s; this is the log of run 1 as it was kept here" in done.stderr
    assert "run 1 failed after 10 s, exit status 3" in done.stderr
    done = place.run("logs", "1", "--no-follow", "-n", "1")
    assert done.stdout == "last\udcff" and "as it was kept here" in done.stderr
    done = place.run("info", "1")
    assert re.search(r"^state +failed, exit status 3", done.stdout, re.MULTILINE) and "box does not" in done.stderr


def test_an_ended_run_does_not_go_on(place: Place, silent: MachineType) -> None:
    """Its log is not kept, and a SIGTERM while we wait for the machine does not say that it goes on."""
    run = recorded(place, silent, RunState.FAILED)
    (Path(place.env["REMOTERUN_HOME"]) / "logs" / f"{run.key}.log").unlink()
    logs = subprocess.Popen([REMOTERUN, "logs", "1", "--wait", "10m"], env=place.env, stderr=subprocess.PIPE, text=True)
    until(lambda: len(list(Path(f"/proc/{logs.pid}/task").iterdir())) > 1, what="a thread connects")
    logs.send_signal(signal.SIGTERM)
    _, said = logs.communicate(timeout=60)
    assert logs.returncode == 130 and "goes on" not in said and "run 1 has ended: failed (3)" in said


def test_a_run_whose_home_is_another_one(place: Place, tmp_path: Path) -> None:
    """Nothing waits for it, and it can be forgotten."""
    box = MachineType("box", home=str(tmp_path / "new"), engine="process")
    recorded(place, box, RunState.RUNNING)
    place.patient = True  # this machine answers, with whatever other tests keep it busy
    for words in (["wait"], ["logs"], ["forward", "1", "8000"], ["stop"], ["exec", "1", "true"], ["top", "--once"]):
        done = place.run(*words[:1], "1", *words[2:], status=125)
        assert done.stderr == (
            "error: runs lay on box, whose home is gone\n\n"
            "hint: remoterun doctor box   shows the folder: is a disk not mounted there?\n"
            "      remoterun rm --forget RUN   forgets a run that was there\n"
        )
    recorded(place, MachineType("other", home=str(tmp_path / "new"), engine="process"), RunState.RUNNING)
    assert place.run("wait", "--any", "1", "2", status=125).stderr.count("error: runs lay on") == 2
    for words in (["ps"], ["info", "1"]):
        assert "remoterun rm --forget RUN   forgets a run" in place.run(*words, "--wait", "60s").stderr
    for state in (RunState.FAILED, RunState.COMPLETE):
        recorded(place, box, state)
    said = place.run("rm", "runs/1-4", "-y", status=125).stderr
    assert said.count("error:") == 2 and said.count("runs lay on box, whose home is gone") == 1, "once for three runs"
    place.run("rm", "--forget", "runs/1-4", "-y")
    assert place.json("ps") == [], "also those that had not ended"


def test_runs_of_a_machine_that_never_comes_back(place: Place, silent: MachineType) -> None:
    for _ in range(3):
        recorded(place, silent, RunState.RUNNING)
    assert "remoterun rm --forget 1   if it never comes back" in place.run("rm", "1", status=125).stderr
    assert "-y removes without a question" in place.run("rm", "--forget", "1", status=2).stderr
    asked = re.compile(r"runs/1 +running.*Remove it\? \[y/N\] ")
    talk(place.spawn("rm", "--forget", "1"), asked, "y", "runs/1 is forgotten; what box has of it stays there")
    place.run("rm", "--forget", "-y", "2")
    assert [run["number"] for run in place.json("ps", "--wait", "0.1s")] == [3]


def test_a_machine_that_never_comes_back(place: Place, silent: MachineType) -> None:
    recorded(place, silent, RunState.RUNNING)
    recorded(place, MachineType("local"), RunState.FAILED)
    with contextlib.closing(Registry(Path(place.env["REMOTERUN_HOME"]) / "registry.db")) as registry:
        made = Upload("doom", 1, "a" * 64, 1, 1, 1.0, "box", "abcdabcdabcdabcd")
        registry.uploads.record(made, silent, time.time())
    place.run("machines", "add", "box", str(silent.host))
    place.run("machines", "rm", "box", "--forget", status=130)  # nobody answers
    words, asked = ("machines", "rm", "box", "--forget"), "Forget box, its runs and copies of uploads? [y/N] "
    talk(place.spawn(*words), asked, "", "box is not forgotten")
    assert len(place.json("ps", "--wait", "0.1s")) == 2
    talk(place.spawn(*words), asked, "y", "machine `box` is forgotten")
    done = place.run("ps")
    assert done.stderr == "" and re.findall(r"^ *(\d)  ", done.stdout, re.MULTILINE) == ["2"]
    assert place.json("ls") == []
