"""What calls need to be allowed, as the tables of AWS's service authorisation reference have it. Whether a policy does
allow it is for `policies.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Tags = Mapping[str, str]


@dataclass(frozen=True)
class Need:
    """One thing that a call needs to be allowed. `context`: the values of condition keys."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(f"{key}={value}" for key, value in sorted(self.context.items()))
        return f"{self.action} on {self.resource}{f' ({told})' if told else ''}"


class Place(NamedTuple):
    """Where a call was made."""

    region: str
    account: str


INSTANCE = ("instance", "volume", "network-interface")


def of_call(
    service: str, action: str, place: Place, parameters: Mapping[str, str], known: Callable[[str], Tags]
) -> Iterator[Need]:
    """All that a call needs. `known`: the values of condition keys that a resource of EC2 has, by its id."""
    region, account = place
    if service == "ec2":
        yield from _of_ec2(action, place, parameters, known)
    elif service == "ssm":  # the parameters that AWS itself gives are nobody's
        owner = "" if parameters["Name"].startswith("/aws/service/") else account
        yield Need("ssm:GetParameter", f"arn:aws:ssm:{region}:{owner}:parameter{parameters['Name']}")
    elif service == "servicequotas":
        quota = f"ec2/{parameters['QuotaCode']}" if "QuotaCode" in parameters else "*"
        yield Need(f"servicequotas:{action}", f"arn:aws:servicequotas:{region}:{account}:{quota}")
    elif service == "iam":
        yield from _of_iam(action, account, parameters)
    elif service == "scheduler":
        name = parameters.get("Name", "*")
        yield Need(f"scheduler:{action}", f"arn:aws:scheduler:{region}:{account}:schedule/default/{name}")
        if "RoleArn" in parameters:
            yield _passed(parameters["RoleArn"], "scheduler.amazonaws.com")
    elif service == "cloudwatch":
        for name in (
            [parameters.get("AlarmName", "*")] if action != "DeleteAlarms" else json.loads(parameters["AlarmNames"])
        ):
            yield Need(f"cloudwatch:{action}", f"arn:aws:cloudwatch:{region}:{account}:alarm:{name}")
        if action == "PutMetricAlarm":  # the first one that does something with EC2
            asked = {"AWSServiceName": "events.amazonaws.com"}
            yield from _of_iam("CreateServiceLinkedRole", account, asked)
    elif (service, action) != ("sts", "GetCallerIdentity"):  # which needs nothing
        yield Need(f"{service}:{action}", "*")


def _of_ec2(action: str, place: Place, parameters: Mapping[str, str], known: Callable[[str], Tags]) -> Iterator[Need]:
    if action.startswith("Describe"):
        yield Need(f"ec2:{action}", "*")
        return

    def arn(kind: str, id: str = "*") -> str:
        return f"arn:aws:ec2:{place.region}:{'' if kind == 'image' else place.account}:{kind}/{id}"

    def there(kind: str, id: str, more: Tags | None = None) -> Need:
        """On something that is there, as it is."""
        return Need(f"ec2:{action}", arn(kind, id), {**known(id), **(more or {})})

    specified = _specified(parameters)
    if action == "RunInstances":
        for kind in INSTANCE:
            yield Need("ec2:RunInstances", arn(kind), _requested(specified.get(kind, {})))
        yield there("image", parameters["ImageId"])
        named = [value for key, value in parameters.items() if re.search(r"SecurityGroupId\.\d+$", key)]
        for group in named:
            yield there("security-group", group)
        for key, value in parameters.items():
            if key.endswith("SubnetId"):
                yield there("subnet", value)
        profile = parameters.get("IamInstanceProfile.Name")
        if profile:
            yield _passed(f"arn:aws:iam::{place.account}:role/{profile}", "ec2.amazonaws.com")
    elif action == "CreateSecurityGroup":
        yield Need("ec2:CreateSecurityGroup", arn("security-group"), _requested(specified.get("security-group", {})))
        yield there("vpc", parameters.get("VpcId", "*"))
    elif action in ("CreateTags", "DeleteTags"):
        changed = _tags_of(parameters, "Tag")
        for key, id in parameters.items():
            if key.startswith("ResourceId."):
                yield there(KINDS[id.partition("-")[0]], id, _requested(changed))
    else:
        ids = [(key, value) for key, value in parameters.items() if re.fullmatch(r"(Instance|Group)Id(\.\d+)?", key)]
        for key, id in ids:
            yield there("instance" if key.startswith("Instance") else "security-group", id)
        if not ids:
            yield Need(f"ec2:{action}", "*")
        if "security-group-rule" in specified:
            rule = _requested(specified["security-group-rule"])
            yield Need(f"ec2:{action}", arn("security-group-rule"), rule)
    for kind, given in specified.items():
        yield Need("ec2:CreateTags", arn(kind), {**_requested(given), "ec2:CreateAction": action})


