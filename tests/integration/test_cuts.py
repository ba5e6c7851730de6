"""Transfers that are cut at any byte, again and again, in both directions: what arrives in the end is what was sent,
and of what had arrived nothing comes again.

Cut are the pipe, the agent (SIGKILL), the client (SIGKILL), and the link of a host that is far away. Files are small
and large; large ones are like those that are there, and go over several connections too.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import MAX_BODY
from remoterun.agent.shared.protocol import WINDOW
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.store.home import Home
from remoterun.client import Client
from remoterun.config import Config
from remoterun.errors import LinkLost, RemoterunError
from remoterun.hosts.base import Pipe
from remoterun.hosts.local import LocalHost, ProcessPipe
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.transfer import Progress, Sent, lanes, read_tree, refuse, send_tree
from tests.homes import sound
from tests.lab import Docker, Lab, LabHost
from tests.workshop import fetch, read_files, until

REPOSITORY = Path(__file__).resolve().parents[2]
UPLOAD = ResourceRef("upload", "doom")
BIG = 7 << 20


class Budget:
    """So many bytes pass in one direction, over all connections together; then they are cut."""

    def __init__(self, written: float, read: float, kill: bool) -> None:
        self._left = {"written": written, "read": read}
        self._kill = kill
        self._taking = threading.Lock()
        self._pipes: list[ProcessPipe] = []
        self.cut = False
        self.passed = 0

    def add(self, pipe: ProcessPipe) -> None:
        with self._taking:
            self._pipes.append(pipe)

    def take(self, direction: str, size: int) -> int:
        """How many of `size` bytes may pass; if not all of them may, `end` is to be called when they have."""
        with self._taking:
            size = 0 if self.cut else int(min(size, self._left[direction]))
            self._left[direction] -= size
            self.passed += size
            return size

    def end(self) -> None:
        with self._taking:
            self.cut = True
            pipes = list(self._pipes)
        for pipe in pipes:
            if self._kill:
                pipe._process.kill()
            else:
                pipe._stdin.close()


class CutPipe:
    """A pipe to a real agent that counts."""

    round_trip = 0.0

    def __init__(self, pipe: ProcessPipe, budget: Budget) -> None:
        self._pipe, self._budget = pipe, budget
        budget.add(pipe)

    def read(self, limit: int) -> bytes:
        data = self._pipe.read(limit)
        size = self._budget.take("read", len(data))
        if size < len(data):
            self._budget.end()
        return data[:size]

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        def take(data: memoryview) -> None:
            size = self._budget.take("read", len(data))
            taker(data[:size])
            if size < len(data):
                self._budget.end()

        self._pipe.pump(take)

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        for part in parts:
            size = self._budget.take("written", len(part))
            self._pipe.write(memoryview(part)[:size])
            if size < len(part):
                self._budget.end()
                raise LinkLost("the link was cut")

    def close(self) -> None:
        self._pipe.close()

    def diagnosis(self) -> str:
        return self._pipe.diagnosis()


class CutHost(LocalHost):
    def __init__(self, home: Path, budget: Budget) -> None:
        super().__init__(home)
        self._budget = budget

    def open(self) -> Pipe:
        pipe = super().open()
        assert isinstance(pipe, ProcessPipe)
        return CutPipe(pipe, self._budget)


@contextmanager
def session(home: Path, budget: Budget | None = None) -> Iterator[Session]:
    def host() -> LocalHost:
        return CutHost(home, budget) if budget else LocalHost(home)

    session = Session(MachineType("here"), host(), host)
    try:
        yield session
    finally:
        session.close()


def held(home: Home) -> int:
    """Bytes of the blobs that are there, whole or begun."""
    begun = sum(home.blobs.partial_size(name) for name in os.listdir(home.partial))
    return begun + sum(path.stat().st_size for path in Path(home.blobs.folder).rglob("*") if path.is_file())


class Tree:
    """A folder of small files and two large ones. `change` makes a next version of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        folder.mkdir()
        self.big = self.chance.randbytes(BIG)
        self.change()

    def change(self) -> None:
        chance = self.chance
        for number in range(30):
            path = self.folder / f"part-{number % 5}" / f"{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(chance.randbytes(chance.randrange(30_000)))
        self._write("new", chance.randbytes(BIG))
        at = chance.randrange(BIG)
        self.big = self.big[:at] + chance.randbytes(chance.randrange(2 << 20)) + self.big[at : BIG - 5]
        self._write("like", self.big)

    def _write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(params=["near", "far"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "far":  # several connections, whatever the round trip
        monkeypatch.setattr(lanes, "FAR", -1.0)
        monkeypatch.setattr(lanes, "WORTH", 4 << 20)
    return str(request.param)


CUTS = {"near": 30, "far": 20}
UNDER_WAY = WINDOW + 4 * MAX_BODY
"""Bytes of one connection that were sent and had not been read, or not been written down, when it was cut."""


def test_who_is_about_to_read_a_pipe_that_is_closed_reads_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a descriptor that was closed is at once that of the next file, such as another agent's pipe."""
    (tmp_path / "other").write_bytes(b"of somebody else")
    begun, closed, heard = threading.Event(), threading.Event(), []
    readv = os.readv

    def late(number: int, into: list[memoryview]) -> int:
        begun.set()
        assert closed.wait(60)
        return readv(number, into)

    pipe = LocalHost(tmp_path / "home").open()
    monkeypatch.setattr(os, "readv", late)
    reader = threading.Thread(target=pipe.pump, args=(lambda data: heard.append(bytes(data)),))
    reader.start()
    assert begun.wait(60)
    pipe.close()
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(open(tmp_path / "other", "rb"))
        closed.set()
        reader.join(60)
    assert b"of somebody else" not in heard
    with pytest.raises(LinkLost):
        pipe.write(b"to nobody")


class TestCutsOfThePipe:
    def test_uploads(self, tmp_path: Path, way: str) -> None:
        chance = random.Random(f"up {way}")
        home = Home.open(str(tmp_path / "home"))
        tree = Tree(tmp_path / "tree", 1)
        cache = tmp_path / "digests"
        cuts = versions = 0
        while cuts < CUTS[way]:
            before = held(home)
            budget = Budget(chance.choice([5e3, 2e5, 8e6, 2e7]) * chance.random(), float("inf"), chance.random() < 0.5)
            sent = self.upload(home, tree.folder, cache if chance.random() < 0.7 else None, budget)
            if sent is None:
                cuts += 1
                assert budget.cut
                lost = budget.passed - (held(home) - before)
                assert lost <= UNDER_WAY * (2 if way == "far" else 1) + 200_000, "what had arrived is gone"
                if cuts % 5:
                    continue
                sent = self.upload(home, tree.folder, cache, None)
                assert sent is not None
            versions += 1
            stored = home.uploads.stored("doom")
            assert stored.about["version"] == versions
            assert read_files(Path(stored.folder)) == read_files(tree.folder)
            assert sent.size + sent.already == tree.size
            tree.change()
        assert versions > 3
        sound(home)

    def upload(self, home: Home, folder: Path, digests: Path | None, budget: Budget | None) -> Sent | None:
        """None: it was cut."""
        try:
            with session(Path(home.path), budget) as here:
                manifest, sent = send_tree(here, read_tree(folder, digests), {}, Progress(), "doom")
                here.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
                return sent
        except RemoterunError:
            if budget is None or not budget.cut:
                raise
            return None

    def test_copies(self, tmp_path: Path, way: str) -> None:
        chance = random.Random(f"down {way}")
        home = tmp_path / "home"
        tree = Tree(tmp_path / "tree", 2)
        target = tmp_path / "target"
        self.store(home, tree)
        cuts = finished = 0
        while cuts < CUTS[way]:
            budget = Budget(float("inf"), chance.choice([5e3, 2e5, 8e6, 2e7]) * chance.random(), chance.random() < 0.5)
            if not self.copy(home, target, budget):
                cuts += 1
                self.nothing_stands_there_in_part(tree, target)
                if cuts % 5:
                    continue
                assert self.copy(home, target, None)
            finished += 1
            assert read_files(target) == read_files(tree.folder)
            if finished % 2:
                target = tmp_path / f"target{finished}"
            else:  # what is there is replaced
                tree.change()
                self.store(home, tree)
        assert finished > 3

    def store(self, home: Path, tree: Tree) -> None:
        with session(home) as here:
            manifest, _ = send_tree(here, read_tree(tree.folder), {}, Progress())
            here.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
        self.versions = [*getattr(self, "versions", [])[-1:], read_files(tree.folder)]

    def copy(self, home: Path, target: Path, budget: Budget | None) -> bool:
        """Whether it was not cut."""
        try:
            with session(home, budget) as here:
                fetch(here, UPLOAD, target, lambda path: True, Progress())
                return True
        except RemoterunError:
            if budget is None or not budget.cut:
                raise
            return False

    def nothing_stands_there_in_part(self, tree: Tree, target: Path) -> None:
        """Each file is that of this version, or of the one before; what is not whole has no name that anybody knows."""
        for name, content in read_files(target).items():
            if not name.rpartition("/")[2].endswith(".remoterun"):
                assert content in [version.get(name) for version in self.versions], f"{name} stands there in part"


KILLED = """
import json, os, signal, sys
from pathlib import Path
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.hosts.local import LocalHost
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.host_store import HostStore
from remoterun.transfer import Progress, read_tree, send_tree
home, path, digests, size, up = json.loads(sys.argv[1])
def report(progress):
    if progress.bytes_done >= size:
        os.kill(os.getpid(), signal.SIGKILL)
session = Session(MachineType("here"), LocalHost(Path(home)))
if up:
    manifest, _ = send_tree(session, read_tree(Path(path), Path(digests)), {}, Progress(report), "doom")
    session.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
else:
    HostStore(session).tree(ResourceRef("upload", "doom")).fetch(Path(path), lambda path: True, Progress(report))
session.close()
"""


class TestKilledClients:
    def kill(self, home: Path, path: Path, size: int, up: bool) -> None:
        words = json.dumps([str(home), str(path), str(path.parent / "digests"), size, up])
        killed = subprocess.run([sys.executable, "-c", KILLED, words], cwd=REPOSITORY, timeout=60)
        assert killed.returncode == -signal.SIGKILL

    def test_uploads_and_copies(self, tmp_path: Path) -> None:
        chance = random.Random(7)
        home = Home.open(str(tmp_path / "home"))
        tree = Tree(tmp_path / "tree", 3)
        cuts = TestCutsOfThePipe()
        for _ in range(2):
            for _ in range(3):
                self.kill(Path(home.path), tree.folder, chance.randrange(tree.size), True)
            sent = cuts.upload(home, tree.folder, tmp_path / "digests", None)
            assert sent is not None and sent.size + sent.already == tree.size
            assert read_files(Path(home.uploads.stored("doom").folder)) == read_files(tree.folder)
            for _ in range(3):
                self.kill(Path(home.path), tmp_path / "target", chance.randrange(BIG // 2), False)
            assert cuts.copy(Path(home.path), tmp_path / "target", None)
            left = {name for name in read_files(tmp_path / "target") if name.endswith(".remoterun")}
            assert read_files(tmp_path / "target").items() >= read_files(tree.folder).items()
            assert len(left) <= 6, "a small file each, which a kill left"
            for name in left:
                (tmp_path / "target" / name).unlink()
            tree.change()
        sound(home)


@pytest.mark.lab
class TestFarAway:
    """A real SSH server, 80 ms away: several connections, and all of them are reset at once."""

    def test_there_and_back(self, lab: Lab, new_host: Callable[..., LabHost], tmp_path: Path) -> None:
        host = new_host(docker=Docker.ABSENT)
        tree = Tree(tmp_path / "tree", 5)
        (tree.folder / "new").write_bytes(random.Random(6).randbytes(40 << 20))
        with lab.slow(host, rtt=0.08) as slow:
            machine = MachineType("box", host=slow.alias, home=".cuts")
            config = Config(tmp_path / "here", "box", {"box": machine}, lab.ssh_config())
            severed = Severing(slow.relay, "sending", 0.5)
            with Client(config) as client, pytest.raises(RemoterunError):
                client.uploads.upload(tree.folder, "doom", progress=severed.progress)
            assert severed.done
            with Client(config) as client:  # the one before may not have noticed that its other connections are gone
                done = client.uploads.upload(tree.folder, "doom")
            assert done.sent.already > 10 << 20
            stored = host.path(f"/home/{host.user}/.cuts/uploads/doom/1")
            assert read_files(stored) == read_files(tree.folder)
            severed = Severing(slow.relay, "copying", 0.5)
            with Client(config) as client, pytest.raises(RemoterunError):
                client.files.copy("uploads/doom", tmp_path / "copy", progress=severed.progress)
            assert severed.done
            with Client(config) as client:
                client.files.copy("uploads/doom", tmp_path / "copy", refuse)
            assert read_files(tmp_path / "copy") == read_files(tree.folder)
            until(lambda: not list(host.path(f"/home/{host.user}/.cuts/partial").iterdir()))


class Severing:
    """Reset every connection once this share of the bytes has passed."""

    def __init__(self, relay: Any, phase: str, share: float) -> None:
        self._relay, self._phase, self._share = relay, phase, share
        self._once = threading.Lock()
        self.done = False
        self.progress = Progress(self._report)

    def _report(self, progress: Progress) -> None:
        if progress.phase == self._phase and progress.bytes_done >= self._share * progress.bytes_total:
            with self._once:
                if not self.done:
                    self.done = True
                    self._relay.sever()
