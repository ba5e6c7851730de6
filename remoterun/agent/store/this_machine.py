"""Which machine this is: several may share one home, as those of a lab do whose home folders come over the network.

A run is looked after by the machine that took it.
"""

from __future__ import annotations

import os

from ..shared.files import text_of
from ..shared.records import Record


class Machine(Record):
    """`id`: the system's own, "" without one; `boot` and `processes` name a table of processes: the same in both means
    the same machine, whatever its name is by now."""

    id: str
    name: str
    boot: str
    processes: str

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
