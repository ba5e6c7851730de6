"""Uploads and copies of runs in a bucket of the user's: put a tree, get a tree. Its layout: shared/archive.py.

objects.py            what all of it asks of a bucket, and which class answers for one
s3.py, s3_errors.py   S3 as such a class, and its errors as ours: the room of its library, with s3_session.py
writing.py            a tree of this machine → packs and an archived tree; reading.py: back into files, verified
uploads.py, runs.py   what lies below uploads/ and runs/
grants.py             what a host without credentials may download and write
upkeep.py             df, gc, check; creation.py: the bucket is made, and examined
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

from remoterun.agent.shared.archive import FORMAT, IDENTITY
from remoterun.agent.shared.tree import TreeError
from remoterun.archive.objects import PATIENCE, Absent, BucketPlace, Objects, opened

FIRST_PATIENCE = 2.0
"""Seconds for which the first request is repeated."""
_ID = re.compile(r"[0-9a-f]{16,64}\Z")
T = TypeVar("T")


class Archive:
    """What lies in one bucket. Any thread may use it. Whatever asks the store raises `HostUnreachable`,
    `AuthenticationError`, `HostError`."""

    def __init__(self, objects: Objects, id: str) -> None:
        self.objects = objects
        self.id = id
        self.clock = time.time

    @property
    def address(self) -> str:
        return self.objects.place.address

    def read(self, key: str, most: int, decoded: Callable[[bytes], T]) -> T:
        """An object of `most` bytes at the most. Raises `Absent`, and `Damaged` for what makes no sense."""
        try:
            return decoded(self.objects.get(key, most))
        except (ValueError, TreeError, RecursionError) as error:
            raise self.objects.bad(key, str(error)[:200])

    @property
    def alive(self) -> bool:
        return not self.objects.closed.is_set()

    def close(self) -> None:
        """May be called twice."""
        self.objects.close()


def open_archive(place: BucketPlace) -> Archive:
    """The archive in a bucket, which becomes one where it is empty. Raises `NoBucket`, `HostUnreachable`,
    `AuthenticationError`, `HostError`."""
    objects = opened(place, FIRST_PATIENCE)
    try:
        id = identity(objects)
        objects.patience = PATIENCE
        return Archive(objects, id)
    except BaseException:
        objects.close()
        raise


def identity(objects: Objects) -> str:
    """The id of the archive in a bucket, which is made where it is absent. Raises as `open_archive`."""
    while True:
        try:
            found = json.loads(objects.get(IDENTITY, 4096))
        except (ValueError, RecursionError) as error:
            raise objects.bad(IDENTITY, str(error)[:200])
        except Absent:
            made = os.urandom(16).hex()
            if objects.put_new(IDENTITY, json.dumps({"format": FORMAT, "id": made}).encode()):
                return made
            continue
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise objects.bad(
                IDENTITY, "another remoterun made it: upgrade this one, or name another bucket in config.toml"
            )
        if not isinstance(found.get("id"), str) or not _ID.match(found["id"]):
            raise objects.bad(IDENTITY, "it has no id")
        return str(found["id"])
