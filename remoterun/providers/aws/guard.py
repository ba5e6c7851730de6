"""The guard outside of a host: a schedule of AWS's own, which terminates it shortly after its deadline.

All else that ends a host runs in its own system, and ends nothing once that hangs. A schedule is named by the host's
token, fires once, and is deleted by AWS then; it costs nothing.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable
from typing import Any

from remoterun.aws_codes import DENIED
from remoterun.providers.aws import tags
from remoterun.providers.aws.calls import Calls, Refused, is_gone
from remoterun.providers.base import Leftover
from remoterun.sizes import iso

LATE = 120.0
"""Seconds after its deadline: a host ends by itself, and stays for another moment where its clock was set wrong."""
REPEATS = (2.0, 4.0, 8.0, 16.0)
"""Seconds before a call is repeated with what AWS does not know yet, since it was made just now."""
NEW = 120.0
"""Seconds for which a schedule may be older than what AWS says of its host."""


def make(calls: Calls, region: str, instance: str, token: str, deadline: float, role: str) -> None:
    """Let AWS end a host by a role (its ARN), and mark the host with it. `deadline` is by AWS's clock. May be repeated.
    Blocks for half a minute where the role is new. Raises `ProviderError`, `ProviderUnreachable`."""
    when = datetime.datetime.fromtimestamp(deadline + LATE, datetime.UTC)
    target = {
        "Arn": f"arn:{role.split(':')[1]}:scheduler:::aws-sdk:ec2:terminateInstances",
        "RoleArn": role,
        "Input": json.dumps({"InstanceIds": [instance]}),
        "RetryPolicy": {"MaximumRetryAttempts": 20, "MaximumEventAgeInSeconds": 3600},
    }
    schedule = {
        "Name": token,
        "ScheduleExpression": f"at({when:%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": target,
    }
    try:
        _repeated(calls, "scheduler", "create_schedule", region, **schedule)
    except Refused as refused:
        if refused.code != "ConflictException":
            raise
        remove(calls, region, token)  # of an earlier try, whose host may have been another one
        _repeated(calls, "scheduler", "create_schedule", region, **schedule)
    label = {"Key": f"{tags.PREFIX}guard", "Value": iso(when.timestamp())}
    _repeated(calls, "ec2", "create_tags", region, Resources=[instance], Tags=[label])


def remove(calls: Calls, region: str, token: str) -> None:
    """Delete the schedule of a host. One that is gone is fine."""
    try:
        calls("scheduler", "delete_schedule", region, Name=token)
    except Refused as refused:
        if refused.code != "ResourceNotFoundException":
            raise


def leftovers(
    calls: Calls, region: str, instances: Iterable[dict[str, Any]], everything: bool = False
) -> list[Leftover]:
    """The schedules in a region whose host is gone, or `everything`. `instances`: all of ours there, as AWS describes
    them, those that are terminated, too; one that it doesn't describe may have been made just now."""
    states = {tags.ours(each.get("Tags")).get("token"): each["State"]["Name"] for each in instances}
    try:
        listed = calls.pages("scheduler", "list_schedules", region, "Schedules", NamePrefix="rr-")
    except Refused as refused:
        if refused.code in DENIED:
            return []
        raise
    now = time.time() + calls.clock_skew
    return [
        Leftover("schedule", f"{region}/{each['Name']}", "its host is gone")
        for each in listed
        if everything
        or states.get(each["Name"]) == "terminated"
        or (each["Name"] not in states and now - each["CreationDate"].timestamp() > NEW)
    ]


def _repeated(calls: Calls, service: str, operation: str, region: str, **parameters: Any) -> None:
    for pause in (*REPEATS, None):
        try:
            calls(service, operation, region, **parameters)
            return
        except Refused as refused:
            is_new = is_gone(refused) or "execution role" in (refused.evidence or "")
            if pause is None or not is_new:
                raise
        time.sleep(pause)
