"""A bucket is made, and examined. Those of S3 itself are private and encrypted from the start; of another store that is
up to whoever runs it."""

from __future__ import annotations

import contextlib
import hashlib
import secrets

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive import FIRST_PATIENCE, identity
from remoterun.archive.s3 import S3, BucketPlace
from remoterun.archive.s3_errors import Absent, Denied, NoBucket
from remoterun.clouds import ARCHIVE
from remoterun.errors import HostError, RemoterunError
from remoterun.machines import HOW_TO_MAKE_ONE


def name_for(account: str, region: str | None, endpoint: str | None, profile: str | None) -> tuple[str, str | None]:
    """(the name of the bucket that an account has for remoterun, its region), or (that of one to make, None). It is
    made from the account, so that two machines at their first use make one.

    Raises `AuthenticationError`, `HostUnreachable`, `HostError`.
    """
    name = f"remoterun-{account}-{hashlib.sha256(account.encode()).hexdigest()[:8]}"
    known = existing(account, region, endpoint, profile)
    if not known:
        return name, None
    name = name if name in known else known[0]
    with contextlib.closing(S3(BucketPlace(name, region, endpoint, profile))) as s3:
        return name, s3.find_region()


def existing(account: str, region: str | None, endpoint: str | None, profile: str | None) -> list[str]:
    """The buckets of an account that have a name of ours, as far as these credentials may list them. Raises as
    `name_for`."""
    prefix = f"remoterun-{account}-"
    with contextlib.closing(S3(BucketPlace(prefix + "x", region, endpoint, profile), FIRST_PATIENCE)) as s3:
        try:
            return [name for name in s3.names() if name.startswith(prefix)]
        except Denied:
            return []


def create(place: BucketPlace, tags: dict[str, str] | None = None) -> None:
    """Make the bucket, with tags of the user's own, and an archive in it; one of ours that exists is completed.

    Raises `AlreadyExists` for a name that somebody else has, `AuthenticationError`, `HostUnreachable`, `HostError`.
    """
    with contextlib.closing(S3(place)) as s3:
        s3.create(place.region or s3.region)
        identity(s3)
        with contextlib.suppress(HostError):  # not every store has tags
            s3.tag({**(tags or {}), "remoterun": "archive"})


def remove(place: BucketPlace) -> None:
    """Delete the bucket with all that is in it, also what versions of it keep. One that is gone is fine. Raises as
    `name_for`."""
    with contextlib.closing(S3(place)) as s3, contextlib.suppress(NoBucket):
        s3.remove()


def checks(place: BucketPlace | None) -> list[MachineCheck]:
    """The lines of `doctor` about a bucket. One object is written and removed."""
    if place is None:
        return [MachineCheck("bucket", None, "none is set up yet", HOW_TO_MAKE_ONE)]
    found: list[MachineCheck] = []
    try:
        with contextlib.closing(S3(place, FIRST_PATIENCE)) as s3:
            for check in (_bucket, _permissions):
                found.append(check(s3))
    except NoBucket as error:
        found.append(MachineCheck("bucket", False, error.message, HOW_TO_MAKE_ONE))
    except RemoterunError as error:
        found.append(MachineCheck("permissions" if found else "bucket", False, error.message, error.hint))
    return found


def _bucket(s3: S3) -> MachineCheck:
    next(s3.list(""), None)
    where = f" at {s3.place.endpoint}" if s3.place.endpoint else f" in {s3.find_region()}"
    return MachineCheck("bucket", True, s3.place.address + where)


def _permissions(s3: S3) -> MachineCheck:
    key = f"doctor/{secrets.token_hex(8)}"
    data = b"remoterun doctor"
    lacking = []
    for action, request in (
        ("s3:PutObject", lambda: s3.put(key, data)),
        ("s3:GetObject", lambda: s3.get(key, len(data))),
        ("s3:DeleteObject", lambda: s3.delete([key])),
    ):
        try:
            with contextlib.suppress(Absent):  # it could not be written
                request()
        except Denied:
            lacking.append(action)
    if not lacking:
        return MachineCheck("permissions", True, "objects can be listed, read, written and removed")
    what = f"these are missing, for {s3.place.name}/*: {', '.join(lacking)}"
    return MachineCheck("permissions", False, what, f"remoterun doctor {ARCHIVE} --policy   prints all that is needed")
