"""Hosts that are rented for a run: what they will cost, how one is got, and what becomes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from remoterun import machines
from remoterun.client.connections import Connections
from remoterun.errors import UsageError
from remoterun.model import MachineType, Rental, Run, RunRequest
from remoterun.providers.base import Offer, ProviderError, Rented

HOURS = 24.0
"""Of a run on rented hosts, with all its attempts, unless it asks for another limit."""
IDLE = 600.0
"""Seconds that a host stays after its last run."""
ATTEMPTS_ON_SPOT = 3
SAVING = 600.0
"""Seconds at the most between the end of a run's command and that of its host: outputs are saved meanwhile."""
SAVING_PART = 0.1
"""The same, as a part of the whole time, for short ones."""
WORTH_KEEPING = 0.5
"""A host is used again if it will still be there for this part of the time that a run may take."""


@dataclass(frozen=True)
class Plan:
    """What a run on a rented host will be given. `offers` are tried in their order; `hours` are for all attempts
    together; `idle` in seconds; `kept`: a host of ours that is free and will be used instead; `instead`: why another
    type stands in for the one that was asked for."""

    machine: MachineType
    offers: tuple[Offer, ...]
    hours: float
    idle: float
    attempts: int
    kept: Rented | None = None
    instead: str | None = None

    @property
    def price(self) -> float | None:
        """US dollars an hour of the most expensive offer; None where one is not known."""
        return _highest(self.offers if self.kept is None else (self.kept.offer,))

    @property
    def most(self) -> float | None:
        """US dollars that the machine can cost at the most, without its disk and its traffic."""
        return None if self.price is None else self.price * self.hours


def asked(machine: MachineType, request: RunRequest) -> MachineType:
    """The machine type with what a request wants of its rental. Raises `UsageError` for one that is not rented."""
    wanted = {
        name: getattr(request, name)
        for name in ("spot", "attempts", "max_hours", "max_cost")
        if getattr(request, name) not in (None, False)
    }
    if not wanted:
        return machine
    if machine.rental is None:
        option = "--" + next(iter(wanted)).replace("_", "-")
        raise UsageError(
            f"`{option}` is for machines that are rented, and `{machine.name}` is not",
            hint="remoterun machines lists those that are",
        )
    return replace(machine, rental=replace(machine.rental, **wanted))


def plan(connections: Connections, machine: MachineType) -> Plan:
    """What a run on `machine` will be given. Asks its provider, and costs nothing. Raises `ProviderError`."""
    rental = _rental(machine)
    provider = connections.provider(rental.provider)
    offers = tuple(provider.offers(machine, live=True))
    if not offers:
        raise ProviderError(f"nothing is offered for `{machine.name}`", hint="remoterun doctor aws")
    limit = hours(machine, offers)
    attempts = rental.attempts or (ATTEMPTS_ON_SPOT if rental.spot else 1)
    whole = Plan(machine, offers, limit, IDLE if rental.idle is None else rental.idle, attempts)
    kept = _kept(connections, whole)
    if kept is not None:
        left = (kept.deadline - time.time()) / 3600
        whole = replace(whole, kept=kept, hours=min(limit, left))
    return replace(whole, instead=machines.instead(rental, offers[0]))


def token(run: Run, attempt: int) -> str:
    """The name, for ever, of the host that is rented for an attempt of a run."""
    return f"rr-{run.key}-{attempt}"


def tokens(run: Run) -> list[str]:
    """Of the host that a run has, and of the one that is rented for it."""
    if run.renting is None:
        return []
    return [token(run, run.renting.attempt), *(host.token for host in run.renting.hosts[-1:])]


def _rental(machine: MachineType) -> Rental:
    if machine.rental is None:
        raise UsageError(f"`{machine.name}` is not rented", hint="remoterun machines lists those that are")
    return machine.rental


def hours(machine: MachineType, offers: tuple[Offer, ...]) -> float:
    """The tighter one of a rental's two limits, in hours. Raises `UsageError` where a price is needed and not known."""
    rental = _rental(machine)
    limit = HOURS if rental.max_hours is None else rental.max_hours
    if rental.max_cost is None:
        return limit
    price = _highest(offers)
    if price is None:
        unknown = next(offer.type for offer in offers if offer.price is None)
        raise UsageError(
            f"the price of {unknown} is not known, so --max-cost can't be kept", hint="--max-hours instead of it"
        )
    return min(limit, rental.max_cost / price) if price else limit


def _highest(offers: tuple[Offer, ...]) -> float | None:
    prices = [offer.price for offer in offers]
    return None if None in prices else max((price for price in prices if price is not None), default=None)


def _kept(connections: Connections, wanted: Plan) -> Rented | None:
    """A host of ours without a run, of a type that is offered, which will be there for long enough."""
    rental = _rental(wanted.machine)
    needed = time.time() + wanted.hours * WORTH_KEEPING * 3600
    kinds = {(offer.type, offer.region, offer.spot) for offer in wanted.offers}
    busy = {token for run in connections.registry.runs() if not run.final for token in tokens(run)}
    for host in connections.provider(rental.provider).hosts():
        kind = (host.offer.type, host.offer.region, host.offer.spot)
        usable = host.machine is not None and host.state == "running" and host.deadline > needed
        if usable and kind in kinds and host.token not in busy:
            return host
    return None
