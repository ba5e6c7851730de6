"""The errors of a store as ours, by the codes of its answers and the exceptions of boto3."""

from __future__ import annotations

from typing import Any

from remoterun.agent.shared.tree import show
from remoterun.archive.objects import Absent, Denied, NoBucket
from remoterun.archive.s3_codes import DENIED, LATER, POLICY, account_fault, login_fault
from remoterun.errors import AlreadyExists, AuthenticationError, HostError, HostUnreachable, TransferError


class Exists(Exception):
    """An object has that key already."""


class OutOfRange(Exception):
    """The object ends before what was asked for."""


_DIGEST = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest"}
_ABSENT = {"NoSuchKey", "NotFound", "404"}


def answered(response: Any, name: str, action: str, key: str) -> Exception:
    """What the store of the bucket `name` answered, as one of our errors."""
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), show(str(error.get("Message", ""))[:300])
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    where = f"s3://{name}"
    if code in _ABSENT:
        return Absent(key)
    if code == "NoSuchBucket":
        return NoBucket(f"there is no bucket {where}", hint="remoterun doctor aws")
    if code == "BucketAlreadyExists":
        return AlreadyExists(
            f"somebody else has a bucket of the name `{name}`", hint='bucket = "…" below [archive] in config.toml'
        )
    if code in ("PreconditionFailed", "BucketAlreadyOwnedByYou") or status == 412:
        return Exists(key)
    if status == 409:  # the bucket was made, or removed, just now; or another client writes that object
        return HostUnreachable(f"{where} is not ready yet: {message or code}", hint="try again in a while")
    if code == "InvalidRange" or status == 416:
        return OutOfRange(key)
    if fault := login_fault(code) or account_fault(code, message, "REGION"):
        return AuthenticationError(fault[0], hint=fault[1], evidence=f"{where}: {message or code}")
    if code == "RequestTimeTooSkewed":
        return HostError(
            f"the clock of this machine is off, so that {where} refuses its requests",
            hint="sudo timedatectl set-ntp true",
        )
    if code in DENIED or status == 403:
        asked = f"`s3:{action}`" if action else "this"
        denied = Denied(f"these credentials may not do {asked} in {where}", evidence=message or None, hint=POLICY)
        denied.action = f"s3:{action}"
        return denied
    if code in _DIGEST:
        return TransferError(f"`{show(key)}` did not arrive in {where} as it was read", hint="try again")
    if code in LATER or status == 429 or (status >= 500 and status != 501):
        return HostUnreachable(f"{where} does not work just now: {code or status}", hint="try again in a while")
    return HostError(f"{where} refuses {action or 'a request'}: {message or code or status}")


def failed(error: Exception, name: str, profile: str | None) -> Exception:
    """What kept a request from its answer, as one of our errors."""
    from botocore import exceptions as b

    text = show(str(error)[:300])
    if fault := login_fault(error):
        return AuthenticationError(fault[0], hint=fault[1], evidence=text)
    if isinstance(error, b.ProfileNotFound):
        return AuthenticationError(f"there is no AWS profile `{profile}`", hint="aws configure list-profiles")
    wrong = (b.NoRegionError, b.SSLError, b.ParamValidationError, ValueError)
    if isinstance(error, wrong) or type(error) is b.BotoCoreError:
        return HostError(f"s3://{name} can't be asked: {text}", hint="check [archive] in config.toml")
    return HostUnreachable(f"s3://{name} can't be reached: {text}", hint="check the network")
