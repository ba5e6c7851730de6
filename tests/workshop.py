"""Real homes with real agents, and runs made in them with the engine `process`, for tests.

Nothing of TensorFlow is installed: the environments of these homes are one venv, built once a session from an empty
requirements file, also under the name that the real requirements would have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from remoterun import environments
from remoterun.agent.running.variants import VARIANTS
from remoterun.agent.serve import Server
from remoterun.agent.shared import api
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.frames import DATA, encode
from remoterun.agent.shared.protocol import Handler, Link, Stream
from remoterun.agent.shared.records import encode as as_json
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import PYTHON, EnvironmentSpec, ResolvedMount, ResourceRef, RunSpec
from remoterun.agent.shared.states import FINAL, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.agent.shared.webhooks import Webhooks
from remoterun.agent.store import outputs
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from remoterun.client import Client
from remoterun.config import Config
from remoterun.host_store import HostStore
from remoterun.hosts.bundle import AgentBundle, agent_bundle
from remoterun.hosts.local import LocalHost
from remoterun.model import MachineType, Run, new_key
from remoterun.session import Session
from remoterun.source import Source, snapshot
from remoterun.transfer import Fetched

Files = dict[str, bytes | str | None]
"""Path to content; None is an empty folder; text `-> TARGET` a link; a path that ends in `*` is executable."""

NO_PACKAGES: Files = {
    "docker/Dockerfile": b"ARG BASE\nFROM ${BASE}\n",
    "docker/requirements-cpu.txt": b"\n",
    "docker/requirements-gpu.txt": b"\n",
    "docker/requirements-gpu-cuda11.txt": b"\n",
    "trainer/__init__.py": b"",
}


SAVES = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""
"""A program that takes a while to save when it is told to end, and then ends with the status that it was given."""


def ask(link: Link, op: str, *data: bytes | tuple[bytes, dict[str, Any]], **arguments: Any) -> Stream:
    """A request with its data, bodies or (body, header): the stream, whose answer is not read yet."""
    stream = link.open(op, **arguments)
    for each in data:
        body, header = each if isinstance(each, tuple) else (each, {})
        stream.send(body, **header)
    stream.end()
    return stream


def call(link: Link, op: str, *data: bytes | tuple[bytes, dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """The result of such a request, which no data comes back with."""
    return ask(link, op, *data, **arguments).finish(120)


def at_once(works: Iterable[Callable[[], object]], seconds: float = 60) -> None:
    """Each in a thread of its own, until all have ended; what one of them raises is raised."""
    pool = ThreadPoolExecutor(100)
    started = [pool.submit(work) for work in works]
    pool.shutdown(wait=False)
    for each in started:
        each.result(seconds)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tree_of(files: Files) -> tuple[Manifest, dict[str, bytes]]:
    """(manifest, content by digest)."""
    entries, blobs = [], {}
    for name, content in files.items():
        path = name.rstrip("*")
        if content is None:
            entries.append(Entry("d", path))
        elif isinstance(content, str) and content.startswith("-> "):
            entries.append(Entry("l", path, target=content[3:]))
        else:
            data = content.encode() if isinstance(content, str) else content
            blobs[sha256(data)] = data
            entries.append(Entry("f", path, len(data), sha256(data), name.endswith("*")))
    return Manifest(entries), blobs


def until(
    condition: Callable[[], Any], seconds: float = 60, what: str | Callable[[], str] = "", pause: float = 0.01
) -> Any:
    """What `condition` returns once that is true; fails after `seconds`. One that takes long is asked less often: two
    thirds of the time are for what is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        found = condition()
        if found:
            return found
        now = time.monotonic()
        if now > deadline:
            pytest.fail(f"not within {seconds} s: {what() if callable(what) else what or condition}")
        time.sleep(max(pause, 2 * (now - asked)))


def spec_of(command: str = "true", **changed: Any) -> RunSpec:
    """A spec with a key of its own; nothing of its environment exists."""
    spec = RunSpec(new_key(), 1, time.time(), "local", command, EnvironmentSpec("none", "cpu", "ab" * 32))
    return spec._replace(**changed)


def create_run(
    home: Home, spec: RunSpec, source: Manifest | None = None, mounts: Sequence[ResolvedMount] = (), **more: Any
) -> RunFolder:
    """A run put into a home by hand. `more`: fields of its `Submission`."""
    asked = Submission(spec, **{"values": {}, "source": (source or Manifest([])).encode(), **more})
    return home.create_run(asked, tuple(mounts))


