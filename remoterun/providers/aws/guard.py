"""The guard outside of a host: a schedule of AWS's own, which terminates it shortly after its deadline.

All else that ends a host runs in its own system, and ends nothing once that hangs. A schedule is named by the host's
token, fires once, and is deleted by AWS then; it costs nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import time
from collections.abc import Iterable
from typing import Any

from remoterun.providers.aws import tags
from remoterun.providers.aws.calls import Calls, Refused
from remoterun.providers.base import GUARD_LATE, Leftover, ProviderUnreachable

NEW = 120.0
"""Seconds for which a schedule may be older than what AWS says of its host."""


def make(calls: Calls, region: str, instance: str, token: str, deadline: float, role: str) -> None:
    """Let AWS end a host by a role (its ARN), and mark the host with it. `deadline` is by AWS's clock. May be repeated.
    Blocks for half a minute where the role is new. Raises `ProviderError`, `ProviderUnreachable`."""
    when = datetime.datetime.fromtimestamp(deadline + GUARD_LATE, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    target = {
        "Arn": f"arn:{role.split(':')[1]}:scheduler:::aws-sdk:ec2:terminateInstances",
        "RoleArn": role,
        "Input": json.dumps({"InstanceIds": [instance]}),
        "RetryPolicy": {"MaximumRetryAttempts": 20, "MaximumEventAgeInSeconds": 3600},
    }
    schedule = {"Name": token, "ScheduleExpression": f"at({when})", "ScheduleExpressionTimezone": "UTC"}
    once = {"FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE"}
    create = functools.partial(
        calls.patiently, "scheduler", "create_schedule", region, **schedule, **once, Target=target
    )
    try:
        create()
    except Refused as refused:
        if refused.code != "ConflictException":
            raise
        remove(calls, region, token)  # of an earlier try, whose host may have been another one
        create()
    label = {"Key": f"{tags.PREFIX}guard", "Value": when}
    calls.patiently("ec2", "create_tags", region, Resources=[instance], Tags=[label])


def remove(calls: Calls, region: str, token: str) -> None:
    """Delete the schedule of a host. One that is gone is fine."""
    calls.if_there("scheduler", "delete_schedule", region, Name=token)


def leftovers(
    calls: Calls, region: str, instances: Iterable[dict[str, Any]], everything: bool = False
) -> list[Leftover]:
    """The schedules in a region whose host is gone, or `everything`. `instances`: all of ours there, as AWS describes
    them, those that are terminated, too: a token may have had several, of which AWS took one back before it ran. One
    that it doesn't describe may have been made just now."""
    described = {(tags.ours(each.get("Tags")).get("token"), each["State"]["Name"]) for each in instances}
    known = {token for token, _ in described}
    alive = {token for token, state in described if state != "terminated"}
    listed, since = [], time.time() + calls.clock_skew - NEW
    with contextlib.suppress(Refused, ProviderUnreachable):  # who can't ask has made none there
        listed = calls.pages("scheduler", "list_schedules", region, "Schedules", NamePrefix="rr-")
    return [
        Leftover("schedule", f"{region}/{each['Name']}", "ends a host" if each["Name"] in alive else "its host is gone")
        for each in listed
        if everything
        or (each["Name"] not in alive and (each["Name"] in known or each["CreationDate"].timestamp() < since))
    ]
