"""The policy that `doctor aws --policy` prints: what it allows, and that it allows all that is asked of AWS."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest

import remoterun.clouds.aws
from remoterun.clouds.aws import permissions
from remoterun.clouds.aws.front import Settings

ARN = "arn:aws:iam::123456789012:user/me"
MOST = 6144
"""Characters of a managed policy, without white space."""
SERVICES = {"servicequotas": "service-quotas"}
NOT_CALLS = {"iam:PassRole", "ec2-instance-connect:OpenTunnel"}
NOT_CALLS |= {f"s3:{name}" for name in ("ListAllMyBuckets", "ListBucket", "ListBucketVersions", "DeleteObjectVersion")}
NAMED = {"s3:GetBucketEncryption": "s3:GetEncryptionConfiguration"}
"""Calls that IAM has another word for."""
FREE = {"sts:GetCallerIdentity"}
"""Everybody may."""


def statements(arn: str = ARN, settings: Settings = Settings(), setup: bool = True) -> list[dict[str, Any]]:  # noqa: B008
    found: list[dict[str, Any]] = json.loads(permissions.document(arn, settings, setup))["Statement"]
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed() -> dict[str, list[dict[str, Any]]]:
    """Action → the statements that allow it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for statement in statements():
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            found.setdefault(action, []).append(statement)
    return found


def test_it_is_as_short_as_a_managed_policy_has_to_be() -> None:
    longest = Settings(bucket="a" * 63, host_role="h" * 64, guard_role="g" * 64)
    assert len(re.sub(r"\s", "", permissions.document(ARN, longest))) <= MOST
    sids = [statement["Sid"] for statement in statements()]
    assert len(set(sids)) == len(sids) and all(sid.isalnum() for sid in sids)


def test_its_actions_are_aws_s_own() -> None:
    session = botocore.session.get_session()
    for action in sorted(allowed().keys() - NOT_CALLS - {*NAMED.values()}):
        service, _, name = action.partition(":")
        assert name in session.get_service_model(SERVICES.get(service, service)).operation_names, action


def test_all_that_is_asked_of_aws_is_allowed() -> None:
    asked = set()
    for file in Path(remoterun.clouds.aws.__path__[0]).glob("*.py"):
        for service, operation in re.findall(r'"([a-z0-9-]+)",\s*"([a-z]+(?:_[a-z]+)+)",', file.read_text()):
            name = "".join(word.title() for word in operation.split("_"))
            action = f"{service.replace('service-quotas', 'servicequotas')}:{name}"
            asked.add(NAMED.get(action, action))
    assert "ec2:RunInstances" in asked and asked - FREE <= allowed().keys()


@pytest.mark.parametrize(
    "action", ["ec2:TerminateInstances", "ec2:DeleteSecurityGroup", "ec2:RevokeSecurityGroupIngress"]
)
def test_only_what_carries_our_tags_or_has_the_role_of_hosts_may_be_ended(action: str) -> None:
    for statement in allowed()[action]:
        mark = "instance-profile/remoterun-host" if statement["Sid"] == "EndUntagged" else "aws:ResourceTag/remoterun:"
        assert mark in json.dumps(statement["Condition"])


def test_what_is_made_carries_our_tags_and_what_is_given_is_ours() -> None:
    for kind in ("instance", "volume"):
        (statement,) = [each for each in allowed()["ec2:RunInstances"] if f":{kind}/*" in json.dumps(each["Resource"])]
        assert "aws:RequestTag/remoterun:token" in statement["Condition"]["StringLike"]
    for action, found in allowed().items():
        service, _, name = action.partition(":")
        if not name.startswith(("Describe", "Get", "List", "Decode")):
            for statement in found:
                assert all(resource != "*" for resource in listed(statement["Resource"])), action
                if service == "iam" and "aws-service-role" not in json.dumps(statement["Resource"]):
                    assert all("/remoterun-" in resource for resource in listed(statement["Resource"]))


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_its_arns_are_those_of_the_account(partition: str) -> None:
    for statement in statements(f"arn:{partition}:sts::210987654321:assumed-role/boss/me"):
        for resource in listed(statement["Resource"]):
            assert resource == "*" or resource.startswith(f"arn:{partition}:")
            assert resource == "*" or "ACCOUNT" not in resource and "PARTITION" not in resource
    text = permissions.document(ARN, Settings())
    assert '"arn:aws:s3:::remoterun-123456789012*"' in text and ":123456789012:instance/*" in text
    assert "arn:aws:s3:::mine/*" in permissions.document(ARN, Settings(bucket="mine"))


def test_who_makes_no_roles_sees_them_and_gives_them_under_their_names() -> None:
    named = Settings(host_role="team-h", guard_role="team-g")
    plain = {each["Sid"]: each for each in statements(settings=named, setup=False)}
    actions = {action for each in plain.values() for action in listed(each["Action"])}
    given = {f"iam:{name}" for name in ("PassRole", "GetRole", "GetRolePolicy", "GetInstanceProfile")}
    assert {action for action in actions if action.startswith("iam:")} == {*given, "iam:CreateServiceLinkedRole"}
    roles = [f"arn:aws:iam::123456789012:role/{name}" for name in ("team-h", "team-g")]
    assert plain["GiveRoles"]["Resource"] == roles and set(roles) < set(plain["SeeRoles"]["Resource"])
