"""The queue of a host: who may run now. First come, first served; no daemon, only files under a lock.

    queue/KEY.wait   {"t": when it came, "gpus": how many}
    queue/KEY.slot   {"gpus": [uuid, …]}            what it holds until its end

There are two lines: runs that need GPUs wait for GPUs, the others for one of `slots` places. A run `beside` the others
needs neither. An entry whose run has ended, or is gone, counts no more, whatever became of its supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict, List, Optional, Tuple

from ..shared.files import locked, read_json, write_whole
from ..shared.records import Record
from ..shared.spec import RunSpec
from ..shared.states import FINAL, RunState
from ..store.home import Home
from . import gpus as gpu_tool


class Turn(Record):
    """Either a slot (`granted`, with the GPUs it holds) or why there is none yet (`waiting_for`, one line).

    `never`: none will come, whichever runs end. `blocked_by`: the runs that it depends on, which are the next one
    before it in the line or those that hold the slots. `runs_before`: how many runs are before it in the line.
    """

    granted: bool
    gpus: List[str]
    waiting_for: str
    blocked_by: List[str]
    runs_before: int = 0
    never: bool = False


def default_slots() -> int:
    """Runs without GPUs that a host takes at once unless its settings say otherwise."""
    return max(2, (os.cpu_count() or 1) // 2)


def lacks(spec: RunSpec) -> Optional[str]:
    """Why this run can never start here, in one line, or None; also where the driver does not answer."""
    if not spec.gpus:
        return None
    try:
        count = len(gpu_tool.list_gpus())
    except gpu_tool.GpuError:
        return None
    return too_few(spec.gpus, count) if count < spec.gpus else None


def ask(home: Home, spec: RunSpec) -> Turn:
    """Take a slot if it is the run's turn. Repeat until granted; a granted one is granted again."""
    turn = _ask(home, spec, None)
    if turn is None:  # it is the first in the line: only it asks the driver, and nobody waits for the answer but it
        try:
            turn = _ask(home, spec, (gpu_tool.list_gpus(), gpu_tool.busy()))
        except gpu_tool.GpuError as error:
            return Turn(False, [], "a GPU; %s" % error, [])
    assert turn is not None
    return turn


_Gpus = Tuple[List[gpu_tool.Gpu], Dict[str, gpu_tool.GpuProcess]]


def _ask(home: Home, spec: RunSpec, known: Optional[_Gpus]) -> Optional[Turn]:
    """As `ask`; None if it depends on GPUs of which nothing is `known`."""
    key, gpus, slots = spec.key, spec.gpus, spec.slots
    if spec.beside:
        return Turn(True, [], "", [])
    with locked(home.lock("slots")):
        held = _entries(home, ".slot")
        if key in held:
            return Turn(True, list(held[key].get("gpus", [])), "", [])
        if home.run(key).withdrawn() is not None:
            return Turn(False, [], "", [])
        _come(home, key, gpus)
        waiting = _entries(home, ".wait")
        arrivals = sorted((ticket["t"], run) for run, ticket in waiting.items() if bool(ticket["gpus"]) == bool(gpus))
        line = [run for _, run in arrivals]
        before = line[: line.index(key)]
        if before:
            why = "%d runs before it" % len(before) if len(before) > 1 else "the run before it"
            return Turn(False, [], why, before[-1:], len(before))
        if gpus:
            if known is None:
                return None
            every, busy = known
            if len(every) < gpus:
                return Turn(False, [], too_few(gpus, len(every)), [], never=True)
            chosen, why = _free_gpus(held, gpus, every, busy)
        else:
            chosen = []
            taken = sum(1 for slot in held.values() if not slot.get("gpus"))
            room = default_slots() if slots is None else slots
            why = "" if taken < room else "one of %d slots" % room if room > 1 else "the run that has the slot"
        if why:
            return Turn(False, [], why, sorted(held))
        write_whole(os.path.join(home.queue, key + ".slot"), json.dumps({"gpus": chosen}).encode())
        _drop(home, key, ".wait")
        return Turn(True, chosen, "", [])


