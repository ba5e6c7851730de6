"""Uploads and copies of runs in an S3 bucket of the user's: put a tree, get a tree. Its layout: shared/archive.py.

s3.py, s3_errors.py   the requests to the store, and its errors as ours: the room of its library, with s3_session.py
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
from typing import TYPE_CHECKING, TypeVar

from remoterun.agent.shared.archive import FORMAT
from remoterun.agent.shared.tree import TreeError
from remoterun.archive.s3 import PATIENCE, S3, BucketPlace
from remoterun.archive.s3_errors import Absent
from remoterun.on_use import on_use

__all__ = ["creation", "grants", "reading", "runs", "upkeep", "uploads"]

if TYPE_CHECKING:
    from remoterun.archive import creation, grants, reading, runs, upkeep, uploads
else:
    __getattr__ = on_use(__name__, dict.fromkeys(__all__, ()))
IDENTITY = "remoterun.json"
FIRST_PATIENCE = 2.0
"""Seconds for which the first request is repeated."""
_ID = re.compile(r"[0-9a-f]{16,64}\Z")
T = TypeVar("T")


class Archive:
    """What lies in one bucket. Any thread may use it. Whatever asks the store raises `HostUnreachable`,
    `AuthenticationError`, `HostError`."""

    def __init__(self, s3: S3, id: str, clock: Callable[[], float] = time.time) -> None:
        self.s3 = s3
        self.id = id
        self.clock = clock

    @property
    def address(self) -> str:
        return self.s3.place.address

    def read(self, key: str, most: int, decoded: Callable[[bytes], T]) -> T:
        """An object of `most` bytes at the most. Raises `Absent`, and `Damaged` for what makes no sense."""
        try:
            return decoded(self.s3.get(key, most))
        except (ValueError, TreeError, RecursionError) as error:
            raise self.s3.bad(key, str(error)[:200])

    @property
    def alive(self) -> bool:
        return not self.s3.closed.is_set()

    def close(self) -> None:
        """May be called twice."""
        self.s3.close()


def open_archive(place: BucketPlace) -> Archive:
    """The archive in a bucket, which becomes one where it is empty. Raises `NoBucket`, `HostUnreachable`,
    `AuthenticationError`, `HostError`."""
    s3 = S3(place, FIRST_PATIENCE)
    try:
        id = identity(s3)
        s3.patience = PATIENCE
        return Archive(s3, id)
    except BaseException:
        s3.close()
        raise


def identity(s3: S3) -> str:
    """The id of the archive in a bucket, which is made where it is absent. Raises as `open_archive`."""
    while True:
        try:
            found = json.loads(s3.get(IDENTITY, 4096))
        except (ValueError, RecursionError) as error:
            raise s3.bad(IDENTITY, str(error)[:200])
        except Absent:
            made = os.urandom(16).hex()
            if s3.put_new(IDENTITY, json.dumps({"format": FORMAT, "id": made}).encode()):
                return made
            continue
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise s3.bad(IDENTITY, "another remoterun made it: upgrade this one, or name another bucket in config.toml")
        if not isinstance(found.get("id"), str) or not _ID.match(found["id"]):
            raise s3.bad(IDENTITY, "it has no id")
        return str(found["id"])
