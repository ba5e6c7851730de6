"""The cloud itself: what a test of remoterun stands on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cloud.cloud import REGION, Cloud
from tests.cloud.machine import Machine
from tests.lab.keys import make_key
from tests.lab.process import run, until

pytestmark = pytest.mark.lab

ECS = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
DEEP = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"


class Client:
    """A user with boto3 and ssh."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("login", "host", "other"):
            make_key(folder / name, "ed25519")

    def api(self, service: str, **settings: Any) -> Any:
        env = self.cloud.environment()
        endpoint = env["AWS_ENDPOINT_URL_S3"] if service == "s3" else env["AWS_ENDPOINT_URL"]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
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

    def launch(self, *, image: str = ECS, **parameters: Any) -> Machine:
        parameters = {
            "ImageId": self.image(image),
            "InstanceType": "c7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": self.user_data(),
            "InstanceInitiatedShutdownBehavior": "terminate",
            **parameters,
        }
        made = self.api("ec2").run_instances(**parameters)["Instances"][0]
        return self.cloud.machine(made["InstanceId"])

    def describe(self, machine: Machine) -> dict[str, Any]:
        found = self.api("ec2").describe_instances(InstanceIds=[machine.id])
        return dict(found["Reservations"][0]["Instances"][0])

    def ssh(
        self, machine: Machine, *words: str, user: str = "ec2-user", host_key: str = "host"
    ) -> subprocess.CompletedProcess[str]:
        known = self.folder / "known_hosts"
        public = (self.folder / f"{host_key}.pub").read_text()
        known.write_text(f"{machine.address} {' '.join(public.split()[:2])}\n")
        options = ["StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=/dev/null"]
        options += ["BatchMode=yes", "ConnectTimeout=5", "IdentitiesOnly=yes", f"IdentityFile={self.folder / 'login'}"]
        client = ["ssh", "-F", "/dev/null", *(word for option in options for word in ("-o", option))]
        return run([*client, f"{user}@{machine.address}", *words], check=False)

    def reach(self, machine: Machine) -> None:
        """Wait until it answers by SSH."""
        until(lambda: machine.state == "running", 20, f"{machine.id} runs", machine.console)
        until(lambda: self.ssh(machine, "true").returncode == 0, 30, f"{machine.id} answers", machine.console)


@pytest.fixture
def client(cloud: Cloud, tmp_path: Path) -> Client:
    return Client(cloud, tmp_path / "client")


def wait_for_state(machine: Machine, state: str) -> None:
    until(lambda: machine.state == state, 40, f"{machine} is {state}", machine.console)


def refused(call: Callable[[], Any]) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_an_instance_is_a_host_that_has_the_key_of_its_user_data_and_no_other(client: Client) -> None:
    machine = client.launch()
    client.reach(machine)
    assert client.describe(machine)["PublicIpAddress"] == machine.address
    keys = run(["ssh-keyscan", "-T", "5", machine.address]).stdout.splitlines()
    given = (client.folder / "host.pub").read_text().split()[1]
    assert [line.split()[2] for line in keys if not line.startswith("#")] == [given]
    assert client.ssh(machine, "true", host_key="other").returncode == 255
    assert client.ssh(machine, "id", "-un").stdout == "ec2-user\n"


def test_s3_is_a_real_one(client: Client) -> None:
    cloud = client.cloud
    s3 = client.api("s3")
    cloud.s3.ready()
    s3.create_bucket(Bucket="mine")
    s3.put_object(Bucket="mine", Key="a", Body=b"one", IfNoneMatch="*")
    assert (
        refused(lambda: s3.put_object(Bucket="mine", Key="a", Body=b"two", IfNoneMatch="*"))[0] == "PreconditionFailed"
    )
    wrong = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert refused(lambda: s3.put_object(Bucket="mine", Key="b", Body=b"x", ChecksumSHA256=wrong))[0] == "BadDigest"
    assert cloud.s3.requests()["PUT"] >= 4
    assert s3.get_object(Bucket="mine", Key="a")["Body"].read() == b"one"
    cloud.s3.wipe()
    assert s3.list_buckets()["Buckets"] == []