def fetch(session: Session, resource: ResourceRef, target: Path, *how: Any, **more: Any) -> Fetched:
    """Copy a resource of a host, as `cp` does."""
    return HostStore(session).tree(resource).fetch(target, *how, **more)


class Place:
    """A home and sessions with its agent. `close` ends every run that still goes on."""

    def __init__(self, folder: Path, environment: Path | None = None) -> None:
        self.folder = folder
        self.home = Home.open(str(folder))
        self._session: Session | None = None
        if environment is not None:
            lend(environment, self.home)
        context, blobs = tree_of(NO_PACKAGES)
        for data in (*blobs.values(), context.encode()):
            self.home.blobs.put(data)
        self.context = context.digest

    def close(self) -> None:
        self.drop_session()  # its agent may have been killed a moment ago, of which the session may not know yet
        try:
            for key in self.home.run_keys():
                self.session.ask(api.end, api.EndRuns([key], None))
            for key in self.home.run_keys():
                self.until_final(key)
                until(self.unsupervised(key), what="the supervisor ends")
        finally:
            self.drop_session()

    @property
    def session(self) -> Session:
        if self._session is None or not self._session.alive:
            self.drop_session()
            self._session = Session(MachineType("local"), LocalHost(self.folder))
        return self._session

    def drop_session(self) -> None:
        """As a laptop that is closed."""
        if self._session is not None:
            self._session.close()
            self._session = None

    # -- trees and uploads

    def put(self, files: Files) -> Manifest:
        manifest, blobs = tree_of(files)
        for data in blobs.values():
            self.home.blobs.put(data)
        return manifest

    def upload(self, name: str, files: Files) -> dict[str, Any]:
        return self.home.uploads.commit(name, self.put(files))[0]

    # -- runs

    def spec(self, command: str, source: Manifest | None = None, **changed: Any) -> RunSpec:
        return spec_of(
            command,
            environment=EnvironmentSpec("none", "cpu", self.context),
            source=(source or Manifest([])).digest,
            engine="process",
            slots=50,
        )._replace(**changed)

    def submit(
        self,
        command: str,
        files: Files | None = None,
        values: dict[str, str] | None = None,
        webhooks: Webhooks = Webhooks(),  # noqa: B008
        **changed: Any,
    ) -> str:
        """The key of a new run. `values`: variables of the user's."""
        source = self.put(files or {})
        spec = self.spec(command, source, asked_env=tuple(values or ()), **changed)
        asked = Submission(spec, values or {}, source.encode(), webhooks=webhooks)
        self.session.ask(api.submit, api.Nothing(), asked.encode())
        return spec.key

    def run(self, key: str) -> RunFolder:
        return self.home.run(key)

    def state(self, key: str) -> RunState:
        return self.run(key).state()[0]

    def until_state(self, key: str, *states: RunState, seconds: float = 60) -> dict[str, Any]:
        """The run's status once it is in one of the states."""
        until(lambda: self.state(key) in states, seconds, lambda: f"{states}; events: {self.run(key).events()}")
        status: dict[str, Any] = to_json(self.run(key).status())
        return status

    def until_final(self, key: str, seconds: float = 60) -> dict[str, Any]:
        return self.until_state(key, *FINAL, seconds=seconds)

    def end(self, key: str, how: str) -> api.Acknowledgement:
        """`how`: "stop" or "kill"."""
        return self.session.ask(api.end, api.EndRuns([key], 10.0 if how == "stop" else None)).runs[0]

    def until_status(self, key: str) -> dict[str, Any]:
        """The status at the end of a run that was put into the home by hand: this contact starts its supervisor."""
        self.session.ask(api.runs, api.RunKeys([key]))
        return self.until_final(key)

    def until_says(self, key: str, text: bytes, seconds: float = 60) -> None:
        until(lambda: text in self.log(key), seconds, lambda: f"{text!r} in the log: {self.run(key).events()}")

    def log(self, key: str) -> bytes:
        try:
            return Path(self.run(key).log).read_bytes()
        except FileNotFoundError:
            return b""

    def outputs(self, key: str) -> Files:
        """The saved outputs as their files are on the disk; what the manifest says is compared with it."""
        stored = outputs.saved(self.run(key))
        assert stored is not None, self.run(key).events()
        found = read_files(Path(stored.folder))
        assert tree_of(found)[0].encode() == stored.manifest().encode()
        return found

    def unsupervised(self, key: str) -> Callable[[], bool]:
        return lambda: not self.run(key).supervised()

    def supervisors(self, key: str) -> list[int]:
        """The pids of the run's supervisor, and of those that wait to take its place."""
        return [pid for pid in pids() if {b"supervise", key.encode()} <= set(command_line(pid))]

    def supervisor(self, key: str) -> int | None:
        return next(iter(self.supervisors(key)), None)

    def lose_supervisor(self, key: str) -> None:
        """Kill it, and all that wait to take its place: each contact starts one, and so does a run that ends."""
        until(lambda: kill9(pid) if (pid := self.supervisor(key)) else self.unsupervised(key)())


