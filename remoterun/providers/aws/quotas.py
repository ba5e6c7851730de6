"""How much an account may have at a time: its quotas, in vCPUs, and what to type where one is too low."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive.workers import each as each_at_once
from remoterun.errors import RemoterunError
from remoterun.providers.aws import catalogue
from remoterun.providers.aws.calls import Calls, QuotaReached
from remoterun.providers.base import Offer

_STANDARD = "Standard (A, C, D, H, I, M, R, T, Z)"
_STANDARD_TYPES = r"(?!trn|inf|dl|mac|hpc)[acdhimrtz][a-z]*\d"


@dataclass(frozen=True)
class Quota:
    """A limit of an account, in vCPUs that run at a time; `types` begin the names of the types that count."""

    kind: str
    code: str
    name: str
    spot: bool
    types: str
    wild: tuple[str, ...]
    """The same for EC2's filters, or more."""

    def of(self, type: str, spot: bool) -> bool:
        return spot == self.spot and re.match(self.types, type) is not None

    def raise_command(self, vcpus: int | str, region: str) -> str:
        """What asks AWS for a higher one."""
        return (
            "aws service-quotas request-service-quota-increase --service-code ec2 "
            f"--quota-code {self.code} --desired-value {vcpus} --region {region}"
        )


_G, _ANY = ("g*", "vt*"), tuple(f"{letter}*" for letter in "acdhimrtz")
QUOTAS = (
    Quota("G", "L-DB2E81BA", "Running On-Demand G and VT instances", False, r"(g|gr|vt)\d", _G),
    Quota("G", "L-3819A6DF", "All G and VT Spot Instance Requests", True, r"(g|gr|vt)\d", _G),
    Quota("P", "L-417A185B", "Running On-Demand P instances", False, r"p\d", ("p*",)),
    Quota("P4", "L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", True, r"p[234]", ("p2*", "p3*", "p4*")),
    Quota("P5", "L-C4BD4855", "All P5 Spot Instance Requests", True, r"p5", ("p5*",)),
    Quota("standard", "L-1216C47A", f"Running On-Demand {_STANDARD} instances", False, _STANDARD_TYPES, _ANY),
    Quota("standard", "L-34B43A08", f"All {_STANDARD} Spot Instance Requests", True, _STANDARD_TYPES, _ANY),
)
"""AWS's table: what spot hosts of the newest types (P6) count for is not in it."""


def quota_of(type: str, spot: bool) -> Quota | None:
    """The limit that counts for a type; None for kinds of machine that remoterun has no name for."""
    return next((quota for quota in QUOTAS if quota.of(type, spot)), None)


def check(calls: Calls, offers: Sequence[Offer]) -> None:
    """See `Provider.check_quotas`. An account that may not be asked finds out from `acquire`."""
    first: dict[tuple[str, bool], Offer] = {}
    for offer in offers:
        first.setdefault((offer.type, offer.spot), offer)
    errors = []
    for offer in first.values():
        quota = quota_of(offer.type, offer.spot)
        if quota is None:
            return
        limit, used = _limit(calls, quota, offer.region), _used(calls, quota, offer.region)
        if limit is None or used is None or used + offer.vcpus <= limit:
            return
        errors.append(_error(QuotaReached("VcpuLimitExceeded", ""), quota, offer, limit, used))
    if errors:
        raise errors[0]


def error(calls: Calls, refused: QuotaReached, offer: Offer) -> QuotaReached:
    """What to do about a limit that a call has reached."""
    quota = quota_of(offer.type, offer.spot)
    if quota is None:
        kind = "spot" if offer.spot else "on demand"
        where = f"https://{offer.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
        return QuotaReached(
            refused.code,
            f"the account's limit for {offer.type} ({kind}) in {offer.region} is reached",
            evidence=refused.evidence,
            hint=f"{where}   has all limits, and asks for higher ones",
        )
    limit, used = _limit(calls, quota, offer.region), _used(calls, quota, offer.region)
    return _error(refused, quota, offer, limit, used)


