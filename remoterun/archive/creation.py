"""A bucket is made, and examined. Those of a cloud are private and encrypted from the start; of another store that is
up to whoever runs it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import closing, suppress

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive import FIRST_PATIENCE, identity
from remoterun.archive.objects import Absent, BucketPlace, Denied, NoBucket, Objects, opened
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
    with closing(opened(BucketPlace(name, region, endpoint, profile))) as bucket:
        return name, bucket.find_region()


def existing(account: str, region: str | None, endpoint: str | None, profile: str | None) -> list[str]:
    """The buckets of an account that have a name of ours, as far as these credentials may list them. Raises as
    `name_for`."""
    prefix = f"remoterun-{account}-"
    with closing(opened(BucketPlace(prefix + "x", region, endpoint, profile), FIRST_PATIENCE)) as any_bucket:
        try:
            return [name for name in any_bucket.names() if name.startswith(prefix)]
        except Denied:
            return []


def create(place: BucketPlace, tags: dict[str, str] | None = None) -> None:
    """Make the bucket, with tags of the user's own, and an archive in it; one of ours that exists is completed.

    Raises `AlreadyExists` for a name that somebody else has, `AuthenticationError`, `HostUnreachable`, `HostError`.
    """
    with closing(opened(place)) as bucket:
        bucket.create()
        identity(bucket)
        with suppress(HostError):  # not every store has tags
            bucket.tag({**(tags or {}), "remoterun": "archive"})


def remove(place: BucketPlace) -> None:
    """Delete the bucket with all that is in it, also what versions of it keep. One that is gone is fine. Raises as
    `name_for`."""
    with closing(opened(place)) as bucket, suppress(NoBucket):
        bucket.remove()


def checks(place: BucketPlace | None) -> list[MachineCheck]:
    """The lines of `doctor` about a bucket. One object is written and removed."""
    if place is None:
        return [MachineCheck("bucket", None, "none is set up yet", HOW_TO_MAKE_ONE)]
    found: list[MachineCheck] = []
    try:
        with closing(opened(place, FIRST_PATIENCE)) as bucket:
            next(bucket.list(""), None)
            region = bucket.find_region()
            where = f" at {place.endpoint}" if place.endpoint else f" in {region}" if region else ""
            found.append(MachineCheck("bucket", True, place.address + where))
            found.append(_permissions(bucket))
    except NoBucket as error:
        found.append(MachineCheck("bucket", False, error.message, HOW_TO_MAKE_ONE))
    except RemoterunError as error:
        found.append(MachineCheck("permissions" if found else "bucket", False, error.message, error.hint))
    return found


def _permissions(bucket: Objects) -> MachineCheck:
    key = f"doctor/{secrets.token_hex(8)}"
    data = b"remoterun doctor"
    lacking = []
    requests: list[Callable[[], object]] = [
        lambda: bucket.put(key, data),
        lambda: bucket.get(key, len(data)),
        lambda: bucket.delete([key]),
    ]
    for request in requests:
        try:
            with suppress(Absent):  # it could not be written
                request()
        except Denied as error:
            lacking.append(error.action)
    if not lacking:
        return MachineCheck("permissions", True, "objects can be listed, read, written and removed")
    what = f"these are missing, for {bucket.place.name}/*: {', '.join(lacking)}"
    return MachineCheck("permissions", False, what, f"remoterun doctor {ARCHIVE} --policy   prints all that is needed")