def read_files(root: Path) -> Files:
    """A folder's files, in the words of `Files`."""
    found: Files = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder, name)
            short = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[short] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                if not any(path.iterdir()):
                    found[short] = None
            else:
                found[short + ("*" if path.stat().st_mode & 0o100 else "")] = path.read_bytes()
    return found


def holding(home: Home, text: bytes) -> set[str]:
    """The files of a home that hold `text`, or have it in their names."""
    found = set()
    for folder, _, names in os.walk(home.path):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):
                if text in path.encode() or text in Path(path).read_bytes():
                    found.add(path)
    return found


def fill(disk: Path) -> None:
    """Leave no byte free on a small disk, until its `filler` is deleted. May be repeated."""
    with pytest.raises(OSError, match="No space"), open(disk / "filler", "ab", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: int) -> list[bytes]:
    """Empty for a zombie, or when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def running(mark: str) -> list[int]:
    """Processes with the word `mark` in their command line, such as the number of seconds of a `sleep`."""
    return [pid for pid in pids() if mark.encode() in command_line(pid)]


@contextmanager
def own_port(address: str = "127.0.0.1") -> Iterator[int]:
    """A port that nobody else is given while the block lasts: it is bound here, and nobody listens on it. A server that
    is told to may bind it as well, and listen (SO_REUSEADDR)."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, 0))
        yield int(held.getsockname()[1])


