"""A bucket as a host: the other end of its pipe is a thread of this process, which answers from the bucket."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.api import Hello
from remoterun.agent.shared.frames import DATA, encode
from remoterun.agent.shared.protocol import VERSION, Link
from remoterun.agent.shared.records import to_json
from remoterun.buckets.pipe import MemoryPipe
from remoterun.buckets.place import BucketPlace
from remoterun.buckets.s3 import PATIENCE, S3, Absent, NoBucket
from remoterun.buckets.serving import Bucket, Server
from remoterun.hosts.base import Pipe

if TYPE_CHECKING:
    from remoterun.config import Config
    from remoterun.hosts.base import Prompts
    from remoterun.model import MachineType

IDENTITY = "remoterun.json"
FIRST_PATIENCE = 2.0
"""Seconds for which the first request is repeated, with which a conversation begins."""
_ID = re.compile(r"[0-9a-f]{16,64}\Z")


def of_machine(machine: MachineType, config: Config, prompts: Prompts) -> BucketHost:
    """The host of a machine type with a `bucket`."""
    return BucketHost(
        place_of(machine, config), machine.name, config.home / "cache" / "buckets", machine.connect_timeout
    )


def place_of(machine: MachineType, config: Config) -> BucketPlace | None:
    """Where the bucket of a machine type is; None where none has been named yet. Raises `ConfigError`."""
    aws = config.aws
    if machine.bucket in (None, "s3://"):
        return None
    return BucketPlace.of(str(machine.bucket), aws.region, aws.endpoint, aws.profile)


class BucketHost:
    """Opens nothing before `open`."""

    def __init__(
        self,
        place: BucketPlace | None,
        name: str = "aws",
        cache: Path | None = None,
        connect: float = 10.0,
    ) -> None:
        """`cache`: a folder of this machine for what is known of buckets; `connect`: see `S3`."""
        self.place = place
        self._name = name
        self._cache = cache
        self._connect = connect

    @property
    def name(self) -> str:
        return self._name

    def open(self) -> Pipe:
        """Raises `NoBucket`, `HostUnreachable`, `AuthenticationError`, `HostError`."""
        bucket = self.bucket()
        here = MemoryPipe(closing=bucket.close)
        there = here.other
        link = Link(there.pump, there.write, Server(bucket).handle)
        there.write(encode(0, DATA, to_json(hello(bucket))))

        def serve() -> None:
            link.run()
            there.close()

        threading.Thread(target=serve, name="remoterun bucket", daemon=True).start()
        return here

    def bucket(self) -> Bucket:
        """The home itself, for what is no request: see grants.py. Whoever asks for it closes it. Raises as `open`."""
        if self.place is None:
            raise NoBucket("no bucket is set up", hint="remoterun upload PATH --to aws   makes one")
        s3 = S3(self.place, FIRST_PATIENCE, self._connect)
        try:
            home_id = identity(s3)
        except BaseException:
            s3.close()
            raise
        s3.patience = PATIENCE
        cache = self._cache / home_id / "index" if self._cache is not None else None
        return Bucket(s3, home_id, cache)

    def close(self) -> None:
        pass


def identity(s3: S3) -> str:
    """The id of the home in a bucket, which is made where it is not there. Raises as `BucketHost.open`."""
    while True:
        try:
            said = json.loads(s3.get(IDENTITY, 4096))
            if not isinstance(said, dict) or not isinstance(said.get("home_id"), str) or not _ID.match(said["home_id"]):
                raise ValueError("it names no home")
            if said.get("format") != layout.FORMAT:
                raise ValueError("it was made by a newer remoterun: upgrade this one")
            return str(said["home_id"])
        except (ValueError, RecursionError) as error:
            raise s3.bad(IDENTITY, str(error)[:200])
        except Absent:
            made = os.urandom(16).hex()
            data = json.dumps({"format": layout.FORMAT, "home_id": made}).encode()
            if s3.put_new(IDENTITY, data):
                return made


def hello(bucket: Bucket) -> Hello:
    """What the client learns before it asks."""
    place = bucket.s3.place
    return Hello(VERSION, bucket.home_id, place.address, host=place.name, compares=False)
