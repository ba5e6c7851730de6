"""What a run on a rented host will be given and will cost, and who has agreed to that."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NewType

from remoterun.agent.shared.asked import WAIT_FOR_LOGIN
from remoterun.agent.shared.states import HAND_OVER, RunState
from remoterun.clouds import front
from remoterun.clouds.base import (
    HasQuotas,
    Mounts,
    Offer,
    Provider,
    ProviderError,
    RentedHost,
    Roles,
    SaysEnd,
    roles_of,
)
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger import archiving, billing
from remoterun.clouds.ledger.rented_runs import find_store, met, record_status
from remoterun.connections import Connections
from remoterun.errors import HostError, RemoterunError, UsageError
from remoterun.model import MachineType, Rental, Run
from remoterun.parsing import UNKNOWN
from remoterun.sizes import dollars, hourly
from remoterun.stores import told

HOURS = 24.0
"""Hours that a run may have rented hosts, over all of its attempts, unless it asks for another limit."""
DEAR = 5.0
"""US dollars an hour from which on a new host is agreed to by its price alone."""
COST = 20.0
"""US dollars that a run may cost for which nobody has named a limit."""
BUILT_IN = f"the built-in limit of ${COST:g}"
IDLE = 600.0
"""Seconds that a host stays after its last run."""
ATTEMPTS_ON_SPOT = 3
LEAST = 0.1
"""Hours: a host needs some minutes to boot and to save what its run made, so a shorter limit pays for nothing."""
ENDING, ENDING_POLL = 30.0, 0.2
"""Seconds for which a run is waited for that is about to end, and between two questions about it."""
ANSWERS = 3.0
"""Seconds that a host of ours has to answer before its provider is asked whether it is there."""
WORTH_KEEPING = 0.5
"""A host is used again if it will still be there for this part of the time that a run may take."""


@dataclass(frozen=True)
class Plan:
    """What a run on a rented host will be given."""

    machine: MachineType
    offers: tuple[Offer, ...]
    """Tried in their order; that of `kept` alone where there is one."""
    hours: float
    """For all attempts together."""
    idle: float
    """Seconds that a host stays without a run."""
    attempts: int
    kept: RentedHost | None = None
    """A host of ours that is free, and is used again."""
    instead: str | None = None
    """Why another type stands in for the one that was asked for."""
    limited_by: str = ""
    """The limit that gives the hours, or that can't be kept without a price, in words: "--max-hours 2"; empty: none."""
    max_cost: float | None = None
    """US dollars that the run may cost; None without such a limit."""
    had: float | None = None
    """US dollars that the run has cost so far, on hosts that it had."""
    bucket_region: str = ""
    """Where the bucket is: what crosses regions costs. Empty where that is not known, or it is not S3's own."""
    roles: Roles = Roles()
    """Those that the provider has for a new host."""
    wait: float = WAIT_FOR_LOGIN
    """Seconds that a host without a role waits for a login, at the most, to save with."""
    mounted: bool = False
    """The host has the bucket as a folder."""
    carried: bool = False
    """A host without that folder can't write to the bucket: this machine takes there what the run leaves."""
    end: str = ""
    """The end of the host while no client is there, in a line, where its provider has several ways."""

    @property
    def provider(self) -> str:
        """Its name."""
        return rental_of(self.machine).provider

    @property
    def needs_login(self) -> bool:
        """Whether its host saves by what a login signs, or this machine carries."""
        writer = self.roles.writer if self.kept is None else self.kept.writer
        return not self.mounted and (self.carried or not writer)

    @property
    def price(self) -> float | None:
        """US dollars that an hour of the most expensive offer can come to; None where one is not known."""
        return _highest(self.offers)

    @property
    def dear(self) -> bool:
        """Whether a new host at its price, or at one that is not known, has to be agreed to by that price."""
        return self.price is None or self.price > DEAR

    @property
    def most(self) -> float | None:
        """US dollars that the machine can cost at the most, with its disk and its address, without its traffic."""
        return None if self.price is None else self.price * self.hours


AgreedPlan = NewType("AgreedPlan", Plan)
"""One to which somebody has agreed, after a question or by the rule of `agreed`. Nothing is rented by another one."""


def agreed(plan: Plan, pay: float | None = None) -> AgreedPlan:
    """The plan, by the one rule for hosts that are rented without a question. `pay` is what is agreed to: US dollars an
    hour; `UNKNOWN`; None for `DEAR`, or the price of a host that is there already. No limit in US dollars is given up
    for a price that is not known. Raises `UsageError`, with the price, the most and the region."""
    price, most = plan.price, DEAR if pay in (None, UNKNOWN) else pay
    region = plan.offers[0].region
    rents = f"`{plan.machine.name}` rents a host{f' in {region}' if region else ''}"
    is_there = plan.kept is not None and pay is None
    if price is None and (plan.max_cost is not None or not (is_there or pay == UNKNOWN)):
        lost, hint = "", 'pay="unknown"   agrees to that'
        if plan.max_cost is not None:
            lost = f", so {plan.limited_by} can't be kept"
            without = "" if plan.limited_by == BUILT_IN else "without that limit, "
            agrees = '`max_hours=2` with `pay="unknown"` agrees to that'
            hint = f"{without}{agrees}; `max_hours` may also stand at the machine, in config.toml"
        raise UsageError(f"{rents} at a price that is not known{lost}", hint=hint)
    if price is not None and not is_there and price > most + 0.005:
        why = f"what is agreed to is {dollars(most)} an hour" if most else "nobody has agreed to that"
        what = f"{rents} for {dollars(price)} an hour, {dollars(plan.most)} at the most"
        raise UsageError(f"{what}, and {why}", hint=f"pay={price:.2f}   agrees to that")
    return AgreedPlan(plan)


def agreed_before(plan: Plan, pay: float | None) -> AgreedPlan:
    """The plan of a further attempt, with the offers that what was agreed to for the first one covers: its price an
    hour, None for one that was not known. Raises as `agreed`."""
    most = max(DEAR, pay or 0.0)
    fits = tuple(each for each in plan.offers if each.at_most is not None and each.at_most <= most + 0.005)
    return agreed(replace(plan, offers=fits or plan.offers), UNKNOWN if pay is None else most)


def plan(
    connections: Connections,
    machine: MachineType,
    without: Container[str] = (),
    anything: bool = False,
    waiting: Callable[[str], None] = lambda _: None,
) -> Plan:
    """What a run on `machine` will be given. Asks its provider, and costs nothing. `without`: the tokens of hosts that
    it shall not have; `anything`: a free host will do that is not a spot host where one was asked for, or is. Blocks
    for `ENDING` seconds at the most, with what is waited for in `waiting`, where a run on a host of ours is about to
    end. Raises `ProviderError`."""
    rental, own = rental_of(machine), connections.config.limits.max_cost
    connections.need_login(f"`{machine.name}` is rented at {{}}", rental.provider)
    archiving.open_soon(connections)
    kept, provider = _kept(connections, machine, without, anything, waiting), connections.provider(rental.provider)
    offers, roles = (offers_now(connections, machine) if kept is None else (kept.offer,)), Roles()
    if kept is None:
        if isinstance(provider, HasQuotas):
            provider.check_quotas(offers)
        roles = roles_of(provider)
    limit = hours(machine, offers, own, connections.config.table_of("max_cost"))
    if kept is not None and _left(kept) < limit[0]:
        limit = _left(kept), "the end of this host" + (f"; {limit[1]} is later" if limit[1] else "")
    if unit := front(rental.provider).unit:  # no time that is billed and can't be had
        limit = round(limit[0] * 3600, 3) // unit * unit / 3600, limit[1]
    attempts = rental.attempts or (ATTEMPTS_ON_SPOT if rental.spot else 1)
    idle = IDLE if rental.idle is None else rental.idle
    found = Plan(
        machine,
        offers,
        limit[0],
        idle,
        attempts,
        kept,
        front(rental.provider).instead(rental.instead_of, offers[0]) if rental.instead_of is not None else None,
        limited_by=limit[1],
        max_cost=_max_cost(rental, own),
        bucket_region=archiving.bucket_region(connections) if connections.config.archive.endpoint is None else "",
        roles=roles,
        carried=archiving.is_carried(connections),
        mounted=isinstance(provider, Mounts) and bool(provider.folder_of(machine)),
        end=provider.end_of(machine) if isinstance(provider, SaysEnd) else "",
    )
    if kept is None:
        billing.check_month(connections, found.most, time.time())
    return found


def deadline(run: Run, plan: Plan, now: float) -> float:
    """Until when a run may have rented hosts, if it gets a further one now: what it may cost goes on counting, as
    does what its plan has said that it costs at the most."""
    assert run.renting is not None
    limit, most, had = run.renting.deadline, plan.max_cost, run.renting.cost(now, at_most=True) or 0.0
    if run.renting.pay is not None:  # hosts may cost more by now: then they stay for less long
        most = min(math.inf if most is None else most, run.renting.pay * max(limit - run.created, 0.0) / 3600)
    if most is None:
        return limit
    return min(limit, now + max(most - had, 0.0) / (plan.price or math.inf) * 3600)  # without a price nothing is left


def token(run: Run, attempt: int) -> str:
    """The name, for ever, of the host that is rented for an attempt of a run."""
    return f"rr-{run.key}-{attempt}"


def tokens(run: Run) -> list[str]:
    """The tokens of the host that a run has, and of the one that is being rented for it."""
    if run.renting is None:
        return []
    return [token(run, run.renting.attempt), *(host.token for host in run.renting.hosts[-1:])]


def rental_of(machine: MachineType) -> Rental:
    if machine.rental is None:
        raise UsageError(f"`{machine.name}` is not rented", hint="remoterun machines   lists those that are")
    return machine.rental


def hours(
    machine: MachineType, offers: tuple[Offer, ...], own: float | None = None, table: str = "[limits]"
) -> tuple[float, str]:
    """The tighter one of a rental's two limits, in hours, and what it comes from. `own`: the US dollars that the
    configuration names, in `table`; without a price it can't be kept, and is named. Raises `UsageError` for
    one that pays for nothing."""
    rental = rental_of(machine)
    limit, named = (HOURS, "") if rental.max_hours is None else (rental.max_hours, f"--max-hours {rental.max_hours:g}")
    if limit < LEAST:
        needs = f"a host needs {LEAST * 60:.0f} to begin and to end"
        raise UsageError(f"{named} is {limit * 60:.1f} min, and {needs}", hint="max_hours=0.5 is half an hour")
    most = _max_cost(rental, own)
    if most is None:
        return limit, named
    price, is_own = _highest(offers), rental.max_cost is not None
    by = f"--max-cost {most:g}" if is_own else f"`max_cost` of {table}" if own else BUILT_IN
    if price is None:
        return limit, by
    paid = most / price if price else limit
    if paid < LEAST:
        raise UsageError(
            f"{by}{'' if is_own else f', {dollars(most)},'} pays for {paid * 60:.0f} min at {hourly(price)}, and a host"
            f" needs {LEAST * 60:.0f} to begin and to end",
            hint=f"max_cost={math.ceil(price * 50) / 100:.2f} pays for half an hour" if price else None,
        )
    if paid >= limit:
        return limit, named
    return paid, by if is_own else f"{by}; --max-cost {math.ceil(price * limit)} pays for {limit:g} h"


def _max_cost(rental: Rental, own: float | None) -> float | None:
    """US dollars that a run may cost: its own, or what the configuration names, which a limit in hours does not
    replace. The default gives way to that: whoever names one has thought of it."""
    default = COST if rental.max_hours is None else None
    return next((each for each in (rental.max_cost, own) if each is not None), default)


def _highest(offers: tuple[Offer, ...]) -> float | None:
    prices = [offer.at_most for offer in offers]
    return None if None in prices else max((price for price in prices if price is not None), default=None)


def offers_now(connections: Connections, machine: MachineType) -> tuple[Offer, ...]:
    """What may be had now. Raises `ProviderError`."""
    offers = tuple(connections.provider(rental_of(machine).provider).offers(machine, live=True))
    if not offers:
        raise ProviderError(
            f"nothing is offered for `{machine.name}`", hint=f"remoterun doctor {rental_of(machine).provider}"
        )
    return offers


def _kept(
    connections: Connections,
    machine: MachineType,
    without: Container[str],
    anything: bool,
    waiting: Callable[[str], None],
) -> RentedHost | None:
    """A host of ours without a run, of a type that is wanted, which will be there for long enough; one whose run is
    about to end is waited for. Where there is one, its provider is not asked for anything else: such a run begins at
    once."""
    rental, own = rental_of(machine), connections.config.limits.max_cost
    provider = connections.provider(rental.provider)
    kinds = {_kind(offer, anything) for offer in provider.offers(machine)}
    users: dict[str, list[Run]] = {}
    for run in connections.registry.runs():
        lost = run.state in HAND_OVER and run.placed is None and connections.registry.abandoned(run)
        for token in set(tokens(run)) if not (run.final or lost) else ():
            users.setdefault(token, []).append(run)

    def suits(folder: HostFolder, host: RentedHost | None) -> bool:
        """Whether a host is as the machine type wants it, by its intent and, where that is known, by what it is."""
        intent = folder.intent()
        had = intent.machine.rental if intent is not None else None
        if had is None or folder.token in without or set(had.types).isdisjoint(rental.types):
            return False
        same = (had.provider, had.image, had.disk) == (rental.provider, rental.image, rental.disk)
        if same and isinstance(provider, Mounts):
            same = provider.folder_of(machine, folder.token) == provider.folder_of(machine)
        if host is None or not same:
            return same
        priced = host.offer.at_most is not None or _max_cost(rental, own) is None
        fits = priced and _kind(host.offer, anything) in kinds
        return fits and _left(host) > hours(machine, (host.offer,), own)[0] * WORTH_KEEPING

    known = [(each, each.rented()) for each in HostFolder.all(connections.config.home)]
    folders = [each for each, host in known if suits(each, host) or (host is not None and host.late(time.time()))]
    for folder in _free(connections, folders, users, waiting):
        host = _there(connections, provider, folder)
        if host is not None and suits(folder, host):
            return host
    return None


def _free(
    connections: Connections, folders: list[HostFolder], users: dict[str, list[Run]], waiting: Callable[[str], None]
) -> Iterator[HostFolder]:
    """The hosts without a run; then hosts whose runs have ended, or are about to end. All of these are asked together,
    until the first run has ended."""
    yield from (folder for folder in folders if folder.token not in users)
    busy = [(folder, users[folder.token]) for folder in folders if folder.token in users]
    over = connections.event()

    def all_end(runs: list[Run]) -> bool:
        return all(_will_end(connections, waiting, over, run) for run in runs)

    questions = {runs[0].host: partial(all_end, runs) for _, runs in busy}
    answers = connections.ask_all(questions, ENDING, bool, provider_wait=0.0)
    over.set()
    waiting("")
    yield from (folder for folder, runs in busy if answers[runs[0].host] is True)


def _there(connections: Connections, provider: Provider, folder: HostFolder) -> RentedHost | None:
    """A host that can be used; None for one that is gone, or ends. While it answers, its provider is not asked."""
    known = folder.rented()
    if known is not None and known.machine is not None and not known.late(time.time()):
        machine = known.machine
        ask = {machine: lambda: connections.session(machine).stay().cancel()}
        answer = connections.ask_all(ask, ANSWERS, provider_wait=ANSWERS)[machine]
        if not isinstance(answer, HostError):
            return known
        if not answer.passing:  # it ends
            return None
    try:
        host = provider.find(folder.token)
        if host is None or host.state == "gone":
            folder.remove()
        elif (host := met(connections, provider, host)) and folder.read("host.json") is None:
            return host if host.alive else None  # whoever acquired it was cut short, and `rent` goes on with that
        elif host.machine is not None and host.state == "running":
            provider.admit(host)  # the laptop may have moved
            folder.record(host)
            return host
    except (ProviderError, HostError):  # it is of another account
        pass
    return None


def _will_end(connections: Connections, waiting: Callable[[str], None], over: threading.Event, run: Run) -> bool:
    """Whether a run has ended, as its host knows, or does so soon; that is waited for until `over`."""
    waits = False
    with contextlib.suppress(RemoterunError):
        while run.placed is not None:
            store = find_store(connections, run)[1]
            statuses = store.statuses([run.key]).runs
            if not statuses:  # it was not handed over
                return connections.registry.abandoned(run)
            run = record_status(connections, run, told(store, statuses[0]))
            if run.final or over.is_set() or not (run.stopping or run.state is RunState.SAVING):
                break
            if not waits:
                waiting(f"the end of run {run.number}, whose host is used again")
            waits = not over.wait(ENDING_POLL)
    return run.final


def _left(host: RentedHost) -> float:
    """Hours until a host ends."""
    return (host.deadline - time.time()) / 3600


def _kind(offer: Offer, anything: bool) -> tuple[str, str, bool]:
    return offer.type, offer.region, offer.spot and not anything
