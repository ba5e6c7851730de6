"""How much an account may have at a time: its quotas, in vCPUs, and what to type where one is too low."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.aws import catalogue
from remoterun.clouds.aws.calls import Calls, QuotaReached
from remoterun.clouds.base import Offer
from remoterun.errors import RemoterunError
from remoterun.threads import each as each_at_once


@dataclass(frozen=True)
class Quota:
    """A limit of an account, in vCPUs that run at a time; `types` begin the names of the types that count."""

    kind: str
    code: str
    name: str
    spot: bool
    types: str

    def of(self, type: str, spot: bool) -> bool:
        return spot == self.spot and re.match(self.types, type) is not None

    def raise_command(self, vcpus: int, region: str) -> str:
        """What asks AWS for a higher one."""
        return (
            "aws service-quotas request-service-quota-increase --service-code ec2 "
            f"--quota-code {self.code} --desired-value {vcpus} --region {region}"
        )


_LETTERS, _STANDARD = "Standard (A, C, D, H, I, M, R, T, Z)", r"(?!trn|inf|dl|mac|hpc)[acdhimrtz][a-z]*\d"
QUOTAS = (
    Quota("G", "L-DB2E81BA", "Running On-Demand G and VT instances", False, r"(g|gr|vt)\d"),
    Quota("G", "L-3819A6DF", "All G and VT Spot Instance Requests", True, r"(g|gr|vt)\d"),
    Quota("P", "L-417A185B", "Running On-Demand P instances", False, r"p\d"),
    Quota("P4", "L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", True, r"p[234]"),
    Quota("P5", "L-C4BD4855", "All P5 Spot Instance Requests", True, r"p5"),
    Quota("standard", "L-1216C47A", f"Running On-Demand {_LETTERS} instances", False, _STANDARD),
    Quota("standard", "L-34B43A08", f"All {_LETTERS} Spot Instance Requests", True, _STANDARD),
)
"""AWS's table: what spot hosts of the newest types (P6) count for is not in it."""

KINDS = {False: "on demand", True: "spot"}


def quota_of(type: str, spot: bool) -> Quota | None:
    """The limit that counts for a type; None for kinds of machine that remoterun has no name for."""
    return next((quota for quota in QUOTAS if quota.of(type, spot)), None)


def check(calls: Calls, offers: Sequence[Offer]) -> None:
    """See `Provider.check_quotas`."""
    errors = [error(calls, offer) for offer in {each.type: each for each in offers}.values()]
    if errors and errors[0] is not None and None not in errors:
        raise errors[0]


def error(calls: Calls, offer: Offer, refused: QuotaReached | None = None) -> QuotaReached | None:
    """What to do about a limit that a call has reached, or, without one, that one would reach; then None where it would
    not, or the account may not be asked."""
    quota, more = quota_of(offer.type, offer.spot), offer.vcpus
    limit = used = None
    if quota is not None:
        limit, used = _limit(calls, quota, offer.region), _used(calls, quota, offer.region)
    if refused is None and (not isinstance(limit, int) or used is None or used + more <= limit):
        return None
    message = f"the account's limit does not allow {offer.type} ({KINDS[offer.spot]}) in {offer.region}"
    hint = f"https://{offer.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas   has all limits"
    if quota is not None:
        known = f" is {limit} vCPUs" if isinstance(limit, int) else ""
        known += "" if used is None else f", {used} are in use"
        message += f": `{quota.name}` ({quota.code}){known}, and it needs {more} vCPUs more"
        value = more + (used or 0)  # what has just ended counts for a while, so that this may be less than the limit
        hint = quota.raise_command(limit + more if isinstance(limit, int) and value <= limit else value, offer.region)
    evidence = "new accounts often have 0 for GPUs; AWS answers a request in hours to days"
    return QuotaReached(refused.code if refused else "VcpuLimitExceeded", message, hint=hint, evidence=evidence)


def checks(calls: Calls, region: str, wanted: Collection[tuple[str, bool]]) -> list[MachineCheck]:
    """How much of each kind of machine the account may have at a time.

    None of a kind is a fault where it is wanted: (type, whether spot) of the machines in config.toml. Who has named
    none there will try the first of the built-in ones, a GPU, and nothing else: so a new account is told of that, and
    `doctor` is content with an account for CPUs once config.toml says that CPUs are all that is wanted.
    """
    found = []
    for quota, limit in zip(QUOTAS, each_at_once(lambda quota: _limit(calls, quota, region), QUOTAS), strict=True):
        name = f"quota {quota.kind} {KINDS[quota.spot]}"
        types = [type for type, spot in wanted or ((catalogue.NAMES["t4"], False),) if quota.of(type, spot)]
        if isinstance(limit, RemoterunError):
            found.append(MachineCheck(name, None, f"can't be asked: {limit.message}"))
        elif limit:
            found.append(MachineCheck(name, True, f"{limit} vCPUs at a time ({quota.code})"))
        else:
            named = types or [type for type in catalogue.NAMES.values() if quota.of(type, quota.spot)]
            needed = [catalogue.offer(type, region).vcpus for type in named]
            fix = quota.raise_command((max(needed) if types else min(needed)) or 4, region)  # 0: not in the table
            found.append(MachineCheck(name, False if types else None, f"none may run ({quota.code})", fix))
    return found


def _limit(calls: Calls, quota: Quota, region: str) -> int | RemoterunError:
    try:
        answer = calls("service-quotas", "get_service_quota", region, ServiceCode="ec2", QuotaCode=quota.code)
        return int(answer["Quota"]["Value"])
    except RemoterunError as error:
        return error


def _used(calls: Calls, quota: Quota, region: str) -> int | None:
    """vCPUs of all instances of the account that count now; None where it can't be asked."""
    filters = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    try:
        listed = calls.pages("ec2", "describe_instances", region, "Reservations", Filters=filters)
    except RemoterunError:
        return None
    return sum(
        catalogue.offer(each["InstanceType"], region).vcpus or each.get("CpuOptions", {}).get("CoreCount", 0) * 2
        for reservation in listed
        for each in reservation["Instances"]
        if quota.of(each["InstanceType"], each.get("InstanceLifecycle") == "spot")
    )
