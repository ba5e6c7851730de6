"""What rented hosts have cost, by day, run and type of machine, and what a month may cost.

It is counted from the registry, and from the tags of the hosts that there are now, also those of other clients. A
host's minutes that belong to no run are idle ones. Days are those of UTC, as on the provider's own bill.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared.files import write_whole
from remoterun.client.connections import Connections
from remoterun.errors import RemoterunError, UsageError
from remoterun.machines import BUCKET
from remoterun.model import HostUse
from remoterun.providers.base import RentedHost, Spent, unheard
from remoterun.sizes import dollars

LEAST = 60.0
"""Seconds of a host that AWS takes money for, once a host."""
FRESH = 6 * 3600.0
"""Seconds for which what AWS's bill says holds: a question costs a cent, and the bill is written some times a day."""
SPENT = "spent.json"
"""In the home: what AWS's bill said last."""
IDLE = "idle"


@dataclass(frozen=True)
class Share:
    """What one host cost on one day for one run, or while it had none."""

    day: str
    run: str
    """Its number; `IDLE`; or the owner of a host of another client, whose runs are not known here."""
    machine: str
    """The type, in its provider's words."""
    host: str
    seconds: float
    dollars: float | None
    """None where the price is not known."""


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
    spent: tuple[Spent, ...] | None = None
    """What the provider's own bill says; None where that was not asked for."""

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
    connections: Connections, since: float, now: float, note: Callable[[str], None] = unheard, ask_aws: bool = False
) -> Bill:
    """What hosts have cost since a moment. `note` is called with what could not be asked. With `ask_aws` also what
    AWS's own bill says, which costs a cent, and then holds for some hours. Raises `ProviderError` for that only."""
    shares = [share for host in _hosts(connections, _listed(connections, note), now) for share in _shares(host, since)]
    return Bill(since, now, tuple(shares), tuple(spent(connections, since, now)) if ask_aws else None)


