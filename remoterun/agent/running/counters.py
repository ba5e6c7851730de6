"""What the processes of a run have used so far: of its control group, or added up over its processes."""

from __future__ import annotations

import os
import re
from typing import Callable, Dict, Iterable, Optional, Tuple

from ..shared.files import text_of
from ..shared.records import Record


class Counters(Record):
    """`cpu` in seconds and the bytes of disk and network are sums since the start; `memory` in bytes is that of now,
    without what the kernel would drop. None: it can't be told."""

    cpu: float
    memory: int
    read: Optional[int] = None
    written: Optional[int] = None
    received: Optional[int] = None
    sent: Optional[int] = None


_IO = "blkio/blkio.throttle.io_service_bytes"
_NETWORK = "/proc/net/dev"
FILES = (
    "cpu.stat", "memory.current", "memory.stat", "io.stat",
    "cpuacct/cpuacct.usage", "memory/memory.usage_in_bytes", "memory/memory.stat", _IO + "_recursive", _IO, _NETWORK,
)  # fmt: skip
"""What is read: files of control groups of version 2, then of version 1 below the controller's name; the network."""
OOM_FILES = "memory.events", "memory/memory.oom_control"
PRINT = "cd /sys/fs/cgroup && grep -s '' " + " ".join(FILES)
"""In a container: prints these files, for `printed`."""
Read = Callable[[str], str]
"""The content of one of `FILES`; "" where it can't be read."""


def of_group(read: Read) -> Optional[Counters]:
    """What a control group has used; None where its files can't be read."""
    usage, memory = _values(read("cpu.stat")).get("usage_usec"), read("memory.current")
    if usage is not None and memory:
        cpu, dropped = usage / 1e6, _values(read("memory.stat")).get("inactive_file", 0)
        read_bytes, written = _disk(read("io.stat"), "rbytes", "wbytes")
    else:
        nanoseconds, memory = read("cpuacct/cpuacct.usage"), read("memory/memory.usage_in_bytes")
        if not nanoseconds or not memory:
            return None
        cpu = int(nanoseconds) / 1e9
        dropped = _values(read("memory/memory.stat")).get("total_inactive_file", 0)
        read_bytes, written = _disk(read(_IO + "_recursive") or read(_IO), "Read", "Write")
    received, sent = _network(read(_NETWORK))
    return Counters(cpu, max(int(memory) - dropped, 0), read_bytes, written, received, sent)


def group_of(pid: int, root: str = "/") -> Read:
    """Reads the control group of a process of this machine, and its network."""
    path = path_of(pid, root)
    return lambda name: text_of(path(name))


def oom_kills(file: str) -> int:
    """How many processes of a control group the kernel has killed for want of memory, by one of `OOM_FILES`."""
    return _values(text_of(file)).get("oom_kill", 0)


def path_of(pid: int, root: str = "/") -> Callable[[str], str]:
    """Where a process of this machine has these files; "" for one that it doesn't have."""
    proc = os.path.join(root, "proc", str(pid))
    groups: Dict[str, str] = {}
    for line in text_of(os.path.join(proc, "cgroup")).splitlines():
        _, controllers, folder = line.split(":", 2)
        groups.update((controller, folder.lstrip("/")) for controller in controllers.split(","))

    def path(name: str) -> str:
        controller, _, file = name.rpartition("/")
        if name == _NETWORK:
            return os.path.join(proc, "net/dev")
        if controller not in groups or (not controller and "memory" in groups):
            return ""
        return os.path.join(root, "sys/fs/cgroup", controller, groups[controller], file)

    return path


def printed(text: str) -> Read:
    """Reads what `PRINT` printed."""
    files: Dict[str, str] = {}
    for line in text.splitlines():
        name, _, content = line.partition(":")
        files[name] = files.get(name, "") + content + "\n"
    return lambda name: files.get(name, "")


def of_processes(pids: Iterable[int]) -> Counters:
    """What these processes have used, and children of theirs that have ended."""
    tick = os.sysconf("SC_CLK_TCK")
    cpu, memory, read_bytes, written = 0.0, 0, 0, 0
    known = False
    for pid in pids:
        folder = "/proc/%d" % pid
        fields = text_of(folder + "/stat").rpartition(")")[2].split()
        if len(fields) < 15:
            continue
        cpu += sum(map(int, fields[11:15])) / tick
        share = _values(text_of(folder + "/smaps_rollup").replace(":", "")).get("Pss")
        if share is None:  # before Linux 4.14: pages that processes share are counted for each
            share = int((text_of(folder + "/statm") or "0 0").split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
        memory += share << 10
        io = _values(text_of(folder + "/io").replace(":", ""))
        if "read_bytes" in io:
            known = True
            read_bytes += io["read_bytes"]
            written += io.get("write_bytes", 0)
    return Counters(cpu, memory, read_bytes if known else None, written if known else None)


def _values(text: str) -> Dict[str, int]:
    """From lines of a name and a number."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _disk(text: str, read: str, written: str) -> Tuple[int, int]:
    """Bytes that were read and written, of all disks: "rbytes=12" of version 2, "8:0 Read 12" of version 1."""
    sums = [re.findall(r"(?<!\S)%s[ =]([0-9]+)(?!\S)" % name, text) for name in (read, written)]
    return sum(map(int, sums[0])), sum(map(int, sums[1]))


def _network(text: str) -> Tuple[Optional[int], Optional[int]]:
    """Bytes that came and went over all interfaces but the loopback."""
    received = sent = 0
    lines = [line for line in text.splitlines() if ":" in line]
    for line in lines:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        if name.strip() != "lo" and len(fields) > 8:
            received += int(fields[0])
            sent += int(fields[8])
    return (received, sent) if lines else (None, None)
