"""Environments in the archive: the second host of a type loads what the first one has built."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError

from remoterun.agent.shared.records import decode
from remoterun.agent.shared.states import BuiltImage
from tests.cloud.cloud import REGION, Cloud
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE
from tests.workshop import sha256, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SIX = ("run", "-t", "t4", "-y", "--no-git", "--image", BASE_IMAGE, "--pip", "six")
COMMAND = "python -c 'import six; print(six.__name__)'"
SAVING = "saving the environment for the archive"
DOWNLOADING = "downloading the environment from the archive"
INSTALLING = "installing packages: six"


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

    def objects(self, prefix: str) -> dict[str, int]:
        """The sizes of the objects below a prefix, by their keys."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", ())
        return {str(item["Key"]): int(item["Size"]) for item in found}

    def read(self, key: str) -> bytes:
        """An object. SeaweedFS was seen to stall in the middle of one: then it is read again, as remoterun does."""
        for _ in range(3):
            with suppress(ReadTimeoutError):
                return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        raise AssertionError(f"{key} can't be read")

    @property
    def stored(self) -> BuiltImage:
        """The record of the image in the archive."""
        (key,) = self.objects("images/")
        return decode(BuiltImage, self.read(key))


@pytest.fixture
def user(cloud: Cloud, tmp_path: Path) -> User:
    cloud.s3.ready()
    place = make_place(tmp_path)
    place.env.update(cloud.environment())
    return User(cloud, place)


def test_the_second_host_loads_what_the_first_has_built(user: User) -> None:
    said = user.run()
    assert INSTALLING in said and SAVING in said
    image, stored = user.stored, user.objects("envs/")
    assert sum(stored.values()) == image.size
    assert sha256(b"".join(user.read(key) for key in sorted(stored))) == image.digest

    # on a host where commands have run, these could have a hand in what is built
    said = user.run("--pip", "idna")
    assert "installing packages: six idna" in said and SAVING not in said and user.objects("envs/") == stored
    user.end_hosts()

    said = user.run()
    assert DOWNLOADING in said and INSTALLING not in said
    assert "pip install" not in user.build_log()
    # what was loaded does not go back
    assert user.objects("envs/") == stored