def checks(calls: Calls, region: str, wanted: Collection[tuple[str, bool]]) -> list[MachineCheck]:
    """How much of each kind of machine the account may have at a time.

    None of a kind is a fault where it is wanted: (type, whether spot) of the machines in config.toml. Who has named
    none there will try the first of the built-in ones, a GPU, and nothing else: so a new account is told of that, and
    `doctor` is content with an account for CPUs once config.toml says that CPUs are all that is wanted.
    """
    found = []
    asked = each_at_once(lambda quota: _answer(calls, quota, region), QUOTAS)
    for quota, limit in zip(QUOTAS, asked, strict=True):
        name = f"quota {quota.kind} {'spot' if quota.spot else 'on demand'}"
        types = [type for type, spot in wanted or ((catalogue.NAMES["t4"], False),) if quota.of(type, spot)]
        if isinstance(limit, RemoterunError):
            found.append(MachineCheck(name, None, f"can't be asked: {limit.message}"))
        elif limit:
            found.append(MachineCheck(name, True, f"{limit} vCPUs at a time ({quota.code})"))
        else:
            least = max((_vcpus(type) for type in types), default=_least(quota))
            ok = False if types else None
            found.append(MachineCheck(name, ok, f"none may run ({quota.code})", quota.raise_command(least, region)))
    return found


def _error(refused: QuotaReached, quota: Quota, offer: Offer, limit: int | None, used: int | None) -> QuotaReached:
    more = offer.vcpus or _vcpus(offer.type)
    value = more + (used or 0)
    if limit is not None and value <= limit:  # what has just ended counts for a while
        value = limit + more
    counted = "" if limit is None else f" is {limit} vCPUs"
    counted += "" if not used else f", {used} are in use" if counted else f": {used} vCPUs are in use"
    return QuotaReached(
        refused.code,
        f"the account's limit does not allow {offer.type} ({'spot' if offer.spot else 'on demand'}) in {offer.region}:"
        f" `{quota.name}` ({quota.code}){counted}, and it needs {more} vCPUs more",
        evidence="\n".join(filter(None, [refused.evidence, "AWS answers a request for more in hours to days"])),
        hint=quota.raise_command(value, offer.region),
    )


def _answer(calls: Calls, quota: Quota, region: str) -> int | RemoterunError:
    try:
        answer = calls("service-quotas", "get_service_quota", region, ServiceCode="ec2", QuotaCode=quota.code)
        return int(answer["Quota"]["Value"])
    except RemoterunError as error:
        return error


def _limit(calls: Calls, quota: Quota, region: str) -> int | None:
    """None where it can't be asked."""
    answer = _answer(calls, quota, region)
    return None if isinstance(answer, RemoterunError) else answer


def _used(calls: Calls, quota: Quota, region: str) -> int | None:
    """vCPUs of all instances of the account that count now; None where it can't be asked."""
    filters = [
        {"Name": "instance-type", "Values": list(quota.wild)},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    try:
        listed = calls.pages("ec2", "describe_instances", region, "Reservations", Filters=filters)
    except RemoterunError:
        return None
    return sum(
        _vcpus(each["InstanceType"], each.get("CpuOptions", {}))
        for reservation in listed
        for each in reservation["Instances"]
        if quota.of(each["InstanceType"], each.get("InstanceLifecycle") == "spot")
    )


def _vcpus(type: str, options: dict[str, Any] | None = None) -> int:
    """Of a type of the table, or as an instance says of itself."""
    known = catalogue.table().types.get(type)
    told = options or {}
    return known.vcpus if known is not None else told.get("CoreCount", 0) * told.get("ThreadsPerCore", 0)


def _least(quota: Quota) -> int:
    """vCPUs of the smallest type with a name that counts."""
    return min((_vcpus(type) for type in catalogue.NAMES.values() if quota.of(type, quota.spot)), default=8)
