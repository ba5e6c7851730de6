"""Hosts that are rented for a run: how one is got, and what becomes of it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace

from remoterun.agent.shared.states import ENDINGS, HAND_OVER, Reason
from remoterun.clouds.base import LOST, HasProxy, Intent, NoCapacity, NotListedYet, Provider, RentedHost, roles_of
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger import archiving, billing
from remoterun.clouds.ledger.planning import AgreedPlan, offers_now, rental_of, token, tokens
from remoterun.clouds.ledger.rented_runs import change_use
from remoterun.connections import Connections
from remoterun.errors import HostError, LinkLost, NotFound, RemoterunError
from remoterun.model import HostUse, MachineType, Renting, Run
from remoterun.session import Session

SAVING = 600.0
"""Seconds at the most between the end of a run's command and that of its host: outputs are saved meanwhile."""
SAVING_PART = 0.1
"""For runs with a short limit: the part of it that is left for saving outputs."""


def rent(
    connections: Connections, run: Run, plan: AgreedPlan, waiting: Callable[[str], None], held: contextlib.ExitStack
) -> tuple[Run, Session]:
    """A host for this attempt of a run, as its registry row tells from then on, and a conversation with it. Until
    `held` is closed, it does not end for want of use.

    Blocks for minutes where a new one is rented. What was begun ends where that fails. Raises `ProviderError`,
    `HostError`.
    """
    assert run.renting is not None
    provider, renting = connections.provider(rental_of(run.machine).provider), run.renting
    offers, kept = plan.offers, plan.kept
    if kept is not None:
        for each in connections.registry.runs():
            if kept.token in tokens(each) and each.state in HAND_OVER:
                unless_abandoned(connections, each, keep=True)
        folder = HostFolder(connections.config.home, kept.token)
        if folder.read("host.json") is None and (begun := folder.intent()):
            kept = provider.acquire(begun, plan.offers, waiting, connections.warn)
        found = _reuse(connections, run, kept, held)
        if found is not None:
            return found
        if plan.dear:  # nobody agreed to a new one
            raise NoCapacity("the host that was free is gone, and another one is a new price", hint="try again")
        # Others may stand in for it that cost no more than what was shown and agreed to.
        found_now, most = offers_now(connections, run.machine), plan.price or 0.0
        offers = tuple(each for each in found_now if (each.at_most or math.inf) <= most)
        if not offers:
            raise NoCapacity("the host that was free is gone, and others cost more", hint="try again")
    intent = Intent(
        token=token(run, renting.attempt),
        run=run.key,
        number=run.number,
        attempt=renting.attempt,
        machine=run.machine,
        deadline=renting.deadline,
        idle=plan.idle,
    )
    objects = archiving.archive_of(
        connections, run
    ).objects  # what it refuses is known before there is something to pay for
    objects.put("may-write", b"")
    next(objects.list("may-write"), None)
    renting = replace(renting, most=plan.most or 0.0)
    run = connections.registry.save_renting(run, renting)  # before the check: the later one of two clients counts both
    billing.check_month(connections, plan.most, time.time(), run.key)
    if isinstance(provider, HasProxy) and (server := provider.unknown_proxy(run.machine)) is not None:
        connections.ask_about(server)
    rented = provider.acquire(intent, offers, waiting, connections.warn)
    lost = ["saves by what this login signs"] if plan.roles.writer and not rented.writer else []
    lost += ["is ended by its own clock alone"] if not rented.guarded and roles_of(provider) != plan.roles else []
    if lost:
        connections.warn(f"the host {rented.id} {' and '.join(lost)}: {roles_of(provider).why_not}")
    run = connections.registry.save_renting(run, _with_host(renting, rented, rented.began))
    try:
        HostFolder(connections.config.home, rented.token).record(rented)
        waiting("its agent")
        session = connections.session(_reached(rented))
        held.callback(session.stay().cancel)
        return run, session
    except BaseException:
        give_back(connections, run)
        raise


def unless_abandoned(connections: Connections, run: Run, keep: bool = False) -> Run:
    """A run that is still handed over, or the end of one whose client is gone. `keep`: its host serves another run."""
    if not connections.registry.abandoned(run):
        return run
    if run.renting is not None:
        try:
            give_back(connections, run, keep)
        except NotListedYet:  # the next look finds it, and ends it
            return run
        run = connections.registry.run(run.number)
    is_first = run.attempt == 1
    reason = Reason.START_FAILED if is_first else Reason.HOST_LOST
    message = f"remoterun was ended before the run {'was handed over' if is_first else 'had its next host'}"
    return connections.registry.change_state(
        run, ENDINGS[reason].state, time.time(), reason=reason.value, message=message
    )