def kill9(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def build_environment(folder: Path) -> Path:
    """A home with the venv of an empty requirements file."""
    place = Place(folder)
    for _ in range(2):  # the first agent leaves its modules beside itself, and the second one leaves them compiled
        key = place.submit("true")
        assert place.until_final(key, 120)["state"] == "complete", place.run(key).status()
        place.close()
    return folder


def lend(seed: Path, home: Home) -> None:
    """Let `home` use the venv that `seed` has, under the name of the real requirements too, and its agent: in a home
    without one, Python compiles it at the first starts, which costs 0.3 s of a processor."""
    (venv,) = (seed / "envs").glob("venv-*")
    for name in {venv.name, *real_environments()}:
        target = Path(home.envs, name)
        if not target.exists():
            target.symlink_to(venv)
    os.makedirs(home.agents, 0o700, exist_ok=True)
    for part in (seed / "agent").iterdir():
        target = Path(home.agents, part.name)
        if not target.exists():
            target.symlink_to(part)


def real_environments() -> set[str]:
    """The names of the environments that have nothing but the real requirements."""
    names = set()
    real = environments.context()[0]
    for variant in (*VARIANTS, PYTHON):
        entry = real.find(f"docker/requirements-{variant}.txt")
        environment = Environment("", variant, "")
        names.add("venv-" + environment.packages_hash(entry.digest if entry is not None else ""))
    return names


# -- a user


class User:
    """A `Client` of a home of its own, with machines whose runs use the engine `process`."""

    def __init__(self, root: Path, environment: Path, names: tuple[str, ...] = ("one", "two")) -> None:
        self.root = root
        self.places = {name: Place(root / name, environment) for name in names}
        self.config = Config(
            root / "laptop",
            default=names[0],
            machines={
                name: MachineType(name, engine="process", home=str(place.folder), slots=20)
                for name, place in self.places.items()
            },
        )
        self.client = Client(self.config)

    def new_client(self) -> Client:
        self.client.close()
        self.client = Client(self.config)
        return self.client

    def source(self, files: Files) -> Source:
        folder = self.root / f"source{len(list(self.root.glob('source*')))}"
        write_files(folder, files)
        return snapshot(folder, no_git=True)

    def place(self, name: str) -> Place:
        return self.places[name]

    def close(self) -> None:
        self.client.close()
        for place in self.places.values():
            place.close()


def lie_about_mounts(place: Place, key: str, content: bytes) -> None:
    """Let a machine say that each mount of a run has held this content, in files of the same names."""
    run = place.home.run(key)
    found = []
    for mount in run.mounts():
        files = place.home.blobs.tree(mount.tree).files
        lie = Manifest([entry._replace(digest=place.home.blobs.put(content), size=len(content)) for entry in files])
        found.append(mount._replace(tree=place.home.blobs.put(lie.encode())))
    Path(run.mounts_file).write_bytes(as_json(found))


def write_files(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.rstrip("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str) and content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            path.chmod(0o755 if name.endswith("*") else 0o644)
    return folder


# -- an agent without a process


@contextmanager
def served(home: Home) -> Iterator[Link]:
    """The client's end of a link to the agent's requests, both in this process, over a socket."""
    with linked(Server(home).handle) as (link, _):
        yield link


def pumped(read: Callable[[int], bytes]) -> Callable[[Callable[[memoryview], None]], None]:
    """As `Link` reads: all that `read` gives until that is nothing."""

    def pump(taker: Callable[[memoryview], None]) -> None:
        while data := read(1 << 16):
            taker(memoryview(data))

    return pump


@contextmanager
def linked(handler: Handler) -> Iterator[tuple[Link, Callable[[], None]]]:
    """(the client's end, a function that cuts the link), with `handler` at the other end."""
    here, there = socket.socketpair()
    client = Link(pumped(here.recv), lambda *parts: here.sendall(b"".join(parts)))
    agent = Link(pumped(there.recv), lambda *parts: there.sendall(b"".join(parts)), handler)

    def cut() -> None:
        for end in (here, there):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        agent.run()
        cut()  # as the end of the process does

    agent.write(encode(0, DATA, {"home_id": "linked"}))
    threads = [client.start(), threading.Thread(target=serve)]
    threads[1].start()
    client.greeting(10)
    try:
        yield client, cut
    finally:
        cut()
        for thread in threads:
            thread.join(10)
        here.close()
        there.close()


# -- programs that play the agent


@contextmanager
def hostile_agent(folder: Path, program: str) -> Iterator[Session]:
    """A session with a program of ours in the agent's place. It has `say(stream, kind, header, body)` and `hear()`."""
    parts = {**agent_bundle().sources, "__main__.py": (_HOSTILE + textwrap.dedent(program)).encode()}
    host = LocalHost(folder / "home", bundle=AgentBundle(parts))
    with contextlib.closing(Session(MachineType("evil"), host)) as session:
        yield session


_HOSTILE = """
import hashlib, json, os, struct, sys, time, zlib
from agent.shared.packs import pack
from agent.shared.frames import *
from agent.shared.protocol import *
from agent.shared.tree import *

def send(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]

def say(stream, kind, header=None, body=b""):
    send(encode(stream, kind, header, body))

def frames():
    decoder = Decoder()
    while True:
        data = os.read(0, 1 << 20)
        if not data:
            sys.exit(0)
        yield from decoder.feed(data)

FRAMES = frames()

def hear(wanted):
    for stream, kind, header, body in FRAMES:
        if kind == wanted:
            return stream, header, body

send(MAGIC)
say(0, DATA, {"home": "/evil", "home_id": "evil", "python": "3", "host": "evil", "user": "me",
              "boot": "", "time": time.time(), "pid": 1})
"""


def kill_all(mark: bytes) -> list[int]:
    """Kill each process in whose command line or environment `mark` is; which ones there were."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            if mark in words and pid != os.getpid():
                found.append(pid)
                kill9(pid)
    return found


def ended(client: Client, run: Run) -> Run:
    """The run once it has ended."""
    found: Run = until(lambda: (seen := client.runs.get(run.number)).final and seen, pause=0.05)
    return found


def begun(client: Client, run: Run) -> Run:
    """The run once its command goes on."""
    found: Run = until(lambda: (seen := client.runs.get(run.number)).state is RunState.RUNNING and seen)
    return found


NOBODY = MachineType("gone", host="me@127.0.0.1:1", connect_timeout=2)
"""A machine that refuses connections."""


def git(top: Path | str, *words: str, **more: object) -> bytes:
    return subprocess.run(["git", "-C", str(top), *words], check=True, capture_output=True, **more).stdout  # type: ignore[call-overload,no-any-return]
