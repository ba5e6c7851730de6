"""What a run gets: how many GPUs, of which types, on which machine."""

from __future__ import annotations

from dataclasses import replace

from remoterun.agent.shared import api
from remoterun.client.connections import Connections
from remoterun.errors import HostError, UsageError
from remoterun.model import ALL_GPUS, MachineType, RunRequest
from remoterun.session import Session


def rented_with(connections: Connections, machine: MachineType, gpus: int | None) -> MachineType:
    """A machine type that is rented, with the types only that have as many GPUs; any other one as it is. Asks nobody.
    Raises `UsageError` where none has."""
    rental = machine.rental
    if rental is None or gpus in (None, ALL_GPUS):
        return machine
    offers = connections.provider(rental.provider).offers(machine)
    types = tuple(type for type in rental.types if any(offer.gpus >= gpus for offer in offers if offer.type == type))
    if not types:
        most = max((offer.gpus for offer in offers), default=0)
        has = f"{most} GPU{'' if most == 1 else 's'}" if most else "no GPU"
        raise UsageError(
            f"the run asks for {gpus} GPUs, and `{machine.name}` has {has}",
            hint="remoterun machines lists what can be rented",
        )
    return replace(machine, gpus=gpus, rental=replace(rental, types=types))


def settings(asked: MachineType, request: RunRequest, session: Session) -> MachineType:
    """The settings of the machine with which a run goes there. `asked`: what it was asked for, where that is rented;
    else the settings are those of the session's machine. Raises `UsageError`, `HostError`."""
    machine = asked if asked.rental is not None else session.machine
    if request.gpus is None:
        return machine
    if request.gpus != ALL_GPUS:
        return replace(machine, gpus=request.gpus)
    there = session.ask(api.occupancy, api.Demand(whole=True, patience=10.0))
    if there.gpus_unknown is not None:
        raise HostError(
            f"{session.machine.name}: {there.gpus_unknown}", hint=f"remoterun doctor {session.machine.name}"
        )
    if not there.gpus:
        raise UsageError(
            f"the run asks for all GPUs, and `{session.machine.name}` has none",
            hint=f"remoterun doctor {session.machine.name} shows what it has",
        )
    return replace(machine, gpus=len(there.gpus))
