"""What a run gets: how many GPUs, of which types, on which machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import ge

from remoterun import machines
from remoterun.agent.shared import api
from remoterun.agent.shared.asked import memory_text
from remoterun.agent.shared.spec import NONE, After
from remoterun.agent.shared.states import RunState
from remoterun.clouds import front
from remoterun.connections import Connections
from remoterun.errors import HostError, UsageError
from remoterun.model import ALL_GPUS, MachineType, Run, RunRequest
from remoterun.session import Session
from remoterun.sizes import counted

OF_PROGRAMS = 0.9
"""Of the memory of a host that is rented, what is there for programs at least."""
POOL_WAIT = 10.0
"""Seconds that the machines of a pool have to answer."""


def with_wishes(machine: MachineType, request: RunRequest) -> MachineType:
    """The machine type with what a request wants of its rental. Raises `UsageError` for one that is not rented."""
    if not machine.pool:
        _check_nodes(machine, request)
    wanted = {
        name: getattr(request, name)
        for name in ("spot", "attempts", "max_hours", "max_cost")
        if getattr(request, name) not in (None, False)
    }
    if not wanted or (machine.rental is None and wanted.keys() == {"attempts"}):
        return machine
    if machine.rental is None:
        wanted.pop("attempts", None)
        option = "--" + next(iter(wanted)).replace("_", "-")
        raise UsageError(
            f"`{option}` is for machines that are rented, and `{machine.name}` is not",
            hint="remoterun machines   lists those that are",
        )
    return replace(machine, rental=replace(machine.rental, **wanted))


def with_image(machine: MachineType, request: RunRequest) -> tuple[MachineType, RunRequest]:
    """Both, where the hosts of a machine type are containers: there the image of a run is the one of its host, and the
    command has what is in it. Raises `UsageError` for packages beside an image."""
    rental = machine.rental
    if request.image is None or rental is None or not front(rental.provider).hosts_are_containers:
        return machine, request
    if request.pip or request.requirements or request.framework not in (None, NONE):
        what = f"a host of `{machine.name}` is a container itself, and no packages are added to its image"
        raise UsageError(what, hint="name an image that has them, or leave out the image")
    machine = replace(machine, rental=replace(rental, image=request.image))
    return machine, request._replace(image=None, framework=NONE)


def rented_with(connections: Connections, machine: MachineType, request: RunRequest) -> MachineType:
    """A machine type that is rented, with the types only that have as much as a request asks for; any other one as it
    is. Asks nobody. Raises `UsageError` where none has."""
    rental, gpus = machine.rental, None if request.gpus == ALL_GPUS else request.gpus
    if rental is None or (gpus is None and not request.cpus and not request.memory):
        return machine
    least = gpus or 0, request.cpus or 0, (request.memory or 0) / OF_PROGRAMS / 2**30
    offers = connections.provider(rental.provider).offers(machine)
    has = {offer.type for offer in offers if all(map(ge, (offer.gpus, offer.vcpus, offer.memory), least))}
    types = tuple(type for type in rental.types if type in has)
    if not types:
        asked = [counted(gpus, "GPU")] if gpus else []
        asked += [counted(request.cpus, "CPU")] if request.cpus else []
        asked += [f"{memory_text(request.memory)} of memory"] if request.memory else []
        raise UsageError(
            f"the run asks for {' and '.join(asked)}, and no type of `{machine.name}` has that",
            hint="remoterun machines --all   lists what can be rented",
        )
    return replace(machine, gpus=machine.gpus if gpus is None else gpus, rental=replace(rental, types=types))


def settings(asked: MachineType, request: RunRequest, session: Session) -> MachineType:
    """The settings of the machine with which a run goes there. `asked`: what it was asked for, where that is rented;
    else the settings are those of the session's machine. Raises `UsageError`, `HostError`."""
    machine = asked if asked.rental is not None else session.machine
    if request.gpus is None:
        return machine
    if request.gpus != ALL_GPUS:
        return replace(machine, gpus=request.gpus)
    there = session.ask(api.occupancy, api.Demand(whole=True, patience=10.0, queue=machine.queue))
    if there.gpus_unknown is not None:
        raise HostError(
            f"{session.machine.name}: {there.gpus_unknown}", hint=f"remoterun doctor {session.machine.name}"
        )
    if not there.gpus:
        raise UsageError(
            f"the run asks for all GPUs, and `{session.machine.name}` has none",
            hint=f"remoterun doctor {session.machine.name}   shows what it has",
        )
    return replace(machine, gpus=len(there.gpus))


@dataclass(frozen=True)
class _Answer:
    """What a machine of a pool says to a run: whether it would start at once, and how many are before it if not."""

    machine: MachineType
    there: api.Occupancy
    free: bool


