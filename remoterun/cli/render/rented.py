"""Rented hosts: what one will cost, which there are, and what they have cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from remoterun.cli.render.data import out_json
from remoterun.cli.render.table import Column, table
from remoterun.cli.render.talk import line
from remoterun.cli.render.words import ago, duration, moment, size

if TYPE_CHECKING:
    from remoterun.client import NewBucket, Orphan, Plan
    from remoterun.model import HostUse, Run
    from remoterun.providers.base import Offer, Rented

WITHOUT = "without disk and traffic"


def dollars(amount: float | None) -> str:
    """An amount for people: $12.62, $0.004, <$0.001; "" for one that is not known."""
    if amount is None:
        return ""
    if 0 < amount < 0.001:
        return "<$0.001"
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.2g}"


def hourly(price: float | None) -> str:
    """A price for people, with all of its digits: $0.526/h, $63.30/h."""
    if price is None:
        return "price not known"
    if 0 < price < 0.001:
        return "<$0.001/h"
    whole, _, part = f"{price:.4f}".rstrip("0").partition(".")
    return f"${whole}.{part:0<2}/h"


def hours(count: float) -> str:
    """`24 h`, `1 h 30 min`, `10 min`."""
    if count == round(count, 1) and count >= 1:
        return f"{count:g} h"
    return duration(count * 3600).removesuffix(" 0 s").removesuffix(" 0 min")


def plan_lines(plan: Plan, new: NewBucket | None = None) -> list[tuple[str, str]]:
    """What a run on a rented host will be given, each line with its head. `new`: the bucket that it needs first."""
    if plan.kept is not None:
        host = plan.kept
        listed = [
            ("host", f"{host.id} is free: {host.offer.type}: {described(host.offer)}"),
            ("", f"{hourly(host.offer.price)} in {host.offer.zone or host.offer.region}; the run begins at once"),
        ]
    else:
        listed = []
        for offers in _by_type(plan.offers):
            first = offers[0]
            listed.append(("rents", f"{first.type}: {described(first)}"))
            spot = ", spot" if first.spot else ""
            listed.append(("", f"{hourly(first.price)}{_priced(first)}{spot}, in {_zones(offers)}"))
    if plan.most is not None:
        listed.append(("at most", f"{dollars(plan.most)}: {hours(plan.hours)} at {hourly(plan.price)}, {WITHOUT}"))
        if any(offer.spot for offer in plan.offers):
            listed.append(("", "spot prices move; this is the price on demand, which they never exceed"))
    else:
        listed.append(("at most", f"{hours(plan.hours)}, at a price that is not known"))
    if plan.attempts > 1:
        listed.append(("", f"for all of {plan.attempts} attempts, if the host is taken away"))
    idle, latest = plan.idle, time.time() + plan.hours * 3600
    if plan.kept is not None:  # it has the terms with which it was rented
        idle, latest = plan.kept.idle, plan.kept.deadline
        if plan.price is not None and idle:
            cost = dollars(plan.price * idle / 3600)
            listed.append(("", f"and {cost} for the {hours(idle / 3600)} that it stays after the run"))
    listed.append(("ends", "by itself, whatever happens to this machine:"))
    listed.append(("", f"{hours(idle / 3600)} after its last run; one that comes sooner begins at once;"))
    listed.append(("", f"and at {moment(latest)} at the latest"))
    if plan.login_ends is not None:
        listed.append(("login", f"yours ends at {moment(plan.login_ends)}, before the run may:"))
        listed.append(("", "its outputs then wait on the host for your next command"))
    if new is not None:
        first_line, *others = bucket_lines(new)
        listed += [("bucket", first_line), *(("", text) for text in others)]
    return listed


def bucket_lines(new: NewBucket) -> list[str]:
    """What a bucket is, before a person is asked about it."""
    if new.exists:
        return [f"{new.name} in {new.region}, which you have,", "keeps uploads and outputs"]
    return [f"{new.name} in {new.region} will be made:", "private, encrypted; it keeps uploads and outputs"]


def renting(plan: Plan, new: NewBucket | None) -> None:
    """The plan, before a person is asked about it."""
    if plan.instead is not None:
        line(plan.instead)
    for head, text in plan_lines(plan, new):
        line(f"  {head:<9}{text}")


def renting_goes_on(plan: Plan, new: NewBucket | None) -> None:
    """The plan in a line, where nobody is asked."""
    if plan.instead is not None:
        line(plan.instead)
    offer = plan.kept.offer if plan.kept is not None else plan.offers[0]
    most = (
        f"at most {dollars(plan.most)} ({hours(plan.hours)})" if plan.most is not None else f"for {hours(plan.hours)}"
    )
    spot = " spot" if offer.spot else ""
    verb = f"Using {plan.kept.id}:" if plan.kept is not None else "Renting"
    line(f"{verb} {offer.type}{spot} in {offer.region}, {hourly(offer.price)}, {most}")
    if new is not None:
        line(f"The bucket {' '.join(bucket_lines(new))}")


def cost_text(run: Run) -> str:
    """What a run's hosts have cost, so far; "" for a run that rents none, or if it is not known."""
    return dollars(run.cost(time.time()))


