"""Machines: those that can be named, their checks, who uses them, what is rented and what it costs."""

from __future__ import annotations

import getpass
import itertools
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared import api
from remoterun.cli.render import Column, line, out, out_json, out_text, table, table_of, table_width
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    NOT_NEEDED,
    ago,
    brief_ago,
    clean,
    counted,
    dollars,
    duration,
    hourly,
    hours,
    is_command,
    paint,
    shortened,
    size,
    terminal_width,
    when,
)
from remoterun.client import json_shapes
from remoterun.clouds import ARCHIVE, all_fronts, front, rented_at
from remoterun.clouds.base import GUARD_LATE, NOT_MADE, Identity, Leftover, Offer, RentedHost
from remoterun.config import Config
from remoterun.model import Line, listed
from remoterun.sizes import iso

if TYPE_CHECKING:
    from remoterun.client.occupancy import MachineStatus
    from remoterun.client.upkeep.rented_hosts import HostNow, NewBucket
    from remoterun.clouds.ledger.billing import Bill
    from remoterun.clouds.ledger.planning import Plan


def machines(
    found: Sequence[Any], default: str, aliases: Sequence[str], offers: Mapping[str, Offer] | None, as_json: bool
) -> None:
    """`offers`: what is rented for a name; None where that was not asked for."""
    own = {machine.name for machine in found}
    if as_json:
        out_json(json_shapes.machines(found, offers or {}, default))
        return
    mark = {default: "* "}
    table_of(
        found,
        [
            (Column("  MACHINE", least=12), lambda machine: mark.get(machine.name, "  ") + machine.name),
            (Column("HOST", least=12), _place),
            (Column("ENGINE", drop=1), lambda machine: "" if machine.pool else machine.engine),
            (Column("GPUS", right=True, drop=2), lambda machine: "" if machine.pool else str(machine.gpus)),
        ],
    )
    others = [alias for alias in aliases if alias not in own]
    if others:
        line(f"also, from your ssh configuration: {', '.join(others[:12])}")
    _rented({name: offer for name, offer in (offers or {}).items() if name not in own}, default)
    line("* is the default; `remoterun machines add NAME user@host` adds one")
    if offers is None:
        line("`remoterun machines --all` shows what can be rented, too")
    elif not offers:
        how_to_set_up()


def how_to_set_up() -> None:
    for each in all_fronts():
        line(each.how_to_set_up)


def _place(machine: Any) -> str:
    if machine.pool:
        return f"pool: {', '.join(machine.pool)}"
    if machine.rental is None:
        return machine.host or "this machine"
    spot = " spot" if machine.rental.spot else ""
    return f"{machine.rental.provider}{spot}: {', '.join(machine.rental.types)}"


def _rented(offers: Mapping[str, Offer], default: str) -> None:
    """The table of what is rented for a run."""
    if not offers:
        return
    out("")
    mark, price = {default: "* "}, "SPOT" if next(iter(offers.values())).spot else "PRICE"
    table_of(
        offers.items(),
        [
            (Column("  RENTED", least=12), lambda each: mark.get(each[0], "  ") + each[0]),
            (Column("TYPE"), lambda each: each[1].type),
            (Column("VCPUS", right=True, drop=2), lambda each: str(each[1].vcpus or "")),
            (Column("MEMORY", right=True, drop=1), lambda each: f"{each[1].memory:g} GiB" if each[1].memory else ""),
            (Column("GPUS", least=24), lambda each: _gpus(each[1])),
            (Column(price, right=True), lambda each: "not known" if each[1].price is None else hourly(each[1].hourly)),
        ],
    )
    others: dict[str, list[str]] = {}
    for name, instead in (each for of in all_fronts() for each in of.stand_ins(offers).items()):
        others.setdefault(instead, []).append(name)
    for instead, names in others.items():
        line(f"{instead} stands in for {listed(names)}")
    for of in all_fronts():
        own = [offers[name] for name in of.names() if name in offers]
        if not own:
            continue
        where = f"in {own[0].region}" if own[0].region else f"at {of.title}"
        dates = sorted({offer.priced for offer in own if offer.priced})
        prices = f", prices {'of now' if dates == ['now'] else f'of {dates[-1]}'}" if dates else ""
        more = ", with disk and address, without traffic" if any(offer.extra for offer in own) else ""
        line(f"rented {where} for each run{prices}{more}")


