"""Environments that the bucket keeps: the second host of a type loads what the first one has built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.cloud.cloud import REGION, Cloud
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SIX = ("run", "-t", "t4", "-y", "--no-git", "--image", BASE_IMAGE, "--pip", "six")
COMMAND = "python -c 'import six; print(six.__name__)'"
FETCHING = "fetching the environment from the bucket"
INSTALLING = "installing packages: six"
UNUSABLE = "the environment in the bucket can't be used, so it is built: "


class User:
    """A laptop with the login of an account, and what is in its bucket."""

    def __init__(self, cloud: Cloud, place: Place) -> None:
        self.cloud, self.place = cloud, place
        self.s3: Any = boto3.client(
            "s3",
            region_name=REGION,
            endpoint_url=cloud.environment()["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=cloud.user.key,
            aws_secret_access_key=cloud.user.secret,
            config=Config(signature_version="s3v4"),
        )

    def run(self, *words: str) -> str:
        """What is said while a run has its first host, which then is there."""
        done = self.place.run(*SIX, *words, COMMAND)
        assert done.stdout == "six\n"
        return str(done.stderr)

    def end_hosts(self) -> None:
        for host in self.place.json("machines", "rented"):
            self.place.run("machines", "rm", host["id"])
        until(lambda: not self.cloud.alive())

    def build_log(self) -> str:
        """Of the newest run."""
        (machine,) = self.cloud.alive()
        key = self.place.newest()["key"]
        assert machine.host is not None
        return machine.host.exec(["cat", f"/home/ubuntu/.remoterun/runs/{key}/build.log"]).stdout

    @property
    def bucket(self) -> str:
        (name,) = self.cloud.s3.buckets()
        return name

    def objects(self) -> dict[str, int]:
        """The sizes of the objects of all images, by their keys."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="envs/").get("Contents", ())
        return {str(item["Key"]): int(item["Size"]) for item in found}

    def until_kept(self) -> str:
        """Wait until an image is in the bucket as a whole; the key of its record."""
        return str(until(lambda: next((key for key in self.objects() if key.endswith("/image.json")), None), 120))

    def damage_a_piece(self) -> None:
        key = next(key for key in self.objects() if not key.endswith("/image.json"))
        data = bytearray(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        data[len(data) // 2] ^= 1
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=bytes(data))


@pytest.fixture
def user(cloud: Cloud, tmp_path: Path) -> User:
    cloud.s3.ready()
    place = make_place(tmp_path)
    place.env.update(cloud.environment())
    return User(cloud, place)


def test_the_second_host_loads_what_the_first_has_built(user: User) -> None:
    assert INSTALLING in user.run()
    record = user.until_kept()
    archive = json.loads(user.s3.get_object(Bucket=user.bucket, Key=record)["Body"].read())
    pieces = [size for key, size in user.objects().items() if key != record]
    assert sum(pieces) == archive["size"] and len(pieces) == len(archive["pieces"]) > 1
    user.end_hosts()

    said = user.run()
    assert FETCHING in said and INSTALLING not in said
    log = user.build_log()
    assert "fetching the environment from the bucket, 100 %" in log and "pip install" not in log
    # what was loaded does not go back
    assert len(user.objects()) == len(pieces) + 1
    user.end_hosts()

    user.damage_a_piece()
    said = user.run()
    assert UNUSABLE + "a piece of it is damaged" in said and INSTALLING in said
    assert "pip install" in user.build_log()
