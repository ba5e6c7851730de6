"""Those who are measured: our client through its public API, `rsync -a` and `scp`, over the same sshd.

A lap is a whole transfer, connecting included: rsync and scp are started and end, ours opens a `Client` and closes it.
Nobody has anything open between laps. Our program is warm: its modules are imported, as those of rsync are loaded.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from remoterun.client import Client
from remoterun.config import Config
from remoterun.errors import RemoterunError
from remoterun.model import MachineType
from tests.bench.data.memory import Memory
from tests.bench.data.place import Place, Way

NAME = "bench"  # of our upload
LAP_DEADLINE = 900.0
HOME = ".remoterun"
AGENT = "agent"  # the folder of a home that `forget` leaves: an installed agent is not content


class Failed(Exception):
    """A side did not do what it was told."""


@dataclass(frozen=True)
class Lap:
    """`wire`: bytes on the host's link, both ways."""

    seconds: float
    wire: int


class Side(Protocol):
    """One of those who are measured. Every method blocks; laps raise `Failed`."""

    name: str

    @abstractmethod
    def forget(self) -> None:
        """Begin anew: neither side of it knows any content."""

    @abstractmethod
    def send(self, source: Path, case: str) -> Lap:
        """Make the host have this file or folder as it is now."""

    @abstractmethod
    def fetch(self, target: Path, case: str) -> Lap:
        """Copy what was sent last to `target`, a path in an empty folder that ends as the source does."""

    @abstractmethod
    def there(self) -> Path:
        """Where the host has what was sent last, as seen from here."""


class Ours:
    """`upload` and `copy` of a client that is opened for each lap."""

    name = "ours"

    def __init__(self, place: Place, way: Way, memory: Memory) -> None:
        self._place, self._memory = place, memory
        self._home = place.folder / f"client-{way.alias}"
        machine = MachineType("bench", host=way.alias, engine="process", home=HOME)
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
        with _explained(), Client(self._config) as client:
            client.uploads.upload(tiny, "tiny")

    def send(self, source: Path, case: str) -> Lap:
        def work(client: Client) -> None:
            version = client.uploads.upload(source, NAME).upload.version
            self._folder = source.is_dir()
            self._sent = str(version) if self._folder else f"{version}/{source.name}"

        return self._lap(work, case)

    def fetch(self, target: Path, case: str) -> Lap:
        into = target if self._folder else target.parent  # what an upload contains lands in a folder
        return self._lap(lambda client: client.files.copy(f"uploads/{NAME}", into), case)

    def there(self) -> Path:
        return self._place.home / HOME / "uploads" / NAME / self._sent

    def _lap(self, work: Callable[[Client], object], case: str) -> Lap:
        self._memory.begin()
        before = self._place.wire()
        with _explained():
            begun = time.perf_counter()
            with Client(self._config) as client:
                work(client)
                done = time.perf_counter()
                self._memory.note(self._place.host, case)
                looked = time.perf_counter() - done
            seconds = time.perf_counter() - begun - looked
        return Lap(seconds, self._place.wire() - before)


class Rsync:
    """`rsync -a`, of a file or a folder into a folder."""

    name = "rsync -a"

    def __init__(self, place: Place, way: Way) -> None:
        self._words = ["rsync", "-a", "-e", f"ssh -F {place.lab.ssh_config()}"]
        self._place, self._way = place, way
        self._sent = ""

    def forget(self) -> None:
        self._place.fresh("rsync")

    def send(self, source: Path, case: str) -> Lap:
        self._sent = source.name
        return _run([*self._words, str(source), f"{self._way.alias}:rsync/"], self._place)

    def fetch(self, target: Path, case: str) -> Lap:
        return _run([*self._words, f"{self._way.alias}:rsync/{target.name}", f"{target.parent}/"], self._place)

    def there(self) -> Path:
        return self._place.home / "rsync" / self._sent


class Scp:
    """`scp`, or `scp -r` of a folder, into a folder."""

    name = "scp"

    def __init__(self, place: Place, way: Way) -> None:
        self._words = ["scp", "-q", "-F", str(place.lab.ssh_config())]
        self._place, self._way = place, way
        self._sent = ""
        self._folder = False

    def forget(self) -> None:
        self._place.fresh("scp")

    def send(self, source: Path, case: str) -> Lap:
        self._sent, self._folder = source.name, source.is_dir()
        return _run([*self._options(), str(source), f"{self._way.alias}:scp/"], self._place)

    def fetch(self, target: Path, case: str) -> Lap:
        return _run([*self._options(), f"{self._way.alias}:scp/{target.name}", f"{target.parent}/"], self._place)

    def there(self) -> Path:
        return self._place.home / "scp" / self._sent

    def _options(self) -> list[str]:
        return [*self._words, "-r"] if self._folder else self._words


def _run(words: list[str], place: Place) -> Lap:
    before = place.wire()
    begun = time.perf_counter()
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=LAP_DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} did not end within {LAP_DEADLINE:g} s") from None
    seconds = time.perf_counter() - begun
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Failed(f"{words[0]} gave {done.returncode}: {said[-1]}")
    return Lap(seconds, place.wire() - before)


@contextmanager
def _explained() -> Iterator[None]:
    """Our client's errors as `Failed`, and one more after `LAP_DEADLINE`. In the main thread only."""

    def late(*_: object) -> None:
        raise Failed(f"ours did not end within {LAP_DEADLINE:g} s")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LAP_DEADLINE)
    try:
        yield
    except RemoterunError as error:
        raise Failed(f"ours: {error.message}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