def choose_machine(
    connections: Connections, machine: MachineType, request: RunRequest, note: Callable[[str], None]
) -> Session:
    """A conversation with the machine that a run goes to; of a pool with the one that is free, else with the one that
    has the shortest line. `note` is told which ones of a pool are passed over, and why. Raises `HostError`,
    `UsageError`."""
    if not machine.pool:
        return connections.session(machine)
    awaited = _awaited(connections, request)
    if awaited:
        return connections.session(_of_run(connections, machine, awaited[0][0]))
    answers: list[_Answer] = []
    known = machines.members(machine, connections.config)
    own = {name: member for name, member in known.items() if isinstance(member, MachineType)}
    passed = {name: member.message for name, member in known.items() if isinstance(member, UsageError)}
    questions = {member: partial(_answer, connections, member, request) for member in own.values()}
    found = connections.ask_all(questions, POOL_WAIT, lambda answer: answer.free)
    for member, answer in found.items():
        if isinstance(answer, HostError):
            passed[member.name] = answer.message
        elif answer.there.lacks is not None:
            passed[member.name] = answer.there.lacks
        else:
            answers.append(answer)
    told = [f"{name} is passed over: {reason}" for name, reason in passed.items()]
    if not answers:
        evidence = "\n".join(f"{name}: {reason}" for name, reason in passed.items())
        raise HostError(
            f"no machine of the pool `{machine.name}` takes the run",
            evidence=evidence,
            hint="remoterun machines status",
        )
    if told:
        note("; ".join(told))
    least = min(answers, key=lambda each: (not each.free, each.there.before))  # of several the first of the pool
    return connections.session(least.machine)


def fitting(
    connections: Connections, machine: MachineType, request: RunRequest, note: Callable[[str], None]
) -> tuple[Session, MachineType]:
    """The conversation that `choose_machine` gives, with a machine that has as many GPUs as the run asks for, and the
    `settings` of the run there. What is refused here has no number yet. Raises `UsageError`, `HostError`."""
    session = choose_machine(connections, machine, request, note)
    _check_nodes(session.machine, request)
    wanted = settings(machine, request, session)
    demand = api.Demand(
        wanted.gpus,
        wanted.slots,
        queue=wanted.queue,
        scheduling=wanted.scheduling,
        cpus=request.cpus,
        memory=request.memory,
    )
    asks = wanted.gpus or request.cpus or request.memory
    lacks = session.ask(api.occupancy, demand).lacks if asks else None
    if lacks is not None:
        raise UsageError(lacks, hint=f"remoterun doctor {session.machine.name}   shows what it has")
    return session, wanted


def check_after(connections: Connections, request: RunRequest, machine: MachineType) -> None:
    """Refuse what waits for a run that is not on its machine, or that ended otherwise. Asks nobody: what the machine
    itself says comes later. Raises `UsageError`."""
    for other, any in _awaited(connections, request):
        number = other.number
        if machine.rental is not None or other.host.rental is not None or other.host.rented or other.host.bucket:
            raise _elsewhere(other, machine)
        if other.placed is None:
            ended = f"is {other.state.value}: no machine ever had it" if other.final else "is still being handed over"
            raise UsageError(f"run {number} {ended}", hint=f"remoterun info {number}")
        _of_run(connections, machine, other)
        if other.final and not any:
            status = f" (exit status {other.code})" if other.code else ""
            raise UsageError(
                f"run {number} has ended: {other.state.value}{status}, so a run that waits for it would never start",
                hint=f"after_any=[{number}] starts it however run {number} ended",
            )


def after(connections: Connections, request: RunRequest, session: Session) -> tuple[After, ...]:
    """The runs that a run waits for, as the host takes them. Raises `UsageError` for one that is elsewhere."""
    found = []
    for other, any in _awaited(connections, request):
        if other.home_id != session.home_id:
            raise _elsewhere(other, session.machine)
        found.append(After(other.key, other.number, any))
    return tuple(found)


def _awaited(connections: Connections, request: RunRequest) -> list[tuple[Run, bool]]:
    """The runs that a run waits for, each with whether any end of it will do. One that is known to have ended so is
    not waited for, wherever it was."""
    asked = [(number, False) for number in request.after] + [(number, True) for number in request.after_any]
    found = [(connections.registry.run(number), any) for number, any in asked]
    return [(run, any) for run, any in found if not (run.final and (any or run.state is RunState.COMPLETE))]


def _of_run(connections: Connections, machine: MachineType, other: Run) -> MachineType:
    """The machine, or the one of a pool, that has another run. Raises `UsageError`."""
    known = machines.members(machine, connections.config).values() if machine.pool else [machine]
    for each in known:
        if isinstance(each, MachineType) and (each.host, each.home) == (other.host.host, other.host.home):
            return each
    raise _elsewhere(other, machine)


def _check_nodes(machine: MachineType, request: RunRequest) -> None:
    if (request.nodes or 1) > 1 and not machine.queue:
        raise UsageError(
            f"`--nodes` needs a cluster, whose scheduler starts all nodes at once: `{machine.name}` is one machine",
            hint='two runs that find each other: "Two boxes" in README.md',
        )


def _elsewhere(other: Run, machine: MachineType) -> UsageError:
    return UsageError(
        f"run {other.number} is on `{other.where}`, and what waits for it would be on `{machine.name}`",
        hint=f"remoterun wait {other.number} && remoterun run …\nor both on one machine: `machine={other.host.name}`",
    )


def _answer(connections: Connections, machine: MachineType, request: RunRequest) -> _Answer:
    session = connections.session(machine)
    gpus = machine.gpus if request.gpus is None else request.gpus
    wanted = max(gpus, 1) if gpus == ALL_GPUS else gpus
    demand = api.Demand(wanted, machine.slots, whole=gpus == ALL_GPUS, queue=machine.queue)
    demand = demand._replace(cpus=request.cpus, memory=request.memory)
    there = session.ask(api.occupancy, demand)
    free = there.free
    if gpus == ALL_GPUS:
        free = free and not any(card.run or card.others for card in there.gpus)
    return _Answer(machine, there, free)
