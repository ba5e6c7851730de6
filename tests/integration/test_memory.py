"""How much memory the upkeep of a large home takes, and a client whatever a machine says."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.home import Home
from remoterun.hosts.bundle import AgentBundle, agent_bundle
from remoterun.model import MachineType, by_our_clock, new_key
from remoterun.registry import Registry
from tests.workshop import sha256, until

MEMORY = """
import sys
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.%s

def most():
    "The most memory that this process has had, in KB; what `getrusage` says is inherited from the one that started it."
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

home = Home.open(sys.argv[1])
before = most()
%s
print(most() - before)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Its two uploads have lists of files, and no files."""
    home = Home.open(str(tmp_path_factory.mktemp("memory") / "home"))
    lines = [b"remoterun-tree 1\n"]
    for number in range(200_000):
        lines.append(b'["f","%06d",1,"%s",0]\n' % (number, sha256(b"%d" % number).encode()))
    text = b"".join(lines)
    for name in ("one", "two"):
        folder = Path(home.uploads.folder, name)
        folder.mkdir()
        (folder / "1.tree").write_bytes(text)
        (folder / "versions.json").write_text(
            json.dumps([{"version": 1, "digest": sha256(text), "size": 200000, "files": 200000, "created": 1.0}])
        )
        (folder / "1").mkdir()
    return home


@pytest.mark.parametrize(
    "body",
    [
        ("usage import UsageReport", "UsageReport(home, lambda **_: None).run()"),
        ("gc import Collection, Collect", "Collection(home, Collect(1, True, 1.0, True), lambda **_: None).run()"),
        ("check import Check", "Check(home, True, lambda **_: None)._read_lists()"),
    ],
    ids=lambda body: body[0].split()[0],
)
def test_of_two_lists_of_files(home: Home, body: tuple[str, str]) -> None:
    """By the lists of files alone: 200,000 digests twice, in KB: a set of hex strings would take 40 MB more."""
    done = subprocess.run([sys.executable, "-c", MEMORY % body, home.path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000


HOSTILE = """
import os, time
from agent.shared.frames import DATA, encode
from agent.shared.measured import MOST_POINTS, POINT
from agent.shared.protocol import MAGIC, Link, Stream
from agent.shared.tree import HEADER

BLOCK = POINT.pack(0, 1, 1, 1) * (1 << 15)

def all_of(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]

def pump(taker):
    while True:
        data = os.read(0, 1 << 16)
        if not data:
            return
        taker(memoryview(data))

def answer(stream, op, asked):
    key = asked.get("key", "")
    status = {"key": key, "state": "running", "created": time.time()}
    if op == "runs":
        stream.end(runs=[dict(status, key=key) for key in asked["keys"]])
    elif op == "run":
        stream.end(status=status, spec={}, folder="/", events=[])
    elif op == "measured":
        end = MOST_POINTS * POINT.size // len(BLOCK) * len(BLOCK)
        for at in range(asked["metrics"], end, len(BLOCK)):
            stream.send(BLOCK, metrics=at)
        stream.end(metrics=end, usage=0, names=0, status=status)
    elif op == "log_part":
        for _ in range(255):
            stream.send(bytes(1 << 20))
        stream.end(start=0, total=0)
    elif op == "tree":
        stream.send(HEADER)
        line = b'["f","below/%s%%06d",1,"%s",0]\\n' % ((b"x" * 250 + b"/") * 15, b"1" * 64)
        for number in range(52_000):
            stream.send(line % number)
        stream.end()
    else:
        stream.fail("unknown_request", "not here")

all_of(1, MAGIC + encode(0, DATA, {"home_id": "evil", "time": time.time()}))
Link(pump, lambda *parts: all_of(1, b"".join(parts)), answer).run()
"""
MOST = 300 << 10
"""KB of a client, whatever a machine says."""
RUNS = 3


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client whose own machine is hostile, with runs on it."""
    home, sources = tmp_path / "home", agent_bundle().sources
    with contextlib.closing(Registry(home / "registry.db")) as registry:
        for _ in range(RUNS):
            run = registry.add_run(new_key(), MachineType("local"), "true", time.time())
            run = registry.set_host(run, run.machine, "evil")
            registry.update(run, by_our_clock(RunStatus(run.key, RunState.RUNNING)), time.time())
    (home / "agent").mkdir(mode=0o700)
    bundle = AgentBundle({**sources, "__main__.py": HOSTILE.encode()})
    (home / "agent" / agent_bundle().file_name).write_bytes(bundle.data)
    yield {**os.environ, "REMOTERUN_HOME": str(home)}


def started(evil: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "remoterun", *words], env=evil, stdout=subprocess.PIPE, text=True)


def peak(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0])


def test_a_page_of_a_hostile_machine(evil: dict[str, str]) -> None:
    """128 MB of points of each run, and a log of 255 MB where none was asked for."""
    with started(evil, "ui", "--no-browser") as page:
        try:
            address = page.stdout.readline().strip()  # type: ignore[union-attr]
            with ThreadPoolExecutor(RUNS) as pool:
                names = pool.map(lambda number: read(f"{address}api/runs/{number}/names"), range(1, RUNS + 1))
                assert [json.loads(each)["metrics"] for each in names] == [122 << 20] * RUNS
                parts = [*pool.map(lambda number: read(f"{address}api/runs/{number}/points?from=96"), range(1, 4))]
                assert all(len(part) % 32 == 0 and part for part in parts)
            assert peak(page) < MOST
            with urllib.request.urlopen(f"{address}events?run=1", timeout=60) as events:
                until(lambda: peak(page) > MOST or b"more than 0 bytes" in events.readline())
            assert peak(page) < MOST
        finally:
            page.terminate()


def read(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


def test_a_list_of_a_hostile_machine(evil: dict[str, str]) -> None:
    with started(evil, "ls", "runs/1") as lists:
        assert lists.stdout is not None
        lists.stdout.readline()
        assert peak(lists) < MOST
        lists.stdout.read()
