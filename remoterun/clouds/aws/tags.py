"""The tags by which everything of ours is known at AWS, without any record of ours."""

from __future__ import annotations

import datetime
import getpass
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from remoterun import __version__
from remoterun.clouds.aws.calls import reason_of
from remoterun.clouds.aws.catalogue import ADDRESS, offer
from remoterun.clouds.base import Intent, Offer, RentedHost
from remoterun.sizes import iso

PREFIX = "remoterun:"
STATES = {
    "pending": "pending",
    "running": "running",
    "shutting-down": "ending",
    "stopping": "ending",
    "stopped": "stopped",
    "terminated": "gone",
}
PREEMPTED = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")
ENDED = "Client.UserInitiatedShutdown"


def owner() -> str:
    """Who rents from this machine: `ada@laptop`."""
    return _value(f"{getpass.getuser()}@{socket.gethostname()}")


def of_intent(intent: Intent, chosen: Offer, address: str, home: str, role: str = "") -> dict[str, str]:
    """The tags of a host and its disk. `address` is where its client was, `home` the `mark` of its home,
    `role` the id of the role by which it saves."""
    values = {
        "token": intent.token,
        "run": intent.run,
        "number": str(intent.number),
        "attempt": str(intent.attempt),
        "machine": intent.machine.name,
        "owner": owner(),
        "home": home,
        "deadline": iso(intent.deadline),
        "idle": f"{intent.idle:.0f}",
        "client": address,
        "version": __version__,
        "extra": f"{chosen.extra:g}",
    }
    for name, dollars in (("price", chosen.price), ("limit", chosen.limit)):
        if dollars is not None:
            values[name] = f"{dollars:.5g}"
    if role:
        values["role"] = role
    named = {"Name": f"remoterun {intent.number}" if intent.number else "remoterun"}
    return {**named, **{PREFIX + name: _value(text) for name, text in values.items()}}


def _value(text: str) -> str:
    """What AWS takes as the value of a tag."""
    return re.sub(r"[^\w\s+\-=.:/@]", "_", text)[:250]


def specification(kind: str, tags: dict[str, str]) -> dict[str, Any]:
    """For the `TagSpecifications` of a call that makes one."""
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def ours(listed: Sequence[dict[str, str]] | None) -> dict[str, str]:
    """Our tags among those of something, without their prefix."""
    tags = {tag["Key"]: tag["Value"] for tag in listed or ()}
    return {key.removeprefix(PREFIX): value for key, value in tags.items() if key.startswith(PREFIX)}


def restored(instance: dict[str, Any], request: dict[str, Any] | None) -> dict[str, Any]:
    """An instance with the tags that its call (`request.json`) asked for, where somebody has removed them since."""
    asked = [] if request is None else request["parameters"].get("TagSpecifications", ())
    made = {tag["Key"]: tag for each in asked if each["ResourceType"] == "instance" for tag in each["Tags"]}
    present = {tag["Key"]: tag for tag in instance.get("Tags", ())}
    return {**instance, "Tags": [*{**made, **present}.values()]}


def rented_of(instance: dict[str, Any], region: str, own: str = "") -> RentedHost | None:
    """A host as its own tags tell it; None for an instance that is not ours, or whose tags make no sense. `own`: the
    `mark` of this home."""
    tags = ours(instance.get("Tags"))
    if "token" not in tags:
        return None
    zone, spot = instance.get("Placement", {}).get("AvailabilityZone", ""), instance.get("InstanceLifecycle") == "spot"
    known = offer(instance["InstanceType"], region, zone, spot=spot, price=_number(tags.get("price")))
    if (extra := _number(tags.get("extra"))) is not None:
        known = replace(known, extra=extra, disk=round(extra - ADDRESS, 5))
    if (limit := _number(tags.get("limit"))) is not None:
        known = replace(known, limit=limit)
    if "price" not in tags:  # what it costs was not known, such as with an image that has a price of its own
        known = replace(known, price=None, priced="", limit=None)
    state = STATES.get(instance["State"]["Name"], "pending")
    began = instance["LaunchTime"].timestamp()
    code = (instance.get("StateReason") or {}).get("Code", "")
    return RentedHost(
        id=instance["InstanceId"],
        token=tags["token"],
        state=state,
        offer=known,
        began=began,
        deadline=time_of(tags.get("deadline", "")) or began,
        run=tags.get("run", ""),
        number=int(_number(tags.get("number")) or 0),
        attempt=int(_number(tags.get("attempt")) or 1),
        owner=tags.get("owner", ""),
        why="" if state in ("pending", "running") else reason_of(instance),
        preempted=code in PREEMPTED,
        was_ended=code == ENDED,
        idle=_number(tags.get("idle")) or 0.0,
        ours=tags.get("home") == own,
        writer=f"{tags['role']}:{instance['InstanceId']}" if tags.get("role") else "",
        guarded="guard" in tags,
        ended=_ended(instance.get("StateTransitionReason", "")) if state not in ("pending", "running") else None,
    )


def _ended(reason: str) -> float | None:
    """When an instance ended, of "User initiated (2026-11-30 02:01:05 GMT)"."""
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", reason)
    return time_of(f"{found[1]}+00:00") if found else None


def time_of(text: str) -> float | None:
    """Seconds since 1970 of what `iso` made."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
