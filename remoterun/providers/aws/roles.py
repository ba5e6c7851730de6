"""The two roles by which something is done for us without any client: hosts save by one, AWS ends hosts by the other.

They belong to the account, cost nothing, and are made once, after a question. All of it may be repeated. Where an
account refuses one of them, the other is used all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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

    def host() -> str:
        profile = calls("iam", "get_instance_profile", calls.region, InstanceProfileName=HOST)["InstanceProfile"]
        return profile["Roles"][0]["RoleId"] if profile["Roles"] else ""

    def guard() -> str:
        calls("iam", "get_role_policy", calls.region, RoleName=GUARD, PolicyName=POLICY)
        return str(calls("iam", "get_role", calls.region, RoleName=GUARD)["Role"]["Arn"])

    return _both(host, guard)


def make(calls: Calls) -> Roles:
    """Make those that are absent. Raises as `find`."""
    _, partition, _, _, account, *_ = calls("sts", "get_caller_identity", calls.region)["Arn"].split(":")

    def host() -> str:
        """It may write below a folder of its own, in buckets of this account alone."""
        service = "ec2.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
        saves = {"Action": "s3:PutObject", "Resource": f"arn:{partition}:s3:::*/hosts/${{aws:userid}}/*"}
        here = {"StringEquals": {"aws:ResourceAccount": account}}
        role = _role(calls, HOST, {"Principal": {"Service": service}}, {**saves, "Condition": here})
        _unless("EntityAlreadyExists", calls, "create_instance_profile", InstanceProfileName=HOST)
        # it has room for one role
        _unless("LimitExceeded", calls, "add_role_to_instance_profile", InstanceProfileName=HOST, RoleName=HOST)
        return str(role["RoleId"])

    def guard() -> str:
        here = {"StringEquals": {"aws:SourceAccount": account}}
        asked = {"Principal": {"Service": "scheduler.amazonaws.com"}, "Condition": here}
        ends = {"Action": "ec2:TerminateInstances", "Resource": f"arn:{partition}:ec2:*:{account}:instance/*"}
        ours = {"Null": {"aws:ResourceTag/remoterun:token": "false"}}
        return str(_role(calls, GUARD, asked, {**ends, "Condition": ours})["Arn"])

    return _both(host, guard)


def leftovers(calls: Calls) -> list[Leftover]:
    """Those that there are."""
    there = [name for name in _DOES if _unless(_MISSING, calls, "get_role", RoleName=name)]
    return [Leftover("role", name, _DOES[name]) for name in there]


def remove(calls: Calls, name: str) -> None:
    _unless(_MISSING, calls, "remove_role_from_instance_profile", InstanceProfileName=name, RoleName=name)
    _unless(_MISSING, calls, "delete_instance_profile", InstanceProfileName=name)
    _unless(_MISSING, calls, "delete_role_policy", RoleName=name, PolicyName=POLICY)
    _unless(_MISSING, calls, "delete_role", RoleName=name)


def _both(*asked: Callable[[], str]) -> Roles:
    """The roles of hosts and of the guard, or why one is absent. Raises what says nothing about them, such as that the
    login is over."""
    found, why = [], ""
    for ask in asked:
        try:
            found.append(ask())
        except Refused as refused:
            if refused.code not in {*DENIED, _MISSING}:
                raise
            found.append("")
            why = why or (NOT_MADE if refused.code == _MISSING else refused.message)
    writer, guard = found
    return Roles(writer, guard, why or ("" if writer and guard else NOT_MADE))


def _role(calls: Calls, name: str, asked: dict[str, Any], does: dict[str, Any]) -> dict[str, Any]:
    """A role, who may ask for it, and what it does."""
    trust = _document({"Action": "sts:AssumeRole", **asked})
    made = _unless("EntityAlreadyExists", calls, "create_role", RoleName=name, AssumeRolePolicyDocument=trust)
    made = made or calls("iam", "get_role", calls.region, RoleName=name)
    calls("iam", "put_role_policy", calls.region, RoleName=name, PolicyName=POLICY, PolicyDocument=_document(does))
    role: dict[str, Any] = made["Role"]
    return role


def _document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def _unless(code: str, calls: Calls, operation: str, **parameters: str) -> dict[str, Any]:
    """The answer; nothing where AWS refuses with `code`, which is fine."""
    try:
        return calls("iam", operation, calls.region, **parameters)
    except Refused as refused:
        if refused.code != code:
            raise
        return {}