KINDS = {"i": "instance", "sg": "security-group", "sgr": "security-group-rule", "vol": "volume"}


def _of_iam(action: str, account: str, parameters: Mapping[str, str]) -> Iterator[Need]:
    context = dict(_requested(_tags_of(parameters, "Tags.member")))
    role = f"arn:aws:iam::{account}:role/{parameters.get('RoleName', '*')}"
    profile = f"arn:aws:iam::{account}:instance-profile/{parameters.get('InstanceProfileName', '*')}"
    if action == "CreateServiceLinkedRole":
        service = parameters["AWSServiceName"]
        role = f"arn:aws:iam::{account}:role/aws-service-role/{service}/*"
        context["iam:AWSServiceName"] = service
    resource = profile if "InstanceProfileName" in parameters else role
    if action == "SimulatePrincipalPolicy":
        resource = parameters["PolicySourceArn"]
    yield Need(f"iam:{action}", resource, context)
    if action == "AddRoleToInstanceProfile":
        yield _passed(role, "ec2.amazonaws.com")


def _passed(role: str, service: str) -> Need:
    return Need("iam:PassRole", role, {"iam:PassedToService": service})


def _requested(tags: Tags) -> dict[str, str]:
    return {f"aws:RequestTag/{key}": value for key, value in tags.items()}


def _tags_of(parameters: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Of a call in the query protocol: `Tag.1.Key`, `Tag.1.Value`."""
    found = re.compile(rf"{re.escape(prefix)}\.(\d+)\.Key")
    numbers = {match[1]: value for key, value in parameters.items() if (match := found.fullmatch(key))}
    return {key: parameters.get(f"{prefix}.{number}.Value", "") for number, key in numbers.items()}


def _specified(parameters: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The tags of what a call makes, by kind."""
    kinds = {
        key: value for key, value in parameters.items() if re.fullmatch(r"TagSpecification\.\d+\.ResourceType", key)
    }
    return {kind: _tags_of(parameters, key.removesuffix("ResourceType") + "Tag") for key, kind in kinds.items()}


# --- S3 ---

BUCKET = {
    "GET": "ListBucket",
    "HEAD": "ListBucket",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
    "GET encryption": "GetEncryptionConfiguration",
    "GET location": "GetBucketLocation",
    "GET tagging": "GetBucketTagging",
    "PUT tagging": "PutBucketTagging",
    "POST delete": "DeleteObject",
    "GET uploads": "ListBucketMultipartUploads",
}
OBJECT = {
    "GET": "GetObject",
    "HEAD": "GetObject",
    "PUT": "PutObject",
    "POST": "PutObject",
    "DELETE": "DeleteObject",
    "DELETE uploadId": "AbortMultipartUpload",
    "GET uploadId": "ListMultipartUploadParts",
}


def of_request(method: str, bucket: str, key: str, query: Iterable[str]) -> Need:
    """What a request for a bucket or an object needs; `query`: the names in it."""
    if not bucket:
        return Need("s3:ListAllMyBuckets", "*")
    known = OBJECT if key else BUCKET
    about = next((f"{method} {name}" for name in query if f"{method} {name}" in known), method)
    resource = f"arn:aws:s3:::{bucket}/{key or '*'}" if key or about == "POST delete" else f"arn:aws:s3:::{bucket}"
    return Need(f"s3:{known[about]}", resource)
