"""What control groups and processes say of their use, in the words of both versions of the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

from remoterun.agent.running.counters import Counters, group_of, of_group, of_processes, printed

NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:    9000      10    0    0    0     0          0         0     9000      10    0    0    0
  eth0:    1500       3    0    0    0     0          0         0     2500       4    0    0
"""
VERSION_2 = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "memory.current": "1000\n",
    "memory.stat": "anon 700\ninactive_file 200\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n",
}
VERSION_1 = {
    "cpuacct/cpuacct.usage": "2500000000\n",
    "memory/memory.usage_in_bytes": "1000\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 11\n8:0 Write 22\n8:0 Total 33\nTotal 33\n",
}
USED = Counters(2.5, 800, 11, 22, 1500, 2500)


def machine(root: Path, groups: str, files: dict[str, str], below: str) -> Path:
    (root / "proc/7/net").mkdir(parents=True)
    (root / "proc/7/net/dev").write_text(NET)
    (root / "proc/7/cgroup").write_text(groups)
    for name, text in files.items():
        controller, _, file = name.rpartition("/")
        folder = root / "sys/fs/cgroup" / controller / below
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return root


def test_version_2(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/system.slice/docker-ab.scope\n", VERSION_2, "system.slice/docker-ab.scope")
    assert of_group(group_of(7, str(root))) == USED


def test_version_1_also_where_version_2_is_there_without_controllers(tmp_path: Path) -> None:
    groups = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:blkio:/docker/ab\n0::/\n"
    assert of_group(group_of(7, str(machine(tmp_path, groups, VERSION_1, "docker/ab")))) == USED


def test_what_is_printed_in_a_container() -> None:
    for files in (VERSION_1, VERSION_2):
        contents = {**files, "/proc/net/dev": NET}
        lines = [f"{name}:{line}\n" for name, content in contents.items() for line in content.splitlines()]
        assert of_group(printed("".join(lines))) == USED


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert of_group(group_of(7, str(tmp_path))) is None
    assert of_group(printed("")) is None


def test_processes() -> None:
    used = of_processes([os.getpid(), 2**22 + 1])
    assert used.memory > 1 << 20 and used.cpu > 0
