"""Roles: a host saves by its own, without any login, and AWS itself ends it by another one."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest
from moto.ec2.models import ec2_backends

import remoterun.client
from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.aws import guard, roles
from remoterun.clouds.aws.acquire import describe
from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.aws.checks import _roles as roles_check
from remoterun.clouds.aws.front import AWSFront, Settings
from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.base import GUARD_LATE
from remoterun.config import load
from remoterun.sizes import iso
from tests.cloud.cloud import Cloud
from tests.cloud.doors import client as login_client
from tests.cloud.doors import refused
from tests.cloud.renters import Client, gone
from tests.e2e.conftest import Place
from tests.lab import BASE_IMAGE
from tests.lab.host import LabHost
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MADE = ["profile remoterun-host", "role remoterun-guard", "role remoterun-host"]
ASKS = (
    "import urllib.request as u\n"
    "asked = u.Request('http://169.254.169.254/latest/api/token', method='PUT',"
    " headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})\n"
    "try: print(u.urlopen(asked, timeout=2).read())\n"
    "except OSError: print('nobody')"
)
COMMAND = f"python -c {shlex.quote(ASKS)} >made; until [ -e go ]; do sleep 0.1; done; echo done"


def found(client: Client) -> MachineCheck:
    """What `doctor aws` says of roles."""
    return roles_check(Calls(AWSFront().of(client.config)), {"Account": Cloud.account})


def processes(host: LabHost, *words: str) -> list[str]:
    """The ids of the agent's processes that were started with one of these words."""
    script = (
        "import os, sys\n"
        "for name in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: words = open(f'/proc/{name}/cmdline', 'rb').read().split(b'\\0')\n"
        "    except OSError: continue\n"
        "    if b'--home' in words and words[words.index(b'--home') - 1].decode() in sys.argv: print(name)"
    )
    return host.exec(["/usr/bin/python3", "-c", script, *words]).stdout.split()


def test_a_host_saves_by_its_role_when_the_login_is_over_and_all_of_the_agent_was_killed(
    cloud: Cloud, place: Place
) -> None:
    login = cloud.login(3600)
    place.env.update(cloud.environment(login))
    place.run("machines", "add", "quick", "--aws", "g4dn.xlarge", "--idle", "5s")
    number = place.run("run", "-t", "quick", "-y", "-b", "--no-git", "--image", BASE_IMAGE, COMMAND).stdout.strip()
    cloud.expire(login)
    (machine,) = cloud.alive()
    host, key = machine.host, place.newest()["key"]
    assert host is not None and cloud.roles_made() == MADE
    work = host.path(f"/home/ubuntu/.remoterun/runs/{key}/work")
    until(lambda: (work / "made").exists() and (work / "made").stat().st_size, 60, "the command runs")

    def one_of_each() -> list[str]:
        """And none that waits to take a place, or has yet to become a program that one of them calls."""
        keeping, supervising = processes(host, "keep"), processes(host, "supervise")
        return keeping + supervising if len(keeping) == len(supervising) == 1 else []

    before = until(one_of_each)
    host.exec(["kill", "-9", *before], check=True)
    until(lambda: processes(host, "keep") and processes(host, "supervise"), 90, "both are there again")

    role = cloud.login_of(machine)
    assert role is not None
    s3, (bucket,), own = login_client(cloud, "s3", role), cloud.s3.buckets(), f"hosts/{role.user_id}/"
    for call, parameters in (
        (s3.list_objects_v2, {}),
        (s3.get_object, {"Key": "remoterun.json"}),
        (s3.get_object, {"Key": f"{own}{key}/status.json"}),
        (s3.delete_object, {"Key": f"{own}{key}/status.json"}),
        (s3.put_object, {"Key": f"runs/{key}/spec.json", "Body": b"{}"}),
        (s3.put_object, {"Key": f"hosts/{role.user_id}0/{key}/status.json", "Body": b"{}"}),
        (s3.put_object, {"Key": f"uploads/doom/packs/{own}x", "Body": b""}),
    ):
        assert refused(call, Bucket=bucket, **parameters) == "AccessDenied", (call, parameters)

    (work / "go").touch()
    gone(cloud)
    place.env.update(cloud.environment())
    del place.env["AWS_SESSION_TOKEN"]
    found = place.json("info", number)
    assert (found["state"], found["outputs"]["files"]) == ("complete", 2)
    assert place.run("logs", number).stdout == "done\n"
    place.run("cp", f"runs/{number}/made", "made")
    assert (place.folder / "made").read_text() == "nobody\n", "a container gets at no credentials"
    assert [line for line in cloud.left_behind() if not re.match("security group|rule|schedule|alarm", line)] == []


