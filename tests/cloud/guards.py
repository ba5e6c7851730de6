"""EventBridge Scheduler and CloudWatch's alarms: moto answers their calls, and what is due really happens here."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.scheduler.models import scheduler_backends

from tests.cloud.machine import USER_SHUTDOWN
from tests.cloud.policies import allowed, trusts

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

TARGET = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
LOOK_SECONDS = 0.2


class Guards:
    """A context manager."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.looks = 0
        """How often it has looked for what is due."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="guards", daemon=True)

    def __enter__(self) -> Guards:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def schedules(self) -> Iterator[tuple[Any, Any]]:
        """Those that there are, each after its group."""
        for region in list(scheduler_backends[self._cloud.account].values()):
            for group in list(region.schedule_groups.values()):
                for schedule in list(group.schedules.values()):
                    yield group, schedule

    def alarms(self) -> Iterator[Any]:
        for region in list(cloudwatch_backends[self._cloud.account].values()):
            yield from list(region.alarms.values())

    def _work(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            with self._cloud.lock:
                for group, schedule in self.schedules():
                    if _moment(schedule) <= self._now():
                        self._fire(schedule)
                        if schedule.action_after_completion == "DELETE":
                            group.schedules.pop(schedule.name, None)
                for alarm in self.alarms():
                    self._evaluate(alarm)
            self.looks += 1

    def _now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self._cloud.clock)

    def _evaluate(self, alarm: Any) -> None:
        """Do what an alarm is for once its machine has failed its status checks for all of its periods."""
        (dimension,) = alarm.dimensions
        machine = self._cloud.machines.get(dimension.value)
        if machine is None or machine.hangs_since is None or machine.state != "running":
            return
        about = alarm.namespace, alarm.metric_name, dimension.name, alarm.statistic, alarm.comparison_operator
        assert about == ("AWS/EC2", "StatusCheckFailed", "InstanceId", "Minimum", "GreaterThanOrEqualToThreshold")
        if self._now().timestamp() - machine.hangs_since >= alarm.period * alarm.evaluation_periods:
            alarm.update_state("its status checks have failed", "{}", "ALARM")
            if alarm.alarm_actions == [f"arn:aws:automate:{machine.record.region_name}:ec2:terminate"]:
                machine.end("terminated", USER_SHUTDOWN)

    def _fire(self, schedule: Any) -> None:
        cloud = self._cloud
        role = cloud.role_of(schedule.target["RoleArn"])
        if schedule.target["Arn"] != TARGET or role is None or schedule.state != "ENABLED":
            return
        for name in json.loads(schedule.target["Input"])["InstanceIds"]:
            machine = cloud.machines.get(name)
            if machine is None:
                continue
            resource = f"arn:aws:ec2:{machine.record.region_name}:{cloud.account}:instance/{name}"
            context = {**cloud.known_of(machine), "aws:ResourceAccount": cloud.account}
            if allowed(role.policies.values(), "ec2:TerminateInstances", resource, context):
                machine.end("terminated", USER_SHUTDOWN)


def may_be_assumed(role: Any) -> bool:
    """Whether the scheduler may use a role."""
    return role is not None and trusts(role.assume_role_policy_document, "scheduler.amazonaws.com")


def _moment(schedule: Any) -> datetime.datetime:
    """Of one that fires once: `at(2026-11-30T12:00:00)`."""
    text = schedule.schedule_expression.removeprefix("at(").removesuffix(")")
    assert schedule.schedule_expression_timezone == "UTC"
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
