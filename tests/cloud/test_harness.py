"""The cloud itself: what a test of remoterun stands on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cloud.cloud import REGION, Cloud, Credentials
from tests.cloud.machine import SERVICES, Machine
from tests.lab import BASE_IMAGE, LabError, record
from tests.lab.host import REPOSITORY
from tests.lab.keys import make_key
from tests.lab.lab import cache_folder
from tests.lab.process import run, until

pytestmark = pytest.mark.lab

ECS = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
TOKEN = """\
T=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
get() { curl -s -w '\\n%{http_code}\\n' -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/latest/$1; }
"""


class Client:
    """A user with boto3 and ssh."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("login", "host", "other"):
            make_key(folder / name, "ed25519")

    def api(self, service: str, credentials: Credentials | None = None, **settings: Any) -> Any:
        env = self.cloud.environment(credentials)
        endpoint = env["AWS_ENDPOINT_URL_S3"] if service == "s3" else env["AWS_ENDPOINT_URL"]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=env.get("AWS_SESSION_TOKEN"),
            **{"config": Config(signature_version="s3v4", retries={"total_max_attempts": 1}), **settings},
        )

    def image(self, name: str = ECS) -> str:
        return str(self.api("ssm").get_parameter(Name=name)["Parameter"]["Value"])

    def user_data(self, **more: Any) -> str:
        config = {
            "ssh_deletekeys": True,
            "ssh_keys": {
                "ed25519_private": (self.folder / "host").read_text(),
                "ed25519_public": (self.folder / "host.pub").read_text(),
            },
            "ssh_authorized_keys": [(self.folder / "login.pub").read_text()],
            **more,
        }
        return "#cloud-config\n" + json.dumps(config)

    def group(self) -> str:
        """A security group that lets this client in."""
        ec2 = self.api("ec2")
        found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["mine"]}])["SecurityGroups"]
        if found:
            return str(found[0]["GroupId"])
        group = str(ec2.create_security_group(GroupName="mine", Description="mine")["GroupId"])
        with urllib.request.urlopen(self.cloud.checkip_url, timeout=60) as response:
            source = f"{response.read().decode().strip()}/32"
        rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": source}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        return group

    def request(self, *, image: str = ECS, **parameters: Any) -> dict[str, Any]:
        return {
            "ImageId": self.image(image),
            "InstanceType": "c7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "SecurityGroupIds": [self.group()],
            "UserData": self.user_data(),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            **parameters,
        }

    def launch(self, **parameters: Any) -> Machine:
        made = self.api("ec2").run_instances(**self.request(**parameters))["Instances"][0]
        return self.cloud.machine(made["InstanceId"])

    def describe(self, machine: Machine) -> dict[str, Any]:
        found = self.api("ec2").describe_instances(InstanceIds=[machine.id])
        return dict(found["Reservations"][0]["Instances"][0])

    def ssh(
        self, machine: Machine, *words: str, user: str = "ec2-user", host_key: str = "host", patience: int = 50
    ) -> subprocess.CompletedProcess[str]:
        """`patience`: seconds until it answers, of which a busy machine needs some."""
        known = self.folder / "known_hosts"
        public = (self.folder / f"{host_key}.pub").read_text()
        known.write_text(f"{machine.address} {' '.join(public.split()[:2])}\n")
        options = ["StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=/dev/null"]
        options += ["BatchMode=yes", f"ConnectTimeout={patience}"]
        options += ["IdentitiesOnly=yes", f"IdentityFile={self.folder / 'login'}"]
        client = ["ssh", "-F", "/dev/null", *(word for option in options for word in ("-o", option))]
        return run([*client, f"{user}@{machine.address}", *words], check=False)

    def reach(self, machine: Machine, user: str = "ec2-user") -> Machine:
        """Wait until it answers by SSH."""
        until(lambda: machine.state == "running", 60, f"{machine.id} runs", machine.console)
        answers = lambda: self.ssh(machine, "true", user=user, patience=5).returncode == 0  # noqa: E731
        until(answers, 60, f"{machine.id} answers", machine.console)
        return machine

    def finish(self, machine: Machine) -> Machine:
        """Wait until its cloud-init is done."""
        until(lambda: ": finished" in machine.console(), 120, f"{machine.id} has started up", machine.console)
        return machine


@pytest.fixture
def client(cloud: Cloud, tmp_path: Path) -> Client:
    return Client(cloud, tmp_path / "client")


def wait_for_state(machine: Machine, state: str) -> None:
    until(lambda: machine.state == state, 90, f"{machine} is {state}", machine.console)


def boot_id(machine: Machine) -> str | None:
    """None while it is off."""
    with contextlib.suppress(LabError, OSError):
        return machine.host.boot_id() if machine.host else None
    return None


