"""What rented hosts have cost, by day, run and type of machine, and what a month may cost.

It is counted from the registry, and from the tags of the hosts that there are now, also those of other clients. A
host's minutes that belong to no run are idle ones. Days are those of UTC, as on the provider's own bill.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from remoterun.agent.shared.files import write_whole
from remoterun.clouds import PROVIDERS, front, front_of, rented_at
from remoterun.clouds.base import LEAST, Bills, RentedHost, Spent, unheard
from remoterun.clouds.ledger.rented_runs import hosts_at
from remoterun.connections import Connections
from remoterun.errors import NoLogin, RemoterunError, UsageError
from remoterun.model import HostUse
from remoterun.sizes import dollars

FRESH = 6 * 3600.0
"""Seconds for which what a provider's bill says holds: a question may cost a cent; it is written some times a day."""
SPENT = "spent.json"
"""In the home: what that said last."""
IDLE = "idle"


@dataclass(frozen=True)
class Share:
    """What a host cost on a day for a run, or while it had none."""

    day: str
    run: str
    """Its number; `IDLE`; or whose it is, where another client rented the host."""
    machine: str
    """The type, in its provider's words."""
    seconds: float
    dollars: float | None
    """None where the price is not known."""
    at: str = ""
    """The provider that is paid, as people call it, or the program that is one."""


@dataclass(frozen=True)
class Row:
    """What is said of a day, a run or a machine."""

    name: str
    hours: float
    cost: float
    idle: float
    """The part of the cost in which hosts had no run."""
    complete: bool = True
    """All prices are known."""