def spent(connections: Connections, since: float, now: float) -> list[Spent]:
    """What AWS's bill says, or said within the last hours. Raises `ProviderError`."""
    file, asked = connections.config.home / SPENT, [_day(since), connections.config.aws.profile]
    try:
        known = json.loads(file.read_text("utf-8"))
        if known["asked"] == asked and 0 <= now - known["at"] < FRESH:
            return [Spent(*row) for row in known["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = connections.provider(BUCKET).spent(since, now)
    rows = [[each.day, each.dollars, each.token] for each in found]
    write_whole(str(file), json.dumps({"at": now, "asked": asked, "rows": rows}).encode(), 0o600)
    return found


def check_month(connections: Connections, most: float | None, now: float) -> None:
    """Raises `UsageError` where a host that comes to `most` could make this month cost more than `max_cost_month`:
    with what hosts have cost, by our records or by AWS's bill, and with what those can come to that run now."""
    limit = connections.config.aws.max_cost_month
    if limit is None:
        return
    more = f"max_cost_month = {limit:g} below [aws] in {connections.config.file} is the limit"
    if most is None:
        raise UsageError("the price of this host is not known, so `max_cost_month` can't be kept", hint=more)
    began = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since, listed = began.timestamp(), _listed(connections, unheard)
    had = sum(share.dollars or 0.0 for host in _hosts(connections, listed, now) for share in _shares(host, since))
    try:
        had = max(had, sum(each.dollars for each in spent(connections, since, now)))
    except RemoterunError:  # the account does not let us ask
        pass
    ahead = sum((host.offer.at_most or 0.0) * max(host.deadline - now, 0.0) / 3600 for host in listed if host.alive)
    left = limit - had - ahead
    if most > left + 0.005:
        running = f", hosts that run now can come to {dollars(ahead)} more" if ahead else ""
        fits = f"--max-cost {left:.2f}   is what is left of it\n" if left > 0.05 else ""
        raise UsageError(
            f"this month has cost {dollars(had)}{running}, and this run may cost {dollars(most)}:"
            f" that is more than `max_cost_month` of [aws], {dollars(limit)}",
            hint=f"{fits}remoterun bill   shows what it was\n{more}",
        )


def budget_command(account: str, dollars_a_month: float, email: str) -> str:
    """What makes AWS send mail at 50, 80 and 100 % of a budget for all that has our tag: one command for a shell."""
    budget = {
        "BudgetName": "remoterun",
        "BudgetLimit": {"Amount": f"{dollars_a_month:g}", "Unit": "USD"},
        "TimeUnit": "MONTHLY",
        "BudgetType": "COST",
        "FilterExpression": {"Not": {"Tags": {"Key": TAG, "MatchOptions": ["ABSENT"]}}},
        "Metrics": ["UnblendedCost"],
    }
    reader = [{"SubscriptionType": "EMAIL", "Address": email}]
    at: dict[str, Any] = {
        "NotificationType": "ACTUAL",
        "ComparisonOperator": "GREATER_THAN",
        "ThresholdType": "PERCENTAGE",
    }
    notices = [{"Notification": at | {"Threshold": part}, "Subscribers": reader} for part in (50, 80, 100)]
    return (
        f"aws budgets create-budget --account-id {account} \\\n  --budget '{json.dumps(budget)}' \\\n"
        f"  --notifications-with-subscribers '{json.dumps(notices)}'"
    )


TAG = "remoterun:token"
"""What all that a host costs is tagged with."""
ACTIVATE = f"aws ce update-cost-allocation-tags-status --cost-allocation-tags-status TagKey={TAG},Status=Active"
"""What makes AWS's bill, and so its budgets, know that tag: from the account that pays."""


@dataclass(frozen=True)
class _Host:
    """A host from its begin to its end, and who had it when, in order of time."""

    id: str
    type: str
    began: float
    ended: float
    hourly: float | None
    uses: tuple[tuple[str, float, float], ...]


def _listed(connections: Connections, note: Callable[[str], None]) -> list[RentedHost]:
    """The hosts that there are, by their tags; those that can be asked for."""
    found: list[RentedHost] = []
    try:
        for provider in connections.providers():
            found += provider.hosts(note)
    except RemoterunError as error:
        note(f"hosts of other clients are not counted: {error.message}")
    return found


def _hosts(connections: Connections, listed: Sequence[RentedHost], now: float) -> list[_Host]:
    """All that are known, each once."""
    had: dict[str, list[tuple[str, HostUse]]] = {}
    for number, renting in connections.registry.rentings():
        for use in renting.hosts:
            had.setdefault(use.id, []).append((str(number), use))
    now_there = {host.id: host for host in listed}
    found = []
    for id, uses in had.items():
        uses.sort(key=lambda each: each[1].began)
        last, host = uses[-1][1], now_there.pop(id, None)
        ended = min(now, last.deadline or now if last.ended is None else last.idle_end or last.ended)
        began = uses[0][1].began
        if host is not None:
            began, ended = min(began, host.began), _end(host, now)
        times = tuple((number, use.began, min(use.ended or ended, ended)) for number, use in uses)
        found.append(_Host(id, last.type, began, max(ended, *(end for _, _, end in times)), last.hourly, times))
    for host in now_there.values():
        ended, who = _end(host, now), f"run {host.number} of {host.owner or 'another client'}"
        found.append(_Host(host.id, host.offer.type, host.began, ended, host.offer.hourly, ((who, host.began, ended),)))
    return found


def _end(host: RentedHost, now: float) -> float:
    return min(now, host.deadline) if host.ended is None else host.ended


def _shares(host: _Host, since: float) -> list[Share]:
    """What a host cost, by day, from a moment on. What is missing to the least that is paid for belongs to no run."""
    parts: list[tuple[str, float, float]] = []
    at = host.began
    for who, began, ended in host.uses:
        if began > at:
            parts.append((IDLE, at, began))
        if ended > max(at, began):
            parts.append((who, max(at, began), ended))
        at = max(at, ended)
    until = max(host.ended, host.began + LEAST)
    if until > at:
        parts.append((IDLE, at, until))
    found: dict[tuple[str, str], Share] = {}
    for who, began, ended in parts:
        began = max(began, since)
        while began < ended:
            day = _day(began)
            seconds = min(ended, _start(day) + 86400) - began
            cost = None if host.hourly is None else seconds / 3600 * host.hourly
            began += seconds
            if (before := found.get((day, who))) is not None:
                cost = None if cost is None or before.dollars is None else before.dollars + cost
                seconds += before.seconds
            found[day, who] = Share(day, who, host.type, host.id, seconds, cost)
    return list(found.values())


def _day(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d}"


def _start(day: str) -> float:
    return datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()


def _months(since: float, until: float) -> list[str]:
    """Those from one moment to another, the earliest first; the last twelve at the most."""
    month = _day(until)[:7]
    found: list[str] = []
    while month >= _day(since)[:7] and len(found) < 12:
        found.append(month)
        month = _day(_start(f"{month}-01") - 1)[:7]
    return found[::-1]
