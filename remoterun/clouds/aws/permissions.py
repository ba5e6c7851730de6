"""What remoterun has to be allowed at AWS: one policy (`policy.json`), and which of it credentials lack."""

from __future__ import annotations

import json
import re
from typing import Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive.s3_codes import DENIED, POLICY
from remoterun.clouds.aws import image, network, roles, tags
from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.aws.catalogue import offer
from remoterun.clouds.aws.front import Settings
from remoterun.errors import RemoterunError

SMALL = "m7i.large"
ANYBODY = "arn:aws:iam::<YOUR-ACCOUNT>:"
_INSTANCE = "i-00000000000000000"
_GROUP = "sg-00000000000000000"
_ENDPOINT = "ec2:DescribeInstanceConnectEndpoints"


def document(arn: str, settings: Settings, setup: bool = True) -> str:
    """The policy for the account of an ARN, with a bucket that is named in place of one that is made: who may do this,
    and nothing else, can use all of remoterun. Without `setup` it has no part that makes roles."""
    made = f"remoterun-{arn.split(':')[4]}*"
    own = settings.bucket is None or settings.bucket.startswith(made[:-1])
    found = roles.filled("policy.json", arn, settings, BUCKET=made if own else str(settings.bucket))
    found["Statement"] = [each for each in found["Statement"] if setup or each["Sid"] != "MakeRoles"]
    return json.dumps(found, indent=2)


def needed() -> dict[str, bool]:
    """The actions without which there are no hosts → whether they are allowed for what carries our tags alone."""
    found: dict[str, bool] = {}
    for statement in json.loads(document(ANYBODY, Settings()))["Statement"]:
        listed, condition = statement["Action"], str(statement.get("Condition"))
        is_marked = "aws:ResourceTag/" in condition or "ec2:CreateAction" in condition
        for action in [listed] if isinstance(listed, str) else listed:
            if action.startswith(("ec2:", "ssm:")) and action != "ec2:DeleteTags":
                found[action] = is_marked or found.get(action, False)
    return found


def check(calls: Calls, region: str, arn: str, with_endpoint: bool) -> MachineCheck:
    """What these credentials may not do, as far as trying without effect says. What is allowed for hosts and groups
    with our tags only can't be tried while there is none: to be refused then says nothing."""
    if arn.endswith(":root"):
        return MachineCheck(
            "permissions", True, "all: it is the account's root user", "an IAM user is safer for every day"
        )
    tried = {action: marked for action, marked in needed().items() if with_endpoint or action != _ENDPOINT}
    denied = [action for action in tried if _is_denied(calls, region, action)]
    missing = [action for action in denied if not tried[action]]
    if missing:
        return MachineCheck("permissions", False, f"missing: {', '.join(missing)}", POLICY)
    unknown = f"; known once there is a host: {', '.join(denied)}" if denied else ""
    return MachineCheck("permissions", True, f"all that hosts need, by dry runs of its calls{unknown}")


def _is_denied(calls: Calls, region: str, action: str) -> bool:
    """Whether AWS refuses a call for want of a permission. Nothing is changed: calls that would are dry runs."""
    service, _, name = action.partition(":")
    operation = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    tried = {**({"DryRun": True} if service == "ec2" else {}), **_TRIES.get(name, {})}
    if name == "RunInstances":  # of an image that is not there, AWS says so before it looks at permissions
        try:
            tried = {**tried, "ImageId": image.resolve(calls, offer(SMALL, region), None).id}
        except RemoterunError:
            return False
    if labels := [tags.specification(kind, {**calls.settings.tags, **_MARKED}) for kind in _MADE.get(name, ())]:
        tried["TagSpecifications"] = labels
    try:
        calls(service, operation, region, **tried)
    except RemoterunError as error:
        return isinstance(error, Refused) and error.code in DENIED
    return False


_RULE = {"GroupId": _GROUP, "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "192.0.2.1/32"}
_MADE = {"RunInstances": ("instance", "volume"), "CreateSecurityGroup": ("security-group",)}
_MARKED = {tags.PREFIX + "token": "rr-dry-run", tags.PREFIX + "owner": "dry run"}
_TRIES: dict[str, dict[str, Any]] = {
    "AuthorizeSecurityGroupIngress": _RULE,
    "CreateSecurityGroup": {"GroupName": network.GROUP, "Description": "dry run"},
    "CreateTags": {"Resources": [_INSTANCE], "Tags": [{"Key": "Name", "Value": "dry run"}]},
    "DeleteSecurityGroup": {"GroupId": _GROUP},
    "DescribeImages": {"Owners": ["self"]},
    "GetParameter": {"Name": image.parameters(offer(SMALL, ""))[0]},
    "RevokeSecurityGroupIngress": _RULE,
    "RunInstances": {"MinCount": 1, "MaxCount": 1, "InstanceType": SMALL},
    "TerminateInstances": {"InstanceIds": [_INSTANCE]},
}
