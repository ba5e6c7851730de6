"""`doctor aws`: everything that a run will ask of AWS, asked without changing anything."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.aws_codes import DENIED
from remoterun.errors import RemoterunError
from remoterun.providers.aws import endpoint, image, network
from remoterun.providers.aws.calls import CLOCK_SECONDS, Calls, Refused, clock_error
from remoterun.providers.aws.catalogue import QUOTAS, offer

if TYPE_CHECKING:
    from remoterun.config import AWS

ACTIONS = (
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:CreateSecurityGroup",
    "ec2:CreateTags",
    "ec2:DeleteSecurityGroup",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeRegions",
    "ec2:DescribeSecurityGroupRules",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:RunInstances",
    "ec2:TerminateInstances",
    "ssm:GetParameter",
)
"""What remoterun does with hosts, as IAM writes it."""
SMALL = "m7i.large"
GPU = "g4dn.xlarge"
_INSTANCE = "i-00000000000000000"
_GROUP = "sg-00000000000000000"


def checks(calls: Calls, settings: AWS) -> list[MachineCheck]:
    """See `Provider.checks`."""
    region = calls.region
    try:
        identity = calls("sts", "get_caller_identity", region)
    except RemoterunError as error:
        return [_failed("login", error)]
    found = [
        MachineCheck("login", True, f"{identity['Arn']} of account {identity['Account']}"),
        MachineCheck("region", True, region),
    ]
    found.append(_clock(calls))
    zones = "the default network has zones {}"
    found.append(_attempt("network", lambda: zones.format(", ".join(network.subnets(calls, region)))))
    found.append(_attempt("image", lambda: image.resolve(calls, offer(GPU, region), None).name))
    actions: tuple[str, ...] = ACTIONS
    if settings.connect == endpoint.CONNECT:
        actions += endpoint.ACTIONS
        found.append(_attempt("endpoint", lambda: _endpoint(calls, region)))
    else:
        found += _way_in(calls, region, settings)
    found.append(_permissions(calls, region, identity["Arn"], actions))
    found += _quotas(calls, region)
    return found


def policy(actions: list[str]) -> str:
    """A policy that allows these, to paste into IAM."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=2)


def _clock(calls: Calls) -> MachineCheck:
    if abs(calls.clock_skew) <= CLOCK_SECONDS:
        return MachineCheck("clock", True, f"{abs(calls.clock_skew):.0f} s from AWS's")
    return _failed("clock", clock_error(calls.clock_skew))


def _endpoint(calls: Calls, region: str) -> str:
    vpc = next(iter(network.subnets(calls, region).values()))["VpcId"]
    found = endpoint.required(calls, region, vpc)
    endpoint.check_program()
    return f"hosts are reached through {found['InstanceConnectEndpointId']}, an hour at a time"


def _way_in(calls: Calls, region: str, settings: AWS) -> Iterator[MachineCheck]:
    """From where hosts are reached on port 22, and what else there is where that is closed."""
    yield _attempt("address", lambda: f"hosts let in {network.client_address(settings.address)} on port 22")
    with contextlib.suppress(RemoterunError):
        setting = f'connect = "{endpoint.CONNECT}" below [aws] in config.toml'
        way = f"make one, and set {setting}: {endpoint.making(calls, region)}"
        yield MachineCheck("endpoint", None, f"not needed where hosts are reached on port 22; else {way}")


def _permissions(calls: Calls, region: str, arn: str, actions: tuple[str, ...]) -> MachineCheck:
    """What these credentials may not do, as far as trying without effect says."""
    if arn.endswith(":root"):
        return MachineCheck(
            "permissions", True, "all: it is the account's root user", "an IAM user is safer for every day"
        )
    tried = [action for action in actions if not action.startswith("ec2-instance-connect:")]
    missing = [action for action in tried if _is_denied(calls, region, action)]
    if missing:
        return MachineCheck("permissions", False, f"missing: {', '.join(missing)}", policy(missing))
    return MachineCheck("permissions", True, "all that hosts need, as far as trying without effect says")


def _is_denied(calls: Calls, region: str, action: str) -> bool:
    """Whether AWS refuses a call for want of a permission. Nothing is changed: calls that would are dry runs."""
    service, _, name = action.partition(":")
    operation = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    tried = _TRIES.get(name, {"DryRun": True})
    if name == "RunInstances":  # of an image that is not there, AWS says so before it looks at permissions
        try:
            tried = {**tried, "ImageId": image.resolve(calls, offer(SMALL, region), None).id}
        except RemoterunError:
            return False
    try:
        calls(service, operation, region, **tried)
    except Refused as refused:
        return refused.code in DENIED
    except RemoterunError:
        return False
    return False


_RULE = {"GroupId": _GROUP, "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "192.0.2.1/32"}
_TRIES: dict[str, dict[str, Any]] = {
    "AuthorizeSecurityGroupIngress": {"DryRun": True, **_RULE},
    "CreateSecurityGroup": {"DryRun": True, "GroupName": network.GROUP, "Description": "dry run"},
    "CreateTags": {"DryRun": True, "Resources": [_INSTANCE], "Tags": [{"Key": "Name", "Value": "dry run"}]},
    "DeleteSecurityGroup": {"DryRun": True, "GroupId": _GROUP},
    "DescribeImages": {"DryRun": True, "Owners": ["self"]},
    "GetParameter": {"Name": image.parameters(offer(SMALL, ""))[0]},
    "RevokeSecurityGroupIngress": {"DryRun": True, **_RULE},
    "RunInstances": {"DryRun": True, "MinCount": 1, "MaxCount": 1, "InstanceType": SMALL},
    "TerminateInstances": {"DryRun": True, "InstanceIds": [_INSTANCE]},
}


def _quotas(calls: Calls, region: str) -> list[MachineCheck]:
    """How much of each kind of machine the account may have at a time."""
    found = []
    for (kind, spot), quota in QUOTAS.items():
        name = f"quota {kind.upper() if len(kind) == 1 else kind} {'spot' if spot else 'on demand'}"
        try:
            answer = calls("service-quotas", "get_service_quota", region, ServiceCode="ec2", QuotaCode=quota.code)
        except RemoterunError as error:
            found.append(MachineCheck(name, None, f"can't be asked: {error.message}"))
            continue
        value = int(answer["Quota"]["Value"])
        if value:
            found.append(MachineCheck(name, True, f"{value} vCPUs at a time ({quota.code})"))
        else:
            found.append(MachineCheck(name, None, f"none may run ({quota.code})", quota.raise_command(8, region)))
    return found


def _attempt(name: str, ask: Callable[[], str]) -> MachineCheck:
    try:
        return MachineCheck(name, True, ask())
    except RemoterunError as error:
        return _failed(name, error)


def _failed(name: str, error: RemoterunError) -> MachineCheck:
    return MachineCheck(name, False, error.message, error.hint)
