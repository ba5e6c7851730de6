"""The processes of a run of the engine `process`: found again and ended, all of them, also those that ran away.

On Linux three marks are followed: the session that the wrapper leads, its descendants, and the variable
REMOTERUN_KEY in a process's environment (which a daemon keeps). Elsewhere `ps` gives the first two.
"""

from __future__ import annotations

import os
import signal
from typing import Dict, Iterable, List, Optional, Set

from ..shared.identity import process_table
from ..store.run_folder import SUPERVISOR

KEY = "REMOTERUN_KEY"
"""The variable that names the run of a process."""
PROGRAM = "REMOTERUN_EXEC"
"""The variable that names a program that `exec` started inside a run; all that descends from it has it, too."""


def of_run(key: str, leader: Optional[int], programs: bool = True) -> Set[int]:
    """Pids of every living process of the run, without this one. `leader` is the wrapper; `programs`: also those that
    `exec` started."""
    table = process_table()
    marks = {pid: environment(pid) for pid in table}
    found = {pid for pid, process in table.items() if marks[pid].get(KEY) == key or process.session == leader}
    # A supervisor may start another run's: that one, and what descends from it, is none of ours.
    others = {pid for pid, mark in marks.items() if (mark.get(SUPERVISOR) or key) != key}
    found -= others
    while True:
        more = {each.pid for each in table.values() if each.parent in found} - found - others
        if not more:
            break
        found |= more
    if not programs:
        found = {pid for pid in found if not marks[pid].get(PROGRAM)}
    return {pid for pid in found if pid != os.getpid() and not table[pid].zombie}


def of_session(leader: Optional[int]) -> Set[int]:
    """Pids of every process of the session that the process `leader` leads."""
    return {pid for pid, process in process_table().items() if process.session == leader}


def of_program(key: str, name: str) -> Set[int]:
    """Pids of every living process that descends from the program `name`, which `exec` started inside a run."""
    marks = {pid: environment(pid) for pid in process_table()}
    return {pid for pid, mark in marks.items() if mark.get(PROGRAM) == name and (mark.get(SUPERVISOR) or key) == key}


def children(parent: int) -> List[int]:
    """Pids of the living children of a process, oldest first."""
    found = [process for process in process_table().values() if process.parent == parent and not process.zombie]
    return [process.pid for process in sorted(found, key=lambda process: (process.started, process.pid))]


def environment(pid: int) -> Dict[str, str]:
    """The variables that a process was started with; {} where they can't be read."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            texts = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = [os.fsdecode(text).partition("=") for text in texts]
    return {name: value for name, equals, value in pairs if name and equals}


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each; those gone meanwhile are fine."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass
