"""Hosts that are rented for a run: what they will cost, how one is got, and what becomes of it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import partial

from remoterun import machines
from remoterun.agent.shared.asked import WAIT_FOR_LOGIN
from remoterun.agent.shared.states import ENDINGS, HAND_OVER, Reason, RunState
from remoterun.clouds.base import LOST, Intent, NoCapacity, Offer, Provider, ProviderError, RentedHost, Roles
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger import archiving, billing
from remoterun.clouds.ledger.rented_runs import change_use, find_store, met, record_status
from remoterun.connections import Connections
from remoterun.errors import HostError, LinkLost, NotFound, RemoterunError, UsageError
from remoterun.model import HostUse, MachineType, Rental, Renting, Run
from remoterun.parsing import UNKNOWN
from remoterun.session import Session
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
SAVING = 600.0
"""Seconds at the most between the end of a run's command and that of its host: outputs are saved meanwhile."""
SAVING_PART = 0.1
"""For runs with a short limit: the part of it that is left for saving outputs."""
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
    """Where the bucket is: what crosses regions costs. Empty where that is not known, or it is not Amazon's."""
    roles: Roles = Roles()
    """Those that the provider has for a new host."""
    wait: float = WAIT_FOR_LOGIN
    """Seconds that a host without a role waits for a login, at the most, to save with."""

    @property
    def needs_login(self) -> bool:
        """Whether its host saves by what a login signs."""
        return not (self.roles.writer if self.kept is None else self.kept.writer)

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


def agreed(plan: Plan, pay: float | None = None) -> Plan:
    """The plan, by the one rule for hosts that are rented without a question. `pay` is what is agreed to: US dollars an
    hour; `UNKNOWN`; None for `DEAR`, or the price of a host that is there already. No limit in US dollars is given up
    for a price that is not known. Raises `UsageError`, with the price, the most and the region."""
    price, most = plan.price, DEAR if pay in (None, UNKNOWN) else pay
    rents = f"`{plan.machine.name}` rents a host in {plan.offers[0].region}"
    is_there = plan.kept is not None and pay is None
    if price is None and (plan.max_cost is not None or not (is_there or pay == UNKNOWN)):
        lost, hint = "", 'pay="unknown"   agrees to that'
        if plan.max_cost is not None:
            lost = f", so {plan.limited_by} can't be kept"
            without = "" if plan.limited_by == BUILT_IN else "without that limit, "
            hint = f"{without}max_hours=2 {hint}; `max_hours` may also stand at the machine, in config.toml"
        raise UsageError(f"{rents} at a price that is not known{lost}", hint=hint)
    if price is not None and not is_there and price > most + 0.005:
        why = f"what is agreed to is {dollars(most)} an hour" if most else "nobody has agreed to that"
        what = f"{rents} for {dollars(price)} an hour, {dollars(plan.most)} at the most"
        raise UsageError(f"{what}, and {why}", hint=f"pay={price:.2f}   agrees to that")
    return plan


def agreed_before(plan: Plan, pay: float | None) -> Plan:
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
    rental, aws = _rental(machine), connections.config.aws
    connections.need_login(f"`{machine.name}` is rented at AWS")
    archiving.open_soon(connections)
    kept = _kept(connections, machine, without, anything, waiting)
    offers, roles = (_offers(connections, machine) if kept is None else (kept.offer,)), Roles()
    if kept is None:
        provider = connections.provider(rental.provider)
        provider.check_quotas(offers)
        roles = provider.roles()
    limit = hours(machine, offers, aws.max_cost)
    if kept is not None and _left(kept) < limit[0]:
        limit = _left(kept), "the end of this host"
    attempts = rental.attempts or (ATTEMPTS_ON_SPOT if rental.spot else 1)
    idle = IDLE if rental.idle is None else rental.idle
    found = Plan(
        machine,
        offers,
        limit[0],
        idle,
        attempts,
        kept,
        machines.instead(rental, offers[0]),
        limited_by=limit[1],
        max_cost=_max_cost(rental, aws.max_cost),
        bucket_region=archiving.bucket_region(connections) if aws.endpoint is None else "",
        roles=roles,
    )
    if kept is None:
        billing.check_month(connections, found.most, time.time())
    return found


def begin(connections: Connections, run: Run, plan: Plan, timeout: float | None) -> Run:
    """Record what a run may have of rented hosts, before there is any. Raises `NotFound` without a bucket."""
    bucket = connections.bucket().bucket or ""
    deadline = time.time() + plan.hours * 3600
    return connections.registry.save_renting(
        run, Renting(deadline, plan.attempts, 1, bucket, timeout=timeout, pay=plan.price)
    )


def rent(
    connections: Connections, run: Run, plan: Plan, waiting: Callable[[str], None], held: contextlib.ExitStack
) -> tuple[Run, Session]:
    """A host for this attempt of a run, as its registry row tells from then on, and a conversation with it. Until
    `held` is closed, it does not end for want of use.

    Blocks for minutes where a new one is rented. What was begun ends where that fails. Raises `ProviderError`,
    `HostError`.
    """
    assert run.renting is not None
    provider, renting = connections.provider(_rental(run.machine).provider), run.renting
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
        found_now, most = _offers(connections, run.machine), plan.price or 0.0
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
    s3 = archiving.archive_of(connections, run).s3  # what it refuses is known before there is something to pay for
    s3.put("may-write", b"")
    next(s3.list("may-write"), None)
    renting = replace(renting, most=plan.most or 0.0)
    run = connections.registry.save_renting(run, renting)  # before the check: the later one of two clients counts both
    billing.check_month(connections, plan.most, time.time(), run.key)
    rented = provider.acquire(intent, offers, waiting, connections.warn)
    lost = ["saves by what this login signs"] if plan.roles.writer and not rented.writer else []
    lost += ["is ended by its own clock alone"] if not rented.guarded and provider.roles() != plan.roles else []
    if lost:
        connections.warn(f"the host {rented.id} {' and '.join(lost)}: {provider.roles().why_not}")
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
        give_back(connections, run, keep)
        run = connections.registry.run(run.number)
    is_first = run.attempt == 1
    reason = Reason.START_FAILED if is_first else Reason.HOST_LOST
    message = f"remoterun was ended before the run {'was handed over' if is_first else 'had its next host'}"
    return connections.registry.change_state(
        run, ENDINGS[reason].state, time.time(), reason=reason.value, message=message
    )


def give_back(connections: Connections, run: Run, keep: bool = False) -> None:
    """End the host that was rented for this attempt of a run, if there is one; one that was there before stays, and so
    does one that others `keep`. Where the provider can't be asked, it ends by itself."""
    rental, renting = _rental(run.machine), run.renting
    if renting is None:
        return
    rented = None
    with contextlib.suppress(RemoterunError):
        provider = connections.provider(rental.provider)
        rented = provider.find(token(run, renting.attempt))
        if rented is not None and rented.alive and not keep:
            provider.release(rented)
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
    for provider in connections.providers():
        host = provider.find(id)
        if host is not None and host.state != "gone":
            return provider, host
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


def deadline(run: Run, plan: Plan, now: float) -> float:
    """Until when a run may have rented hosts, if it gets a further one now: what it may cost goes on counting."""
    assert run.renting is not None
    limit, most, had = run.renting.deadline, plan.max_cost, run.renting.cost(now, at_most=True) or 0.0
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


def _rental(machine: MachineType) -> Rental:
    if machine.rental is None:
        raise UsageError(f"`{machine.name}` is not rented", hint="remoterun machines   lists those that are")
    return machine.rental


def hours(machine: MachineType, offers: tuple[Offer, ...], own: float | None = None) -> tuple[float, str]:
    """The tighter one of a rental's two limits, in hours, and what it comes from. `own`: the US dollars that `[aws]`
    names; without a price it can't be kept, and is named. Raises `UsageError` for one that pays for nothing."""
    rental = _rental(machine)
    limit, named = (HOURS, "") if rental.max_hours is None else (rental.max_hours, f"--max-hours {rental.max_hours:g}")
    most = _max_cost(rental, own)
    if most is None:
        return limit, named
    price, is_own = _highest(offers), rental.max_cost is not None
    by = f"--max-cost {most:g}" if is_own else "`max_cost` of [aws]" if own else BUILT_IN
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
    """US dollars that a run may cost: its own, or what `[aws]` names, which a limit in hours does not replace. The
    default gives way to that: whoever names one has thought of it."""
    default = COST if rental.max_hours is None else None
    return next((each for each in (rental.max_cost, own) if each is not None), default)


def _highest(offers: tuple[Offer, ...]) -> float | None:
    prices = [offer.at_most for offer in offers]
    return None if None in prices else max((price for price in prices if price is not None), default=None)


def _offers(connections: Connections, machine: MachineType) -> tuple[Offer, ...]:
    """What may be had now. Raises `ProviderError`."""
    offers = tuple(connections.provider(_rental(machine).provider).offers(machine, live=True))
    if not offers:
        raise ProviderError(f"nothing is offered for `{machine.name}`", hint="remoterun doctor aws")
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
    rental, aws = _rental(machine), connections.config.aws
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
        if host is None or not same:
            return same
        priced = host.offer.at_most is not None or _max_cost(rental, aws.max_cost) is None
        fits = priced and _kind(host.offer, anything) in kinds
        return fits and _left(host) > hours(machine, (host.offer,), aws.max_cost)[0] * WORTH_KEEPING

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
        elif (host := met(connections, host)) and folder.read("host.json") is None:
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
