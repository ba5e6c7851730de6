"""A client that rents, and one that is killed while a call is under way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import remoterun.client
from remoterun.clouds.aws.front import Settings
from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.base import (
    Intent,
    Leftover,
    RentedHost,
    unheard,
)
from remoterun.clouds.folder import HostFolder
from remoterun.config import ArchivePlace, Config
from remoterun.hosts import host_of
from remoterun.hosts.base import NOBODY
from remoterun.hosts.ssh.host import SSHHost
from remoterun.model import MachineType, Rental, new_key
from tests.workshop import until

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.gate import Call
    from tests.e2e.conftest import Place


class Stop:
    """Sends a client a signal while a call is under way, or `heard`: once it has heard the answer, so at the call after
    it. A context manager; `call` is the one at which it was sent."""

    def __init__(
        self, cloud: Cloud, process: subprocess.Popen[str], signal: signal.Signals, action: str, heard: bool
    ) -> None:
        self.call: Call | None = None
        self._cloud, self._process, self._signal = cloud, process, signal
        self._action, self._heard, self._is_next = action, heard, False

    def __enter__(self) -> Stop:
        self._cloud.at_call = self._at
        return self

    def __exit__(self, *_: object) -> None:
        self._cloud.at_call = lambda call: None

    def _at(self, call: Call) -> None:
        if self.call is None and (self._is_next or (call.action == self._action and not self._heard)):
            self.call = call
            self._process.send_signal(self._signal)
            if self._signal == signal.SIGKILL:
                self._process.wait()
        self._is_next = call.action == self._action


T4 = MachineType("t4", rental=Rental("aws", ("g4dn.xlarge",)))


class Client:
    """A laptop with a home: the provider, and what it said."""

    def __init__(self, home: Path, settings: Settings | None = None) -> None:
        self.home = home
        own = settings or Settings()
        self.config = Config(home, providers={"aws": own}, archive=ArchivePlace(own.bucket, endpoint=own.endpoint))
        self.aws = AWS(self.config)
        self.said: list[str] = []

    def intent(self, machine: MachineType = T4, seconds: float = 3600.0) -> Intent:
        key, now = new_key(), time.time()
        return Intent(f"rr-{key}-1", key, 7, 1, machine, now + seconds, 600.0)

    def acquire(
        self,
        intent: Intent | None = None,
        say: Callable[[str], None] | None = None,
        note: Callable[[str], None] = unheard,
    ) -> RentedHost:
        intent = intent or self.intent()
        return self.aws.acquire(intent, self.aws.offers(intent.machine, True), say or self.said.append, note)

    def folder(self, token: str) -> HostFolder:
        return HostFolder(self.home, token)

    def run(self, rented: RentedHost, *words: str) -> str:
        assert rented.machine is not None
        host = host_of(rented.machine, self.config, NOBODY)
        assert isinstance(host, SSHHost)
        try:
            done = host.run(words, 30)
        finally:
            host.close()
        assert done.status == 0, done
        return done.output

    def clear_all(self) -> list[str]:
        """`machines gc aws`: what it clears."""
        with remoterun.client.Client(self.config) as client:
            found = client.hosts.leftovers()
            for leftover in found:
                client.hosts.clear(leftover)
        return [leftover.kind for leftover in found]

    def leftovers(self) -> Sequence[Leftover]:
        with remoterun.client.Client(self.config) as client:
            return client.hosts.leftovers()


def gone(cloud: Cloud) -> None:
    """Wait until nothing costs anything any more."""
    until(lambda: all(each.state == "terminated" for each in cloud.machines.values()), 120, "all hosts are gone")


def own_program(place: Place, root: Path) -> None:
    """`pod`, a machine type of a program whose containers are below `root`."""
    root.mkdir()
    program = root.parent / "pod.sh"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {CONTAINERS} {root}\n")
    program.chmod(0o755)
    place.run("machines", "add", "pod", "--command", "RTX4090", "--program", str(program), "--idle", "5s")