@dataclass(frozen=True)
class Bill:
    since: float
    until: float
    shares: tuple[Share, ...]
    spent: Mapping[str, Sequence[Spent]] = field(default_factory=dict)
    """What the own bills of providers say, by their names; of those that were asked."""
    archive: str = ""
    """The machine type that is the archive."""
    stored: int | None = None
    """The bytes that the bucket holds now; None where there is none that can be asked."""
    monthly: float | None = None
    """US dollars a month for these bytes; None where that is not known."""

    @property
    def total(self) -> Row:
        return _row("total", self.shares)

    def rows(self, by: str) -> list[Row]:
        """`by`: "day", "run" or "machine". A month without hosts is a row of its own among the days."""
        groups: dict[str, list[Share]] = {}
        for share in self.shares:
            groups.setdefault(getattr(share, by), []).append(share)
        if by == "day":
            months = {day[:7] for day in groups}
            groups |= {month: [] for month in _months(self.since, self.until) if month not in months}
        order = sorted(groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
        return [_row(name, groups[name]) for name in order]


def _row(name: str, shares: Sequence[Share]) -> Row:
    known = [share for share in shares if share.dollars is not None]
    idle = sum(share.dollars or 0.0 for share in known if share.run == IDLE)
    cost = sum(share.dollars or 0.0 for share in known)
    return Row(name, sum(share.seconds for share in shares) / 3600, cost, idle, len(known) == len(shares))


def bill(
    connections: Connections, since: float, now: float, note: Callable[[str], None] = unheard, asked: str = ""
) -> Bill:
    """What hosts have cost since a moment, and what providers' own bills say where it costs nothing to ask. `note` is
    called with what could not be asked. With `asked`, the name of a provider, also what that one's says, which may cost
    a cent, and then holds for some hours. Raises `ProviderError` for that only."""
    shares, billed = tuple(_shares(connections, _listed(connections, note), since, now)), dict[str, Sequence[Spent]]()
    for name, of in {name: front(name) for name in PROVIDERS}.items():
        if name == asked or (not of.bill and of.is_set_up(connections.config)):
            try:
                if isinstance(connections.provider(name), Bills):
                    billed[name] = spent(connections, name, since, now)
            except RemoterunError as error:
                if name == asked:
                    raise
                note(f"the own bill of {of.title} is not known: {error.message}")
    return Bill(since, now, shares, billed)


def spent(connections: Connections, name: str, since: float, now: float) -> list[Spent]:
    """What a provider's bill says, or, where a question costs money, said within the last hours; nothing of one that
    writes none for us. Raises `ProviderError`."""
    provider = connections.provider(name)
    if not isinstance(provider, Bills):
        return []
    if not front(name).bill:
        return provider.spent(since, now)
    file, asked = connections.config.home / SPENT, [name, _day(since), provider.identity().account]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(file.read_text("utf-8"))
        if known["asked"] == asked and 0 <= now - known["at"] < FRESH:
            return [Spent(*row) for row in known["rows"]]
    found = provider.spent(since, now)
    rows = [[each.day, each.dollars, each.token] for each in found]
    write_whole(str(file), json.dumps({"at": now, "asked": asked, "rows": rows}).encode(), 0o600)
    return found


def check_month(connections: Connections, most: float | None, now: float, key: str = "") -> None:
    """Raises `UsageError` where `most` more, for the run `key`, could make this month cost more than `max_cost_month`:
    with what hosts have cost, by our records or providers' bills, and what those can come to that run, or will."""
    limit = connections.config.limits.max_cost_month
    if limit is None:
        return
    table = connections.config.table_of("max_cost_month")
    more = f"max_cost_month = {limit:g} below {table} in {connections.config.file} is the limit"
    began = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since, missed = began.timestamp(), list[str]()
    try:
        listed = _listed(connections, partly=missed.append)
    except RemoterunError as error:
        error.message += f", so `max_cost_month` of {table} can't be kept"
        error.hint = "\n".join(filter(None, [error.hint, more]))
        raise
    prices = [
        (host, host.hourly if host.offer.at_most is None else host.offer.at_most) for host in listed if host.alive
    ]
    if most is None or any(price is None for _, price in prices):
        which = "this host" if most is None else "a host that runs"
        raise UsageError(f"the price of {which} is not known, so `max_cost_month` can't be kept", hint=more)
    costs: dict[str, float] = {}
    for share in _shares(connections, listed, since, now):
        costs[share.at] = costs.get(share.at, 0.0) + (share.dollars or 0.0)
    for name in PROVIDERS:
        with contextlib.suppress(RemoterunError):  # the account may not let us ask; what others bill counts
            billed, at = sum(each.dollars for each in spent(connections, name, since, now)), front(name).title
            costs[at] = max(costs.get(at, 0.0), billed)
    ahead = sum((price or 0.0) * max(host.deadline - now, 0.0) / 3600 for host, price in prices)
    there = {host.id for host in listed}
    for use in (use for _, renting in connections.registry.rentings() for use in renting.hosts):
        if (
            use.ended is None
            and use.id not in there
            and (missed or not front_of(use.id).can_log_in(connections.config))
        ):
            ahead += (use.cost(use.deadline, at_most=True) or 0.0) - (use.cost(now, at_most=True) or 0.0)
    others = (run.renting for run in connections.registry.runs() if not run.final and run.key != key)
    ahead += sum(renting.most for renting in others if renting is not None)
    had = sum(costs.values())
    left = limit - had - ahead
    if most > left + 0.005:
        whose = [f"{dollars(cost)} at {at}" for at, cost in costs.items() if cost >= 0.005] or [dollars(had)]
        cost = whose[0] if len(whose) == 1 else f"{dollars(had)} ({', '.join(whose)})"
        running = f", hosts that run, or are about to, can come to {dollars(ahead)} more" if ahead else ""
        fits = f"max_cost={left:.2f}   is what is left of it\n" if left > 0.05 else ""
        raise UsageError(
            f"this month has cost {cost}{running}, and this run may cost {dollars(most)}:"
            f" that is more than `max_cost_month` of {table}, {dollars(limit)}",
            hint=f"{fits}remoterun bill   shows what it was\n{more}",
        )


def _listed(
    connections: Connections, note: Callable[[str], None] | None = None, partly: Callable[[str], None] = unheard
) -> list[RentedHost]:
    """The hosts that there are, by their tags; none, with a `note`, where they can't be asked for. Without it, `partly`
    is called where a provider can't be asked for all of its hosts."""
    try:
        hosts = partial(hosts_at, connections, note or partly)
        return connections.of_providers(hosts, note)
    except RemoterunError as error:
        if note is None:
            raise
        if not isinstance(error, NoLogin) or connections.registry.rentings():  # else nobody rents from here
            note(f"hosts of other clients are not counted: {error.message}")
        return []


def _shares(connections: Connections, listed: Sequence[RentedHost], since: float, now: float) -> Iterator[Share]:
    """What all hosts cost that are known, from a moment on."""
    uses: dict[str, list[tuple[float, str, HostUse]]] = {}
    for number, renting in connections.registry.rentings():
        for use in renting.hosts:
            uses.setdefault(use.id, []).append((use.began, str(number), use))
    there = {host.id: (host, host.until(now)) for host in listed}
    for id, had in uses.items():
        had.sort(key=lambda each: each[0])
        began, last = had[0][0], had[-1][2]
        ended = min(now, last.deadline or now if last.ended is None else last.idle_end or last.ended)
        ended = max(ended, began + LEAST)
        unit = front_of(id).unit
        if id in there:
            host, ended = there.pop(id)
            began, unit = min(began, host.began), 0.0 if host.alive else unit
        if unit:
            ended = began - round(began - ended, 3) // unit * unit
        times = [(number, use.began, min(use.ended or ended, ended)) for _, number, use in had]
        yield from _of_host(id, last.type, last.hourly, began, ended, times, since)
    for host in listed:
        if host.state == "stopped" and host.ended is not None:  # its disk is paid for until it is ended
            yield from _of_host(host.id, host.offer.type, host.hourly, host.ended, now, [], since)
    for host, ended in there.values():
        times = [(f"run {host.number} of {host.owner or 'another client'}", host.began, ended)]
        yield from _of_host(host.id, host.offer.type, host.offer.hourly, host.began, ended, times, since)


def _of_host(
    id: str,
    type: str,
    price: float | None,
    began: float,
    ended: float,
    uses: list[tuple[str, float, float]],
    since: float,
) -> Iterator[Share]:
    """`uses`: who had it from when until when, in order. What is missing to the least that is paid for is idle time."""
    at = max(began, since)
    for who, start, end in [*uses, (IDLE, ended, ended)]:
        for name, until in ((IDLE, start), (who, end)):
            while at < until:
                midnight = (at // 86400 + 1) * 86400
                seconds = min(until, midnight) - at
                if seconds:
                    cost = None if price is None else seconds / 3600 * price
                    yield Share(_day(at), name, type, seconds, cost, rented_at(id))
                at = min(until, midnight)


def _day(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d}"


def _months(since: float, until: float) -> list[str]:
    first, last = (datetime.datetime.fromtimestamp(each, datetime.UTC) for each in (since, until))
    numbers = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [f"{number // 12}-{number % 12 + 1:02}" for number in numbers]
