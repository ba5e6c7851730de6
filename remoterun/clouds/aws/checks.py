"""`doctor aws`: everything that a run will ask of AWS, asked without changing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive.s3_codes import DENIED, FREE_PLAN, POLICY, account_fault
from remoterun.clouds.aws import endpoint, image, network, permissions, quotas, roles
from remoterun.clouds.aws.calls import CLOCK_SECONDS, DEFAULT_REGION, Calls, Refused, clock_error
from remoterun.clouds.aws.catalogue import offer
from remoterun.clouds.aws.network import client_addresses
from remoterun.clouds.base import NOT_MADE
from remoterun.errors import RemoterunError

GPU = "g4dn.xlarge"
SETUP = "remoterun doctor aws --setup   makes the roles, or writes anew what they may do"


def checks(calls: Calls, wanted: Collection[tuple[str, bool]]) -> list[MachineCheck]:
    """See `Provider.checks`. `wanted`: (type, whether spot) of the machines that the user has named."""
    region, settings = calls.region, calls.settings
    try:
        identity = calls("sts", "get_caller_identity", region)
    except RemoterunError as error:
        return [_failed("login", error)]
    return [
        MachineCheck("login", True, f"{identity['Arn']} of account {identity['Account']}"),
        MachineCheck("region", True, region),
        _clock(calls),
        *_plan(calls),
        _attempt("network", lambda: _network(calls, region, settings.subnet)),
        _attempt("image", lambda: image.resolve(calls, offer(GPU, region), None).name),
        *_way_in(calls, region),
        permissions.check(calls, region, identity["Arn"], settings.connect == endpoint.CONNECT),
        _roles(calls, identity) if settings.roles else MachineCheck("roles", None, "`roles = false` in config.toml"),
        *quotas.checks(calls, region, wanted),
    ]


def _clock(calls: Calls) -> MachineCheck:
    if abs(calls.clock_skew) <= CLOCK_SECONDS:
        return MachineCheck("clock", True, f"{abs(calls.clock_skew):.0f} s from AWS's")
    return _failed("clock", clock_error(calls.clock_skew))


def _plan(calls: Calls) -> Iterator[MachineCheck]:
    """Nothing where the account is a paid one, or can't be asked."""
    with contextlib.suppress(RemoterunError):
        if calls("freetier", "get_account_plan_state", DEFAULT_REGION)["accountPlanType"] == "FREE":
            yield MachineCheck("plan", False, *(account_fault("", FREE_PLAN, "") or ()))


def _roles(calls: Calls, identity: dict[str, Any]) -> MachineCheck:
    settings = calls.settings
    try:
        there = roles.find(calls)
        lock = _lock(calls, identity["Account"]) if settings.bucket and not settings.endpoint else ""
    except RemoterunError as error:
        return _failed("roles", error)
    if there.why_not not in ("", NOT_MADE):
        return MachineCheck("roles", False, there.why_not, POLICY)
    names = {settings.host_role: there.writer, settings.guard_role: there.guard}
    if absent := ", ".join(name for name, made in names.items() if not made):
        what = f"{NOT_MADE}, or not for this bucket: {absent}"
        return MachineCheck("roles", False if any(names.values()) else None, what, SETUP)
    if there.old:
        return MachineCheck("roles", False, f"{there.old} has another policy than one that is made now", SETUP)
    what = f"hosts save by {settings.host_role}{lock}, and AWS ends them by {settings.guard_role}"
    return MachineCheck("roles", None if lock else True, what)


def _lock(calls: Calls, account: str) -> str:
    """What may keep hosts from the bucket, whatever their role's own policy says."""
    bucket = calls.settings.bucket
    try:
        said = calls("s3", "get_bucket_encryption", calls.region, Bucket=bucket, ExpectedBucketOwner=account)
    except Refused as refused:
        unknown = f" if {bucket} is of this account (s3:GetEncryptionConfiguration is refused)"
        return unknown if refused.code in DENIED else ""
    rule = said["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    return f" if that may use the key {rule['KMSMasterKeyID']}" if rule.get("KMSMasterKeyID") else ""


def _network(calls: Calls, region: str, subnet: str | None) -> str:
    zones = network.subnets(calls, region, subnet)
    return f"{subnet or 'the default network'} has zones {', '.join(zones)}"


def _endpoint(calls: Calls, region: str, subnet: str | None) -> str:
    vpc = next(iter(network.subnets(calls, region, subnet).values()))["VpcId"]
    found = endpoint.required(calls, region, vpc, subnet)
    endpoint.check_program()
    return f"hosts are reached through {found['InstanceConnectEndpointId']}, an hour at a time"


def _way_in(calls: Calls, region: str) -> Iterator[MachineCheck]:
    """The endpoint, or from where hosts are reached on port 22, and what else there is where that is closed."""
    settings = calls.settings
    if settings.connect == endpoint.CONNECT:
        yield _attempt("endpoint", lambda: _endpoint(calls, region, settings.subnet))
        return
    group = settings.security_group
    yield _attempt("address", lambda: f"port 22 lets in {group or ', '.join(client_addresses(settings.address))}")
    with contextlib.suppress(RemoterunError):
        setting = f'connect = "{endpoint.CONNECT}" below [aws] in config.toml'
        way = f"make one, and set {setting}: {endpoint.making(calls, region, settings.subnet)}"
        yield MachineCheck("endpoint", None, f"not needed where hosts are reached on port 22; else {way}")


def _attempt(name: str, ask: Callable[[], str]) -> MachineCheck:
    try:
        return MachineCheck(name, True, ask())
    except RemoterunError as error:
        return _failed(name, error)


def _failed(name: str, error: RemoterunError) -> MachineCheck:
    return MachineCheck(name, False, error.message, error.hint)
