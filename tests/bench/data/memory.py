"""How much memory the client and the agent had resident at the most, by the kernel's own high-water mark.

The client is this process, whose mark is set back before each lap, with the processes that it starts in the lap; the
agent is a process of each lap. The lab's hosts and relays are children of this process too, and not counted: they are
there before the lap.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import LabHost

RESET_PEAK = "5"  # see proc(5), clear_refs


@dataclass
class Peak:
    """The largest so far, in bytes, and the case it was found in."""

    size: int = 0
    case: str = ""

    def see(self, size: int, case: str) -> None:
        if size > self.size:
            self.size, self.case = size, case


@dataclass
class Memory:
    """Of one bench, or of one part of it."""

    client: Peak = field(default_factory=Peak)
    agent: Peak = field(default_factory=Peak)
    _before: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Forget what this process had before."""
        gc.collect()
        self._before = _children()
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)

    def note(self, host: LabHost, case: str) -> None:
        """Look, while the connection is open and the work is done."""
        ours = {os.getpid(), *_children() - self._before}
        self.client.see(sum(_peak(Path("/proc", str(pid))) for pid in ours), case)
        agents = [process.pid for process in host.processes() if ".pyz" in process.command]
        self.agent.see(sum(_peak(host.path(f"/proc/{pid}")) for pid in agents), case)


def _children() -> set[int]:
    """The processes that threads of this one have started, and that are there."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _peak(process: Path) -> int:
    """Bytes; 0 for a process that is gone."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
