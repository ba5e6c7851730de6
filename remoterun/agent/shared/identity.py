"""Which machine and which process this is: several machines may share one home over the network, where a run belongs to
the one that took it, and the number of a process is used again.
"""

from __future__ import annotations

import os
import subprocess
from typing import Dict, Iterable, Optional

from .files import text_of
from .records import Record


class Machine(Record):
    id: str
    """The system's own, "" without one."""
    name: str
    boot: str
    processes: str
    """With `boot` it names a table of processes: the same in both means the same machine, whatever its name is."""

    @classmethod
    def this(cls) -> "Machine":
        return cls(text_of("/etc/machine-id").strip(), os.uname().nodename, boot_id(), _link("/proc/self/ns/pid"))

    def is_same(self, other: "Machine") -> bool:
        if not (self.boot and other.boot):
            return True  # no Linux: its name changes with the network, and nothing else is known
        if self.processes and (self.boot, self.processes) == (other.boot, other.processes):
            return True
        return (self.id, self.name) == (other.id, other.name)  # the machines of a cluster may all have one id


def boot_id() -> str:
    """Names this boot of the machine; "" where the system has no such name."""
    return text_of("/proc/sys/kernel/random/boot_id").strip()


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Process(Record):
    pid: int
    parent: int
    session: int
    started: str  # in the system's own unit; tells a reused pid
    zombie: bool


def started(pid: int) -> Optional[str]:
    """When `pid` started, or None if it isn't alive: with the pid, a name that is never reused."""
    process = process_table([pid]).get(pid)
    return None if process is None or process.zombie else process.started


def process_table(only: Optional[Iterable[int]] = None) -> Dict[int, Process]:
    if not os.path.isdir("/proc/self"):
        return _table_by_ps()
    found = {}
    for name in [str(pid) for pid in only] if only is not None else os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name, "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found[int(name)] = Process(int(name), int(fields[1]), int(fields[3]), fields[19].decode(), fields[0] in b"ZX")
    return found


def _table_by_ps() -> Dict[int, Process]:
    text = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,pgid=,stat=,lstart="], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.decode("utf-8", "replace")
    found = {}
    for line in text.splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5:
            pid = int(fields[0])
            found[pid] = Process(pid, int(fields[1]), int(fields[2]), fields[4], fields[3].startswith("Z"))
    return found
