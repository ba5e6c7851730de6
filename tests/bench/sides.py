"""Our client through its public API and `rsync -a`, over the same sshd of a lab host.

A lap is a whole transfer, connecting included: rsync is started and ends, ours opens a `Client` and closes it. Nobody
has anything open between laps. Our program is warm: its modules are imported, as those of rsync are loaded.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from remoterun.client import Client
from remoterun.config import Config
from remoterun.model import MachineType
from tests.lab import Docker, Lab, LabHost
from tests.opening import Opening

MEMORY = Path("/dev/shm")  # a tmpfs on every Linux
RATE = 1e9  # bits a second, of the ways with a delay
NAME = "bench"  # of our upload
LAP_DEADLINE = 900.0
HOME = ".remoterun"
AGENT = "agent"  # the folder of a home that `forget` leaves: an installed agent is not content
REMOTERUN = str(Path(sys.executable).parent / "remoterun")
GIT = {f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
RESET_PEAK = "5"  # see proc(5), clear_refs


@dataclass(frozen=True)
class Lap:
    """`wire`: bytes on the host's link, both ways."""

    seconds: float
    wire: int


class Place(Opening):
    """A lab host with its home in memory, and a folder in memory here; a context manager.

    So many bytes of `memory` are written once before anything is measured: a virtual machine gets its memory from the
    one below when it first writes to it, which takes several times as long as the copying that is measured here, and
    would be counted for the side that comes first.
    """

    def __init__(self, lab: Lab, memory: int) -> None:
        self.lab, self._memory = lab, memory
        self._aliases: dict[float, str] = {}

    def open(self, stack: ExitStack) -> None:
        self.host: LabHost = self.lab.host("bench", docker=Docker.ABSENT, home_in_memory=True).up()
        stack.callback(self.lab.discard, self.host)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-data-", dir=MEMORY)))
        self._aliases[0.0] = self.host.name
        _write_once(self.folder / "memory", self._memory)

    def alias(self, rtt: float) -> str:
        """The host's name in the lab's SSH configuration by a way of that round trip, in seconds, at 1 Gbit; that of 0
        is the lab's own link, as fast as it is."""
        if rtt not in self._aliases:
            slow = self.stack.enter_context(self.lab.slow(self.host, rtt=rtt, rate=RATE))
            self._aliases[rtt] = slow.alias
        return self._aliases[rtt]

    @property
    def home(self) -> Path:
        """The host's home folder of its user, as seen from here."""
        return self.host.path(f"/home/{self.host.user}")

    def wire(self) -> int:
        """Bytes that went over the host's link so far, both ways, headers included."""
        counters = Path("/sys/class/net", self.lab.network.link(self.host.index), "statistics")
        return sum(int((counters / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@dataclass
class Memory:
    """The most that was resident in any lap so far, in bytes, by the kernel's own high-water mark: of this process, and
    of the agent, which is a process of each lap."""

    peaks: dict[str, int] = field(default_factory=lambda: {"client": 0, "agent": 0})

    def begin(self) -> None:
        """Forget what this process had before."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)

    def note(self, host: LabHost) -> None:
        """Read the marks, while the connection is open and the work is done."""
        agents = [process.pid for process in host.processes() if ".pyz" in process.command]
        self.peaks["client"] = max(self.peaks["client"], peak(Path("/proc/self")))
        self.peaks["agent"] = max(self.peaks["agent"], sum(peak(host.path(f"/proc/{pid}")) for pid in agents))


def peak(process: Path) -> int:
    """The most that a process had resident, in bytes; 0 for one that is gone."""
    try:
        status = (process / "status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


class Side(Protocol):
    """One of those who are measured. Every method blocks."""

    def forget(self) -> None:
        """Begin anew: neither side of it knows any content."""

    def send(self, source: Path) -> Lap:
        """Make the host have this file or folder as it is now."""

    def fetch(self, target: Path) -> Lap:
        """Copy what was sent last to `target`, a path in an empty folder that ends as the source does."""

    def arrived(self) -> Path:
        """Where the host has what was sent last, as seen from here."""


class Ours:
    """`upload` and `copy` of a client that is opened for each lap."""

    def __init__(self, place: Place, rtt: float, memory: Memory) -> None:
        self._place, self._memory = place, memory
        alias = place.alias(rtt)
        self._home = place.folder / f"client-{alias}"
        machine = MachineType("bench", host=alias, engine="process", home=HOME)
        self._config = Config(self._home, "bench", {"bench": machine}, place.lab.ssh_config())
        self._sent = ""
        self._folder = False

    def forget(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        home = self._place.home / HOME
        for path in home.iterdir() if home.exists() else []:
            if path.name != AGENT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        tiny = self._place.folder / "tiny"
        tiny.write_text("so that there is a home on both sides\n")
        with Client(self._config) as client:
            client.uploads.upload(tiny, "tiny")

    def send(self, source: Path) -> Lap:
        def work(client: Client) -> None:
            version = client.uploads.upload(source, NAME).upload.version
            self._folder = source.is_dir()
            self._sent = str(version) if self._folder else f"{version}/{source.name}"

        return self._lap(work)

    def fetch(self, target: Path) -> Lap:
        into = target if self._folder else target.parent  # what an upload contains lands in a folder
        return self._lap(lambda client: client.files.copy(f"uploads/{NAME}", into))

    def arrived(self) -> Path:
        return self._place.home / HOME / "uploads" / NAME / self._sent

    def _lap(self, work: Callable[[Client], object]) -> Lap:
        self._memory.begin()
        before = self._place.wire()
        begun = time.perf_counter()
        with Client(self._config) as client:
            work(client)
            done = time.perf_counter()
            self._memory.note(self._place.host)
            noted = time.perf_counter() - done
        return Lap(time.perf_counter() - begun - noted, self._place.wire() - before)


class Rsync:
    """`rsync -a`, of a file or a folder into a folder."""

    def __init__(self, place: Place, rtt: float) -> None:
        self._words = ["rsync", "-a", "-e", f"ssh -F {place.lab.ssh_config()}"]
        self._place, self._alias = place, place.alias(rtt)
        self._sent = ""

    def forget(self) -> None:
        folder, user = self._place.home / "rsync", self._place.host.uid
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.chown(folder, user, user)

    def send(self, source: Path) -> Lap:
        self._sent = source.name
        return self._lap(str(source), f"{self._alias}:rsync/")

    def fetch(self, target: Path) -> Lap:
        return self._lap(f"{self._alias}:rsync/{target.name}", f"{target.parent}/")

    def arrived(self) -> Path:
        return self._place.home / "rsync" / self._sent

    def _lap(self, *words: str) -> Lap:
        before = self._place.wire()
        begun = time.perf_counter()
        subprocess.run([*self._words, *words], stdin=subprocess.DEVNULL, timeout=LAP_DEADLINE, check=True)
        return Lap(time.perf_counter() - begun, self._place.wire() - before)


class User:
    """The installed command on this machine, with a home of its own beside it, in a git work tree: each method returns
    the seconds that it took."""

    def __init__(self, folder: Path, work_tree: Path) -> None:
        folder.mkdir()
        self._folder, self._work_tree = folder, work_tree
        self._env = {**os.environ, "REMOTERUN_HOME": str(folder / "home"), **GIT}
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
            subprocess.run(["git", *words], cwd=work_tree, env=self._env, check=True)

    def remoterun(self, *words: str) -> float:
        return self._timed([REMOTERUN, *words])

    def copy(self) -> float:
        """`cp -r` of the work tree, but for `.git`, into an empty folder."""
        target = self._folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        paths = [str(path) for path in self._work_tree.iterdir() if path.name != ".git"]
        return self._timed(["cp", "-r", "-t", str(target), *paths])

    def _timed(self, words: list[str]) -> float:
        begun = time.perf_counter()
        done = subprocess.run(
            words,
            cwd=self._work_tree,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LAP_DEADLINE,
        )
        took = time.perf_counter() - begun
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
        return took


def _write_once(path: Path, size: int) -> None:
    """Less, where less is free."""
    zeros = bytes(1 << 22)
    with path.open("wb", buffering=0) as file:
        while file.tell() < size and _free() > size // 4:
            file.write(zeros)
    path.unlink()


def _free() -> int:
    """Bytes that `MEMORY` may still take."""
    status = os.statvfs(MEMORY)
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(status.f_bavail * status.f_frsize, available)
