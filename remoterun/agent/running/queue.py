"""The queue of a host: who may run now. First come, first served; no daemon, only files under a lock.

    queue/KEY.after  {"t": when it came, "after": [key, …]}   waits for the ends of other runs
    queue/KEY.wait   {"t": when it came, "gpus": how many}    waits for GPUs, or for a slot
    queue/KEY.slot   {"gpus": [uuid, …]}                      what it holds until its end

There are three lines: runs with `--after`; runs that need GPUs; and the others, which wait for one of `slots` places. A
run `beside` the others needs neither. An entry whose run has ended, or is gone, counts no more, whatever became of its
supervisor.

A run that waits costs nothing: only the first of each line has a supervisor, and who ends, or leaves a line, starts the
next (supervision.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from ..shared.files import locked, read_json, write_whole
from ..shared.records import Record
from ..shared.spec import RunSpec
from ..shared.states import FINAL
from ..store.home import Home
from . import gpus as gpu_tool


class Turn(Record):
    """Either a slot (`granted`, with the GPUs it holds) or why there is none yet, or `never`, one line."""

    granted: bool
    gpus: List[str]
    waiting_for: str
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
    turn = come(home, spec)
    if turn is None:  # it is the first in the line: only it asks the driver, and nobody waits for the answer but it
        try:
            turn = come(home, spec, (gpu_tool.list_gpus(), gpu_tool.busy()))
        except gpu_tool.GpuError as error:
            return Turn(False, [], "a GPU; %s" % error)
    assert turn is not None
    return turn


_Gpus = Tuple[List[gpu_tool.Gpu], Dict[str, gpu_tool.GpuProcess]]


def come(home: Home, spec: RunSpec, known: Optional[_Gpus] = None) -> Optional[Turn]:
    """As `ask`, without the driver: None if it depends on GPUs of which nothing is `known`."""
    key, gpus, slots = spec.key, spec.gpus, spec.slots
    if spec.beside:
        return Turn(True, [], "")
    with locked(home.lock("slots")):
        holding = held(home)
        if key in holding:
            _drop(home, key, "wait")  # where we were killed in between
            return Turn(True, list(holding[key].get("gpus", [])), "")
        _take_place(home, key, "wait", gpus=gpus)
        _drop(home, key, "after")
        if _first(home, lines(home)["gpus" if gpus else "slots"]) != key:
            return Turn(False, [], "the runs before it")
        if gpus:
            if known is None:
                return None
            every, busy = known
            if len(every) < gpus:
                return Turn(False, [], too_few(gpus, len(every)), never=True)
            chosen, why = _free_gpus(holding, gpus, every, busy)
        else:
            chosen = []
            taken = sum(1 for slot in holding.values() if not slot.get("gpus"))
            room = default_slots() if slots is None else slots
            why = "" if taken < room else "one of %d slots" % room if room > 1 else "the run that has the slot"
        if why:
            return Turn(False, [], why)
        write_whole(os.path.join(home.queue, key + ".slot"), json.dumps({"gpus": chosen}).encode())
        _drop(home, key, "wait")
        return Turn(True, chosen, "")


def wait_for_others(home: Home, spec: RunSpec) -> None:
    """Take a place among the runs that wait for the ends of others."""
    _take_place(home, spec.key, "after", after=[other.key for other in spec.after])


def asleep(home: Home) -> Set[str]:
    """The runs that need no supervisor while they wait. Takes no lock."""
    return waiting(home)[0]


def waiting(home: Home) -> Tuple[Set[str], List[str]]:
    """(the runs that need no supervisor while they wait, those that waited for the ends of others, all of which have
    ended). Takes no lock.

    A supervisor has only the first run of each line, and four at once of the second kind. On a rented host each run has
    one, which follows the host's notices and its deadline.
    """
    if home.rental.terms() is not None:
        return set(), []
    every = lines(home)
    keys = {key for line in every.values() for key, _ in line}
    ends = functools.lru_cache(None)(lambda key: key not in keys and not _goes_on(home, key))
    ready = [key for key, ticket in every["after"] if all(map(ends, ticket["after"]))]
    return keys.difference(ready[:4], (_first(home, line) for line in every.values())), ready


def held(home: Home) -> Dict[str, Dict[str, Any]]:
    """What each run of this machine holds."""
    return {key: entry for key, entry in _entries(home, ("slot",), read_json) if _counts(home, key)}


def lines(home: Home) -> Dict[str, List[Tuple[str, Dict[str, Any]]]]:
    """(key, ticket) of all that wait, in the order of arrival, by what they wait for: "after", "gpus", "slots"."""
    found: Dict[str, List[Tuple[str, Dict[str, Any]]]] = {"after": [], "gpus": [], "slots": []}
    tickets = dict(_entries(home, ("wait", "after"), _ticket))
    for key in sorted(tickets.keys() - holders(home), key=lambda key: (tickets[key]["t"], key)):
        ticket = tickets[key]
        found["after" if ticket["after"] else "gpus" if ticket["gpus"] else "slots"].append((key, ticket))
    return found


def has_come(home: Home, key: str) -> bool:
    """Whether it has a place in the line, or what it waited for there."""
    return any(os.path.exists(os.path.join(home.queue, key + suffix)) for suffix in (".wait", ".slot"))


def holders(home: Home) -> Set[str]:
    """The runs that hold something, whatever has become of them. Cheap."""
    return {name[: -len(".slot")] for name in os.listdir(home.queue) if name.endswith(".slot")}


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


def _take_place(home: Home, key: str, kind: str, **ticket: Any) -> None:
    path = os.path.join(home.queue, key + "." + kind)
    if not os.path.exists(path):
        write_whole(path, json.dumps(dict(ticket, t=time.time())).encode())


def _entries(home: Home, kinds: Tuple[str, ...], read: Callable[[str], Any]) -> Iterator[Tuple[str, Any]]:
    """(key, what it says) of the entries of these kinds. A damaged one is removed: its run comes again."""
    for name in os.listdir(home.queue):
        key, _, kind = name.rpartition(".")
        if kind in kinds:
            with contextlib.suppress(FileNotFoundError):
                try:
                    yield key, read(os.path.join(home.queue, name))
                except (ValueError, TypeError, KeyError):
                    _drop(home, key, kind)


@functools.lru_cache(maxsize=1 << 14)
def _ticket(path: str) -> Dict[str, Any]:
    """What it says never changes, and its name is used for no other."""
    ticket = read_json(path)
    return {"t": float(ticket["t"]), "gpus": int(ticket.get("gpus", 0)), "after": list(ticket.get("after", ()))}


def _first(home: Home, line: List[Tuple[str, Dict[str, Any]]]) -> Optional[str]:
    return next((key for key, _ in line if _counts(home, key)), None)


def _counts(home: Home, key: str) -> bool:
    """Whether a run is of this machine, and goes on; what is here of one that has ended, or is gone, is removed."""
    if not _goes_on(home, key):
        _drop(home, key, "slot", "wait", "after")
        return False
    return home.run(key).is_of_this_machine()


def _goes_on(home: Home, key: str) -> bool:
    try:
        run = home.run(key)
        return run.exists() and run.state()[0] not in FINAL
    except OSError:
        return True
    except Exception:  # noqa: BLE001 - a damaged run must not stop the queue
        return False


def _drop(home: Home, key: str, *kinds: str) -> None:
    for kind in kinds:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(home.queue, key + "." + kind))
