"""A host that changes one value of what a real agent answers: each command ends well, or with an error that is not a
fault of ours."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.serve import Server
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.store.home import Home
from remoterun.cli.main import main
from remoterun.hosts import HOSTS
from remoterun.model import Mount, RunRequest
from tests.hostile import FakeHost
from tests.workshop import User, write_files

TIMES = int(os.environ.get("REMOTERUN_CHANGED_ANSWERS", "100"))
"""How many commands meet one; another number is also another choice of them."""
ODD = [None, "", "x", "\x1b[2J\u202e", "../x", -1, 0, 10**17, 10**400, 1e308, math.inf, math.nan, [], {}, True, [[]],
       "a" * 5000, [None], {"": None}]  # fmt: skip
COMMANDS = [
    "metrics 1 2", "metrics 1 --csv", "metrics 2 --plot", "metrics 1 --json",
    "ps", "ps --json", "ps -v", "info 1", "info 1 --json", "logs 1", "logs 1 -n 2", "logs 1 --timestamps", "ls runs/1",
    "ls uploads", "ls uploads/doom", "ls uploads/doom --versions", "diff 1 2", "rerun 1 --dry-run", "cp runs/1 got -y",
    "cp runs/1/metrics.jsonl -", "machines status", "machines df one", "machines check one",
    "machines gc one --dry-run", "doctor one", "top --once", "stop 1", "kill 1", "wait 1", "upload data --name doom",
]  # fmt: skip
Place = tuple[Any, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The way to each value within one."""
    yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in pairs:
        yield from places(each, (*at, name))


class Changing:
    """The stream of an agent, in whose answers one value is another."""

    def __init__(self, stream: Stream, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._stream, self._change = stream, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)

    def send(self, body: Any = b"", **header: Any) -> None:
        self._stream.send(body, **self._change(header))

    def end(self, **result: Any) -> None:
        self._stream.end(**self._change(result))


class Host:
    """All hosts of the commands under test. `chance`: of an answer that one of its values is another."""

    def __init__(self, home: Home, chance: random.Random) -> None:
        self.server, self.chance, self.on, self.said = Server(home), chance, 0.0, ""

    def handle(self, stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        def change(fields: dict[str, Any]) -> dict[str, Any]:
            if not fields or self.chance.random() > self.on:
                return fields
            changed = copy.deepcopy({"": fields})
            *way, last = self.chance.choice([("", *place) for place in places(fields) if place])
            into: Any = changed
            for name in way:
                into = into[name]
            into[last] = self.chance.choice(ODD)
            self.said = f"{op}: {[*way, last]} = {into[last]!r:.40}"
            return changed[""]

        self.server.handle(Changing(stream, change), op, arguments)  # type: ignore[arg-type]


HOST: list[Host] = []


def of_machine(*_: Any) -> FakeHost:
    return FakeHost(HOST[0].handle)


def test_no_command_has_a_fault(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    write_files(tmp_path / "work", {"data/in": "text\n", "a.py": "print(1)\n"})
    monkeypatch.chdir(tmp_path / "work")
    client = user.client
    client.uploads.upload(Path("data"), "doom", "one")
    command = """printf '{"loss": 1, "step": 1}\\n{"loss": 0.5, "step": 2}\\n' >metrics.jsonl; echo said"""
    for number in (1, 2):
        asked = RunRequest(f"{command} {number}", mounts=(Mount.parse("uploads/doom:d"),), ports=(PortSpec(7000),))
        run = client.runs.submit(asked, user.source({"a.py": f"{number}\n", "b": "b\n"}))
        for _ in client.runs.follow(run.number):
            pass
        client.connections.registry.set_host(client.runs.get(number), run.machine, "evil")
    client.close()
    home = user.config.home
    (home / "config.toml").write_text(
        f'default = "one"\n[machines.one]\nengine = "process"\nhome = "{user.place("one").folder}"\n'
    )
    saved = {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
    monkeypatch.setenv("REMOTERUN_HOME", str(home))
    HOST[:] = [Host(user.place("one").home, random.Random(TIMES))]
    monkeypatch.setitem(HOSTS, "local", f"{__name__}.of_machine")
    faults = set()
    for _ in range(TIMES):
        words = HOST[0].chance.choice(COMMANDS)
        HOST[0].on, HOST[0].said = HOST[0].chance.choice([0.3, 1.0]), ""
        status = main(words.split())
        _, err = capfd.readouterr()
        if "has a fault" in err or status not in (0, 1, 2, 125, 130):
            faults.add(f"{words}: {HOST[0].said}: {err[-300:]}")
        for path, data in saved.items():
            path.write_bytes(data)
    assert not faults
