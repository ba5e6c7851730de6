"""A bucket with the manners of Hugging Face's gateway of S3: path style; no forms, no metadata, no trailing checksums,
no listings of the first kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun import Client
from remoterun.archive.objects import BucketPlace
from remoterun.client import Client as Whole
from remoterun.config import ArchivePlace, Config
from remoterun.model import MachineType, Rental
from tests.cloud.gateway import Gateway
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"


@pytest.fixture
def gateway(bucket: BucketPlace) -> Iterator[Gateway]:
    assert bucket.endpoint is not None
    with Gateway(bucket.endpoint) as server:
        yield server


def test_what_is_uploaded_run_copied_and_freed(bucket: BucketPlace, gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    (tmp_path / "data.txt").write_text("to be read")
    words = (sys.executable, str(CONTAINERS), str(tmp_path / "cloud"))
    pod = MachineType("pod", rental=Rental("command", ("RTX4090",), program=words, idle=5.0))
    archive = ArchivePlace(bucket.name, "us-east-1", gateway.url)
    config = Config(tmp_path / "home", machines={"pod": pod}, archive=archive)
    with Client(config) as client:
        data = client.upload(tmp_path / "data.txt", name="data", machine="pod")
        job = client.run("cat data/*; echo made >result", machine="pod", mounts={"data": data}, source=None)
        assert [*job.logs()] == ["to be read"] and job.wait() == 0
    with Whole(config) as whole:
        for host in whole.hosts.list():
            whole.hosts.end(host.id)
        until(lambda: not whole.hosts.list(), 60)
        whole.files.copy("runs/1/result", tmp_path / "result")
        assert (tmp_path / "result").read_text() == "made\n"
        whole.runs.remove(1)
        left = whole.hosts.leftovers(pytest.fail, at="command")
        assert all(result is True for _, result in whole.hosts.clear_all(left))
        assert whole.hosts.bill(0.0).stored is not None
    assert {each.partition("/")[0].strip() for each in gateway.refused} == {"501 form", "302"}, (
        "it tries, and finds out"
    )
