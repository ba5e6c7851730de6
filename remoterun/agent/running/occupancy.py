"""Who uses this machine, who waits for it, and for how long, about."""

from __future__ import annotations

import heapq
import os
import pwd
import shutil
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..shared import api
from ..shared.files import read_json
from ..shared.states import RunState
from ..store.home import Home
from . import gpus as gpu_tool
from . import queue

PAST_RUNS = 200
"""How many of the newest runs are looked through for the same command."""
ALIKE = 9
"""How many runs of one command an estimate is made of."""


class GpuReport(NamedTuple):
    """The GPUs and what computes on them; `unknown` says why nothing is known of them."""

    every: List[gpu_tool.Gpu] = []
    processes: List[gpu_tool.GpuProcess] = []
    unknown: Optional[str] = None


def look(home: Home, asked: api.Demand) -> api.Occupancy:
    """Both lines of this machine, and what `asked` would meet there. The driver is asked only where GPUs matter."""
    held, waiting = queue.entries(home)
    held = {key: slot for key, slot in held.items() if not slot.get("beside")}
    about_gpus = asked.gpus or asked.whole or any(ticket["gpus"] for ticket in waiting.values())
    cards = ask_driver(asked.patience) if about_gpus else GpuReport()
    past = _PastRuns(home) if held or waiting else None
    runs, rooms = _runs(home, held, waiting, cards, asked.slots, past)
    line = [run for run in runs if run.place and bool(run.gpus) == bool(asked.gpus)]
    room = rooms[bool(asked.gpus)]
    lacks = None
    if asked.gpus and cards.unknown is None and len(cards.every) < asked.gpus:
        lacks = queue.too_few(asked.gpus, len(cards.every))
    starts_in = None if room is None or lacks else _starts(room, runs, asked.gpus)
    machine = _machine(home) if asked.whole else {}
    return api.Occupancy(
        free=starts_in == 0 and not line,
        before=len(line),
        starts_in=starts_in,
        lacks=lacks,
        slots=queue.default_slots() if asked.slots is None else asked.slots,
        gpus=_cards(held, cards),
        gpus_unknown=cards.unknown,
        runs=runs,
        **machine,
    )


def ask_driver(patience: float) -> GpuReport:
    """What the driver says within `patience` seconds."""
    try:
        return GpuReport(gpu_tool.list_gpus(patience), gpu_tool.compute_processes(patience))
    except gpu_tool.GpuError as error:
        return GpuReport(unknown=str(error))


def starts(
    room: int, holding: List[Tuple[int, Optional[float]]], waiting: List[Tuple[int, Optional[float]]]
) -> List[Optional[float]]:
    """In how many seconds each of those that wait can start, first come, first served; None where that can't be told.

    `room`: how many units there are. Of each run: how many it takes, and how many seconds it still takes, if known.
    """
    free = room - sum(units for units, _ in holding)
    ends = [(left, units) for units, left in holding if left is not None]
    heapq.heapify(ends)
    found: List[Optional[float]] = []
    now: Optional[float] = 0.0
    for units, lasts in waiting:
        while now is not None and free < units:
            if not ends:
                now = None
                break
            moment, freed = heapq.heappop(ends)
            now, free = max(now, moment), free + freed
        found.append(now)
        if now is not None:
            free -= units
            if lasts is not None:
                heapq.heappush(ends, (now + lasts, units))
    return found


def _runs(
    home: Home,
    held: Dict[str, Dict[str, Any]],
    waiting: Dict[str, Dict[str, Any]],
    cards: GpuReport,
    slots: Optional[int],
    past: "Optional[_PastRuns]",
) -> Tuple[List[api.RunThere], Dict[bool, Optional[int]]]:
    """(the runs that hold something, then those that wait, in their order; how much room there is, with GPUs and
    without)."""
    numbers = {gpu.uuid: gpu.number for gpu in cards.every}
    plain_room = queue.default_slots() if slots is None else slots
    found = []
    for key, slot in held.items():
        names = [str(uuid) for uuid in slot.get("gpus", [])]
        own = sorted(numbers[uuid] for uuid in names if uuid in numbers)
        run = _described(home, key, past)
        if run is not None:
            found.append(run._replace(gpus=len(names), cards=own))
    holders, rooms = list(found), {False: plain_room, True: _gpu_room(held, cards)}
    for with_gpus in (True, False):
        line = sorted((ticket["t"], key) for key, ticket in waiting.items() if bool(ticket["gpus"]) == with_gpus)
        described = [(_described(home, key, past), int(waiting[key]["gpus"])) for _, key in line]
        alive = [run._replace(gpus=gpus) for run, gpus in described if run is not None]
        room = rooms[with_gpus]
        begins: List[Optional[float]] = [None] * len(alive)
        if room is not None:
            begins = starts(room, _held(holders, with_gpus), [(run.gpus or 1, run.ends_in) for run in alive])
        for number, run in enumerate(alive):
            found.append(run._replace(place=number + 1, of=len(alive), starts_in=begins[number], ends_in=None))
    return found, rooms


