"""The runs and other programs that use this machine, and the runs that wait in its line."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from typing import Any, Dict, List, Optional, Tuple

from ...shared import api
from ...shared.files import text_of
from ...shared.records import Record
from ...shared.states import RunState
from ...store.home import Home
from .. import gpus as gpu_tool
from .line import OwnLine, default_slots, too_few, too_small


class GpuReport(Record):
    """The GPUs and what computes on them; `unknown` says why nothing is known of them."""

    every: List[gpu_tool.Gpu] = []
    processes: List[gpu_tool.GpuProcess] = []
    unknown: Optional[str] = None


def inspect(line: OwnLine, asked: api.Demand) -> api.Occupancy:
    """Both lines of this machine, and where `asked` would stand. The driver is asked only where GPUs matter."""
    home, held, lines = line.home, line.held(), line.lines()
    about_gpus = asked.gpus or asked.whole or lines["gpus"]
    cards = ask_driver(asked.patience) if about_gpus else GpuReport()
    slots = default_slots() if asked.slots is None else asked.slots
    holding = _holding(home, held)
    own: List[api.Claim] = []
    runs = list(holding)
    free = False
    for with_gpus in (True, False):
        room = _gpu_room(held, cards) if with_gpus else slots
        waiting = lines["gpus" if with_gpus else "slots"]
        plain = api.Claim("", 0, "", RunState.QUEUED)  # for who asks often: a line of a thousand takes long to read
        found = [(_described(home, key) if asked.whole else plain._replace(key=key), ticket) for key, ticket in waiting]
        alive = [run._replace(gpus=ticket["gpus"]) for run, ticket in found if run is not None]
        waits, units = _waiting(alive, with_gpus, room, holding)
        runs += waits
        if with_gpus == bool(asked.gpus):
            own, free = waits, units is not None and units >= (asked.gpus or 1)
    lacks = too_small(asked.cpus, asked.memory)
    if lacks is None and asked.gpus and cards.unknown is None and len(cards.every) < asked.gpus:
        lacks = too_few(asked.gpus, len(cards.every))
    return api.Occupancy(
        free=free and not own and lacks is None,
        before=len(own),
        lacks=lacks,
        slots=slots,
        gpus=_cards(held, cards),
        gpus_unknown=cards.unknown,
        runs=runs,
        **(_machine(home) if asked.whole else {}),
    )


def ask_driver(patience: float) -> GpuReport:
    """What the driver says within `patience` seconds."""
    try:
        return GpuReport(gpu_tool.list_gpus(patience), gpu_tool.compute_processes(patience))
    except gpu_tool.GpuError as error:
        return GpuReport(unknown=str(error))


def _holding(home: Home, held: Dict[str, Dict[str, Any]]) -> List[api.Claim]:
    """The runs that hold a slot, or GPUs."""
    described = ((_described(home, key), slot) for key, slot in held.items())
    return [run._replace(gpus=len(slot.get("gpus", []))) for run, slot in described if run is not None]


def _waiting(
    line: List[api.Claim], with_gpus: bool, room: Optional[int], holding: List[api.Claim]
) -> Tuple[List[api.Claim], Optional[int]]:
    """(the runs of a line with their places; how many units are free; None where that is not known). `room`: how many
    units there are."""
    taken = sum(run.gpus or 1 for run in holding if bool(run.gpus) == with_gpus)
    free = None if room is None else room - taken
    found, needed = [], 0
    for place, run in enumerate(line, 1):
        needed += run.gpus or 1
        found.append(run._replace(place=place, of=len(line), starts_now=free is not None and needed <= free))
    return found, free


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


def _cards(held: Dict[str, Dict[str, Any]], cards: GpuReport) -> List[api.GpuUse]:
    ours = _holders(held)
    found = []
    for gpu in cards.every:
        others = [process for process in cards.processes if process.gpu == gpu.uuid and gpu.uuid not in ours]
        users = [api.GpuUser(each.pid, each.name, _user_of(each.pid), each.memory) for each in others]
        found.append(api.GpuUse(gpu.number, gpu.name, gpu.memory, gpu.memory_used, ours.get(gpu.uuid, ""), users))
    return found


def _user_of(pid: int) -> str:
    """The login of the user whose process it is; "" where that can't be told."""
    try:
        return pwd.getpwuid(os.stat("/proc/%d" % pid).st_uid).pw_name
    except (OSError, KeyError):
        return ""


def _described(home: Home, key: str) -> Optional[api.Claim]:
    """A run of the queue; None for one that can't be read."""
    try:
        run = home.run(key)
        spec, status = run.spec(), run.status()
    except (OSError, ValueError):
        return None
    running = None if status.started is None else max(time.time() - status.started, 0.0)
    return api.Claim(key, spec.number, spec.command[:200], status.state, running=running)


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
    for line in text_of("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
