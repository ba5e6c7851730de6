"""What must never break, while things break: real hosts, real sshd, real Docker, and faults made on purpose.

Each test has a home of its own on the host. When it ends, no container and no process of remoterun may be left there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from remoterun.agent.runs import Reason, RunState
from remoterun.client import Client, Item, LogBytes, Note, StateChange
from remoterun.config import Config
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Resource, Run, RunRequest
from tests.lab import BASE_IMAGE, Lab, LabHost, Process

pytestmark = pytest.mark.timeout(120)

T = TypeVar("T")

COUNT = """exec python3 -c '
import sys, time
for number in range({lines}):
    print("line %06d" % number)
    time.sleep({pause})
sys.exit({code})
'"""


def counting(lines: int, seconds: float, code: int = 0) -> str:
    """A command that prints numbered lines for about so long."""
    return COUNT.format(lines=lines, pause=seconds / lines, code=code)


def counted(lines: int) -> bytes:
    """All that it prints."""
    return b"".join(b"line %06d\n" % number for number in range(lines))


def until(condition: Callable[[], T], seconds: float = 20, pause: float = 0.02) -> T:
    """Ask until the answer is true; fails after `seconds` with what it last was."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {value!r}"
        time.sleep(pause)


@dataclass
class Box:
    """A host as the user of this test has it: with a home of its own there, and one here."""

    lab: Lab
    host: LabHost
    here: Path
    there: str
    clients: list[Client] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)

    def config(self, **options: Any) -> Config:
        settings: dict[str, Any] = {"base_image": BASE_IMAGE, "engine": "docker", "home": self.there, **options}
        machine = MachineType("box", host=self.host.name, **settings)
        return Config(self.here, "box", {"box": machine}, self.lab.ssh_config())

    def client(self, **options: Any) -> Client:
        self.clients.append(Client(self.config(**options)))
        return self.clients[-1]

    def follow(self, number: int, **options: Any) -> Follow:
        """Follow a run from another terminal."""
        self.follows.append(Follow(self.client(), number, options))
        self.follows[-1].start()
        return self.follows[-1]

    def folder(self, run: Run) -> Path:
        return self.host.path(f"/home/{self.host.user}/{self.there}/runs/{run.key}")

    def log(self, run: Run) -> bytes:
        """What is in the log's file on the host."""
        try:
            return (self.folder(run) / "io" / "log").read_bytes()
        except FileNotFoundError:
            return b""

    def lines(self, run: Run, number: int) -> None:
        """Wait until the log has so many lines."""
        until(lambda: self.log(run).count(b"\n") >= number, 30)

    def processes(self, *words: str) -> list[Process]:
        """The processes of the host whose command line has all these words."""
        return [process for process in self.host.processes() if all(word in process.command for word in words)]

    def kill(self, *words: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill what has these words in its command line; something must."""
        found = until(lambda: self.processes(*words))
        self.host.exec(["kill", f"-{number.value}", *(str(process.pid) for process in found)])

    def containers(self) -> str:
        return self.host.exec(["docker", "ps", "--all", "--quiet"]).stdout

    def clean_up(self) -> None:
        for client in self.clients:
            client.close()
        for follow in self.follows:
            follow.join(20)
        if not self.host.is_up():
            return
        self.host.mend()
        left: list[str] = []
        with Client(self.config()) as client:
            client.uploads()  # any contact goes on with what a fault has left undone
            for run in client.runs(None):
                if not run.final:
                    left.append(f"run {run.number} is {run.state.value}")
                    with suppress(RemoterunError):
                        client.kill(run.number)
        if left:  # the test has failed already, or should have
            pytest.fail(", ".join(left))
        if self.host.exec(["which", "docker"]).returncode == 0:
            until(lambda: not self.containers())
        until(lambda: not self.processes(".pyz"))


class Follow(threading.Thread):
    """`client.follow` in another terminal: what it yields, as it comes."""

    def __init__(self, client: Client, number: int, options: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.number = number
        self.options = options
        self.items: list[Item] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for item in self.client.follow(self.number, **self.options):
                self.items.append(item)
        except BaseException as error:  # noqa: BLE001 - shown by `result`
            self.error = error

    @property
    def text(self) -> bytes:
        pieces = [item for item in self.items if isinstance(item, LogBytes)]
        at = 0
        for piece in pieces:
            assert piece.offset == at, "a gap, or bytes that came twice"
            at += len(piece.data)
        return b"".join(piece.data for piece in pieces)

    @property
    def notes(self) -> list[str]:
        return [item.kind for item in self.items if isinstance(item, Note)]

    def lines(self, number: int) -> None:
        """Wait until so many lines have come."""
        until(lambda: self.error or self.text.count(b"\n") >= number, 30)

    def result(self, seconds: float = 60) -> Run:
        """The run as it ended."""
        self.join(seconds)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"still following after {seconds} s; {self.items[-1:]}"
        ends = [item.run for item in self.items if isinstance(item, StateChange) and item.run.final]
        assert len(ends) == 1
        states = [item.state for item in self.items if isinstance(item, StateChange)]
        assert len(set(states)) == len(states), "a state came twice"
        return ends[0]


Boxes = Callable[..., Box]


@pytest.fixture
def box_of(lab: Lab, tmp_path: Path, new_host: Callable[..., LabHost]) -> Iterator[Boxes]:
    """`box_of(host)`: the host with a fresh home."""
    del new_host  # named here so that such hosts are discarded after they were looked through
    made: list[Box] = []

    def make(host: LabHost) -> Box:
        made.append(Box(lab, host, tmp_path / f"home-{len(made)}", f"faults/{os.urandom(4).hex()}"))
        return made[-1]

    yield make
    for box in made:
        box.clean_up()


@pytest.fixture
def box(box_of: Boxes, host_a: LabHost) -> Box:
    return box_of(host_a)


def submit(client: Client, command: str, **more: Any) -> Run:
    return client.submit(RunRequest(command, image=BASE_IMAGE, **more))


def ended(client: Client, run: Run, seconds: float = 30) -> Run:
    """The run once it has ended."""

    def look() -> Run | None:
        seen = client.run(run.number)
        return seen if seen.final else None

    found = until(look, seconds, 0.05)
    assert found is not None
    return found


def cut_for_a_while(box: Box) -> None:
    box.host.cut()
    time.sleep(4)  # the fault itself, not a wait
    box.host.heal()


def cut_until_given_up(box: Box) -> None:
    """Longer than a link may be silent (10 s): the connection is dead when the link is back."""
    box.host.cut()
    until(lambda: "lost" in box.follows[0].notes, 30)
    box.host.heal()


class TestNoLineOfALogIsLostOrDoubled:
    """And the exit code is the command's own."""

    @pytest.mark.parametrize(
        ("fault", "seconds", "lost"),
        [
            pytest.param(cut_for_a_while, 6, False, id="link cut and healed"),
            pytest.param(cut_until_given_up, 4, True, id="link cut until it counts as dead"),
            pytest.param(lambda box: box.host.sever(), 2.5, True, id="TCP reset"),
            pytest.param(lambda box: box.kill(f"sshd-session: {box.host.user}"), 2.5, True, id="sshd session killed"),
            pytest.param(lambda box: box.kill(".pyz serve"), 2.5, True, id="agent killed"),
            pytest.param(lambda box: box.kill(".pyz supervise"), 2.5, False, id="supervisor killed"),
        ],
    )
    def test_on_the_way(self, box: Box, fault: Callable[[Box], None], seconds: float, lost: bool) -> None:
        client = box.client()
        run = submit(client, counting(2000, seconds, 7))
        follow = box.follow(run.number)
        follow.lines(300)
        fault(box)
        end = follow.result()
        assert follow.text == counted(2000) == box.log(run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.EXIT_NONZERO, 7)
        assert ("lost" in follow.notes) == lost
        assert follow.notes.count("lost") == follow.notes.count("back")

    def test_everything_dies_again_and_again(self, box: Box) -> None:
        client = box.client()
        run = submit(client, counting(2000, 6))
        follow = box.follow(run.number)
        for lines in range(200, 1800, 300):
            follow.lines(lines)
            box.kill(".pyz supervise")
            box.host.sever()
        assert follow.result().code == 0
        assert follow.text == counted(2000) == box.log(run)


@pytest.fixture(params=[True, False], ids=["live-restore", "no live-restore"])
def docker_box(request: pytest.FixtureRequest, box_of: Boxes, new_host: Callable[..., LabHost]) -> Box:
    return box_of(new_host(live_restore=request.param))


class TestDockerdDies:
    def test_killed_and_the_run_ends_meanwhile(self, docker_box: Box) -> None:
        """The exit file is the truth: nobody needs dockerd to learn how it ended."""
        client = docker_box.client()
        run = submit(client, "echo 1 >result; " + counting(1000, 3, 7))
        follow = docker_box.follow(run.number)
        follow.lines(200)
        docker_box.host.kill_dockerd()
        end = follow.result()
        assert follow.text == counted(1000) == docker_box.log(run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.EXIT_NONZERO, 7)
        assert (docker_box.folder(run) / "out" / "result").read_text() == "1\n"
        docker_box.host.start_dockerd()
        docker_box.client().uploads()  # any contact removes what could not be removed
        until(lambda: not docker_box.containers())

    @pytest.mark.parametrize("end", ["kill", "stop"])
    def test_while_the_run_goes_on(self, docker_box: Box, end: str) -> None:
        """With live-restore the command notices nothing; without, dockerd ends it, and the run says so."""
        host = docker_box.host
        client = docker_box.client()
        lines = 1000
        run = submit(client, "echo 1 >result; " + counting(lines, 4))
        follow = docker_box.follow(run.number)
        follow.lines(200)
        host.kill_dockerd() if end == "kill" else host.stop_dockerd()
        host.start_dockerd()
        done = follow.result()
        assert follow.text == docker_box.log(run)
        assert (docker_box.folder(run) / "out" / "result").read_text() == "1\n"
        if done.state is RunState.INTERRUPTED:  # dockerd kills it, unless it ends by itself within some seconds
            assert not host.setup.live_restore
            assert (done.reason, done.code) == (Reason.HOST_LOST, None)
            assert counted(lines).startswith(follow.text)
        else:
            assert (done.state, done.reason, done.code) == (RunState.COMPLETE, Reason.EXITED, 0)
            assert follow.text == counted(lines)

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_stop_and_kill_wait_for_it(self, box: Box, how: str) -> None:
        """What can't be told to the engine is told later: a run isn't called ended while its command goes on."""
        client = box.client()
        run = submit(client, SAVES_ON_TERM)
        box.lines(run, 1)
        box.host.kill_dockerd()
        try:
            if how == "stop":
                client.stop(run.number, grace=0.2)
            else:
                client.kill(run.number)
            until(lambda: client.run(run.number).note, 10)
            assert not client.run(run.number).final
            assert box.processes("saved.txt")
        finally:
            box.host.start_dockerd()
        # without live-restore dockerd kills it as it comes back, before we can
        assert ended(client, run).state in (RunState.STOPPED, RunState.KILLED, RunState.INTERRUPTED)
        assert not box.processes("saved.txt")


SAVES_ON_TERM = """exec python3 -c '
import signal, sys, time
def save(*_):
    time.sleep(1)
    open("saved.txt", "w").write("saved")
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(60)
'"""

IGNORES_TERM = """exec python3 -c '
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("saved.txt", "w").write("saved")
print("ready")
time.sleep(61)
'"""


class TestStopAndKill:
    @pytest.mark.parametrize(
        "command",
        [
            SAVES_ON_TERM.removeprefix("exec ") + " && echo never",
            "bash -c '" + SAVES_ON_TERM.removeprefix("exec ").replace("'", "'\\''") + " && echo never'",
            "(" + SAVES_ON_TERM.removeprefix("exec ") + ") & wait",
            "setsid " + SAVES_ON_TERM.removeprefix("exec ") + " | cat",
        ],
        ids=["sh", "bash", "background", "session"],
    )
    def test_stop_reaches_every_process(self, box: Box, command: str) -> None:
        client = box.client()
        run = submit(client, command)
        box.lines(run, 1)
        _, asked = client.stop(run.number)
        assert asked
        end = ended(client, run)
        assert (end.state, end.reason) == (RunState.STOPPED, Reason.STOPPED)
        assert (box.folder(run) / "out" / "saved.txt").read_text() == "saved"
        assert b"never" not in box.log(run)
        assert client.stop(run.number)[1] is False

    def test_who_ignores_it_is_killed_after_the_grace(self, box: Box) -> None:
        client = box.client()
        run = submit(client, IGNORES_TERM)
        box.lines(run, 1)
        asked_at = time.monotonic()
        client.stop(run.number, grace=1.5)
        end = ended(client, run)
        assert time.monotonic() - asked_at >= 1.5
        assert (end.state, end.code) == (RunState.STOPPED, 137)
        assert (box.folder(run) / "out" / "saved.txt").read_text() == "saved"
        assert not box.processes("time.sleep(61)")

    def test_kill(self, box: Box) -> None:
        client = box.client()
        run = submit(client, f"setsid {IGNORES_TERM.removeprefix('exec ')} & {IGNORES_TERM}")
        box.lines(run, 2)
        client.kill(run.number)
        end = ended(client, run, 5)
        assert (end.state, end.reason, end.code) == (RunState.KILLED, Reason.KILLED, 137)
        assert not box.processes("time.sleep(61)")
        assert not (box.folder(run) / "out").exists()
        assert (box.folder(run) / "work" / "saved.txt").read_text() == "saved"
        until(lambda: not box.containers())
        assert client.remove(Resource.parse(f"runs/{run.number}"))
        assert not box.folder(run).exists()
