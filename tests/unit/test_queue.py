"""The queue: order, slots, GPUs of ours and of others, entries of the dead."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running import gpus
from remoterun.agent.running.gpus import Gpu, GpuError, GpuProcess
from remoterun.agent.running.queues.line import OwnLine, Turn
from remoterun.agent.running.supervisor import supervise
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import After
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.home import Home
from tests.workshop import at_once, create_run, spec_of, until, write_files

CARDS = [Gpu(number, f"GPU-{number}", "Tesla K80", 11441, 0) for number in range(3)]


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Driver:
    """What the driver says."""
    driver = Driver()
    if request.cls is not TestTool:
        monkeypatch.setattr(gpus, "list_gpus", lambda: driver.list_gpus())
        monkeypatch.setattr(gpus, "busy", lambda: driver.busy())
    return driver


class Driver:
    def __init__(self) -> None:
        self.list_gpus: Callable[[], list[Gpu]] = lambda: CARDS
        self.busy: Callable[[], dict[str, GpuProcess]] = dict


def new(home: Home) -> str:
    return create_run(home, spec_of()).key


def come(home: Home, key: str) -> None:
    OwnLine(home).come(spec_of(key=key, slots=1))


def ask(home: Home, key: str, gpus: int = 0, room: int | None = 1) -> Turn:
    return OwnLine(home).ask(spec_of(key=key, gpus=gpus, slots=room))


def supervised(home: Home) -> set[str]:
    """Those of the line that need a supervisor."""
    return {key for line in OwnLine(home).lines().values() for key, _ in line} - OwnLine(home).asleep()


def test_in_the_order_of_arrival(home: Home) -> None:
    holder, first, second, third = (new(home) for _ in range(4))
    assert ask(home, holder).granted
    come(home, third)
    assert ask(home, first).waiting_for == ask(home, second).waiting_for == "the runs before it"
    OwnLine(home).release(holder)
    assert ask(home, third).granted and ask(home, third).granted
    assert ask(home, first).waiting_for == "the run that has the slot"
    OwnLine(home).release(third)
    OwnLine(home).release(third)
    assert not ask(home, second).granted
    assert ask(home, first).granted
    assert ask(home, second, room=2).granted


def test_who_waits_and_who_can_start(home: Home) -> None:
    def line(slots: int) -> tuple[bool, int, list[tuple[str, int, bool]]]:
        there = OwnLine(home).occupancy(api.Demand(0, slots))
        return there.free, there.before, [(run.key, run.place, run.starts_now) for run in there.runs]

    first, second, third = (new(home) for _ in range(3))
    assert line(1) == (True, 0, [])
    assert ask(home, first).granted and line(2) == (True, 0, [(first, 0, False)])
    come(home, second)
    come(home, third)
    assert line(1) == (False, 2, [(first, 0, False), (second, 1, False), (third, 2, False)])
    assert line(2) == (False, 2, [(first, 0, False), (second, 1, True), (third, 2, False)])
    assert line(9) == (False, 2, [(first, 0, False), (second, 1, True), (third, 2, True)]), "they are before it"


def test_nobody_waits_for_the_driver_but_the_first_in_the_line(home: Home, driver: Driver) -> None:
    first, second, other = (new(home) for _ in range(3))
    turns: list[Any] = []

    def slow() -> list[Gpu]:
        driver.list_gpus = pytest.fail
        turns.append(ask(home, other))
        turns.append(ask(home, second, 1))
        return CARDS

    driver.list_gpus = slow
    thread = threading.Thread(target=lambda: turns.append(ask(home, first, 1)), daemon=True)
    thread.start()
    thread.join(60)
    assert [turn.granted for turn in turns] == [True, False, True] and turns[1].waiting_for == "the runs before it"


@pytest.mark.parametrize("question", ["list_gpus", "busy"])
def test_a_driver_that_does_not_answer_gives_no_gpu(home: Home, driver: Driver, question: str) -> None:
    def silent() -> Any:
        raise GpuError("nvidia-smi does not answer")

    key = new(home)
    answering = getattr(driver, question)
    setattr(driver, question, silent)
    turn = ask(home, key, 1)
    assert (turn.granted, turn.waiting_for) == (False, "a GPU; nvidia-smi does not answer")
    setattr(driver, question, answering)
    assert ask(home, key, 1).granted


def test_only_the_first_of_each_line_needs_a_supervisor(home: Home) -> None:
    holder, first, second, card, later, last, awaits, after = (new(home) for _ in range(8))
    assert ask(home, holder).granted and ask(home, card, 3).granted
    for key in (first, second):
        come(home, key)
    for key in (later, last):
        assert not ask(home, key, 1).granted
    for key, others in ((awaits, (first, holder)), (after, (holder,))):
        OwnLine(home).submit(home.run(key), spec_of(key=key, after=tuple(After(other, 1) for other in others)))
    assert supervised(home) == {first, later, awaits}
    home.run(first).move(RunState.KILLED)
    assert supervised(home) == {second, later, awaits}
    home.run(holder).move(RunState.COMPLETE)
    assert supervised(home) == {second, later, awaits, after}, "what both waited for has ended"


def test_one_that_is_asked_to_end_as_it_goes_to_sleep(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, first, second = (new(home) for _ in range(3))
    for key in (holder, first, second):
        ask(home, key)
    asleep = OwnLine.asleep

    def asked(line: OwnLine) -> set[str]:
        found = asleep(line)
        home.run(second).ask_kill()
        return found

    monkeypatch.setattr(OwnLine, "asleep", asked)
    with home.run(holder).supervising(), home.run(first).supervising():
        assert supervise(home, second) == 0
    assert home.run(second).state()[0] is RunState.KILLED


def test_who_was_killed_between_its_slot_and_its_ticket_blocks_nobody(home: Home) -> None:
    first, second, third = (new(home) for _ in range(3))
    for key in (first, second, third):
        ask(home, key)
    ticket = Path(home.queue, second + ".wait").read_bytes()
    OwnLine(home).release(first)
    assert ask(home, second).granted
    Path(home.queue, second + ".wait").write_bytes(ticket)
    assert third not in OwnLine(home).asleep()
    assert ask(home, third, room=2).granted


@pytest.mark.parametrize("how", ["ended", "removed", "damaged"])
def test_what_is_dead_does_not_count(home: Home, how: str) -> None:
    holder, waiting, mine = (new(home) for _ in range(3))
    assert ask(home, holder).granted
    if how != "damaged":
        ask(home, waiting)
    for key, suffix in ((holder, ".slot"), (waiting, ".wait")):
        if how == "ended":
            home.run(key).move(RunState.KILLED)
        elif how == "removed":
            home.run(key).remove()
        else:
            Path(home.queue, key + suffix).write_bytes(b"{")
    assert ask(home, mine).granted
    assert os.listdir(home.queue) == [mine + ".slot"]


def test_names_that_are_none_of_ours(home: Home) -> None:
    Path(home.queue, "x.slot").touch()
    Path(home.queue, "README").touch()
    assert ask(home, new(home)).granted


def test_gpus_are_counted(home: Home) -> None:
    first, second, third, plain = (new(home) for _ in range(4))
    assert ask(home, first, 2).gpus == ["GPU-0", "GPU-1"]
    assert ask(home, second, 2).waiting_for == "2 GPUs; 1 of 3 is free"
    assert ask(home, third, 1).waiting_for == "the runs before it"
    assert ask(home, plain).granted, "who needs no GPU has a line of its own"
    OwnLine(home).release(first)
    assert ask(home, second, 2).gpus == ["GPU-0", "GPU-1"]
    assert ask(home, third, 1).gpus == ["GPU-2"]
    assert ask(home, second, 2).gpus == ["GPU-0", "GPU-1"]


def test_those_of_others_are_seen(home: Home, driver: Driver) -> None:
    driver.busy = lambda: {"GPU-0": GpuProcess("GPU-0", 4242, "python", 100)}
    first, second = new(home), new(home)
    assert ask(home, first, 2).gpus == ["GPU-1", "GPU-2"]
    assert ask(home, second, 1).waiting_for == "a GPU; GPU 0 is used by process 4242 (python)"
    driver.busy = dict
    assert ask(home, second, 1).gpus == ["GPU-0"]


def test_more_than_there_are(home: Home) -> None:
    """Whichever runs end, it never gets them."""
    turn = ask(home, new(home), 4)
    assert (turn.never, turn.waiting_for) == (True, "the run asks for 4 GPUs, and its machine has 3")


def test_at_the_same_time(home: Home) -> None:
    keys = [new(home) for _ in range(12)]
    granted = []

    def work(key: str) -> None:
        if ask(home, key, room=100).granted:
            granted.append(key)

    for _ in range(12):
        at_once([partial(work, key) for key in keys if key not in granted])
    assert sorted(granted) == sorted(keys)
    assert len(os.listdir(home.queue)) == 12


class TestTool:
    @pytest.fixture
    def tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "nvidia-smi"

    def write(self, tool: Path, text: str) -> None:
        write_files(tool.parent, {"nvidia-smi*": f"#!/bin/sh\n{text}\n"})

    def test_its_words(self, tool: Path) -> None:
        self.write(
            tool,
            "case $1 in --query-gpu=index,uuid,name,memory.total,memory.used,utilization.gpu) "
            "echo '0, GPU-a, Tesla K80, 11441, 12, 35';;"
            " --query-compute-apps=*) echo 'GPU-a, 77, /usr/bin/python3, [N/A]';; esac",
        )
        assert gpus.list_gpus() == [Gpu(0, "GPU-a", "Tesla K80", 11441, 12, 35.0)]
        assert gpus.busy() == {"GPU-a": GpuProcess("GPU-a", 77, "/usr/bin/python3", 0)}

    @pytest.mark.parametrize("text", ["exit 9", "kill -9 $$"])
    def test_fails(self, tool: Path, text: str) -> None:
        self.write(tool, text)
        for ask in (gpus.list_gpus, gpus.busy):
            with pytest.raises(GpuError, match="nvidia-smi fails"):
                ask()

    def test_hangs(self, tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is not waited for, and no second one is started beside it."""
        self.write(tool, f"echo started >>{tool}.log; exec sleep 1000")
        monkeypatch.setattr(subprocess.Popen, "kill", lambda process: None)  # as in an uninterruptible sleep
        with pytest.raises(GpuError, match="does not answer"):
            gpus.list_gpus(timeout=0.1)
        (hanging,) = gpus._hanging
        with pytest.raises(GpuError, match="does not answer"):
            gpus.busy()
        log = Path(f"{tool}.log")
        until(lambda: log.exists() and log.read_text())
        assert log.read_text() == "started\n"
        hanging.terminate()
        hanging.wait(60)
        self.write(tool, "echo 'GPU-a, 77, /usr/bin/python3, 12'")
        assert list(gpus.busy()) == ["GPU-a"]

    @pytest.mark.parametrize("text", ["echo No devices were found", "echo", "echo 'a, b'", "printf '\\377'"])
    def test_nonsense(self, tool: Path, text: str) -> None:
        self.write(tool, text)
        assert gpus.list_gpus() == [] and gpus.busy() == {}

    def test_absent(self, tool: Path) -> None:
        assert gpus.list_gpus() == [] and gpus.busy() == {}


def test_a_run_beside_the_others_takes_no_slot_and_waits_for_none(home: Home) -> None:
    holder, waiting = new(home), new(home)
    assert ask(home, holder).granted and not ask(home, waiting).granted
    spec = spec_of(beside=True)
    create_run(home, spec)
    OwnLine(home).come(spec)
    assert OwnLine(home).ask(spec).granted
    assert [run.key for run in OwnLine(home).occupancy(api.Demand(0, 1)).runs] == [holder, waiting]
