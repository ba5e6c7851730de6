"""A user who may do what `doctor aws --policy` prints, and nothing else: whatever a rented run asks of AWS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import make_place
from tests.lab import BASE_IMAGE
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab

RUN = ("run", "-t", "t4", "-y", "--no-git", "--image", BASE_IMAGE)
LOGIN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def test_a_run_and_gc_need_no_more_than_the_policy_that_doctor_prints(cloud: Cloud, tmp_path: Path) -> None:
    cloud.s3.ready()
    place = make_place(tmp_path)
    for name, value in cloud.environment().items():
        place.env[name] = "" if name in LOGIN else value
    unknown = place.run("doctor", "aws", "--policy").stdout
    place.env.update(cloud.environment())
    whole, least = (place.run("doctor", "aws", "--policy", *more).stdout for more in (["--setup"], []))
    assert str(unknown).replace("<YOUR-ACCOUNT>", cloud.account) == least
    for document, without in ((whole, "SeeRoles"), (least, "MakeRoles")):  # the first one makes the roles
        statements = [each for each in json.loads(document)["Statement"] if each["Sid"] != without]
        cloud.policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        place.run(*RUN, "echo here")
        (machine,) = cloud.alive()
        assert cloud.login_of(machine) is not None and "remoterun:guard" in machine.tags
        place.run("machines", "rm", machine.id)
        until(lambda: machine.state == "terminated", 120, "the host ends")  # noqa: B023
        place.run("machines", "gc", "aws", "-y")
        assert cloud.refused == [] and cloud.left_behind() == []
    faults = [check for check in place.json("doctor", "aws", status=None) if check["ok"] is False]
    assert faults == []
    # and no less: without one of its actions the call is refused by its name, and before there is a host to pay for
    made = len(cloud.machines)
    for action in ("s3:ListBucket", "s3:PutObject", "s3:GetObject", "ec2:RunInstances"):
        cloud.policy = least.replace(f'"{action}"', '"ec2:RunNothing"')
        refused = place.run(*RUN, "true", status=125)
        assert f"these credentials may not do `{action}`" in refused.stderr
        assert "remoterun doctor aws --policy" in refused.stderr and len(cloud.machines) == made
