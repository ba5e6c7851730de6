"""What `--json` says of each noun that has no `record` of its own: a function for each. `cli.schema` describes
them. A moment is a text that every program reads, ISO 8601 in UTC; sizes are in bytes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared import api
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.tree import Manifest
from remoterun.model import MachineType, Run
from remoterun.sizes import iso

if TYPE_CHECKING:
    from remoterun.client.data.uploads import Uploaded
    from remoterun.client.live.live import RunUse
    from remoterun.client.occupancy import MachineStatus
    from remoterun.client.runs.comparing import Difference
    from remoterun.client.upkeep.rented_hosts import HostNow
    from remoterun.clouds.base import Leftover, Offer, RentedHost
    from remoterun.clouds.ledger.billing import Bill
    from remoterun.transfer import Fetched

SPEC_MOMENTS = ("created", "until")
"""Fields of `RunSpec` that are moments."""


def run_info(run: Run, details: Mapping[str, Any]) -> dict[str, Any]:
    """A run, and the `details` that `Runs.info` returns."""
    spec, events = details["spec"], details["events"]
    if spec is not None:
        spec = {**spec, **{name: iso(spec[name]) for name in SPEC_MOMENTS if name in spec}}
    if events is not None:
        events = [{**event, "t": iso(event["t"])} for event in events]
    return {**run.record(), **details, "spec": spec, "events": events}


def metrics(run: Run, spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """How far a run is, and what is to come; `spec` as `Runs.info` has it."""
    from remoterun.client.data.metrics import outlook

    ahead = outlook(run, time.time(), spec)
    return {"number": run.number, "state": run.state.value, **ahead.__dict__, "progress": to_json(run.progress)}


def difference(found: Difference) -> dict[str, Any]:
    return {
        "runs": [found.before.number, found.after.number],
        "facts": {head: [list(before), list(after)] for head, before, after in found.facts},
        "durations": list(found.durations),
        "files": [
            {
                "path": change.path,
                "change": change.kind,
                "sizes": [entry.size if entry is not None else None for entry in (change.before, change.after)],
                "diff": "\n".join(change.lines) if change.hunks else None,
            }
            for change in found.files
        ],
    }


def files(resource: str, manifest: Manifest, about: api.Tree) -> dict[str, Any]:
    entries = [
        {"path": e.path, "kind": e.kind, "size": e.size, "sha256": e.digest or None, "target": e.target or None}
        for e in manifest
    ]
    return {"resource": resource, "live": about.live, "folder": about.folder, "entries": entries}


def uploaded(done: Uploaded) -> dict[str, Any]:
    sent = {"new": done.created, "bytes_sent": done.sent.size, "bytes_present": done.sent.already}
    return {**done.upload.record(), **sent}


def fetched(result: Fetched) -> dict[str, Any]:
    return {
        "to": result.place,
        "files": result.files,
        "bytes": result.size,
        "bytes_present": result.there,
        "unchanged": result.unchanged,
        "kept": sorted(result.skipped),
        "damaged": sorted(result.damaged),
    }


def page(served: Any) -> dict[str, Any]:
    model = served.model
    about = {"model": model.name, "folder": str(model.folder), "step": model.step, "live": model.live}
    return {"address": served.address, "port": served.port, **about}


def machines(own: Iterable[MachineType], offers: Mapping[str, Offer], default: str) -> list[dict[str, Any]]:
    """Machines of one's own, and what can be rented by a name that none of them has."""
    found = {machine.name: {**to_json(machine), "default": machine.name == default} for machine in own}
    for name, offer in offers.items():
        found.setdefault(name, {"name": name, **offer.__dict__, "default": name == default})
    return list(found.values())


def checks(found: Sequence[api.MachineCheck]) -> list[dict[str, Any]]:
    return [{key: getattr(check, key) for key in ("name", "ok", "detail", "fix")} for check in found]


def machine_status(status: MachineStatus) -> dict[str, Any]:
    about: dict[str, Any] = {} if status.there is None else to_json(status.there)
    for run in about.get("runs", ()):
        run["number"] = status.numbers.get(run["key"])
    for name in ("free", "before", "lacks"):  # of a run that nobody asked for
        about.pop(name, None)
    return {
        "name": status.machine.name,
        "host": status.machine.host,
        "reachable": status.there is not None,
        "unreached": status.unreached,
        "last_seen": iso(time.time() if status.there is not None else status.last_seen),
        **about,
    }


def rented_host(host: RentedHost, use: HostNow) -> dict[str, Any]:
    return {
        **{name: getattr(host, name) for name in ("id", "token", "state", "run", "number", "attempt", "owner")},
        **{name: getattr(host.offer, name) for name in ("type", "region", "zone", "spot", "price", "extra")},
        "guarded": host.guarded,
        "began": iso(host.began),
        "ends_at": iso(host.deadline),
        "cost": host.cost(time.time()),
        "serves": use.run,
        "idle_since": iso(use.idle_since),
        "ends_idle": iso(use.ends(host, time.time())) if use.idle_since is not None else None,
    }


def bill(found: Bill, by: str) -> dict[str, Any]:
    return {
        "since": iso(found.since),
        "until": iso(found.until),
        "by": by,
        "rows": [row.__dict__ for row in found.rows(by)],
        "total": found.total.__dict__,
        "billed": {name: [each.__dict__ for each in spent] for name, spent in found.spent.items()},
        "bucket": {"bytes": found.stored, "monthly": found.monthly},
    }


def leftover(found: Leftover) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("kind", "id", "why", "saves", "per", "bytes")}


def run_use(use: RunUse) -> dict[str, Any]:
    sample = use.sample
    record: dict[str, Any] = {"number": use.run.number, "machine": use.run.host.name, "state": None}
    if sample is None:
        return record
    gpus = [
        {**{name: getattr(gpu, name) for name in ("number", "name", "percent", "memory")}, "memory_total": gpu.total}
        for gpu in sample.gpus
    ]
    return {
        **record,
        "time": iso(sample.t),
        "state": sample.state.value,
        "cpu_percent": sample.cpu,
        "memory": sample.memory,
        "gpus": gpus,
        "disk_read": sample.read,
        "disk_written": sample.written,
        "net_received": sample.received,
        "net_sent": sample.sent,
    }
