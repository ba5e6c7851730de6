"""Where it is measured: a lab host with its home in memory, a folder in memory here, and the ways between them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.lab import Docker, Lab, LabHost

MEMORY = Path("/dev/shm")  # a tmpfs on every Linux
RATE = 1e9  # bits a second, of the ways with a delay


@dataclass(frozen=True)
class Way:
    """How to come to the host: `alias` is its name in the lab's SSH configuration. `text` is "" for the short one."""

    alias: str
    text: str = ""


class Place:
    """The host and this machine's folder; a context manager. `on_disk`: the host's home is not in memory.

    So many bytes of `memory` are written once before anything is measured: a virtual machine gets its memory from the
    one below when it first writes to it, which takes several times as long as the copying that is measured here, and
    would be counted for the side that comes first.
    """

    def __init__(self, lab: Lab, *, on_disk: bool = False, memory: int = 0) -> None:
        self.lab = lab
        self.on_disk = on_disk
        self._memory = memory
        self._ways: dict[float, Way] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            name = "bench-disk" if self.on_disk else "bench"
            self.host: LabHost = self.lab.host(name, docker=Docker.ABSENT, home_in_memory=not self.on_disk).up()
            stack.callback(self.lab.discard, self.host)
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-data-", dir=MEMORY)))
            self._ways[0.0] = Way(self.host.name)
            _write_once(self.folder / "memory", self._memory)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def way(self, rtt: float = 0.0) -> Way:
        """The way of that round trip, in seconds, at 1 Gbit; the one of 0 is the lab's own link, as fast as it is."""
        if rtt not in self._ways:
            slow = self._stack.enter_context(self.lab.slow(self.host, rtt=rtt, rate=RATE))
            self._ways[rtt] = Way(slow.alias, f"{rtt * 1000:g} ms")
        return self._ways[rtt]

    @property
    def home(self) -> Path:
        """The host's home folder of its user, as seen from here."""
        return self.host.path(f"/home/{self.host.user}")

    def fresh(self, name: str) -> Path:
        """An empty folder in the host's home, its user's; what was there is gone."""
        folder = self.home / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.chown(folder, self.host.uid, self.host.uid)
        return folder

    def wire(self) -> int:
        """Bytes that went over the host's link so far, both ways, headers included."""
        counters = Path("/sys/class/net", self.lab.network.link(self.host.index), "statistics")
        return sum(int((counters / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


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


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rsync": _first_line(["rsync", "--version"]),
        "ssh": _first_line(["ssh", "-V"]),
    }


def _first_line(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip().split("\n")[0]
