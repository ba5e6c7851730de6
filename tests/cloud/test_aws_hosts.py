"""Hosts of EC2, from the intent to the end, against a cloud whose instances are real hosts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.ec2.models import ec2_backends

from remoterun.clouds.aws import acquire
from remoterun.clouds.aws.front import Settings
from remoterun.clouds.base import (
    HostNeverCame,
    NoCapacity,
    ProviderError,
    RentedHost,
)
from remoterun.clouds.boot import user_data
from remoterun.errors import HostKeyError, NotFound
from remoterun.hosts.ssh.dial import answers
from remoterun.model import MachineType, Rental
from tests.cloud import endpoint
from tests.cloud.images import IMAGES
from tests.cloud.machine import OWN_SHUTDOWN, SERVICES
from tests.cloud.renters import T4, Client, gone
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab

SPOT = replace(T4, rental=Rental("aws", ("g4dn.xlarge",), spot=True))
ZONES = [f"us-east-1{letter}" for letter in "abcdf"]
"""Those that have the type; zone `e` has none of them, as in truth."""


def test_a_price_that_was_saved_is_believed_where_it_is_one(cloud: Cloud, client: Client) -> None:
    """Else AWS's Price List is asked anew, and once."""
    cloud.prices["eu-central-1", "g6.xlarge"] = 2.5
    client.home.mkdir()
    name = f"eu-central-1 g6.xlarge in {time.strftime('%Y-%m')}"
    machine = MachineType("l4", rental=Rental("aws", ("g6.xlarge",), region="eu-central-1"))
    no_prices = ('"x"', '[NaN, "2026-11-30"]', '[0, "2026-11-30"]')
    for saved in ("[]", "null", "{", *(f'{{"{name}": {price}}}' for price in no_prices)):
        (client.home / "prices.json").write_text(saved)
        aws, asked = Client(client.home).aws, len(cloud.calls_of("GetProducts"))
        for _ in range(2):
            assert {offer.price for offer in aws.offers(machine, True)} == {2.5}
            assert len(cloud.calls_of("GetProducts")) == asked + 1, saved


# --- a host that comes ---


