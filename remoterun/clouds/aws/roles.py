"""The two roles by which something is done for us without any client: hosts save by one, AWS ends hosts by the other.

They belong to the account, cost nothing, and are made once, after a question. All of it may be repeated. Where an
account refuses one of them, the other is used all the same. What they may do is in roles.json: hosts save below folders
of their own, in buckets that are named; the guard ends what has our tag, or the role of hosts if the tag was removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

from remoterun.archive.s3_codes import DENIED
from remoterun.clouds.aws import tags
from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.aws.front import Settings
from remoterun.clouds.base import NOT_MADE, Leftover, Roles
from remoterun.threads import each

POLICY = "remoterun"
ANY = "*"
"""In place of a bucket's name, in the policy of hosts as an older remoterun wrote it."""
_MISSING, _EXISTS = "NoSuchEntity", "EntityAlreadyExists"


def find(calls: Calls) -> Roles:
    """Which of them there are. What these credentials may not look at counts as there, as far as its name is enough:
    the call that uses it says if it is not. Raises `ProviderError` where AWS doesn't say."""
    settings, denied = calls.settings, list[str]()

    def ask(operation: str, field: str, **named: str) -> Any:
        """None where these credentials may not ask."""
        try:
            return calls("iam", operation, calls.region, **named)[field]
        except Refused as refused:
            if refused.code not in DENIED:
                raise
            denied.append(refused.message)
            return None

    def look(name: str) -> tuple[Any, Any]:
        """(a role, {} where it is absent; what it may do), None for what is not ours, or can't be asked."""
        try:
            role, does = ask("get_role", "Role", RoleName=name), None
            if name in (Settings.host_role, Settings.guard_role):  # others are made by an administrator, in his own way
                does = ask("get_role_policy", "PolicyDocument", RoleName=name, PolicyName=POLICY)
            if name == settings.host_role:
                profile = ask("get_instance_profile", "InstanceProfile", InstanceProfileName=name)
                role = role if profile is None or profile["Roles"] else {}
            return role, does
        except Refused as refused:
            if refused.code != _MISSING:
                raise
            return {}, None

    (host, saves), (guard, ends) = each(look, (settings.host_role, settings.guard_role))
    if host == guard == {}:  # nothing to compare
        return Roles(why_not=NOT_MADE)
    buckets = re.findall(r":s3:::([a-z0-9.*-]+)/hosts/\$", json.dumps(saves))
    now, there = _documents(calls, {*buckets} - {ANY}), {settings.host_role: saves, settings.guard_role: ends}
    old = next((name for name, does in there.items() if does not in (None, now[name]["does"])), "")
    if saves and old != settings.host_role and settings.bucket not in (None, *buckets):
        host = {}
    why = denied[0] if denied else "" if host and guard else NOT_MADE
    guard = now[settings.guard_role] if guard is None else guard
    return Roles((host or {}).get("RoleId", ""), guard.get("Arn", ""), why, old, tuple(buckets))


def make(calls: Calls, bucket: str, before: Roles) -> Roles:
    """Make those that are absent, and write anew what they may do: hosts save in `bucket`, too, from now on. What AWS
    refuses is as it was `before`. Raises as `find`."""
    settings, made, why = calls.settings, dict[str, Any](), ""
    bound = {"PermissionsBoundary": settings.boundary} if settings.boundary else {}
    buckets = tuple(sorted({*before.buckets, bucket} - {ANY}))
    own = {"Tags": tags.specification("role", settings.tags)["Tags"]} if settings.tags else {}
    try:
        for name, documents in reversed(_documents(calls, buckets).items()):
            role, who, does = {"RoleName": name}, json.dumps(documents["who"]), json.dumps(documents["does"])
            new = _unless(_EXISTS, calls, "create_role", **role, AssumeRolePolicyDocument=who, **own, **bound)
            made[name] = (new or calls("iam", "get_role", calls.region, **role))["Role"]
            calls("iam", "put_role_policy", calls.region, **role, PolicyName=POLICY, PolicyDocument=does)
        profile = {"InstanceProfileName": settings.host_role}
        _unless(_EXISTS, calls, "create_instance_profile", **profile, **own)
        profile |= {"RoleName": settings.host_role}  # it has room for one
        _unless("LimitExceeded", calls, "add_role_to_instance_profile", **profile)
        writer = made[settings.host_role]["RoleId"]
    except Refused as refused:
        if refused.code not in DENIED:
            raise
        writer, buckets, why = before.writer, before.buckets, refused.message
    by_guard = made.get(settings.guard_role, {"Arn": before.guard})
    return Roles(writer, by_guard["Arn"], why, before.old if why else "", buckets)


def leftovers(calls: Calls) -> list[Leftover]:
    """Those that there are, by our own names: others are an organisation's."""
    does = {Settings.host_role: "hosts save by it", Settings.guard_role: "AWS ends hosts by it"}
    there = [name for name in does if _unless(_MISSING, calls, "get_role", RoleName=name)]
    return [Leftover("role", name, does[name], at="aws") for name in there]


def remove(calls: Calls, name: str) -> None:
    _unless(_MISSING, calls, "remove_role_from_instance_profile", InstanceProfileName=name, RoleName=name)
    _unless(_MISSING, calls, "delete_instance_profile", InstanceProfileName=name)
    _unless(_MISSING, calls, "delete_role_policy", RoleName=name, PolicyName=POLICY)
    _unless(_MISSING, calls, "delete_role", RoleName=name)


def filled(file: str, arn: str, settings: Settings, **more: str) -> Any:
    """What a file of this folder says, for the account of an ARN."""
    _, partition, _, _, account, *_ = arn.split(":")
    china = ".cn" if partition == "aws-cn" else ""
    words = {"PARTITION": partition, "ACCOUNT": account, "EC2_SERVICE": "ec2.amazonaws.com" + china, **more}
    words |= {"HOST_ROLE": settings.host_role, "GUARD_ROLE": settings.guard_role}
    text = resources.files(__package__).joinpath(file).read_text("utf-8")
    return json.loads(re.sub("|".join(words), lambda found: words[found[0]], text))


def _documents(calls: Calls, buckets: Iterable[str]) -> dict[str, Any]:
    """By the name of each role: `who` may ask for it, and what it `does`."""
    arn = calls("sts", "get_caller_identity", calls.region)["Arn"]
    found: dict[str, Any] = filled("roles.json", arn, calls.settings)
    (saves,) = found[calls.settings.host_role]["does"]["Statement"]
    saves["Resource"] = [saves["Resource"].replace("BUCKET", bucket) for bucket in sorted(buckets)]
    return found


def _unless(code: str, calls: Calls, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer; nothing where AWS refuses with `code`, which is fine."""
    try:
        return calls("iam", operation, calls.region, **parameters)
    except Refused as refused:
        if refused.code != code:
            raise
        return {}