def test_a_host_that_hangs_is_ended_by_aws(cloud: Cloud, client: Client) -> None:
    client.aws.roles("bucket")
    unknown = (
        "Value (remoterun-host) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    )
    cloud.fail_next("RunInstances", status=400, code="InvalidParameterValue", message=unknown)
    assumed = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    cloud.fail_next("CreateSchedule", status=400, code="ValidationException", message=assumed)
    rented = client.acquire()
    (machine,) = cloud.alive()
    role = cloud.login_of(machine)
    assert role is not None and rented.writer == role.user_id and rented.guarded
    assert client.aws.find(rented.token) == replace(rented, ours=True) and {
        f"schedule {rented.token}",
        f"alarm {rented.token}",
    } <= {*cloud.left_behind()}
    calls, region = client.aws.calls, rented.offer.region
    assert guard.leftovers(calls, region, describe(calls, region)) == []
    assert guard.leftovers(calls, region, []) == [], "AWS may not describe it yet"

    # a schedule that somebody has deleted, or that a killed client never made
    calls("scheduler", "delete_schedule", region, Name=rented.token)
    (check,) = [check for check in client.aws.checks() if check.name == "guard"]
    assert check.ok is False and rented.id in check.detail and not client.aws.hosts()[0].guarded
    with remoterun.client.Client(client.config) as user:
        assert [host.guarded for host in user.hosts.list()] == [True]
    assert "guard" not in [check.name for check in client.aws.checks()]

    calls("cloudwatch", "delete_alarms", region, AlarmNames=[rented.token])
    machine.hang()
    cloud.clock = rented.deadline + 30 - time.time()  # too early for the schedule
    looked = cloud.guards.looks
    until(lambda: cloud.guards.looks > looked + 1, 30, "the schedules are looked at")
    assert machine.state == "running"
    cloud.clock += GUARD_LATE
    gone(cloud)
    assert not [each for each in cloud.left_behind() if each.startswith("schedule")]
    cloud.clock = 0
    for _ in range(2):
        guard.make(calls, region, rented.id, rented.token, rented.deadline, client.aws.roles().guard)
    (leftover,) = guard.leftovers(calls, region, describe(calls, region))
    assert leftover.id == f"{region}/{rented.token}"
    for _ in range(2):
        client.aws.release(rented)
    assert guard.leftovers(calls, region, [], everything=True) == []


def test_what_an_account_refuses_is_done_without(cloud: Cloud, client: Client, tmp_path: Path) -> None:
    assert client.aws.roles().why_not == "not made yet"
    cloud.denied = {"iam:CreateInstanceProfile"}
    made = client.aws.roles("bucket")
    assert made.guard and not made.writer and "iam:CreateInstanceProfile" in made.why_not
    assert AWS(client.config).roles().guard == made.guard
    cloud.denied = {"iam:CreateRole", "iam:PutRolePolicy"}
    assert "iam:" in client.aws.roles("bucket").why_not
    cloud.denied = set()
    made = client.aws.roles("bucket")
    assert made.writer and made.guard and not made.why_not and cloud.roles_made() == MADE
    assert client.aws.roles("bucket") == made == AWS(client.config).roles()
    asked = len(cloud.calls)
    assert client.aws.roles() == made and len(cloud.calls) == asked
    assert found(client).ok

    cloud.denied = {"iam:PassRole"}
    rented = client.acquire()
    assert rented.alive and not rented.writer and not rented.guarded
    assert "iam:PassRole" in client.aws.roles().why_not

    # the alarm needs none: it ends a host that hangs, and lets it have a reboot
    (machine,) = cloud.alive()
    machine.hang()
    cloud.clock, looked = 840.0, cloud.guards.looks
    until(lambda: cloud.guards.looks > looked + 1, 30, "the alarms are looked at")
    assert machine.state == "running"
    cloud.clock = 960.0
    gone(cloud)
    cloud.clock = 0.0
    assert f"alarm {rented.token}" in cloud.left_behind()
    for _ in range(2):  # runs of the same host, or another client, ask that, too
        ended = client.aws.find(rented.token)
        assert ended is not None and ended.state == "gone" and not ended.was_ended and "had hung" in ended.why
    (leftover,) = (each for each in client.aws.leftovers() if each.kind == "guard")
    assert leftover.saves == 0.1 and client.aws.clear(leftover) and f"alarm {rented.token}" not in cloud.left_behind()
    cloud.denied = {"cloudwatch:PutMetricAlarm"}
    without = Client(tmp_path / "without", Settings(roles=False))
    rented, said = without.acquire(), list[str]()
    label = {"Key": "remoterun:deadline", "Value": iso(time.time() - 720)}
    client.aws.calls("ec2", "create_tags", rented.offer.region, Resources=[rented.id], Tags=[label])
    assert not rented.guarded and "cloudwatch:PutMetricAlarm" in without.aws.roles().why_not
    with remoterun.client.Client(without.config, warn=said.append) as user:
        (late,) = user.hosts.list()
        events = {event.state: event.at for event in cloud.machine(rented.id).events}
        seconds = 3 / 3600 * (late.hourly or 0.0)  # AWS's moments are whole ones

        def ledger() -> float:
            return (time.monotonic() - events["pending"]) / 3600 * (late.hourly or 0.0)

        before, cost, after = ledger(), late.cost(time.time()), ledger()
        assert cost is not None and before - seconds <= cost <= after + seconds
        before, bill, after = ledger(), user.hosts.bill(rented.began - 60), ledger()
        assert before - seconds <= bill.total.cost <= after + seconds
        assert len(said) == 1 and f"{rented.id} should have ended 12 min " in said[0]
        user.hosts.end(rented.id)
    cloud.denied = set()
    assert [each.id for each in roles.leftovers(client.aws.calls)] == ["remoterun-host", "remoterun-guard"]
    for name in ("remoterun-host", "remoterun-guard", "remoterun-guard"):
        roles.remove(client.aws.calls, name)
    assert cloud.roles_made() == [] and roles.leftovers(client.aws.calls) == []


def test_what_may_not_be_looked_at_is_tried(cloud: Cloud, client: Client) -> None:
    made = client.aws.roles("bucket")
    cloud.denied = {"iam:GetInstanceProfile"}
    known = AWS(client.config).roles()
    assert (known.writer, known.guard) == (made.writer, made.guard)
    assert found(client).ok is False and "iam:GetInstanceProfile" in found(client).detail
    cloud.denied = {"iam:GetInstanceProfile", "iam:GetRole", "iam:GetRolePolicy"}
    again = Client(client.home, client.config.providers["aws"])
    tried = again.aws.roles()
    assert (tried.writer, tried.guard) == ("", made.guard) and "iam:Get" in tried.why_not
    assert "iam:Get" in found(client).detail and "--setup" not in f"{found(client)}"
    rented = again.acquire()
    assert rented.guarded and f"schedule {rented.token}" in cloud.left_behind()


def test_roles_that_do_less_or_more_than_ours(cloud: Cloud, client: Client) -> None:
    """Each bucket is named in the policy; none takes the right from another."""
    cloud.s3.ready()
    calls, region = client.aws.calls, client.aws.calls.region
    first, second = (Client(client.home, Settings(bucket=name)) for name in ("first", "second"))
    made = first.aws.roles("first")
    assert second.aws.roles().why_not == "not made yet" and not second.aws.roles().writer
    assert found(second).ok is False and "remoterun-host" in found(second).detail
    assert second.aws.roles("second").buckets == ("first", "second") and found(first).ok and found(second).ok
    calls("s3", "create_bucket", region, Bucket="second")
    key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:us-east-1:123456789012:key/theirs"}
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": key}]}
    calls("s3", "put_bucket_encryption", region, Bucket="second", ServerSideEncryptionConfiguration=rules)
    assert found(second).ok is None and "key/theirs" in found(second).detail
    cloud.policy = client.aws.policy().replace("s3:GetEncryptionConfiguration", "s3:GetNothing")
    assert found(second).ok is None and "if second is of this account" in found(second).detail
    cloud.policy = None

    def policy() -> str:
        (text,) = cloud.policies_of("remoterun-host")
        return text

    now = policy()
    anywhere = json.loads(now)
    anywhere["Statement"][0]["Resource"] = "arn:aws:s3:::*/hosts/${aws:userid}/*"
    put = {"RoleName": "remoterun-host", "PolicyName": "remoterun", "PolicyDocument": json.dumps(anywhere)}
    calls("iam", "put_role_policy", region, **put)
    assert found(first).ok is False and "remoterun-host has another policy" in found(first).detail
    again = Client(client.home, Settings(bucket="first"))  # it does its work all the same
    assert again.aws.roles().writer == made.writer
    cloud.denied = {"iam:PutRolePolicy"}
    refused = again.aws.roles("first")
    assert refused.writer and "iam:PutRolePolicy" in refused.why_not and policy() == json.dumps(anywhere)
    cloud.denied = set()
    theirs = json.loads(now)  # an administrator has added something, which stays
    theirs["Statement"].append({"Effect": "Allow", "Action": "kms:GenerateDataKey", "Resource": "*"})
    calls("iam", "put_role_policy", region, **{**put, "PolicyDocument": json.dumps(theirs)})
    extended = Client(client.home, Settings(bucket="first"))
    extended.aws.release(extended.acquire())
    assert policy() == json.dumps(theirs)
    calls("iam", "put_role_policy", region, **put)
    assert Client(client.home, Settings(bucket="first")).acquire().writer
    assert policy() == now.replace(', "arn:aws:s3:::second/hosts/${aws:userid}/*"', "")

    calls("iam", "delete_role_policy", region, RoleName="remoterun-host", PolicyName="remoterun")
    assert found(first).ok is False and "remoterun-host" in found(first).detail
    assert not AWS(first.config).roles().writer


def test_names_tags_and_a_boundary_that_an_organisation_demands(cloud: Cloud, client: Client) -> None:
    cloud.s3.ready()
    own = {"CostCenter": "42"}
    boundary = "arn:aws:iam::aws:policy/PowerUserAccess"
    settings = Settings(bucket="bucket", tags=own, boundary=boundary, host_role="team-hosts", guard_role="team-guard")
    client = Client(client.home, settings)
    cloud.policy = client.aws.policy(setup=True)
    client.aws.roles("bucket")
    rented = client.acquire()
    assert rented.writer and rented.guarded and cloud.refused == []
    assert found(client).ok and [check for check in client.aws.checks() if check.ok is False] == []
    calls, region = client.aws.calls, rented.offer.region
    for name in (settings.host_role, settings.guard_role):
        role = calls("iam", "get_role", region, RoleName=name)["Role"]
        assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
        assert role["Tags"] == [{"Key": "CostCenter", "Value": "42"}]
    assert cloud.roles_made() == ["profile team-hosts", "role team-guard", "role team-hosts"]
    assert not [each for each in client.aws.leftovers(everything=True) if each.kind == "role"], "an organisation's"
    (machine,) = cloud.alive()
    ec2 = ec2_backends[cloud.account][region]
    marked = [id.partition("-")[0] for id, labels in ec2.tags.items() if own.items() <= labels.items()]
    assert {"i", "vol", "sg", "sgr"} <= set(marked)

    del ec2.tags[machine.id]["remoterun:token"]  # as a cleaner of tags does
    untagged = {"InstanceIds": [machine.id], "DryRun": True}
    with pytest.raises(Refused, match="DryRunOperation"):  # the policy of its user allows that, too
        calls("ec2", "terminate_instances", region, **untagged)
    cloud.clock = rented.deadline + GUARD_LATE + 30 - time.time()
    gone(cloud)


def test_who_wants_no_roles_rents_without(cloud: Cloud, place: Place) -> None:
    home = place.folder / ".." / "home"
    home.mkdir(exist_ok=True)
    for question in ("Rent it, and make the two roles?", "Rent it?"):
        shell = place.spawn("run", "-t", "t4", "--no-git", "--image", BASE_IMAGE, "true")
        shell.timeout = 30
        if question == "Rent it?":
            shell.expect_exact("AWS has no role to end it: only its own clock does")
        else:
            shell.expect_exact("`roles = false` below [aws] in config.toml rents without them")
        shell.expect_exact(question)
        shell.sendline("n")
        shell.expect_exact("Nothing was rented.")
        assert cloud.roles_made() == []
        (home / "config.toml").write_text("[aws]\nroles = false\n")
    settings = load({**place.env}).providers["aws"]
    assert not settings.roles and cloud.roles_made() == []
    place.run("doctor", "aws", "--setup")
    assert load({**place.env}).providers["aws"].roles and cloud.roles_made() == MADE