def _gpus(offer: Offer) -> str:
    return f"{offer.gpus} × {offer.gpu} {offer.gpu_memory:g} GiB" if offer.gpus else ""


def whoami(config: Config, identity: Identity | None, as_json: bool) -> None:
    rows = {
        "user": getpass.getuser(),
        "machine": socket.gethostname(),
        "home": str(config.home),
        "settings": str(config.file),
        "default": config.default,
        ARCHIVE: identity.name if identity is not None else None,
        "account": identity.account if identity is not None else None,
        "region": identity.region if identity is not None else None,
        "bucket": config.archive.bucket,
    }
    if as_json:
        out_json(rows)
        return
    for head, value in rows.items():
        if value:
            out(f"{head:<10}{value}")
    if identity is None:
        how_to_set_up()


def checks(found: Sequence[api.MachineCheck], as_json: bool) -> None:
    """Each check green or red, each red one with the command that mends it."""
    if as_json:
        out_json(json_shapes.checks(found))
        return
    width = max(len(check.name) for check in found)
    for check in found:
        mark = DONE if check.ok else NOT_NEEDED if check.ok is None else FAILED
        line = f"{check.name:<{width}}  {check.detail}".rstrip()
        out_text(mark, line, hang=width + 4, command=is_command(check.detail))
        if check.ok is False and check.fix:
            for number, part in enumerate(check.fix.splitlines()):
                title = "fix: " if number == 0 else "     "
                out_text(f"{'':<{width + 4}}{title}{part}", hang=width + 9, command=is_command(part))


HEAD = 9
"""Columns before what a line says."""


def machines_status(found: Sequence[MachineStatus], as_json: bool) -> None:
    if as_json:
        out_json([json_shapes.machine_status(status) for status in found])
        return
    width = terminal_width(sys.stdout)
    for number, status in enumerate(found):
        if number:
            out("")
        if status.there is None:
            seen = f", last seen {ago(status.last_seen)}" if status.last_seen is not None else ""
            out(paint(status.machine.name, "1"), f"is away{seen}")
            _line("", status.unreached or "", width)
            continue
        out(paint(status.machine.name, "1"), f"({status.machine.host or 'this machine'})")
        for head, text in _lines(status, status.there):
            _line(head, text, width)


def _line(head: str, text: str, width: int | None) -> None:
    line = clean(f"  {head:<{HEAD}}{text}" if head else f"  {text}")
    out(line if width is None else shortened(line, width))


def _lines(status: MachineStatus, there: api.Occupancy) -> Iterator[tuple[str, str]]:
    """What is said of a machine: each line with its head."""
    if not there.cluster:
        yield "load", f"{there.load:.1f} on {there.cpus} cores; {_free(there.memory_free, there.memory)} of memory free"
        yield "disk", f"{_free(there.disk_free, there.disk)} free"
    for text in there.cluster:
        yield "nodes", text
    runs = {run.key: run for run in there.runs if not run.place}
    for gpu in there.gpus:
        used = f"{size(gpu.memory_used << 20)} of {size(gpu.memory << 20)}"
        yield f"GPU {gpu.number}", f"{gpu.name}, {used}: {_user(status, gpu, runs)}"
    if there.gpus_unknown is not None:
        yield "GPUs", there.gpus_unknown
    plain = [run for run in runs.values() if there.cluster or not run.gpus]
    for run in plain:
        yield "run" if there.cluster else "slot", _running(status, run)
    if not there.cluster:
        yield "slots", f"{max(there.slots - len(plain), 0)} of {there.slots} free"
    for run in there.runs:
        if run.place:
            line = Line(status.machine.name, run.place, run.of)
            needs = f" for {counted(run.gpus, 'GPU')}" if run.gpus else ""
            yield "waits", f"{_named(status, run)}, {line.brief}{needs}: {run.command}"


def _user(status: MachineStatus, gpu: api.GpuUse, runs: dict[str, api.Claim]) -> str:
    if gpu.run:
        return _running(status, runs[gpu.run]) if gpu.run in runs else "a run"
    users = [f"{each.name}{f' of {each.user}' if each.user else ''} (process {each.pid})" for each in gpu.others]
    return ", ".join(users) or "free"


