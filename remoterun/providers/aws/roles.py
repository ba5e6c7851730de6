"""The two roles by which something is done for us without any client: hosts save by one, AWS ends hosts by the other.

They belong to the account, cost nothing, and are made once, after a question. All of it may be repeated. Where an
account refuses one of them, the other is used all the same.
"""

from __future__ import annotations

import json
from typing import Any

from remoterun.aws_codes import DENIED
from remoterun.providers.aws.calls import Calls, Refused
from remoterun.providers.base import NOT_MADE, Leftover, Roles

HOST = "remoterun-host"
"""Of the role, and of the instance profile by which EC2 hands it to hosts."""
GUARD = "remoterun-guard"
POLICY = "remoterun"
_MISSING = "NoSuchEntity"
_DOES = {HOST: "hosts save by it", GUARD: "AWS ends hosts at their deadline by it"}


def find(calls: Calls) -> Roles:
    """Which of them there are. Raises `ProviderError` where AWS doesn't say."""
    writer = guard = arn = why = ""
    try:
        profile = calls("iam", "get_instance_profile", calls.region, InstanceProfileName=HOST)["InstanceProfile"]
        arn, writer = profile["Arn"], profile["Roles"][0]["RoleId"] if profile["Roles"] else ""
    except Refused as refused:
        why = _why(refused)
    try:
        calls("iam", "get_role_policy", calls.region, RoleName=GUARD, PolicyName=POLICY)
        arn = arn or calls("sts", "get_caller_identity", calls.region)["Arn"]
        guard = f"arn:{arn.split(':')[1]}:iam::{arn.split(':')[4]}:role/{GUARD}"
    except Refused as refused:
        why = why or _why(refused)
    return Roles(writer, guard, "" if writer and guard else why or NOT_MADE)


def make(calls: Calls) -> Roles:
    """Make those that are absent. Raises as `find`."""
    partition, account = (calls("sts", "get_caller_identity", calls.region)["Arn"].split(":")[n] for n in (1, 4))
    writer = guard = why = ""
    try:
        writer = _host(calls, partition, account)
    except Refused as refused:
        why = _why(refused)
    try:
        ends = {"Action": "ec2:TerminateInstances", "Resource": f"arn:{partition}:ec2:*:{account}:instance/*"}
        ours = {"Null": {"aws:ResourceTag/remoterun:token": "false"}}
        trusted = {"StringEquals": {"aws:SourceAccount": account}}
        guard = _role(calls, GUARD, "scheduler.amazonaws.com", trusted, {**ends, "Condition": ours})["Arn"]
    except Refused as refused:
        why = why or _why(refused)
    return Roles(writer, guard, why)


def leftovers(calls: Calls) -> list[Leftover]:
    """Those that there are."""
    there = [name for name in _DOES if _unless(_MISSING, calls, "get_role", RoleName=name)]
    return [Leftover("role", name, _DOES[name]) for name in there]


def remove(calls: Calls, name: str) -> None:
    if name == HOST:
        _unless(_MISSING, calls, "remove_role_from_instance_profile", InstanceProfileName=HOST, RoleName=HOST)
        _unless(_MISSING, calls, "delete_instance_profile", InstanceProfileName=HOST)
    _unless(_MISSING, calls, "delete_role_policy", RoleName=name, PolicyName=POLICY)
    _unless(_MISSING, calls, "delete_role", RoleName=name)


def _host(calls: Calls, partition: str, account: str) -> str:
    """The id of the hosts' role. A host may write below a folder of its own, in buckets of this account alone."""
    saves = {"Action": "s3:PutObject", "Resource": f"arn:{partition}:s3:::*/hosts/${{aws:userid}}/*"}
    here = {"StringEquals": {"aws:ResourceAccount": account}}
    service = "ec2.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
    id: str = _role(calls, HOST, service, {}, {**saves, "Condition": here})["RoleId"]
    _unless("EntityAlreadyExists", calls, "create_instance_profile", InstanceProfileName=HOST)
    # it has room for one role
    _unless("LimitExceeded", calls, "add_role_to_instance_profile", InstanceProfileName=HOST, RoleName=HOST)
    return id


def _role(
    calls: Calls, name: str, service: str, condition: dict[str, Any], statement: dict[str, Any]
) -> dict[str, Any]:
    """A role that a service may assume, with its one policy."""
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if condition:
        trust["Condition"] = condition
    words = {"RoleName": name, "Description": f"remoterun: {_DOES[name]}", "AssumeRolePolicyDocument": _document(trust)}
    made = _unless("EntityAlreadyExists", calls, "create_role", **words)
    made = made or calls("iam", "get_role", calls.region, RoleName=name)
    document = _document({"Effect": "Allow", **statement})
    calls("iam", "put_role_policy", calls.region, RoleName=name, PolicyName=POLICY, PolicyDocument=document)
    role: dict[str, Any] = made["Role"]
    return role


def _document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _unless(code: str, calls: Calls, operation: str, **parameters: str) -> dict[str, Any]:
    """The answer; nothing where AWS refuses with `code`, which is fine."""
    try:
        return calls("iam", operation, calls.region, **parameters)
    except Refused as refused:
        if refused.code != code:
            raise
        return {}


def _why(refused: Refused) -> str:
    """Why a role is absent. Raises what says nothing about it, such as that the login is over."""
    if refused.code == _MISSING:
        return NOT_MADE
    if refused.code not in DENIED:
        raise refused
    return refused.message