def refused(call: Callable[[], Any]) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_an_instance_is_a_host_that_has_the_key_of_its_user_data_and_no_other(client: Client) -> None:
    machine = client.reach(client.launch())
    assert client.describe(machine)["PublicIpAddress"] == machine.address
    keys = run(["ssh-keyscan", "-T", "50", machine.address]).stdout.splitlines()
    given = (client.folder / "host.pub").read_text().split()[1]
    assert [line.split()[2] for line in keys if not line.startswith("#")] == [given]
    assert client.ssh(machine, "true", host_key="other").returncode == 255
    assert client.ssh(machine, "id", "-un").stdout == "ec2-user\n"
    shown = client.api("ec2").get_console_output(InstanceId=machine.id)["Output"]
    block = shown.partition("-----BEGIN SSH HOST KEY KEYS-----")[2].partition("-----END SSH HOST KEY KEYS-----")[0]
    assert block.split()[:2] == ["ssh-ed25519", given]
    assert [event.state for event in machine.events if event.state != SERVICES] == ["pending", "running"]


def test_the_metadata_service_wants_a_token_and_tells_of_a_spot_notice(client: Client) -> None:
    machine = client.finish(client.reach(client.launch(InstanceMarketOptions={"MarketType": "spot"})))
    assert client.describe(machine)["InstanceLifecycle"] == "spot"
    script = (
        TOKEN
        + "get meta-data/instance-id; get meta-data/placement/availability-zone; get meta-data/spot/instance-action"
    )
    bare = "curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/instance-id"
    assert client.ssh(machine, bare).stdout == "401"
    told = client.ssh(machine, script).stdout.split()
    assert told == [machine.id, "200", f"{REGION}a", "200", "404"]
    assert client.ssh(machine, TOKEN + "get user-data").stdout.startswith("#cloud-config\n")
    inside = "import socket; socket.create_connection(('169.254.169.254', 80), 1)"
    ran = client.ssh(machine, f'docker run --rm {BASE_IMAGE} python3 -c "{inside}"')
    assert ran.returncode == 1 and "timed out" in ran.stderr
    machine.notice(seconds=600)
    notice = json.loads(client.ssh(machine, TOKEN + "get meta-data/spot/instance-action").stdout.splitlines()[0])
    assert notice["action"] == "terminate" and notice["time"].endswith("Z")
    machine.notice(seconds=0)
    wait_for_state(machine, "terminated")
    assert client.describe(machine)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_only_who_is_in_the_security_group_comes_in(client: Client) -> None:
    machine = client.reach(client.launch())
    ec2, group = client.api("ec2"), client.group()
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    assert "timed out" in client.ssh(machine, "true", patience=1).stderr
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)
    client.reach(machine)
    assert refused(lambda: ec2.delete_security_group(GroupId=group))[0] == "DependencyViolation"


def test_the_same_token_gives_the_same_instance_even_after_its_end(client: Client) -> None:
    ec2 = client.api("ec2")
    request = client.request(ClientToken="rr-1")
    first = ec2.run_instances(**request)["Instances"][0]["InstanceId"]
    assert ec2.run_instances(**request)["Instances"][0]["InstanceId"] == first
    other = {**request, "InstanceType": "c7i.xlarge"}
    assert refused(lambda: ec2.run_instances(**other))[0] == "IdempotentParameterMismatch"
    ec2.terminate_instances(InstanceIds=[first])
    wait_for_state(client.cloud.machine(first), "terminated")
    again = ec2.run_instances(**request)["Instances"][0]
    assert again["InstanceId"] == first
    assert len(client.cloud.machines) == 1
    assert [call.token for call in client.cloud.calls_of("RunInstances")] == ["rr-1"] * 4


OWNER = """
import sys
from pathlib import Path
from tests.cloud.cloud import Cloud
from tests.cloud.test_harness import Client
from tests.lab import Lab

with Lab() as lab, Cloud(lab) as cloud:
    client = Client(cloud, Path(sys.argv[1]))
    client.finish(client.reach(client.launch()))
    cloud.s3.ready()
    print(lab.network.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True], ids=["it ends", "it is killed"])
def test_nothing_is_left_of_a_cloud_whose_owner_is_gone(tmp_path: Path, killed: bool, cloud: Cloud) -> None:
    words = [sys.executable, "-c", OWNER, str(tmp_path / "client")]
    owner = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    with owner:
        assert owner.stdout is not None and owner.stdin is not None
        name = owner.stdout.readline().strip()
        assert left_of(name, owner.pid)
        if killed:
            owner.kill()
        else:
            owner.stdin.close()
        until(lambda: owner.poll() is not None, 90, "the owner ends")
    gone = lambda: not left_of(name, owner.pid)  # noqa: E731
    until(gone, 90, f"nothing of {name} is left", lambda: "\n".join(left_of(name, owner.pid)))


def left_of(name: str, owner: int) -> list[str]:
    """Namespaces, links, mounts, processes and files of a lab. Its name is given to another one when it is gone."""
    with record.locked():
        if any(each.name == name and each.owner != owner for each in record.records()):
            return []
    spaces = [line.split()[0] for line in run(["ip", "netns", "list"]).stdout.splitlines()]
    found = [f"namespace {each}" for each in spaces if each.startswith(f"{name}-")]
    found += [f"link {each}" for each in record.links(name)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{name}-" in command and "tests.lab" not in command:
                found.append(f"process {entry.name}: {command[:200]}")
    return found + [f"folder {each}" for each in (cache_folder() / "sessions").glob(f"{name}-*")]