def _running(status: MachineStatus, run: api.Claim) -> str:
    since = f" for {duration(run.running)}" if run.running is not None else ""
    return f"{_named(status, run)}, {run.state.value}{since}: {run.command}"


def _named(status: MachineStatus, run: api.Claim) -> str:
    number = status.numbers.get(run.key)
    return "a run of another client" if number is None else f"run {number}"


def _free(free: int, total: int) -> str:
    return f"{size(free)} of {size(total)}"


WITHOUT = "without traffic"


def plan_lines(plan: Plan, new: NewBucket | None = None) -> list[tuple[str, str]]:
    """What a run on a rented host will be given, each line with its head. `new`: the bucket that it needs first."""
    if plan.kept is not None:
        host = plan.kept
        listed = [
            ("host", f"{host.id} is free: {typed(host.offer)}"),
            ("", f"{hourly(host.offer.hourly)}{_in(host.offer.zone or host.offer.region)}; the run begins at once"),
        ]
    else:
        listed = []
        for _, group in itertools.groupby(plan.offers, lambda offer: (offer.type, offer.price, offer.extra)):
            offers = list(group)
            first = offers[0]
            listed.append(("rents", typed(first)))
            day = {"": "", "now": " now"}.get(first.priced, f" (as of {first.priced})")
            spot = ", spot" if first.spot else ""
            listed.append(("", f"{hourly(first.price)}{day}{spot}{_in(_zones(offers), ', in ')}"))
            listed += [("", first.unpriced)] if first.unpriced else []
            if first.extra and first.price is not None:
                listed.append(("", f"and {hourly(first.extra)} for its disk and its public address"))
    if plan.had is not None:
        listed.append(("has cost", f"{dollars(plan.had)} so far; what follows comes on top"))
    if plan.most is not None:
        listed.append(("at most", f"{dollars(plan.most)}: {hours(plan.hours)} at {hourly(plan.price)}, {WITHOUT}"))
        limit = plan.limited_by or "the default; --max-hours and --max-cost set another limit"
        listed.append(("", limit if limit.startswith("the ") else f"the limit is {limit}"))
        if any(offer.spot for offer in plan.offers):
            listed.append(("", "spot prices move; this is the price on demand, which they never exceed"))
    else:
        listed.append(("at most", f"{hours(plan.hours)}, at a price that is not known"))
        listed += [("", f"{plan.limited_by} can't be kept; --max-hours can")] if plan.max_cost is not None else []
    near = plan.bucket_region if new is None else new.region
    if near and (region := plan.offers[0].region) and near != region:
        listed.append(("traffic", f"$0.02 a GB between {region} and the bucket's {near}"))
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
    listed.append(("", f"and {when(latest)}, at the latest"))
    makes_roles = plan.roles.why_not == NOT_MADE
    if makes_roles or (plan.kept.guarded if plan.kept is not None else plan.roles.guard):
        more = "" if plan.price is None else f", for {dollars(plan.price * GUARD_LATE / 3600)} more"
        listed.append(("", f"{front(plan.provider).title} itself ends it {when(latest + GUARD_LATE)}{more}"))
    else:
        listed.append(("", plan.end or front(plan.provider).unguarded))
    if makes_roles:
        listed.append(("roles", "two are made in your account, once; they cost nothing:"))
        listed.append(("", "one by which a host saves, also when your login is over;"))
        listed.append(("", f"one by which {front(plan.provider).title} itself ends a host at its deadline;"))
        listed.append(("", f"`roles = false` below [{plan.provider}] in config.toml rents without them"))
    elif plan.needs_login and plan.carried:
        listed.append(("outputs", "`remoterun logs`, `ps` or `ui` fetches them from the host,"))
        listed.append(("", f"which waits up to {_wait(plan)}; --wait-for-login 8h: longer"))
    elif plan.needs_login:
        listed.append(("login", "if yours ends before the run does,"))
        listed.append(("", f"its host waits up to {_wait(plan)}, and ends without it"))
    if new is not None:
        first_line, *others = bucket_lines(new)
        listed += [("bucket", first_line), *(("", text) for text in others)]
    return listed


