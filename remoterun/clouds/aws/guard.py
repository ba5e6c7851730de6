"""The guard outside of a host: a schedule of AWS's own terminates it shortly after its deadline, and an alarm, which
needs no role of ours, once it hangs. All else that ends a host runs in its own system, and ends nothing then.

Both are named by the host's token. A schedule fires once, and is deleted by AWS then; an alarm stays, and many cost.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Iterable
from typing import Any

from remoterun.clouds.aws import tags
from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.base import GUARD_LATE, Leftover, ProviderUnreachable
from remoterun.errors import RemoterunError

ALARM = 0.1
"""US dollars a month of an alarm beyond the ten that AWS gives for nothing."""
NEW = 120.0
"""Seconds for which a schedule may be older than what AWS says of its host."""


def make(calls: Calls, region: str, instance: str, token: str, deadline: float, role: str) -> None:
    """Let AWS end a host that does not answer for 15 minutes (a reboot takes less), and by a role (its ARN; or "") also
    after its deadline. May be repeated. Blocks for half a minute where the role is new. Raises `ProviderError`,
    `ProviderUnreachable`; not for the alarm where there is a role."""
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    host, end = [{"Name": "InstanceId", "Value": instance}], f"arn:{partition}:automate:{region}:ec2:terminate"
    metric = {"Namespace": "AWS/EC2", "MetricName": "StatusCheckFailed", "Dimensions": host, "Period": 300}
    does = {"AlarmName": token, "AlarmActions": [end], "EvaluationPeriods": 3, "TreatMissingData": "ignore"}
    least = {"Statistic": "Minimum", "ComparisonOperator": "GreaterThanOrEqualToThreshold", "Threshold": 1.0}
    with contextlib.suppress(RemoterunError) if role else contextlib.nullcontext():  # the schedule does
        calls("cloudwatch", "put_metric_alarm", region, **metric, **least, **does)
    if not role:
        return
    latest = deadline + calls.clock_skew + GUARD_LATE
    when = datetime.datetime.fromtimestamp(latest, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    target = {
        "Arn": f"arn:{partition}:scheduler:::aws-sdk:ec2:terminateInstances",
        "RoleArn": role,
        "Input": json.dumps({"InstanceIds": [instance]}),
        "RetryPolicy": {"MaximumRetryAttempts": 20, "MaximumEventAgeInSeconds": 3600},
    }
    schedule = {"Name": token, "ScheduleExpression": f"at({when})", "ScheduleExpressionTimezone": "UTC"}
    asked = {**schedule, "FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE", "Target": target}
    try:
        calls.patiently("scheduler", "create_schedule", region, **asked)
    except Refused as refused:
        if refused.code != "ConflictException":
            raise
        calls.if_there("scheduler", "delete_schedule", region, Name=token)  # of an earlier try, for another host
        calls.patiently("scheduler", "create_schedule", region, **asked)
    label = {"Key": f"{tags.PREFIX}guard", "Value": when}
    calls.patiently("ec2", "create_tags", region, Resources=[instance], Tags=[label])


def remove(calls: Calls, region: str, token: str, unless_it_fired: bool = False) -> bool:
    """Delete the schedule and the alarm of a host. Those that are gone are fine. Whether the alarm has ended it: others
    may ask that, too, for which it may stay."""
    calls.if_there("scheduler", "delete_schedule", region, Name=token)
    found = calls("cloudwatch", "describe_alarms", region, AlarmNames=[token])["MetricAlarms"]
    fired = any(each["StateValue"] == "ALARM" for each in found)
    if not (fired and unless_it_fired):
        calls.if_there("cloudwatch", "delete_alarms", region, AlarmNames=[token])
    return fired


def leftovers(
    calls: Calls, region: str, instances: Iterable[dict[str, Any]], everything: bool = False
) -> list[Leftover]:
    """The guards in a region whose host is gone, or `everything`. `instances`: all of ours there, as AWS describes
    them, those that are terminated, too: a token may have had several, of which AWS took one back before it ran. One
    that it doesn't describe may have been made just now."""
    described = {(tags.ours(each.get("Tags")).get("token"), each["State"]["Name"]) for each in instances}
    known = {token for token, _ in described}
    alive = {token for token, state in described if state != "terminated"}
    listed, since = dict[str, datetime.datetime](), time.time() + calls.clock_skew - NEW
    with contextlib.suppress(Refused, ProviderUnreachable):  # who can't ask has made none there
        found = calls.pages("cloudwatch", "describe_alarms", region, "MetricAlarms", AlarmNamePrefix="rr-")
        ends = [each for each in found if any(action.endswith(":ec2:terminate") for action in each["AlarmActions"])]
        listed = {each["AlarmName"]: each["AlarmConfigurationUpdatedTimestamp"] for each in ends}
    alarms = set(listed)
    with contextlib.suppress(Refused, ProviderUnreachable):
        found = calls.pages("scheduler", "list_schedules", region, "Schedules", NamePrefix="rr-")
        listed |= {each["Name"]: each["CreationDate"] for each in found}
    return [
        Leftover(
            "guard",
            f"{region}/{name}",
            "ends a host" if name in alive else "its host is gone",
            ALARM * (name in alarms),
            at="aws",
        )
        for name, made in listed.items()
        if everything or (name not in alive and (name in known or made.timestamp() < since))
    ]