def test_a_host_is_ready_reached_with_keys_of_its_own_and_tells_what_it_is(cloud: Cloud, client: Client) -> None:
    began = time.monotonic()
    rented = client.acquire()
    took = time.monotonic() - began
    (machine,) = cloud.alive()
    assert rented.id == machine.id and rented.offer.zone == ZONES[0]
    # within the calls that a run may make; while it boots it is asked about every 2 s at the most
    asked = len(cloud.calls_of("DescribeInstances"))
    assert asked <= 1 + took / 2 and len(cloud.calls) - asked <= 11 and len(cloud.calls_of("DescribeSubnets")) == 1
    assert client.said[0].startswith("capacity in us-east-1a") and "its boot" in client.said and "Docker" in client.said
    # its agent has the terms before it starts
    told = json.loads(client.run(rented, "cat", ".remoterun/rented.json"))
    assert told == {
        "token": rented.token,
        "deadline": pytest.approx(rented.deadline, abs=5),
        "idle": 600.0,
        "end": ["sudo", "-n", "shutdown", "-P", "now"],
        "notices": "",
        "settle": 0.0,
    }
    assert "docker" in client.run(rented, "id", "-Gn").split()
    # the key that stood in user-data is accepted no more
    first = client.folder(rented.token).text("host_key.pub").split()[1]
    _, known = client.folder(rented.token).text("known_hosts").split(" ", 1)
    assert client.run(rented, "cat", "/etc/ssh/ssh_host_ecdsa_key.pub").split() == known.split() and first not in known
    client.run(rented, "sudo", "-n", "mv", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/hidden")
    client.run(rented, "sudo", "-n", "systemctl", "restart", "ssh")
    with pytest.raises(HostKeyError):
        client.run(rented, "true")
    client.folder(rented.token).know(f"ssh-ed25519 {first}")
    assert client.run(rented, "echo", "first") == "first"
    # nothing that could do harm is in its user-data
    data = machine.user_data.decode("utf-8", "replace")
    assert client.folder(rented.token).text("key") not in data
    assert not any(value in data for value in (cloud.user.key, cloud.user.secret))
    # and its timer is one for the deadline
    (seconds,) = re.findall(r"--on-active=(\d+)s", data)
    assert time.time() - (time.monotonic() - began) - 2 < rented.deadline - int(seconds) < time.time()
    # the instance is as it must be
    (launch,) = cloud.calls_of("RunInstances")
    found = client.aws.find(rented.token)
    assert found is not None and (found.id, found.number, found.alive) == (rented.id, 7, True)
    assert [each.id for each in client.aws.hosts()] == [rented.id]
    assert client.aws.leftovers() == []
    for _ in range(2):
        client.aws.release(rented)
    gone(cloud)
    found = client.aws.find(rented.token)
    assert found is not None and found.state == "gone" and found.why
    assert client.clear_all() == ["group"]
    assert cloud.left_behind() == []


def test_the_last_zone_has_room(cloud: Cloud, client: Client) -> None:
    cloud.no_capacity("g4dn.xlarge", *ZONES[:-2])
    cloud.unsupported("g4dn.xlarge", ZONES[-2])
    intent = client.intent()
    rented = client.acquire(intent)
    assert rented.offer.zone == ZONES[-1]
    again = client.acquire(intent)
    assert (again.id, again.machine) == (rented.id, rented.machine)
    assert len(cloud.calls_of("RunInstances")) == len(ZONES) and len(cloud.machines) == 1


def test_no_zone_has_room_and_later_one_has(cloud: Cloud, client: Client) -> None:
    cloud.no_capacity("g4dn.xlarge", *ZONES)
    intent = client.intent()
    with pytest.raises(NoCapacity) as caught:
        client.acquire(intent)
    assert (caught.value.evidence or "").count("InsufficientInstanceCapacity") == len(ZONES)
    assert cloud.machines == {} and "another machine type" in (caught.value.hint or "")
    cloud.capacity_again()
    assert client.acquire(intent).alive and len(cloud.machines) == 1


def test_what_is_taken_back_before_it_runs_is_had_elsewhere(cloud: Cloud, client: Client) -> None:
    cloud.never_runs = {
        ("g4dn.xlarge", ZONES[0]): "Server.InsufficientInstanceCapacity",
        ("g4dn.xlarge", ZONES[1]): "Server.InternalError",
    }
    intent = client.intent()
    rented = client.acquire(intent)
    assert rented.offer.zone == ZONES[2] and [each.id for each in cloud.alive()] == [rented.id]
    assert client.acquire(intent).id == rented.id and len(cloud.machines) == 3
    assert client.aws.leftovers() == [], "the schedule is that of the host that runs, though two of its token are gone"
    cloud.never_runs = {("g4dn.xlarge", zone): "Server.InsufficientInstanceCapacity" for zone in ZONES}
    with pytest.raises(NoCapacity) as caught:
        client.acquire()
    assert (caught.value.evidence or "").count("Server.InsufficientInstanceCapacity") == len(ZONES)


@pytest.mark.parametrize(
    ("code", "words"),
    [("Client.InternalError", "kms:CreateGrant"), ("Client.VolumeLimitExceeded", "--quota-code L-7A658B76")],
)
def test_what_no_other_zone_mends_is_asked_for_once(cloud: Cloud, client: Client, code: str, words: str) -> None:
    cloud.never_runs = {("g4dn.xlarge", zone): code for zone in ZONES}
    error = refused(client)
    assert not isinstance(error, NoCapacity) and words in (error.hint or "") and code in (error.evidence or "")
    assert len(cloud.calls_of("RunInstances")) == 1 and cloud.alive() == []


def test_a_limit_of_one_kind_leaves_the_others(cloud: Cloud, client: Client) -> None:
    cloud.quotas["L-DB2E81BA"].vcpus = 0
    either = replace(T4, rental=Rental("aws", ("g4dn.xlarge", "m7i.large")))
    assert client.acquire(client.intent(either)).offer.type == "m7i.large"
    error = refused(client)
    assert "(L-DB2E81BA) is 0 vCPUs, 0 are in use, and it needs 4 vCPUs more" in error.message
    assert "--desired-value 4 " in str(error.hint) and len(cloud.machines) == 1


def test_spot_is_asked_for_as_such_at_the_price_of_now(cloud: Cloud, client: Client) -> None:
    cloud.no_capacity("g4dn.xlarge", *ZONES, spot=False)
    rented = client.acquire(client.intent(SPOT))
    assert rented.offer.spot and rented.offer.priced == "now" and rented.offer.price is not None
    told = json.loads(client.run(rented, "cat", ".remoterun/rented.json"))
    assert told["notices"] == acquire.NOTICES
    cloud.machine(rented.id).vanish(0, spot=True)
    gone(cloud)
    found = client.aws.find(rented.token)
    assert found is not None and found.preempted and found.state == "gone"


def test_a_host_that_aws_is_slow_to_know_is_used_by_several_clients_and_ssh_itself(
    cloud: Cloud, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.hidden_calls = 2
    for action in ("AuthorizeSecurityGroupIngress", "RunInstances"):  # they may not know a new group yet
        cloud.fail_next(action, 2, status=400, code="InvalidGroup.NotFound")
    rented = client.acquire()
    assert rented.alive and len(cloud.machines) == 1
    config = client.folder(rented.token).ssh_config
    words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", rented.token, "id", "-un"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == "ubuntu\n", done.stderr
    # a laptop that moved is let in again
    monkeypatch.setenv("REMOTERUN_CLIENT_ADDRESS", "203.0.113.8")
    for _ in range(2):
        client.aws.admit(rented)
    assert len([each for each in cloud.left_behind() if each.startswith("rule")]) == 2 and client.aws.leftovers() == []
    # another client sees it, and ends it by its id
    other = Client(tmp_path / "another home")
    assert [each.id for each in other.aws.hosts()] == [rented.id] and other.aws.hosts()[0].machine is None
    assert other.leftovers() == []
    client.folder(rented.token).remove()  # nobody knows it any more
    (leftover,) = client.leftovers()
    assert (leftover.kind, leftover.id) == ("host", rented.id) and (leftover.saves or 0) > 0.1
    other.aws.release(rented)
    gone(cloud)
    assert client.clear_all() == ["group"] and cloud.left_behind() == []


def test_what_is_not_there_is_found_nowhere_and_released(cloud: Cloud, client: Client) -> None:
    with pytest.raises(NotFound, match=r"eu-west-3 has no p5\.48xlarge") as caught:
        client.aws.offers(MachineType("x", rental=Rental("aws", ("p5.48xlarge",), region="eu-west-3")), True)
    assert (caught.value.hint or "").startswith("these regions have it: us-east-1")
    with pytest.raises(NoCapacity):
        client.aws.acquire(client.intent(), [], client.said.append)
    assert client.aws.hosts() == [] and client.aws.find("rr-nothing-1") is None
    offer = client.aws.offers(T4)[0]
    client.aws.release(RentedHost("i-0123456789abcdef0", "rr-nothing-1", "running", offer, 1.0, 2.0))
    identity = client.aws.identity()
    assert identity.name and identity == client.aws.identity()
    assert all(check.name and (check.ok is not False or check.fix) for check in client.aws.checks())


# --- what is refused ---


def refused(client: Client) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        client.acquire()
    return caught.value


def test_a_missing_permission_is_named(cloud: Cloud, client: Client, tmp_path: Path) -> None:
    for action in ("ec2:DescribeSubnets", "ec2:CreateSecurityGroup", "ssm:GetParameter", "ec2:RunInstances"):
        cloud.denied, client = {action}, Client(tmp_path / action)
        assert f"`{action}`" in refused(client).message
        assert cloud.machines == {}
        (check,) = [check for check in client.aws.checks() if check.name == "permissions"]
        assert check.ok is False and check.detail == f"missing: {action}"
        assert (check.fix or "").startswith("remoterun doctor aws --policy ")


def test_a_refusal_says_what_aws_lets_one_know_of_it(cloud: Cloud, client: Client) -> None:
    cloud.denied.add("ec2:RunInstances")
    error = refused(client)
    assert "\nec2:RunInstances on arn:aws:ec2:us-east-1:123456789012:instance/*: no policy allows it" in str(
        error.evidence
    )
    cloud.denied.add("sts:DecodeAuthorizationMessage")
    error = refused(client)
    assert "these credentials need sts:DecodeAuthorizationMessage" in str(error.evidence)
    assert not any(secret in str(error.evidence) for secret in cloud.encoded) and cloud.machines == {}


def test_an_account_on_the_free_plan_is_told_how_to_leave_it(cloud: Cloud, client: Client) -> None:
    cloud.plan = "FREE"
    error = refused(client)
    assert "free plan" in error.message and "upgrade-account-plan" in str(error.hint) and cloud.machines == {}
    (check,) = [check for check in client.aws.checks() if check.name == "plan"]
    assert check.ok is False and check.fix == error.hint


def test_what_is_allowed_by_tag_alone_is_not_called_missing(cloud: Cloud, client: Client) -> None:
    """A policy that allows to end what carries our tags refuses to try that on something else."""
    cloud.denied |= {"ec2:TerminateInstances", "ec2:CreateTags"}
    (check,) = [check for check in client.aws.checks() if check.name == "permissions"]
    assert check.ok and check.detail.endswith("known once there is a host: ec2:CreateTags, ec2:TerminateInstances")


def test_a_login_that_ends_in_the_middle_leaves_a_host_that_is_found_again(
    cloud: Cloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = cloud.login(3600.0)
    for name, value in cloud.environment(login).items():
        monkeypatch.setenv(name, value)
    intent = client.intent()
    cloud.fail_next("RunInstances", 2, status=503, code="Unavailable")  # one that is busy is asked again

    def say(text: str) -> None:
        if text == "its boot":
            cloud.expire(login)

    with pytest.raises(ProviderError) as caught:
        Client(client.home).acquire(intent, say)
    assert "expired" in caught.value.message and caught.value.hint == "remoterun machines gc aws   ends it now"
    assert len(cloud.alive()) == 1
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    again = Client(client.home)
    assert again.acquire(intent).id == cloud.alive()[0].id and len(cloud.machines) == 1


# --- a host that goes ---


def test_a_host_that_vanishes_while_it_boots(cloud: Cloud, client: Client) -> None:
    cloud.boot_seconds, cloud.sshd_seconds = 0.5, 30.0
    intent = client.intent()

    def say(text: str) -> None:
        if text == "sshd":
            cloud.alive()[0].vanish(1.0)

    with pytest.raises(HostNeverCame) as caught:
        client.acquire(intent, say)
    assert "ended while it was waited for" in caught.value.message and caught.value.evidence
    gone(cloud)
    assert client.aws.hosts() == []


def test_an_interrupt_ends_a_host_that_aws_does_not_know_yet(cloud: Cloud, client: Client) -> None:
    def say(text: str) -> None:
        if text == "its boot":
            cloud.fail_next("TerminateInstances", 1, status=400, code="InvalidInstanceID.NotFound")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.acquire(client.intent(), say)
    assert len(cloud.machines) == 1 and cloud.alive() == []


def test_a_host_whose_boot_goes_no_further_ends_at_its_deadline(cloud: Cloud, client: Client) -> None:
    config = {"bootcmd": [user_data.last_resort(4.0)], "runcmd": [["sleep", "600"]]}
    ec2 = boto3.client("ec2", region_name="us-east-1", endpoint_url=cloud.environment()["AWS_ENDPOINT_URL"])
    ec2.run_instances(
        ImageId=IMAGES[0].id_in("us-east-1"),
        InstanceType="c7i.large",
        MinCount=1,
        MaxCount=1,
        InstanceInitiatedShutdownBehavior="terminate",
        UserData=f"#cloud-config\n{json.dumps(config)}\n",
    )
    (machine,) = cloud.machines.values()
    gone(cloud)
    assert [event.state for event in machine.events if event.state != SERVICES][:2] == ["pending", "running"]
    assert "nstance initiated" in machine.record.state_reason.message


def test_a_host_that_nobody_uses_ends(cloud: Cloud, client: Client) -> None:
    """It has 10 minutes; one that had seconds from the start could be gone before anybody comes. A keeper that gives no
    sign of its life uses nothing."""
    rented = client.acquire()
    setting = f'"unused": {user_data.UNUSED}'
    lines = f"grep -q '{setting}' {user_data.SETTINGS} && sed -i 's/{setting}/\"unused\": 2/' {user_data.SETTINGS}"
    as_root = shlex.join(["sudo", "-n", "sh", "-c", f"{lines} && systemctl restart remoterun-watch"])
    began = time.monotonic()
    hangs = 'nohup python3 -c "import time; time.sleep(600)" keep --home /home/ubuntu/.remoterun'  # as a keeper would
    client.run(rented, "sh", "-c", f"nohup sleep 6 >/dev/null 2>&1 & {hangs} >/dev/null 2>&1 & {as_root}")
    gone(cloud)
    assert time.monotonic() - began > 6
    found = client.aws.find(rented.token)
    assert found is not None and "nstance initiated" in found.why and not found.preempted


def test_a_wait_for_port_22_lets_this_machine_in_again_and_says_what_may_be_wrong(
    cloud: Cloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire, "ADMIT_SECONDS", 1.0)
    monkeypatch.setattr(acquire, "CLOSED_SECONDS", 1.0)
    here, noted = os.environ["REMOTERUN_CLIENT_ADDRESS"], list[str]()
    monkeypatch.setenv("REMOTERUN_CLIENT_ADDRESS", "203.0.113.7")  # where a laptop was before it moved

    def note(text: str) -> None:
        noted.append(text)
        monkeypatch.setenv("REMOTERUN_CLIENT_ADDRESS", here)

    assert client.acquire(note=note).alive
    assert noted == [acquire.CLOSED] and "remoterun doctor aws" in acquire.CLOSED


@pytest.mark.parametrize("ends_itself", [False, True])
def test_behind_a_closed_port_22_a_host_is_given_up_soon_and_why_is_said(
    cloud: Cloud, client: Client, monkeypatch: pytest.MonkeyPatch, ends_itself: bool
) -> None:
    assert acquire.SSHD_SECONDS < user_data.UNUSED
    monkeypatch.setattr(acquire, "SSHD_SECONDS", 60.0 if ends_itself else 0.0)
    monkeypatch.setenv("REMOTERUN_CLIENT_ADDRESS", "203.0.113.7")

    def say(text: str) -> None:
        if text == "sshd" and ends_itself:
            cloud.alive()[0].end("terminated", OWN_SHUTDOWN)

    with pytest.raises(HostNeverCame, match="did not answer on port 22") as caught:
        client.acquire(say=say)
    assert "remoterun doctor aws" in (caught.value.hint or "") and cloud.alive() == []
    assert ("until it ended by itself" in caught.value.message) is ends_itself


# --- a network of one's own ---


@pytest.fixture
def company(cloud: Cloud) -> Company:
    """An account without a default network."""
    return Company(cloud)


class Company:
    def __init__(self, cloud: Cloud) -> None:
        self.ec2 = boto3.client("ec2", region_name="us-east-1")
        (vpc,) = self.ec2.describe_vpcs()["Vpcs"]
        self.vpc = vpc["VpcId"]
        for zone in ec2_backends[cloud.account]["us-east-1"].subnets.values():
            for each in zone.values():
                each.default_for_az = False
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="172.31.200.0/24", AvailabilityZone="us-east-1c")
        self.subnet = made["Subnet"]["SubnetId"]
        self.group = self.ec2.create_security_group(GroupName="ours", Description="x", VpcId=self.vpc)["GroupId"]


@pytest.mark.timeout(120)
def test_a_company_names_its_subnet_and_its_security_group(cloud: Cloud, client: Client, company: Company) -> None:
    error = refused(client)
    assert 'subnet = "subnet-…", and security_group = "sg-…"' in (error.hint or "")
    own = Settings(subnet=company.subnet, security_group=company.group)
    company.ec2.authorize_security_group_ingress(
        GroupId=company.group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
    )
    for settings, what in (
        (replace(own, subnet="subnet-0123456789abcdef0"), "subnet"),
        (replace(own, security_group="sg-0123456789abcdef0"), "security_group"),
    ):
        error = refused(Client(client.home, settings))
        assert str(getattr(settings, what)) in str(error.evidence) and f"`{what}`" in str(error.hint)
    assert cloud.machines == {}
    inside = Client(client.home, own)
    cloud.fail_next("RunInstances", status=400, code="InsufficientFreeAddressesInSubnet")
    assert f"the subnet {company.subnet} has no free address" in refused(inside).message and cloud.machines == {}
    cloud.calls.clear()
    rented = inside.acquire()
    inside.aws.admit(rented)
    assert rented.offer.zone == "us-east-1c" and inside.run(rented, "echo", "in") == "in"
    (machine,) = cloud.alive()
    assert [each.id for each in machine.record.nics[0].group_set] == [company.group]
    assert machine.record.subnet_id == company.subnet
    assert not any(call.action.endswith(("SecurityGroup", "SecurityGroupIngress")) for call in cloud.calls)
    checks = {check.name: check for check in inside.aws.checks()}
    assert checks["network"].ok and checks["address"].ok and company.group in checks["address"].detail
    inside.aws.release(rented)
    gone(cloud)
    assert inside.clear_all() == []


def test_hosts_in_a_private_subnet_are_reached_through_its_endpoint(
    cloud: Cloud, client: Client, company: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{endpoint.install(tmp_path / 'bin', cloud)}:{os.environ['PATH']}")
    cloud.make_endpoint()
    through = Client(client.home, Settings(subnet=company.subnet, connect="endpoint"))
    rented = through.acquire()
    (machine,) = cloud.alive()
    assert machine.record.nics[0].public_ip is None and through.run(rented, "echo", "in") == "in"


# --- where port 22 is closed on the way ---


def test_hosts_are_reached_through_an_endpoint(
    cloud: Cloud, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{endpoint.install(tmp_path / 'bin', cloud)}:{os.environ['PATH']}")
    through = Client(client.home, Settings(connect="endpoint"))
    error = refused(through)
    assert "has no EC2 Instance Connect Endpoint" in error.message and cloud.machines == {}
    made = cloud.make_endpoint()
    command = f"--region us-east-1 --subnet-id {made.subnet} --security-group-ids {made.group}"
    assert f"aws ec2 create-instance-connect-endpoint {command}" in (error.hint or "")
    monkeypatch.setenv("REMOTERUN_CLIENT_ADDRESS", "203.0.113.7")  # it does not matter where the client is
    rented = through.acquire()
    (machine,) = cloud.alive()
    assert not answers(machine.host.address if machine.host else "", seconds=0.5)
    assert through.run(rented, "echo", "in") == "in"
    (rule,) = [call.parameters for call in cloud.calls_of("AuthorizeSecurityGroupIngress")]
    assert rule["IpPermissions.1.Groups.1.GroupId"] == made.group and "203.0.113.7/32" not in str(rule)
    again = Client(client.home, Settings(connect="endpoint")).aws.hosts()[0]
    through.aws.admit(again)
    assert through.run(again, "echo", "again") == "again" and len(cloud.calls_of("AuthorizeSecurityGroupIngress")) == 1
    checks = {check.name: check for check in through.aws.checks()}
    assert checks["endpoint"].ok and made.id in checks["endpoint"].detail and "address" not in checks
    through.aws.release(rented)
    gone(cloud)
    until(lambda: through.clear_all() == ["group"], 60, "the group goes")
    assert cloud.left_behind() == []


def test_without_a_program_for_the_endpoint_nothing_is_rented(
    cloud: Cloud, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.make_endpoint()
    through = Client(client.home, Settings(connect="endpoint"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    error = refused(through)
    assert "version 2 of `aws`, which does so, is not on PATH" in error.message and "2: https" in (error.hint or "")
    endpoint.install(tmp_path / "bin", cloud, version="1.32.0")
    error = refused(through)
    assert "is not on PATH" in error.message and "1.32.0" in (error.evidence or "") and cloud.machines == {}


def test_doctor_offers_an_endpoint_for_where_port_22_is_closed(cloud: Cloud, client: Client) -> None:
    (check,) = [check for check in client.aws.checks() if check.name == "endpoint"]
    assert check.ok is None and 'connect = "endpoint" below [aws]' in check.detail
    assert "create-instance-connect-endpoint --region us-east-1 --subnet-id" in check.detail
