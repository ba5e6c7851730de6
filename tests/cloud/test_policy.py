"""A user who may do what `doctor aws --policy` prints, and nothing else: whatever a rented run asks of AWS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import make_place
from tests.lab import BASE_IMAGE
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab


def test_a_run_and_gc_need_no_more_than_the_policy_that_doctor_prints(cloud: Cloud, tmp_path: Path) -> None:
    cloud.s3.ready()
    place = make_place(tmp_path)
    place.env.update(cloud.environment())
    cloud.policy = place.run("doctor", "aws", "--policy").stdout
    place.run("machines", "add", "quick", "--aws", "g4dn.xlarge", "--idle", "5s")
    place.run("run", "-t", "quick", "-y", "--no-git", "--image", BASE_IMAGE, "echo here")
    (machine,) = cloud.alive()
    until(lambda: machine.state == "terminated", 120, "the host ends")
    place.run("machines", "gc", "aws", "-y")
    assert cloud.refused == [] and cloud.left_behind() == []
    faults = [check for check in place.json("doctor", "aws", status=None) if check["ok"] is False]
    assert faults == []
    # and no less: without one of its actions the call is refused by its name, and before there is a host to pay for
    policy = cloud.policy
    for action in ("s3:ListBucket", "s3:PutObject", "s3:GetObject", "ec2:RunInstances"):
        cloud.policy = policy.replace(f'"{action}"', '"ec2:RunNothing"')
        refused = place.run("run", "-t", "quick", "-y", "--no-git", "--image", BASE_IMAGE, "true", status=125)
        assert f"these credentials may not do `{action}`" in refused.stderr
        assert "remoterun doctor aws --policy" in refused.stderr and [*cloud.machines] == [machine.id]