def _starts(room: int, runs: List[api.RunThere], gpus: int) -> Optional[float]:
    """In how many seconds a run could start that comes now. What those before it in the line take is not known."""
    line = [(run.gpus or 1, None) for run in runs if run.place and bool(run.gpus) == bool(gpus)]
    holders = [run for run in runs if not run.place]
    return starts(room, _held(holders, bool(gpus)), [*line, (gpus or 1, None)])[-1]


def _held(holders: List[api.RunThere], with_gpus: bool) -> List[Tuple[int, Optional[float]]]:
    return [(run.gpus or 1, run.ends_in) for run in holders if bool(run.gpus) == with_gpus]


def _gpu_room(held: Dict[str, Dict[str, Any]], cards: GpuReport) -> Optional[int]:
    """How many GPUs runs have, or may have; None where nothing is known of them."""
    if cards.unknown is not None or not cards.every:
        return None
    ours = _holders(held)
    busy = {process.gpu for process in cards.processes}
    return sum(1 for gpu in cards.every if gpu.uuid in ours or gpu.uuid not in busy)


def _holders(held: Dict[str, Dict[str, Any]]) -> Dict[str, str]:
    """By GPU, the key of the run that holds it."""
    return {str(uuid): key for key, slot in held.items() for uuid in slot.get("gpus", [])}


def _cards(held: Dict[str, Dict[str, Any]], cards: GpuReport) -> List[api.GpuThere]:
    ours = _holders(held)
    found = []
    for gpu in cards.every:
        others = [process for process in cards.processes if process.gpu == gpu.uuid and gpu.uuid not in ours]
        users = [api.GpuUser(each.pid, each.name, _user_of(each.pid), each.memory) for each in others]
        found.append(api.GpuThere(gpu.number, gpu.name, gpu.memory, gpu.memory_used, ours.get(gpu.uuid, ""), users))
    return found


def _user_of(pid: int) -> str:
    """The login of the user whose process it is; "" where that can't be told."""
    try:
        return pwd.getpwuid(os.stat("/proc/%d" % pid).st_uid).pw_name
    except (OSError, KeyError):
        return ""


def _described(home: Home, key: str, past: "Optional[_PastRuns]") -> Optional[api.RunThere]:
    """A run of the queue; None for one that can't be read. `ends_in` of one that has not begun: how long it takes."""
    try:
        run = home.run(key)
        spec, status = run.spec(), run.status()
    except (OSError, ValueError):
        return None
    lasts = past.lasts(spec.command) if past is not None else None
    running = None if status.started is None else max(time.time() - status.started, 0.0)
    if lasts is not None and running is not None:
        lasts = lasts - running if running < lasts else None  # it takes longer than the others did
    return api.RunThere(key, spec.number, spec.command[:200], status.state, running=running, ends_in=lasts)


class _PastRuns:
    """How long commands took that completed in this home. An ended run is read once in the life of this process."""

    _read: Dict[Tuple[str, str], Optional[Tuple[str, float]]] = {}

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seconds: Optional[Dict[str, List[float]]] = None

    def lasts(self, command: str) -> Optional[float]:
        """The median of the newest runs of a command; None without one."""
        if self._seconds is None:
            self._seconds = {}
            for key in reversed(self._home.run_keys()[-PAST_RUNS:]):
                known = self._completed(key)
                if known is not None:
                    self._seconds.setdefault(known[0], []).append(known[1])
        times = sorted(self._seconds.get(command, [])[:ALIKE])
        return times[len(times) // 2] if times else None

    def _completed(self, key: str) -> Optional[Tuple[str, float]]:
        """(command, seconds); None for a run that did not complete, or can't be read."""
        name = (self._home.path, key)
        if name in self._read:
            return self._read[name]
        run = self._home.run(key)
        found = None
        try:
            state, event = run.state()
            if not state.final:
                return None
            if state is RunState.COMPLETE:
                started = run.status().started
                if started is not None:
                    found = (str(read_json(run.spec_file)["command"]), max(event["t"] - started, 0.0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        self._read[name] = found
        return found


def _machine(home: Home) -> Dict[str, Any]:
    """The load, the memory and the disk."""
    page = os.sysconf("SC_PAGE_SIZE")
    disk = shutil.disk_usage(home.path)
    return {
        "cpus": os.cpu_count() or 1,
        "load": os.getloadavg()[0],
        "memory": page * os.sysconf("SC_PHYS_PAGES"),
        "memory_free": _memory_free(page),
        "disk": disk.total,
        "disk_free": disk.free,
    }


def _memory_free(page: int) -> int:
    """Bytes that programs could still have."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    names = os.sysconf_names
    return page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in names else 0
