"""A host of the lab as a user has it, who follows runs there from several terminals."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from remoterun.client import Client
from remoterun.client.runs.following import Item, LogBytes, Note, StateChange, Wanted
from remoterun.config import Config
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Run, RunRequest
from tests.lab import BASE_IMAGE, Lab, LabHost, Process
from tests.workshop import until

COUNT = """exec python3 -c '
import os, sys, time
for number in range({lines}):
    while number == {hold} and not os.path.exists("go"):
        time.sleep(0.02)
    print("line %06d" % number)
    time.sleep({pause})
sys.exit({code})
'"""


def counting(lines: int, seconds: float, code: int = 0, hold: int = -1) -> str:
    """A command that prints numbered lines for about so long. Before the line `hold` it waits for `Box.go`."""
    return COUNT.format(lines=lines, pause=seconds / lines, code=code, hold=hold)


def counted(lines: int) -> bytes:
    """All that it prints."""
    return b"".join(b"line %06d\n" % number for number in range(lines))


@dataclass
class Box:
    """A host as the user of this test has it: with a home of its own there, and one here."""

    lab: Lab
    host: LabHost
    here: Path
    there: str
    clients: list[Client] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)
    cuts: int = field(init=False)

    def __post_init__(self) -> None:
        self.cuts = self.host.cuts

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

    @property
    def home(self) -> Path:
        return self.host.path(f"/home/{self.host.user}/{self.there}")

    def folder(self, run: Run) -> Path:
        return self.home / "runs" / run.key

    def log(self, run: Run) -> bytes:
        """What is in the log's file on the host."""
        try:
            return (self.folder(run) / "io" / "log").read_bytes()
        except FileNotFoundError:
            return b""

    def lines(self, run: Run, number: int) -> None:
        """Wait until the log has so many lines."""
        until(lambda: self.log(run).count(b"\n") >= number)

    def processes(self, *words: str) -> list[Process]:
        """The processes of the host whose command line has all these words."""
        return [process for process in self.host.processes() if all(word in process.command for word in words)]

    def kill(self, *words: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill what has these words in its command line; something must."""
        found = until(lambda: self.processes(*words))
        self.host.exec(["kill", f"-{number.value}", *(str(process.pid) for process in found)])

    def fill(self, leave: int = 0) -> None:
        """Fill the disk of the host's homes, to the last block."""
        self.host.fill_home()
        ballast = ["of=/home/ballast", "bs=1k", "oflag=append", "conv=notrunc", "status=none"]
        self.host.exec(["dd", "if=/dev/zero", *ballast])
        if leave:
            self.host.exec(["truncate", f"--size=-{leave}", "/home/ballast"], check=True)

    def go(self, run: Run, name: str = "go") -> None:
        """A file in the run's folder, for which `WAIT_FOR_GO` and `counting` wait."""
        self.host.exec_user(["touch", str(Path("/home", self.host.user, self.there, "runs", run.key, "work", name))])

    def containers(self, show: str = "{{.ID}}") -> list[str]:
        return self.host.exec(["docker", "ps", "--all", "--format", show]).stdout.split()

    def clean_up(self) -> None:
        for client in self.clients:
            client.close()
        for follow in self.follows:
            follow.join(20)
        if not self.host.is_up() or not self.home.exists():
            return
        self.host.mend()
        left: list[str] = []
        with Client(self.config()) as client:
            client.uploads.list()  # any contact goes on with what a fault has left undone
            for run in client.runs.list(None):
                if not run.final:
                    left.append(f"run {run.number} is {run.state.value}")
                    with suppress(RemoterunError):
                        client.runs.kill(run.number)
        if left:  # the test has failed already, or should have
            pytest.fail(", ".join(left))
        if self.host.exec(["which", "docker"]).returncode == 0:
            until(lambda: not self.containers())
        if self.host.cuts > self.cuts:  # what our kernel gave up without a word, the host's has not yet
            self.host.sever()
        until(lambda: not self.processes(".pyz"))
        self.host.exec(["rm", "-rf", f"/home/{self.host.user}/{self.there}"], check=True)  # it may be a small disk


class Follow(threading.Thread):
    """`client.runs.follow` in another terminal: what it yields, as it comes."""

    def __init__(self, client: Client, number: int, options: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.number = number
        self.options = options
        self.items: list[Item] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for item in self.client.runs.follow(self.number, Wanted(**self.options)):
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
        until(lambda: self.error or self.text.count(b"\n") >= number)

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


def submit(client: Client, command: str, **more: Any) -> Run:
    return client.runs.submit(RunRequest(command, image=BASE_IMAGE, **more))