def entries(home: Home) -> Tuple[Dict[str, Dict[str, Any]], Dict[str, Dict[str, Any]]]:
    """(what each run holds, the tickets of those that wait), by their keys."""
    with locked(home.lock("slots")):
        return _entries(home, ".slot"), _entries(home, ".wait")


def come(home: Home, spec: RunSpec) -> None:
    """Take a place in the line. `ask` does it, too; who is to be served in the order of arrival comes here first."""
    if not spec.beside:
        with locked(home.lock("slots")):
            _come(home, spec.key, spec.gpus)


def withdraw(home: Home, key: str, by: str, why: str) -> bool:
    """Take back a run that waits, so that it never starts here; False where it has been granted what it waited for, or
    goes on as another run than `by`. One `beside` the others waits for nothing. May be repeated."""
    with locked(home.lock("slots")):
        run = home.run(key)
        taken = run.withdrawn()
        if taken is not None:
            return taken[0] == by
        granted = run.spec().beside or os.path.exists(os.path.join(home.queue, key + ".slot"))
        if granted or run.state()[0] is not RunState.QUEUED:
            return False
        write_whole(run.withdrawn_file, ("%s %s" % (by, why)).encode())
        _drop(home, key, ".wait")
        return True


def has_come(home: Home, key: str) -> bool:
    """Whether it has a place in the line, or what it waited for there."""
    return any(os.path.exists(os.path.join(home.queue, key + suffix)) for suffix in (".wait", ".slot"))


def release(home: Home, key: str) -> None:
    """Give back what `key` holds, or its place in the line, and what a killed supervisor was about to write there.

    Nothing held is fine.
    """
    for name in os.listdir(home.queue):
        if name.startswith(key + "."):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(home.queue, name))


def too_few(wanted: int, there: int) -> str:
    """Why a run can never start."""
    return "the run asks for %s, and its machine has %s" % (_count(wanted), there or "none")


def _count(gpus: int) -> str:
    return "%d GPUs" % gpus if gpus != 1 else "a GPU"


def _free_gpus(
    held: Dict[str, Dict[str, Any]], wanted: int, every: List[gpu_tool.Gpu], busy: Dict[str, gpu_tool.GpuProcess]
) -> Tuple[List[str], str]:
    """(the GPUs to take, "") or ([], why there are too few)."""
    ours = {uuid for slot in held.values() for uuid in slot.get("gpus", [])}
    free = [gpu for gpu in every if gpu.uuid not in ours and gpu.uuid not in busy]
    if len(free) >= wanted:
        return [gpu.uuid for gpu in free[:wanted]], ""
    for gpu in every:
        if gpu.uuid not in ours and gpu.uuid in busy:
            process = busy[gpu.uuid]
            return [], "a GPU; GPU %d is used by process %d (%s)" % (gpu.number, process.pid, process.name)
    if free:
        verb = "is" if len(free) == 1 else "are"
        return [], "%s; %d of %d %s free" % (_count(wanted), len(free), len(every), verb)
    return [], "%s; all %d are taken by other runs" % (_count(wanted), len(every))


def _come(home: Home, key: str, gpus: int) -> None:
    ticket = os.path.join(home.queue, key + ".wait")
    if not os.path.exists(ticket):
        write_whole(ticket, json.dumps({"t": time.time(), "gpus": gpus}).encode())


def _entries(home: Home, suffix: str) -> Dict[str, Dict[str, Any]]:
    found = {}
    for name in os.listdir(home.queue):
        if not name.endswith(suffix):
            continue
        key = name[: -len(suffix)]
        try:
            run = home.run(key)
            if run.exists() and run.state()[0] not in FINAL:
                entry = read_json(os.path.join(home.queue, name))
                if run.is_of_this_machine():
                    found[key] = entry
                continue
        except Exception:  # noqa: BLE001 - a damaged entry must not stop the queue; it is dropped
            pass
        _drop(home, key, suffix)
    return found


def _drop(home: Home, key: str, suffix: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(home.queue, key + suffix))
