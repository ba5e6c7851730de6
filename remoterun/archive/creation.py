"""A bucket is made, and examined: private, encrypted, and without what aborted uploads leave.

Every step looks before it acts, so that it may be repeated. Of another store than Amazon's it is not known whether it
can encrypt: that is left to whoever runs it, and so is what the store does not know of.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive import FIRST_PATIENCE, identity
from remoterun.archive.s3 import S3, BucketPlace
from remoterun.archive.s3_errors import Absent, Denied, NoBucket, Unsupported
from remoterun.errors import HostError, RemoterunError

ABORT_DAYS = 7
"""Days after which the parts of an upload are deleted that was never ended."""
RULE = "remoterun: uploads that were aborted"
PRIVATE = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
CONSOLE = "https://console.aws.amazon.com/s3/buckets"


def new_name(account: str) -> str:
    """A name that nobody has yet, for the bucket of an account."""
    return f"remoterun-{account}-{secrets.token_hex(4)}"


def name_for(account: str, region: str | None, endpoint: str | None, profile: str | None) -> tuple[str, bool]:
    """(the name of the bucket that an account has for remoterun, True), or (a new one, False).

    Raises `AuthenticationError`, `HostUnreachable`, `HostError`.
    """
    new = new_name(account)
    s3 = S3(BucketPlace(new, region, endpoint, profile), FIRST_PATIENCE)
    try:
        known = [name for name in s3.names() if name.startswith(f"remoterun-{account}-")]
    except Denied:
        known = []
    finally:
        s3.close()
    return (known[0], True) if known else (new, False)


def create(place: BucketPlace) -> BucketPlace:
    """Make the bucket, and a home in it; one that is there, and ours, is completed. The place with its region.

    Raises `AlreadyExists` for a name that somebody else has, `AuthenticationError`, `HostUnreachable`, `HostError`.
    """
    s3 = S3(place)
    try:
        region = place.region or s3.region
        s3.create(region)
        secure(s3)
        identity(s3)
        return replace(place, region=region or None)
    finally:
        s3.close()


def secure(s3: S3) -> None:
    """Make the bucket private and encrypted, and let aborted uploads expire. Leaves what is so already."""
    if _setting(s3, "get_public_access_block", "PublicAccessBlockConfiguration") != PRIVATE:
        _set(s3, "put_public_access_block", PublicAccessBlockConfiguration=PRIVATE)
    if s3.is_amazon and not _setting(s3, "get_bucket_encryption", "ServerSideEncryptionConfiguration"):
        _set(s3, "put_bucket_encryption", ServerSideEncryptionConfiguration=ENCRYPTED)
    rules = _setting(s3, "get_bucket_lifecycle_configuration", "Rules") or []
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        rule = {
            "ID": RULE,
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_DAYS},
        }
        _set(s3, "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [*rules, rule]})


def checks(place: BucketPlace | None) -> list[MachineCheck]:
    """The lines of `doctor` about a bucket. Asks everything that a run will ask; one object is written and removed."""
    if place is None:
        return [MachineCheck("bucket", None, "none is set up yet", "remoterun upload PATH --to aws   makes one")]
    try:
        s3 = S3(place, FIRST_PATIENCE)
    except RemoterunError as error:
        return [_failed("bucket", error)]
    try:
        return list(_checks(s3))
    finally:
        s3.close()


def _checks(s3: S3) -> Iterator[MachineCheck]:
    address = s3.place.address
    try:
        next(s3.list(""), None)
    except NoBucket as error:
        yield MachineCheck("bucket", False, error.message, "remoterun upload PATH --to aws   makes one")
        return
    except RemoterunError as error:
        yield _failed("bucket", error)
        return
    yield MachineCheck("bucket", True, f"{address}" + (f" at {s3.place.endpoint}" if s3.place.endpoint else ""))
    yield from _about_region(s3)
    yield from _about_setting(s3, "private", "get_public_access_block", "PublicAccessBlockConfiguration", PRIVATE)
    yield from _about_setting(s3, "encrypted", "get_bucket_encryption", "ServerSideEncryptionConfiguration", None)
    yield from _about_permissions(s3)


def _about_region(s3: S3) -> Iterator[MachineCheck]:
    with suppress(HostError, Absent):
        where = str(s3.call("get_bucket_location").get("LocationConstraint") or "us-east-1")
        same = where == (s3.place.region or s3.region or where)
        yield MachineCheck(
            "region",
            same,
            where if same else f"the bucket is in {where}",
            None if same else f'[aws] region = "{where}"',
        )


def _about_setting(s3: S3, name: str, operation: str, field: str, wanted: Any) -> Iterator[MachineCheck]:
    try:
        found = s3.call(operation).get(field)
    except Absent:
        found = None
    except RemoterunError as error:
        yield MachineCheck(name, None, f"can't be asked: {error.message}")
        return
    good: bool | None = found == wanted if wanted is not None else bool(found)
    if not good and not s3.is_amazon:
        good = None  # it may be so all the same: who runs the store knows
    what = "" if good else f"the bucket is not set to be {name}"
    fix = f"{CONSOLE}/{s3.place.name}" if good is False else None
    yield MachineCheck(name, good, what, fix)


def _about_permissions(s3: S3) -> Iterator[MachineCheck]:
    key = f"doctor/{secrets.token_hex(8)}"
    data = b"remoterun doctor"
    lacking = []
    for action, request in (
        ("s3:PutObject", lambda: s3.put(key, data)),
        ("s3:GetObject", lambda: s3.get(key, len(data))),
        ("s3:DeleteObject", lambda: s3.delete([key])),
    ):
        try:
            request()
        except Denied:
            lacking.append(action)
        except Absent:
            pass  # it could not be written
        except RemoterunError as error:
            yield _failed("permissions", error)
            return
    if lacking:
        yield MachineCheck("permissions", False, "these are missing: " + ", ".join(lacking), _policy(s3.place, lacking))
    else:
        yield MachineCheck("permissions", True, "objects can be listed, read, written and removed")


def _policy(place: BucketPlace, actions: list[str]) -> str:
    """A statement to paste into the policy of the user."""
    import json

    resource = f"arn:aws:s3:::{place.name}/*"
    return json.dumps({"Effect": "Allow", "Action": actions, "Resource": resource})


def _failed(name: str, error: RemoterunError) -> MachineCheck:
    return MachineCheck(name, False, error.message, error.hint)


def _setting(s3: S3, operation: str, field: str) -> Any:
    """What is set; None where nothing is, or where the store does not know of it."""
    with suppress(Absent, Unsupported):
        return s3.call(operation).get(field)
    return None


def _set(s3: S3, operation: str, **what: Any) -> None:
    with suppress(Unsupported):
        s3.call(operation, **what)
