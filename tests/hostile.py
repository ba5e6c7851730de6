"""A host that answers whatever a test has it say."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from remoterun.agent.shared.frames import DATA, encode
from remoterun.agent.shared.protocol import Handler, Link, Stream
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.config import Config
from remoterun.model import MachineType
from remoterun.session import Session
from tests.workshop import pumped

UPLOAD = ResourceRef("upload", "doom")


class FakeHost:
    """A host whose agent is `handler`, in this process."""

    name = "evil"

    def __init__(self, handler: Handler, clock: float | None = None) -> None:
        self._handler = handler
        self._clock = clock

    def open(self) -> FakePipe:
        return FakePipe(self._handler, self._clock)

    def close(self) -> None:
        pass


class FakePipe:
    round_trip = 0.0

    def __init__(self, handler: Handler, clock: float | None = None) -> None:
        self._here, self._there = socket.socketpair()
        agent = Link(pumped(self._there.recv), lambda *parts: self._there.sendall(b"".join(parts)), handler)
        agent.write(encode(0, DATA, {"home_id": "evil", "time": clock or time.time()}))
        self._thread = threading.Thread(target=agent.run)
        self._thread.start()

    def read(self, limit: int) -> bytes:
        return self._here.recv(limit)

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        pumped(self.read)(taker)

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        self._here.sendall(b"".join(parts))

    def close(self) -> None:
        for end in (self._here, self._there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._here.close()
        self._there.close()

    def diagnosis(self) -> str:
        return ""


Frames = list[tuple[dict[str, Any], bytes]]


@contextlib.contextmanager
def lying(rows: bytes, frames: Frames, **result: Any) -> Iterator[Session]:
    """A session with an agent that answers `tree` with `rows`, and whatever else with `frames`."""

    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            if op == "tree":
                stream.send(rows)
                stream.end(**result)
                return
            for header, body in frames:
                stream.send(body, **header)
            stream.finish(5)
            stream.end()

    with contextlib.closing(Session(MachineType("evil"), FakeHost(handler))) as session:
        yield session


@contextlib.contextmanager
def client_of(
    folder: Path, handler: Handler, keys: str = "ab", created: float | None = None, clock: float | None = None
) -> Iterator[Client]:
    """A client with runs, each of a letter in `keys`, on a machine whose agent is `handler`; `clock`: its own."""
    machine = MachineType("evil")
    with Client(Config(folder / "home", "evil", {"evil": machine})) as client:
        registry = client.connections.registry
        for letter in keys:
            run = registry.add_run(letter * 26, machine, "true", created or time.time())
            registry.change_state(run, RunState.RUNNING, created or time.time())
            registry.set_host(run, machine, "evil")
        client.connections._sessions[machine] = Session(machine, FakeHost(handler, clock))
        yield client
