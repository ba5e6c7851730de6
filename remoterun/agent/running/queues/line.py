"""Our own queue: the line of a host, which says who may run now. First come, first served; no daemon, only files under
a lock.

    queue/KEY.after  {"t": when it came, "after": [key, …]}   waits for the ends of other runs
    queue/KEY.wait   {"t": when it came, "gpus": how many}    waits for GPUs, or for a slot
    queue/KEY.slot   {"gpus": [uuid, …]}                      what it holds until its end

Of a run of a set with `--at-once`, the latter two have "of", the key of the set, too, and the first of them "at_once":
while so many of the set have a slot, the runs behind it go before it.

There are three lines: runs with `--after`; runs that need GPUs; and the others, which wait for one of `slots` places. A
run `beside` the others needs neither. An entry whose run has ended, or is gone, counts no more, whatever became of its
supervisor.

A run that waits costs nothing: only the first of each line has a supervisor, and who ends, or leaves a line, starts the
next (`settle`).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from ...shared.api import Demand, Occupancy
from ...shared.asked import memory_text
from ...shared.files import locked, read_json, write_whole
from ...shared.records import Record
from ...shared.spec import RunSpec
from ...shared.states import FINAL, Reason, RunState
from ...store.home import Home
from ...store.run_folder import RunFolder
from .. import gpus as gpu_tool
from .. import supervision
from ..awaiting import awaited_runs
from ..cpus import usable
from . import Queue

POLL_LEAST, POLL_MOST = 0.02, 0.2
ASK_EVERY = 2.0
"""Seconds between two questions for a slot while the same runs hold theirs: each asks the driver of the GPUs."""
ENDING = 16
"""Runs that wait, and are ended at a time."""
_Gpus = Tuple[List[gpu_tool.Gpu], Dict[str, gpu_tool.GpuProcess]]


class Turn(Record):
    """Either a slot (`granted`, with the GPUs it holds) or why there is none yet, or `never`, one line."""

    granted: bool
    gpus: List[str]
    waiting_for: str
    never: bool = False


def default_slots() -> int:
    """Runs without GPUs that a host takes at once unless its settings say otherwise."""
    return max(2, (os.cpu_count() or 1) // 2)


class OwnLine(Queue):
    """The line of the machine that has the home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    # -- the contract

    def lacks(self, spec: RunSpec) -> Optional[str]:
        small = too_small(spec.cpus, spec.memory)
        if small is not None or not spec.gpus:
            return small
        try:
            count = len(gpu_tool.list_gpus())
        except gpu_tool.GpuError:
            return None
        return too_few(spec.gpus, count) if count < spec.gpus else None

    def submit(self, run: RunFolder, spec: RunSpec) -> None:
        if spec.after:
            others = awaited_runs(self.home, spec)
            if others.keys:
                self._take_place(spec.key, "after", after=[other.key for other in spec.after])
                run.note(others.words)
                return
        self.come(spec)

    def settle(self, active: Set[str], ended: bool = False) -> None:
        asleep, ready = self.waiting()
        if ready:
            asleep = self._end_hopeless()
        for key in sorted(active - asleep):
            with contextlib.suppress(OSError, ValueError):
                run = self.home.run(key)
                if not run.exists():
                    self.home.unmark_active(key)
                    self.release(key)
                    continue
                goes_on = ended or run.state()[0] not in FINAL
                if goes_on and not run.queue() and not self.supervised(run) and self.is_here(run):
                    supervision.spawn(self.home, key)

    def wait(self, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> bool:
        pause, ask_at = POLL_LEAST, 0.0
        seen: Set[str] = set()
        while True:
            report("")
            holders = self._holders()
            if holders != seen or time.monotonic() >= ask_at:
                waiting_for = self._waits_for(spec)
                report(waiting_for)
                if not waiting_for:
                    return True
                if run.key in self.asleep():
                    return False
                supervision.revive(self.home)  # the runs before it may have lost theirs, and nobody else would notice
                seen, ask_at = holders, time.monotonic() + ASK_EVERY
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_MOST)

    def _waits_for(self, spec: RunSpec) -> str:
        """Take what the run needs if it is there, and its turn: "", or what it waits for. Raises `Ended` where it can
        never start."""
        from ..ending import Ended

        if not self.has_come(spec.key):  # else they had ended; they may have been removed since
            others = awaited_runs(self.home, spec)
            if others.failed is not None:
                raise Ended(Reason.AFTER_FAILED, others.failed)
            if others.keys:
                return others.words
        turn = self.ask(spec)
        if turn.never:
            hint = "remoterun doctor %s   shows what it has" % spec.machine
            raise Ended(Reason.NO_CAPACITY, turn.waiting_for, hint=hint)
        return "" if turn.granted else "waiting for " + turn.waiting_for

    def gpus(self, run: RunFolder) -> Optional[List[str]]:
        try:
            return [str(uuid) for uuid in read_json(self._entry(run.key, "slot"))["gpus"]]
        except (OSError, ValueError, TypeError, LookupError):
            return [] if run.spec().beside else None

    def cancel(self, runs: List[RunFolder], reason: Reason, ask: Callable[[RunFolder], None]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        asleep = self.asleep()
        waiting = [run for run in reversed(runs) if run.key in asleep]
        with ThreadPoolExecutor(ENDING) as pool:  # so that one flush of the disk is for several of them
            pool.map(lambda run: self._end_waiting(run, reason), waiting)
        for run in reversed(runs):  # the end of one that has a supervisor would start one for the next
            if run.state()[0] not in FINAL:
                ask(run)
                if run.key in asleep:  # its supervisor may have left it before it was asked
                    self._end_waiting(run, reason)

    def release(self, key: str) -> None:
        """Also what a killed supervisor was about to write."""
        for name in os.listdir(self.home.queue):
            if name.startswith(key + "."):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.home.queue, name))

    def occupancy(self, asked: Demand) -> Occupancy:
        from .occupancy import inspect

        return inspect(self, asked)

    # -- a turn

    def ask(self, spec: RunSpec) -> Turn:
        """Take a slot if it is the run's turn. Repeat until granted; a granted one is granted again."""
        turn = self.come(spec)
        if turn is None:  # it is the first in the line: only it asks the driver, and nobody else waits for the answer
            try:
                turn = self.come(spec, (gpu_tool.list_gpus(), gpu_tool.busy()))
            except gpu_tool.GpuError as error:
                return Turn(False, [], "a GPU; %s" % error)
        assert turn is not None
        return turn

    def come(self, spec: RunSpec, known: Optional[_Gpus] = None) -> Optional[Turn]:
        """As `ask`, without the driver: None if it depends on GPUs of which nothing is `known`."""
        key, gpus, slots = spec.key, spec.gpus, spec.slots
        if spec.beside:
            return Turn(True, [], "")
        with locked(self.home.lock("slots")):
            holding = self.held()
            if key in holding:
                self._drop(key, "wait")  # where we were killed in between
                return Turn(True, list(holding[key].get("gpus", [])), "")
            of = {"of": spec.of, "at_once": spec.at_once} if spec.at_once else {}
            self._take_place(key, "wait", gpus=gpus, **of)
            self._drop(key, "after")
            at_work = _of_sets(holding)
            if of and at_work[spec.of] >= spec.at_once:
                return Turn(False, [], "another run of its set, as %d may be at work" % spec.at_once)
            if self._first(self.lines()["gpus" if gpus else "slots"], at_work) != key:
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
            write_whole(self._entry(key, "slot"), json.dumps({"gpus": chosen, "of": of.get("of", "")}).encode())
            self._drop(key, "wait")
            return Turn(True, chosen, "")

    # -- who waits

    def asleep(self) -> Set[str]:
        """The runs that need no supervisor while they wait. Takes no lock."""
        return self.waiting()[0]

    def waiting(self) -> Tuple[Set[str], List[str]]:
        """(the runs that need no supervisor while they wait, those that waited for the ends of others, all of which
        have ended). Takes no lock.

        A supervisor has only the first run of each line, and four at once of the second kind. On a rented host each run
        has one, which follows the host's notices and its deadline.
        """
        if self.home.rental.terms() is not None:
            return set(), []
        every = self.lines()
        keys = {key for line in every.values() for key, _ in line}
        ends = functools.lru_cache(None)(lambda key: key not in keys and not self._goes_on(key))
        ready = [key for key, ticket in every["after"] if all(map(ends, ticket["after"]))]
        at_work = _of_sets(self.held())
        return keys.difference(ready[:4], (self._first(line, at_work) for line in every.values())), ready

    def held(self) -> Dict[str, Dict[str, Any]]:
        """The slot and the GPUs of each run of this machine."""
        return {key: entry for key, entry in self._entries(("slot",), read_json) if self._counts(key)}

    def lines(self) -> Dict[str, List[Tuple[str, Dict[str, Any]]]]:
        """(key, ticket) of all that wait, in the order of arrival, by what they wait for: "after", "gpus", "slots"."""
        found: Dict[str, List[Tuple[str, Dict[str, Any]]]] = {"after": [], "gpus": [], "slots": []}
        tickets = dict(self._entries(("wait", "after"), _ticket))
        for key in sorted(tickets.keys() - self._holders(), key=lambda key: (tickets[key]["t"], key)):
            ticket = tickets[key]
            found["after" if ticket["after"] else "gpus" if ticket["gpus"] else "slots"].append((key, ticket))
        return found

    def has_come(self, key: str) -> bool:
        """Whether it has a place in the line, or what it waited for there."""
        return any(os.path.exists(self._entry(key, kind)) for kind in ("wait", "slot"))

    # -- the ends of runs that wait

    def _end_waiting(self, run: RunFolder, reason: Reason, message: Optional[str] = None) -> bool:
        """End a run that waits, and has no supervisor, without starting one: for a line of a thousand, no thousand
        processes are started. False where it needs one, as it sends word of its end or has a bucket."""
        from ..ending import clean_up, finish

        if run.webhooks().addresses or read_json(run.spec_file).get("bucket"):
            return False
        with self.supervising(run) as ours:
            if ours and run.state()[0] is RunState.QUEUED:
                finish(run, reason, **({"message": message} if message else {}))
                clean_up(self.home, run)
                return True
        return False

    def _end_hopeless(self) -> Set[str]:
        """End the runs whose `--after` has failed, each of which may be what another one waits for. Returns the runs
        that need no supervisor then. That set is older than what another process ends meanwhile: it starts no
        supervisor for the runs behind those."""
        ended = True
        while ended:
            ended = False
            asleep, ready = self.waiting()
            for key in ready:
                with contextlib.suppress(OSError, ValueError):
                    run = self.home.run(key)
                    failed = awaited_runs(self.home, run.spec()).failed
                    if failed is not None and self.is_here(run):
                        ended = self._end_waiting(run, Reason.AFTER_FAILED, failed) or ended
        return asleep

    # -- its files

    def _entry(self, key: str, kind: str) -> str:
        return os.path.join(self.home.queue, key + "." + kind)

    def _holders(self) -> Set[str]:
        """The runs that hold something, whatever has become of them. Cheap."""
        return {name[: -len(".slot")] for name in os.listdir(self.home.queue) if name.endswith(".slot")}

    def _take_place(self, key: str, kind: str, **ticket: Any) -> None:
        path = self._entry(key, kind)
        if not os.path.exists(path):
            write_whole(path, json.dumps(dict(ticket, t=time.time())).encode())

    def _entries(self, kinds: Tuple[str, ...], read: Callable[[str], Any]) -> Iterator[Tuple[str, Any]]:
        """(key, what it says) of the entries of these kinds. A damaged one is removed: its run comes again."""
        for name in os.listdir(self.home.queue):
            key, _, kind = name.rpartition(".")
            if kind in kinds:
                with contextlib.suppress(FileNotFoundError):
                    try:
                        yield key, read(os.path.join(self.home.queue, name))
                    except (ValueError, TypeError, KeyError):
                        self._drop(key, kind)

    def _first(self, line: List[Tuple[str, Dict[str, Any]]], at_work: Mapping[str, int]) -> Optional[str]:
        """The run whose turn it is. `at_work`: how many runs of each set have a slot."""
        may = (key for key, ticket in line if not ticket["of"] or at_work[ticket["of"]] < ticket["at_once"])
        return next(filter(self._counts, may), None)

    def _counts(self, key: str) -> bool:
        """Whether a run is of this machine, and goes on; what is here of one that has ended, or is gone, is removed."""
        if not self._goes_on(key):
            self._drop(key, "slot", "wait", "after")
            return False
        return self.is_here(self.home.run(key))

    def _goes_on(self, key: str) -> bool:
        try:
            run = self.home.run(key)
            return run.exists() and run.state()[0] not in FINAL
        except OSError:
            return True
        except Exception:  # noqa: BLE001 - a damaged run must not stop the queue
            return False

    def _drop(self, key: str, *kinds: str) -> None:
        for kind in kinds:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._entry(key, kind))