def _wait(plan: Plan) -> str:
    """How long a host waits for a login, at which price."""
    costs = "" if plan.price is None else f" ({dollars(plan.price * plan.wait / 3600)})"
    return f"{hours(plan.wait / 3600)} for it{costs}"


def bucket_lines(new: NewBucket) -> list[str]:
    """What a bucket is, before a person is asked about it."""
    if new.exists:
        return [f"{new.name} in {new.region}, which you have,", "keeps uploads and outputs"]
    made = "is gone, and will be made again" if new.gone else "will be made"
    return [f"{new.name} in {new.region} {made}:", "private, encrypted; it keeps uploads and outputs"]


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
    by = f": {plan.limited_by.partition(';')[0]}" if ";" in plan.limited_by else ""
    most = (
        f"at most {dollars(plan.most)} ({hours(plan.hours)}{by})"
        if plan.most is not None
        else f"for {hours(plan.hours)}"
    )
    most += f" on top of {dollars(plan.had)}" if plan.had is not None else ""
    spot = " spot" if offer.spot else ""
    verb = f"Using {plan.kept.id}:" if plan.kept is not None else "Renting"
    line(f"{verb} {offer.type}{spot}{_in(offer.region)}, {hourly(offer.hourly)}, {most}")
    if plan.kept is None and not plan.roles.guard:
        ends = plan.end or front(plan.provider).unguarded
        line(ends[:1].upper() + ends[1:])
    if plan.needs_login and plan.carried:
        line(f"`remoterun logs` or `ps` fetches what the run makes; its host waits up to {_wait(plan)}")
    elif plan.needs_login:
        line(f"If your login ends before the run does, its host waits up to {_wait(plan)}, and then ends without it")
    if new is not None:
        line(f"The bucket {' '.join(bucket_lines(new))}")


def typed(offer: Offer) -> str:
    """A type of machine, and what it has, as far as that is known."""
    return ": ".join(filter(None, (offer.type, described(offer))))


def described(offer: Offer) -> str:
    """What a type of machine has: `4 vCPUs, 16 GiB, T4 with 16 GiB`."""
    gpus = f"{offer.gpus} × {offer.gpu}" if offer.gpus > 1 else offer.gpu
    each = f"{gpus} with {offer.gpu_memory:g} GiB" if offer.gpus and offer.gpu_memory else gpus
    parts = [f"{offer.vcpus} vCPUs" if offer.vcpus else "", f"{offer.memory:g} GiB" if offer.memory else "", each]
    return ", ".join(part for part in parts if part)


def hosts_table(found: Sequence[RentedHost], uses: Mapping[str, HostNow], as_json: bool) -> None:
    """`uses`: by the ids of hosts, what these do now."""
    now = time.time()
    if as_json:
        out_json([json_shapes.rented_host(host, uses[host.id]) for host in found])
        return
    if not found:
        line("No host is rented")
        return

    _head(host.id for host in found)

    def idle(host: RentedHost) -> str:
        since = uses[host.id].idle_since
        return dollars(replace(host, began=since).cost(now)) if since else ""

    def ends_in(host: RentedHost) -> str:
        left = uses[host.id].ends(host, now) - now
        return f"{duration(-left)} late" if left < 0 else duration(left)

    table_of(
        found,
        [
            (Column("HOST"), lambda host: host.id),
            (Column("TYPE", least=10), lambda host: host.offer.type + (" spot" if host.offer.spot else "")),
            (Column("ZONE", drop=2), lambda host: host.offer.zone or host.offer.region),
            (Column("STATE", drop=3), lambda host: host.state),
            (Column("RUN", right=True, drop=5), lambda host: str(uses[host.id].run or "")),
            (Column("OWNER", least=8, drop=4), lambda host: host.owner),
            (Column("SINCE", drop=1), lambda host: brief_ago(host.began)),
            (Column("COST", right=True), lambda host: dollars(host.cost(now))),
            (Column("IDLE", right=True, drop=6), idle),
            (Column("GUARD", drop=7), lambda host: "yes" if host.guarded else "no"),
            (Column("ENDS IN", right=True), ends_in),
        ],
    )
    costs = [cost for host in found if (cost := host.cost(now)) is not None]
    hourly_sum = sum(host.hourly or 0.0 for host in found)
    line(f"{dollars(sum(costs))} so far, {hourly(hourly_sum)} now; `remoterun machines rm HOST` ends one")


