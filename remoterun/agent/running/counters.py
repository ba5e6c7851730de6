"""What the processes of a run have used so far: of its control group, or added up over its processes."""

from __future__ import annotations

import os
from typing import Callable, Dict, Iterable, Optional, Tuple

from ..shared.files import text_of
from ..shared.records import Record

GROUP_FILES = (
    "cpu.stat", "memory.current", "memory.stat", "io.stat",
    "cpuacct/cpuacct.usage", "memory/memory.usage_in_bytes", "memory/memory.stat",
    "blkio/blkio.throttle.io_service_bytes_recursive", "blkio/blkio.throttle.io_service_bytes",
)  # fmt: skip
"""The files of control groups that are read: those of version 2, then of version 1, below the controller's name."""
NETWORK = "net/dev"
PRINT = """
cd /sys/fs/cgroup || exit
for file in %s; do [ -r "$file" ] && echo "= $file" && cat "$file"; done
echo "= %s"; cat /proc/net/dev
""" % (" ".join(GROUP_FILES), NETWORK)
"""In a container: prints what `of_group` reads, for `printed`."""


class Counters(Record):
    """`cpu` in seconds and the bytes of disk and network are sums since the start; `memory` in bytes is that of now,
    without what the kernel would drop. None: it can't be told."""

    cpu: float
    memory: int
    read: Optional[int] = None
    written: Optional[int] = None
    received: Optional[int] = None
    sent: Optional[int] = None


Read = Callable[[str], str]
"""The content of a file of `GROUP_FILES`, or of `NETWORK`; "" where it can't be read."""


def of_group(read: Read) -> Optional[Counters]:
    """What a control group has used; None where its files can't be read."""
    usage, memory = _values(read("cpu.stat")).get("usage_usec"), read("memory.current")
    if usage is not None and memory:
        cpu, stat, dropped = usage / 1e6, read("memory.stat"), "inactive_file"
        read_bytes, written = _io_of_version_2(read("io.stat"))
    else:
        nanoseconds, memory = read("cpuacct/cpuacct.usage"), read("memory/memory.usage_in_bytes")
        if not nanoseconds or not memory:
            return None
        cpu, stat, dropped = int(nanoseconds) / 1e9, read("memory/memory.stat"), "total_inactive_file"
        read_bytes, written = _io_of_version_1(read(GROUP_FILES[-2]) or read(GROUP_FILES[-1]))
    received, sent = _network(read(NETWORK))
    held = max(int(memory) - _values(stat).get(dropped, 0), 0)
    return Counters(cpu, held, read_bytes, written, received, sent)


def group_of(pid: int, root: str = "/") -> Read:
    """Reads the control group of a process, and its network, from this machine's files."""
    groups: Dict[str, str] = {}
    for line in text_of(os.path.join(root, "proc", str(pid), "cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    top = os.path.join(root, "sys/fs/cgroup")

    def read(name: str) -> str:
        if name == NETWORK:
            return text_of(os.path.join(root, "proc", str(pid), NETWORK))
        controller, _, file = name.rpartition("/")
        if controller not in groups or (not controller and "memory" in groups):
            return ""
        return text_of(os.path.join(top, controller, groups[controller].lstrip("/"), file))

    return read


def printed(text: str) -> Read:
    """Reads what `PRINT` printed."""
    parts: Dict[str, str] = {}
    for part in ("\n" + text).split("\n= ")[1:]:
        name, _, content = part.partition("\n")
        parts[name] = content
    return lambda name: parts.get(name, "")


def of_processes(pids: Iterable[int]) -> Counters:
    """What these processes have used, and children of theirs that have ended."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, memory, read_bytes, written = 0.0, 0, 0, 0
    known = False
    for pid in pids:
        folder = "/proc/%d" % pid
        fields = text_of(folder + "/stat").rpartition(")")[2].split()
        if len(fields) < 15:
            continue
        cpu += sum(map(int, fields[11:15])) / tick
        share = _values(text_of(folder + "/smaps_rollup").replace(":", "")).get("Pss")
        if share is not None:
            memory += share << 10  # pages that processes share are counted once
        else:
            pages = text_of(folder + "/statm").split()
            memory += int(pages[1]) * page if len(pages) > 1 else 0
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


def _io_of_version_2(text: str) -> Tuple[int, int]:
    found = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in found and value.isdigit():
            found[name] += int(value)
    return found["rbytes"], found["wbytes"]


def _io_of_version_1(text: str) -> Tuple[int, int]:
    found = {"Read": 0, "Write": 0}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in found and words[2].isdigit():
            found[words[1]] += int(words[2])
    return found["Read"], found["Write"]


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