def too_few(wanted: int, there: int) -> str:
    """Why a run can never start."""
    return "the run asks for %s, and its machine has %s" % (_count(wanted), there or "none")


def too_small(cpus: Optional[int], memory: Optional[int]) -> Optional[str]:
    """Why a run that asks for these can never start here; None if it can."""
    count, whole = len(usable()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if cpus and cpus > count:
        return "the run asks for %d CPUs, and its machine has %d" % (cpus, count)
    if memory and memory > whole:
        return "the run asks for %s of memory, and its machine has %s" % (memory_text(memory), memory_text(whole))
    return None


def _count(gpus: int) -> str:
    return "%d GPUs" % gpus if gpus != 1 else "a GPU"


def _of_sets(held: Dict[str, Dict[str, Any]]) -> Mapping[str, int]:
    return collections.Counter(slot.get("of", "") for slot in held.values())


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


@functools.lru_cache(maxsize=1 << 14)
def _ticket(path: str) -> Dict[str, Any]:
    """Its content never changes, and its name is used for no other."""
    ticket = read_json(path)
    return {
        "t": float(ticket["t"]),
        "gpus": int(ticket.get("gpus", 0)),
        "after": list(ticket.get("after", ())),
        "of": str(ticket.get("of", "")),
        "at_once": int(ticket.get("at_once", 0)),
    }