def described(offer: Offer) -> str:
    """What a type of machine has: `4 vCPUs, 16 GiB, T4 with 16 GiB`."""
    gpus = f"{offer.gpus} × {offer.gpu}" if offer.gpus > 1 else offer.gpu
    each = f"{gpus} with {offer.gpu_memory:g} GiB" if offer.gpus and offer.gpu_memory else gpus
    parts = [f"{offer.vcpus} vCPUs" if offer.vcpus else "", f"{offer.memory:g} GiB" if offer.memory else "", each]
    return ", ".join(part for part in parts if part)


def host_goes_on(use: HostUse) -> None:
    """What a host goes on to cost that stays for another run."""
    until = use.stays_until
    if until is None or until <= time.time():
        return
    most = f" ({dollars(use.idle_cost)} at the most)" if use.idle_cost is not None else ""
    line(f"  its host stays for another run, at {hourly(use.price)}, until {moment(until)}{most}")
    line(f"  `remoterun hosts end {use.id}` ends it now")


def hosts_table(found: Sequence[Rented], idle_since: Mapping[str, float], as_json: bool) -> None:
    """`idle_since`: by the ids of hosts without a run."""
    now = time.time()
    if as_json:
        out_json([{**_record(host, now), "idle_since": idle_since.get(host.id)} for host in found])
        return
    if not found:
        line("No host is rented")
        return
    rows = [
        [
            host.id,
            host.offer.type + (" spot" if host.offer.spot else ""),
            host.offer.zone or host.offer.region,
            host.state,
            str(host.number) if host.number else "",
            host.owner,
            ago(host.began),
            dollars(host.cost(now)),
            dollars(replace(host, began=idle_since[host.id]).cost(now)) if host.id in idle_since else "",
            _coarse(max(host.deadline - now, 0)),
        ]
        for host in found
    ]
    heads = [
        Column("HOST"),
        Column("TYPE", least=10),
        Column("ZONE", drop=2),
        Column("STATE", drop=3),
        Column("RUN", right=True, drop=5),
        Column("OWNER", least=8, drop=4),
        Column("SINCE", drop=1),
        Column("COST", right=True),
        Column("IDLE", right=True, drop=6),
        Column("ENDS IN", right=True),
    ]
    table(heads, rows)
    costs = [cost for host in found if (cost := host.cost(now)) is not None]
    hourly_sum = sum(host.offer.price or 0.0 for host in found)
    line(f"{dollars(sum(costs))} so far, {hourly(hourly_sum)} now; `remoterun hosts end HOST` ends one")


def orphans(found: Sequence[Orphan], as_json: bool) -> None:
    """What `gc --cloud` would end or remove, and what that saves."""
    if as_json:
        names = ("kind", "id", "why", "saves", "per", "bytes")
        out_json([{name: getattr(orphan, name) for name in names} for orphan in found])
        return
    if not found:
        line("Nothing is left over: no host, disk, rule, group or object that nothing needs")
        return
    heads = [Column("KIND"), Column("ID", least=12), Column("SAVES", right=True), Column("WHY", least=16)]
    rows = [
        [
            orphan.kind,
            orphan.id,
            f"{dollars(orphan.saves)}/{orphan.per}" if orphan.saves else "",
            f"{size(orphan.bytes)}: {orphan.why}" if orphan.bytes else orphan.why,
        ]
        for orphan in found
    ]
    table(heads, rows)
    sums = {per: sum(orphan.saves or 0.0 for orphan in found if orphan.per == per) for per in ("h", "month")}
    saved = " and ".join(f"{dollars(amount)}/{per}" for per, amount in sums.items() if amount)
    freed = sum(orphan.bytes for orphan in found)
    frees = f"{size(freed)} in the bucket are free" if freed else ""
    if saved or frees:
        line(f"Without them {' and '.join(part for part in (f'you save {saved}' if saved else '', frees) if part)}")


def _coarse(seconds: float) -> str:
    """`22 h`, `14 min`."""
    return f"{seconds / 3600:.0f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def _record(host: Rented, now: float) -> dict[str, object]:
    return {
        "id": host.id,
        "token": host.token,
        "state": host.state,
        **{name: getattr(host.offer, name) for name in ("type", "region", "zone", "spot", "price")},
        "run": host.run,
        "number": host.number,
        "attempt": host.attempt,
        "owner": host.owner,
        "began": host.began,
        "ends_at": host.deadline,
        "cost": host.cost(now),
    }


def _by_type(offers: Sequence[Offer]) -> list[list[Offer]]:
    groups: dict[tuple[str, str, bool, float | None], list[Offer]] = {}
    for offer in offers:
        groups.setdefault((offer.type, offer.region, offer.spot, offer.price), []).append(offer)
    return list(groups.values())


def _zones(offers: Sequence[Offer]) -> str:
    """`us-east-1a, b, c`; the region where no zone is named."""
    region = offers[0].region
    zones = list(dict.fromkeys(offer.zone for offer in offers if offer.zone))
    return ", ".join([*zones[:1], *(zone.removeprefix(region) for zone in zones[1:])]) or region


def _priced(offer: Offer) -> str:
    return {"": "", "now": " now"}.get(offer.priced, f" (as of {offer.priced})")
