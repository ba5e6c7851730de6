"""Who owns which lab: one small file per lab, written before anything else exists and removed after all is gone.

Everything that a lab makes carries the record's name (`rrlab7`), so that a process that finds one whose owner is dead
can remove all of it; the next lab does so first, and so does the watcher of each lab (`python -m tests.lab`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.error import LabError
from tests.lab.process import PATIENCE, birth, kill, run, until

RECORDS = Path("/run/remoterun-lab")
NUMBERS = range(10, 250)  # the third byte of the lab's network


@dataclass(frozen=True)
class Record:
    """One lab: its number, the process that made it, and the folder with all of its data."""

    number: int
    owner: int
    born: int
    data: Path

    @property
    def name(self) -> str:
        return f"rrlab{self.number}"

    @property
    def path(self) -> Path:
        return RECORDS / f"{self.name}.json"

    def alive(self) -> bool:
        """Whether the process that made the lab still runs."""
        return birth(self.owner) == self.born

    def namespaces(self) -> list[str]:
        """The lab's network namespaces, one a host."""
        names = run(["ip", "netns", "list"]).stdout.splitlines()
        return [words.split()[0] for words in names if words.startswith(f"{self.name}-")]


@contextmanager
def locked() -> Iterator[None]:
    """One process at a time takes or frees names; a name that is swept can't be taken half-way. Not reentrant."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    with (RECORDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claim(sessions: Path) -> Record:
    """Take the first free number for this process. The record is on disk before this returns."""
    born = birth(os.getpid())
    assert born is not None
    with locked():
        for number in NUMBERS:
            record = Record(number, os.getpid(), born, sessions / f"rrlab{number}-{os.getpid()}")
            if not record.path.exists():
                text = json.dumps({"number": number, "owner": record.owner, "born": born, "data": str(record.data)})
                new = RECORDS / ".new"
                new.write_text(text)
                new.replace(record.path)
                return record
    raise LabError(f"every number is taken: {len(NUMBERS)} records in {RECORDS}")


def records() -> Iterator[Record]:
    """Every lab on this machine, dead or alive."""
    for path in sorted(RECORDS.glob("rrlab*.json")):
        found = json.loads(path.read_text())
        yield Record(found["number"], found["owner"], found["born"], Path(found["data"]))


def sweep() -> list[str]:
    """Remove all that dead owners left behind; returns the names. May run at any time, twice at once too."""
    swept = []
    with locked():
        for record in records():
            if not record.alive():
                remove(record)
                swept.append(record.name)
    return swept


def remove(record: Record) -> None:
    """Remove whatever the lab made and then its record; each thing may be gone already. Call it `locked`."""
    for name in record.namespaces():
        remove_namespace(name)
    for link in links(record.name):
        run(["ip", "link", "del", link], check=False)
    for rule in firewall_rules(record.name):
        run(["iptables", "-w", *rule], check=False)
    for layout in ("", "*/"):  # cgroup v2; v1
        for parent in Path("/sys/fs/cgroup").glob(f"{layout}{record.name}-*"):
            remove_cgroup(parent)
    shutil.rmtree(record.data, ignore_errors=True)
    record.path.unlink(missing_ok=True)


def remove_namespace(name: str) -> None:
    """Kill everything in a network namespace, and so the host that lives in it, and remove it."""

    def dead() -> bool:
        pids = run(["ip", "netns", "pids", name], check=False).stdout.split()
        kill(int(pid) for pid in pids)
        return not any(birth(int(pid)) for pid in pids)

    until(dead, PATIENCE, f"every process of {name} is dead", pause=0.02)
    run(["ip", "netns", "del", name], check=False)


def remove_cgroup(top: Path) -> None:
    """Remove a cgroup and those below it, once their processes are gone."""
    for path, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):  # its last process is still on its way out, or it is gone: an empty cgroup harms nobody
            os.rmdir(path)


def links(name: str) -> list[str]:
    """The lab's bridge and whatever is left of its hosts' links."""
    shown = run(["ip", "-o", "link"]).stdout
    return [link for link in re.findall(r"^\d+: ([^:@]+)", shown, re.M) if re.fullmatch(rf"{name}(h\d+)?", link)]


def firewall_rules(name: str) -> Iterator[list[str]]:
    """For each rule that names the lab's bridge, the words that delete it."""
    for table in ("filter", "nat"):
        for rule in run(["iptables", "-w", "-t", table, "-S"]).stdout.splitlines():
            words = rule.split()
            if words[0] == "-A" and name in words:
                yield ["-t", table, "-D", *words[1:]]