def give_back(connections: Connections, run: Run, keep: bool = False) -> None:
    """End the host that was rented for this attempt of a run, if there is one; one that was there before stays, and so
    does one that others `keep`. Where the provider can't be asked, it ends by itself. Raises `NotListedYet`."""
    rental, renting = rental_of(run.machine), run.renting
    if renting is None:
        return
    rented = None
    try:
        provider = connections.provider(rental.provider)
        rented = provider.find(token(run, renting.attempt))
        if rented is not None and rented.alive and not keep:
            provider.release(rented)
    except NotListedYet:
        raise
    except RemoterunError:
        pass
    if renting.hosts and renting.hosts[-1].ended is None:
        run = connections.registry.save_renting(run, renting.given_back_at(time.time()))
    if rented is not None and not keep:
        host_ended(connections, rented, "by this machine, as no run began there")
    elif rented is not None and all(host.id != rented.id for host in renting.hosts):
        renting = _with_host(renting, rented, rented.began)
        connections.registry.save_renting(run, renting.given_back_at(rented.ended or time.time()))


def host_ended(connections: Connections, rented: RentedHost, by: str) -> None:
    """Record that a host is gone, and by whom, for each run that had it, and for the one that it was rented for and
    never came to serve. May be repeated: the first word counts."""
    HostFolder(connections.config.home, rented.token).forget_record()
    for run in connections.registry.runs():
        renting = run.renting
        if renting is not None and run.key == rented.run and all(host.id != rented.id for host in renting.hosts):
            connections.registry.save_renting(run, _with_host(renting, rented, rented.began))
    change_use(connections, rented, lambda use: use.until(rented.ended if rented.state in LOST else time.time(), by))


def _reuse(
    connections: Connections, run: Run, kept: RentedHost, held: contextlib.ExitStack
) -> tuple[Run, Session] | None:
    """As `rent`, with a host that is kept; None if it is gone, or about to end."""
    for _ in range(2):  # a conversation that began before a person was asked may be lost by now
        try:
            session = connections.session(_reached(kept))
            held.callback(session.stay().cancel)
        except LinkLost:
            continue
        except HostError:
            break
        assert run.renting is not None
        renting = _with_host(run.renting, kept, time.time())
        renting = replace(renting, deadline=min(renting.deadline, kept.deadline))
        return connections.registry.save_renting(run, renting), session
    return None


def _with_host(renting: Renting, rented: RentedHost, began: float) -> Renting:
    offer = rented.offer
    use = HostUse(
        token=rented.token,
        id=rented.id,
        type=offer.type,
        zone=offer.zone or offer.region,
        price=offer.price,
        extra=offer.extra,
        writer=rented.writer,
        began=began,
        limit=offer.limit,
        idle=rented.idle,
        deadline=rented.deadline,
        guarded=rented.guarded,
    )
    return replace(renting, most=0.0, hosts=(*renting.hosts, use))


def find_host(connections: Connections, id: str) -> tuple[Provider, RentedHost]:
    """A rented host, by its provider's id, and that provider. Raises `NotFound`, `ProviderError`."""

    def found_at(provider: Provider) -> list[tuple[Provider, RentedHost]]:
        host = provider.find(id)
        return [] if host is None or host.state == "gone" else [(provider, host)]

    for found in connections.of_providers(found_at, connections.warn):
        return found
    raise NotFound(f"there is no rented host `{id}`", hint="remoterun machines rented")


def of_host(connections: Connections, id: str) -> MachineType:
    """How a rented host is reached, by its provider's id. Raises `NotFound`, `HostError`, `ProviderError`."""
    provider, host = find_host(connections, id)
    machine = _reached(host)
    provider.admit(host)
    return machine


def _reached(rented: RentedHost) -> MachineType:
    if rented.machine is None:
        raise HostError(f"this machine has no key for the host {rented.id}", hint=f"remoterun machines rm {rented.id}")
    return rented.machine


def until(renting: Renting, session: Session, now: float) -> float:
    """When the command must end, by the clock of its host, so that its outputs are saved before the host ends."""
    left = max(renting.deadline - now, 0.0)
    return renting.deadline - min(SAVING, left * SAVING_PART) + session.clock_skew