def bill(found: Bill, by: str, as_json: bool) -> None:
    """`by`: "day", "run" or "machine"."""
    if as_json:
        out_json(json_shapes.bill(found, by))
        return
    billed: dict[str, dict[str, float]] = {name: {} for name in found.spent}
    for name, each in ((name, each) for name, spent in found.spent.items() for each in spent):
        billed[name][each.day] = billed[name].get(each.day, 0.0) + each.dollars
    rows = []
    for row in found.rows(by):
        cost = dollars(row.cost) + ("" if row.complete else " + ?") if row.hours else "no host"
        own = [dollars(said.get(row.name)) if by == "day" else "" for said in billed.values()]
        shown = "<0.01" if 0 < row.hours < 0.01 else f"{row.hours:.2f}" if row.hours else ""
        rows.append([row.name, shown, dollars(row.idle or None), cost, *own])
    heads = [Column(by.upper(), least=10)]
    heads += [
        Column(head, right=True, drop=drop)
        for head, drop in (("HOURS", 2), ("IDLE", 1), ("COST", 0), *((front(name).title, 3) for name in billed))
    ]
    if len(rows) > 1 or found.shares:
        table(heads, rows)
    total, since = found.total, f"since {iso(found.since)[:10]}"
    idle = f", {dollars(total.idle)} of it idle" if total.idle else ""
    had = f"{dollars(total.cost)} {since}{idle}, without traffic and bucket"
    line(had if total.hours else f"No host was rented {since}")
    if not total.complete:
        line("  `?` is of hosts whose price is not known")
    for name, said in billed.items():
        if said:
            line(f"{front(name).title}'s own bill says {dollars(sum(said.values()))}, written up to {max(said)}")
        elif name == ARCHIVE:
            why = "it is a day late, and has to be told of their tag once"
            line(f"{front(ARCHIVE).title}'s own bill does not show these hosts: {why}")
            line(f"  `remoterun doctor {ARCHIVE} --budget` prints the command for that")
    if found.stored is not None:
        monthly = "" if not found.monthly else f", {dollars(found.monthly)} a month"
        line(f"The archive holds {size(found.stored)}{monthly}")
        shows = f"`remoterun machines df {found.archive}` shows what takes it"
        line(f"  {shows}, and `remoterun rm runs --older 30d` frees some")


def leftovers(found: Sequence[Leftover], as_json: bool) -> None:
    """What `machines gc` would end or remove, and what that saves."""
    if as_json:
        out_json([json_shapes.leftover(each) for each in found])
        return
    if not found:
        line("Nothing is left over: no host, rule, group or object that nothing needs")
        return
    _head(each.id for each in found if each.host is not None)
    heads = [Column("KIND"), Column("ID"), Column("SAVES", right=True), Column("WHY")]
    rows = [[each.kind, each.id, f"{dollars(each.saves)}/{each.per}" if each.saves else ""] for each in found]
    why = [f"{size(each.bytes)}: {each.why}" if each.bytes else each.why for each in found]
    whole, width = [[*row, text] for row, text in zip(rows, why, strict=True)], terminal_width(sys.stdout)
    if width is not None and table_width(heads, whole) > width:  # what is removed for good is read in full
        table(heads[:-1], rows, why)
    else:
        table(heads, whole)


def _head(hosts: Iterable[str]) -> None:
    """A heading with the providers of hosts, where programs are among them. `hosts`: their ids."""
    places = list(dict.fromkeys(map(rented_at, hosts)))
    if any(place.startswith("`") for place in places):
        line(f"Hosts of {' and '.join(places)}")


def _in(place: str, words: str = " in ") -> str:
    """The place of a host as the end of a phrase; "" where its provider names none."""
    return f"{words}{place}" if place else ""


def _zones(offers: Sequence[Offer]) -> str:
    """`us-east-1a, b, c`; the region where no zone is named."""
    region = offers[0].region
    zones = list(dict.fromkeys(offer.zone for offer in offers if offer.zone))
    return ", ".join([*zones[:1], *(zone.removeprefix(region) for zone in zones[1:])]) or region
