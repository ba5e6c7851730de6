"""Who uses a machine, and where a run stands in its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from remoterun import machines
from remoterun.agent.shared import api
from remoterun.connections import Connections
from remoterun.errors import HostError, UsageError
from remoterun.model import Line, MachineType
from remoterun.session import Session

PATIENCE = 0.7
"""Seconds that the driver of the GPUs has to answer where a person waits for a list."""


@dataclass(frozen=True)
class MachineStatus:
    """Who uses a machine, as it said just now. Without `there`, `unreached` says why, and `last_seen` is when this
    client last heard of a run there, in seconds since 1970. `numbers`: of this client's runs, by their keys."""

    machine: MachineType
    there: api.Occupancy | None
    numbers: dict[str, int]
    unreached: str | None = None
    last_seen: float | None = None


def status(connections: Connections, names: Iterable[str], wait: float) -> list[MachineStatus]:
    """See `Machines.status`."""
    asked = [connections.machine(name) for name in names] or machines.listing(connections.config)
    asked = [one for machine in asked for one in _each(connections, machine)]
    own: dict[tuple[str | None, ...], MachineType] = {}
    for machine in asked:
        if machine.rental is None and machine.bucket is None:
            own.setdefault(machine.place, machine)
        elif names:
            raise UsageError(f"`{machine.name}` is not a machine of your own", hint="remoterun machines rented")
    questions = {machine: partial(_whole, connections, machine) for machine in own.values()}
    found = []
    for machine, answer in connections.ask_all(questions, wait).items():
        if isinstance(answer, HostError):
            seen = _last_seen(connections, machine)
            found.append(MachineStatus(machine, None, {}, answer.message, seen))
        else:
            numbers = connections.registry.numbers(run.key for run in answer.runs)
            found.append(MachineStatus(machine, answer, numbers))
    return found


def _each(connections: Connections, machine: MachineType) -> list[MachineType]:
    """The machine, or those of a pool that can be asked."""
    if not machine.pool:
        return [machine]
    found = machines.members(machine, connections.config).values()
    return [member for member in found if isinstance(member, MachineType)]


def _whole(connections: Connections, machine: MachineType) -> api.Occupancy:
    demand = api.Demand(machine.gpus, machine.slots, PATIENCE, True, machine.queue, machine.scheduling)
    return connections.session(machine).ask(api.occupancy, demand)


def _last_seen(connections: Connections, machine: MachineType) -> float | None:
    """When a run of a machine was heard of last."""
    runs = [run for run in connections.registry.runs() if run.placed is not None and run.host.place == machine.place]
    return max((run.last_seen for run in runs if run.last_seen is not None), default=None)


def lines(connections: Connections, session: Session, keys: Iterable[str]) -> dict[str, Line]:
    """Where each of these runs stands, by its key; nothing of those that are not in a line. Raises `HostError`."""
    wanted = set(keys)
    if not wanted:
        return {}
    demand = api.Demand(slots=session.machine.slots, patience=PATIENCE, queue=session.machine.queue)
    there = session.ask(api.occupancy, demand)
    numbers = connections.registry.numbers(run.key for run in there.runs)
    found = ((key, line_of(there, key, session.machine.name, numbers)) for key in wanted)
    return {key: line for key, line in found if line is not None}


def line_of(there: api.Occupancy, key: str, machine: str, numbers: dict[str, int]) -> Line | None:
    """Where the run `key` stands, as its host says; None for one that does not wait, or starts at once. `numbers`: of
    the runs of this client."""
    own = next((run for run in there.runs if run.key == key and run.place), None)
    if own is None or own.starts_now:
        return None
    holders = [run for run in there.runs if not run.place and bool(run.gpus) == bool(own.gpus)]
    others = []
    if own.gpus:
        others = [described(gpu, user) for gpu in there.gpus for user in gpu.others[:1]]
        if there.gpus_unknown is not None:
            others.append(there.gpus_unknown)
    held = tuple(numbers.get(run.key) for run in holders)
    return Line(machine, own.place, own.of, held, tuple(others))


def described(gpu: api.GpuUse, user: api.GpuUser) -> str:
    """A process of somebody else on a GPU: `GPU 0 is used by python3 of alice (process 812)`."""
    of = f" of {user.user}" if user.user else ""
    return f"GPU {gpu.number} is used by {user.name}{of} (process {user.pid})"
