"""The requests that S3 is asked, and its errors as ours: the room of boto3.

Every object is written with its SHA-256, so that the store refuses what did not arrive as it was sent. A request that
may do better later (no answer, "slow down", an error of the store's own) is repeated until `patience` is over.

Longer than other files, since nothing else of this package may know boto3 and its errors.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from remoterun.agent.shared.frames import Bytes
from remoterun.agent.shared.tree import show
from remoterun.aws_codes import DENIED, EXPIRED, LATER, LOGIN_ENDED, NO_CREDENTIALS, UNKNOWN_KEY, is_one_of
from remoterun.buckets.place import BucketPlace
from remoterun.errors import AlreadyExists, AuthenticationError, HostError, HostUnreachable, TransferError

CONNECT, READ = 10.0, 30.0
"""Seconds until a connection stands, and until the next bytes come."""
PATIENCE = 30.0
"""Seconds for which a request is repeated that may do better later."""
PAUSES = 0.2, 5.0
"""Seconds between two tries: the first pause, and the longest."""
CONNECTIONS = 16
PIECE = 1 << 20
"""Bytes of a body that are sent at once."""
PAGE = 1000
"""Keys of a page of a listing."""
MOST_SMALL = 1 << 20
"""Bytes of an object of JSON that two clients may want to write."""
MOST_KEYS = 5_000_000
"""Keys that a listing may have."""

T = TypeVar("T")


class NoBucket(HostError):
    """There is no bucket of that name."""


class Absent(Exception):
    """There is no object of that key."""


class Damaged(HostError):
    """An object that is not what it should be."""


class Unsupported(HostError):
    """The store does not know such a request."""


class Denied(AuthenticationError):
    """The credentials are right, and do not allow this."""


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing names it. `modified` in seconds since 1970, by the store's clock."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class Page:
    """A part of a listing, in the order of the keys; `more`: others follow after the last one."""

    objects: list[StoredObject]
    more: bool


class S3:
    """One bucket. Any thread may call any method. Raises `HostUnreachable`, `AuthenticationError`, `HostError`."""

    def __init__(
        self,
        place: BucketPlace,
        patience: float = PATIENCE,
        connect: float = CONNECT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Asks nothing of the store. `connect`: seconds until a connection stands."""
        self.place = place
        self.patience = patience
        self.requests = 0
        """Requests that were made, for tests and benches."""
        self._clock = clock
        self._closed = threading.Event()
        self._connect = connect
        self._client = self._translating(lambda: _client(place, connect))

    def close(self) -> None:
        """End what still waits. May be called twice."""
        self._closed.set()
        self._client.close()

    def get(self, key: str, most: int) -> bytes:
        """An object of `most` bytes at the most. Raises `Absent`, and `HostError` for a longer one."""

        def read() -> bytes:
            answer = self._client.get_object(Bucket=self.place.name, Key=key)
            with answer["Body"] as body:
                if answer["ContentLength"] > most:
                    raise self.bad(key, f"it has {answer['ContentLength']:,} bytes, and {most:,} are allowed")
                return bytes(body.read())

        return self._ask("GetObject", key, read)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """So many bytes of an object, or those of them that there are. Raises `Absent`."""
        if not length:
            return b""

        def read() -> bytes:
            wanted = f"bytes={offset}-{offset + length - 1}"
            answer = self._client.get_object(Bucket=self.place.name, Key=key, Range=wanted)
            with answer["Body"] as body:
                if answer["ContentLength"] > length:
                    raise self.bad(key, "more bytes came than were asked for")
                return bytes(body.read())

        try:
            return self._ask("GetObject", key, read)
        except _OutOfRange:
            return b""

    def head(self, key: str) -> StoredObject | None:
        """None where there is no such object."""
        try:
            answer = self._ask(
                "GetObject", key, lambda: self._client.head_object(Bucket=self.place.name, Key=key)
            )  # s3:GetObject is the permission that it needs
        except Absent:
            return None
        return StoredObject(key, answer["ContentLength"], answer["LastModified"].timestamp())

    def put(self, key: str, parts: Sequence[Bytes], digest: str, **conditions: str) -> None:
        """Write an object whose SHA-256 is `digest`. May be repeated. Raises `TransferError` if other bytes arrive."""
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        self._ask(
            "PutObject",
            key,
            lambda: self._client.put_object(
                Bucket=self.place.name, Key=key, Body=_body(parts), ChecksumSHA256=checksum, **conditions
            ),
        )

    def write(self, key: str, data: bytes) -> None:
        """The same for a small one, of which nobody knows the SHA-256 yet."""
        self.put(key, [data], _digest(data))

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object, unless there is one of that key; whether there was none."""
        for _ in range(20):
            try:
                self.put(key, [data], _digest(data), IfNoneMatch="*")
                return True
            except _Exists:
                with suppress(Absent):  # an earlier try may have written it, whose answer was lost
                    return self.get(key, MOST_SMALL) == data
            except _Conflict:
                self._closed.wait(PAUSES[0])
        raise HostError(f"others keep writing `{show(key)}` in {self.place.address}", hint="try again")

    def copy(self, key: str, target: str) -> bool:
        """Copy an object inside the bucket; False where there is none. Onto itself, it is as young as if it had been
        written just now."""
        source = {"Bucket": self.place.name, "Key": key}
        again = {"MetadataDirective": "REPLACE"} if key == target else {}

        def copy() -> None:
            self._client.copy_object(Bucket=self.place.name, Key=target, CopySource=source, **again)

        try:
            self._ask("PutObject", key, copy)
        except Absent:
            return False
        return True

    def page(self, prefix: str, after: str = "", most: int = PAGE) -> Page:
        """The first objects whose keys begin with `prefix` and come after `after`."""
        answer = self._list(prefix, after, MaxKeys=most)
        listed = answer.get("Contents", ())
        found = [StoredObject(item["Key"], item["Size"], item["LastModified"].timestamp()) for item in listed]
        last = after
        for item in found:
            if not item.key.startswith(prefix) or item.key <= last or item.size < 0:
                raise self.bad(item.key, "the listing of the store makes no sense")
            last = item.key
        return Page(found, bool(answer.get("IsTruncated")) and bool(found))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose keys begin with `prefix`, in the order of the keys."""
        after, count = "", 0
        while True:
            page = self.page(prefix, after)
            yield from page.objects
            count += len(page.objects)
            if not page.more:
                return
            if count > MOST_KEYS:
                raise self.bad(prefix, f"it has more than {MOST_KEYS:,} objects")
            after = page.objects[-1].key

    def folders(self, prefix: str) -> Iterator[str]:
        """The names that follow `prefix` and end in a slash, in their order."""
        after = ""
        while True:
            answer = self._list(prefix, after, Delimiter="/")
            found = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
            if any(not name.startswith(prefix) or name <= after for name in found):
                raise self.bad(prefix, "the listing of the store makes no sense")
            for name in found:
                yield name[len(prefix) : -1]
            if not answer.get("IsTruncated") or not found:
                return
            after = found[-1] + "\U0010ffff"

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; what is not there is fine."""
        for start in range(0, len(keys), PAGE):
            part = [{"Key": key} for key in keys[start : start + PAGE]]
            answer = self._ask(
                "DeleteObject",
                keys[start],
                lambda part=part: self._client.delete_objects(  # type: ignore[misc]
                    Bucket=self.place.name, Delete={"Objects": part, "Quiet": True}
                ),
            )
            for failed in answer.get("Errors", ()):
                if failed.get("Code") == "AccessDenied":
                    raise _denied("DeleteObject", self.place)
                raise HostError(
                    f"`{show(str(failed.get('Key'))[:200])}` can't be removed from {self.place.address}:"
                    f" {show(str(failed.get('Message'))[:200])}"
                )

    def find_region(self) -> None:
        """Ask from now on where the bucket is. Other requests find their way from any region; what is signed does
        not."""
        if not self.is_amazon:
            return
        answer = self._ask("ListBucket", "", lambda: self._client.head_bucket(Bucket=self.place.name))
        found = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if found and found != self.region:
            self._client.close()
            there = replace(self.place, region=found)
            self._client = self._translating(lambda: _client(there, self._connect))

    def presigned_get(self, key: str, seconds: float) -> str:
        """An address that gives the object to whoever asks, for so many seconds. Asks nothing of the store."""
        wanted = {"Bucket": self.place.name, "Key": key}
        return str(
            self._translating(
                lambda: self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=int(seconds))
            )
        )

    def presigned_post(self, prefix: str, seconds: float, most: int) -> tuple[str, dict[str, str]]:
        """(address, fields) of a form by which whoever has them writes objects of up to `most` bytes below `prefix`."""
        conditions: list[Any] = [
            ["starts-with", "$x-amz-checksum-sha256", ""],
            ["content-length-range", 0, most],
        ]
        answer = self._translating(
            lambda: self._client.generate_presigned_post(
                self.place.name, prefix + "${filename}", Conditions=conditions, ExpiresIn=int(seconds)
            )
        )
        return answer["url"], {name: value for name, value in answer["fields"].items() if name != "key"}

    def credentials_end(self) -> float | None:
        """When the credentials end, in seconds since 1970; None where they do not, or where it is not known."""
        credentials = self._client._request_signer._credentials
        expiry = getattr(credentials, "_expiry_time", None)
        return expiry.timestamp() if isinstance(expiry, datetime) else None

    @property
    def lasting_credentials(self) -> bool:
        """Whether they are those of a user, without a session."""
        return self._client._request_signer._credentials.get_frozen_credentials().token is None

    @property
    def is_amazon(self) -> bool:
        """Whether it is Amazon's own store."""
        return ".amazonaws." in str(self._client.meta.endpoint_url)

    @property
    def region(self) -> str:
        """The region that is asked; "" where none was named."""
        return self._client.meta.region_name or ""

    def create(self, region: str) -> None:
        """Make the bucket; one of ours that is there is fine. Raises `AlreadyExists` for a name that is taken."""
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        more = {} if region in ("", "us-east-1", "aws-global") else where
        with suppress(_Exists):
            self._ask("CreateBucket", "", lambda: self._client.create_bucket(Bucket=self.place.name, **more))

    def names(self) -> Sequence[str]:
        """All buckets of the account. Raises `Denied` for credentials that may not list them."""
        answer = self._ask("ListAllMyBuckets", "", lambda: self._client.list_buckets())
        return [str(bucket["Name"]) for bucket in answer.get("Buckets", ())]

    def clock(self) -> float | None:
        """The store's time, in seconds since 1970, as far as it tells."""
        answer = self._ask("ListBucket", "", lambda: self._client.head_bucket(Bucket=self.place.name))
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        with suppress(TypeError, ValueError):
            return parsedate_to_datetime(said).timestamp()
        return None

    def call(self, operation: str, **arguments: Any) -> Any:
        """Another request about the bucket, by the name of its method. Raises `Absent` for what is not set."""
        action = _ACTIONS.get(operation, operation)
        return self._ask(action, "", lambda: getattr(self._client, operation)(Bucket=self.place.name, **arguments))

    def bad(self, key: str, why: str) -> Damaged:
        return Damaged(
            f"`{show(key[:300])}` in {self.place.address} is damaged: {why}",
            hint="remoterun machines check aws",
        )

    def _list(self, prefix: str, after: str, **more: Any) -> Any:
        if after:
            more["StartAfter"] = after
        return self._ask(
            "ListBucket",
            prefix,
            lambda: self._client.list_objects_v2(Bucket=self.place.name, Prefix=prefix, **more),
        )

    def _ask(self, action: str, key: str, request: Callable[[], T]) -> T:
        until = self._clock() + self.patience
        pause = PAUSES[0]
        while True:
            self.requests += 1
            try:
                return self._translating(request, action, key)
            except HostUnreachable:
                if self._closed.is_set() or self._clock() + pause > until:
                    raise
            self._closed.wait(pause)
            pause = min(pause * 2, PAUSES[1])

    def _translating(self, request: Callable[[], T], action: str = "", key: str = "") -> T:
        import botocore.exceptions

        try:
            return request()
        except botocore.exceptions.ClientError as error:
            raise _told(error.response, self.place, action, key) from error
        except (botocore.exceptions.BotoCoreError, OSError, ValueError) as error:
            raise _failed(error, self.place) from error


class _Exists(Exception):
    """There is an object of that key already."""


class _Conflict(Exception):
    """Another client writes that object just now."""


class _OutOfRange(Exception):
    """The object ends before what was asked for."""


class _Parts:
    """The body of a request in several pieces, which need not be put together for that."""

    def __init__(self, parts: Sequence[Bytes]) -> None:
        self._views = [memoryview(part) for part in parts]
        self._size = sum(map(len, self._views))
        self._at = self._told = 0
        self._left = memoryview(b"")

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> Bytes:
        """The next piece, whatever `size` is: sent in small ones, each would cost a call of the system."""
        while not self._left and self._at < len(self._views):
            self._left = self._views[self._at]
            self._at += 1
        piece, self._left = self._left[:PIECE], self._left[PIECE:]
        self._told += len(piece)
        return piece

    def tell(self) -> int:
        return self._told

    def seek(self, offset: int, whence: int = 0) -> int:
        """To the start, or to the end."""
        self._left = memoryview(b"")
        self._at, self._told = (0, 0) if offset == 0 and whence == 0 else (len(self._views), self._size)
        return self._told


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _body(parts: Sequence[Bytes]) -> Any:
    small = sum(map(len, parts)) <= PIECE
    return b"".join(bytes(part) for part in parts) if small else _Parts(parts)


def _client(place: BucketPlace, connect: float) -> Any:
    import boto3
    from botocore.config import Config

    plain = Config(
        signature_version="s3v4",
        connect_timeout=connect,
        read_timeout=READ,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3={"payload_signing_enabled": False},  # the checksum is signed, and verified
    )
    session = boto3.Session(profile_name=place.profile, region_name=place.region)
    client = session.client("s3", endpoint_url=place.endpoint, config=plain)
    if ".amazonaws." not in str(client.meta.endpoint_url) or "." in place.name:
        return client
    # Else what is signed names s3.amazonaws.com, which sends whoever asks for a new bucket elsewhere for a day.
    client.close()
    regional = plain.merge(Config(s3={**plain.s3, "addressing_style": "virtual"}))
    return session.client("s3", endpoint_url=place.endpoint, config=regional)


LOGIN = "`aws sso login`, or `aws configure`"
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
_DIGEST = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest"}
_ACTIONS = {
    "get_public_access_block": "GetBucketPublicAccessBlock",
    "put_public_access_block": "PutBucketPublicAccessBlock",
    "get_bucket_encryption": "GetEncryptionConfiguration",
    "put_bucket_encryption": "PutEncryptionConfiguration",
    "get_bucket_lifecycle_configuration": "GetLifecycleConfiguration",
    "put_bucket_lifecycle_configuration": "PutLifecycleConfiguration",
    "get_bucket_location": "GetBucketLocation",
}
"""The permissions that requests need, where they have other names."""
_UNSUPPORTED = {"NotImplemented", "XNotImplemented", "MethodNotAllowed", "UnsupportedOperation"}
_UNSET = {"NoSuchKey", "NoSuchLifecycleConfiguration", "NoSuchPublicAccessBlockConfiguration", "NotFound", "404"}
_UNSET |= {"ServerSideEncryptionConfigurationNotFoundError"}


def _told(response: Any, place: BucketPlace, action: str, key: str) -> Exception:
    """What the store answered, as one of our errors."""
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), show(str(error.get("Message", ""))[:300])
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    where = place.address
    if code in _UNSET:
        return Absent(key)
    if code == "NoSuchBucket":
        return NoBucket(f"there is no bucket {where}", hint="remoterun doctor aws")
    if code == "BucketAlreadyExists":
        return AlreadyExists(f"somebody else has a bucket of the name `{place.name}`", hint="choose another name")
    if code in _UNSUPPORTED:
        return Unsupported(f"{where} does not know {action or 'such a request'}")
    if code in ("PreconditionFailed", "BucketAlreadyOwnedByYou") or status == 412:
        return _Exists(key)
    if code == "OperationAborted":  # the bucket was made, or removed, just now
        return HostUnreachable(f"{where} is not ready yet: {message or code}", hint="try again in a while")
    if code == "ConditionalRequestConflict" or status == 409:
        return _Conflict(key)
    if code == "InvalidRange" or status == 416:
        return _OutOfRange(key)
    if code in EXPIRED:
        return AuthenticationError("the AWS credentials have expired", hint=LOGIN)
    if code in UNKNOWN_KEY:
        return AuthenticationError(f"{where} does not accept the AWS credentials: {message or code}", hint=LOGIN)
    if code == "RequestTimeTooSkewed":
        return HostError(
            f"the clock of this machine is off, so that {where} refuses its requests",
            hint="sudo timedatectl set-ntp true",
        )
    if code in _ELSEWHERE:
        region = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        named = f": it is in {region}" if region else ""
        return HostError(
            f"{where} is in another region than was said{named}", hint="set `region` in [aws] of config.toml"
        )
    if code in DENIED or status == 403:
        return _denied(action, place)
    if code in _DIGEST:
        return TransferError(f"`{show(key)}` did not arrive in {where} as it was read", hint="try again")
    if status >= 500 or status == 429 or code in LATER:
        return HostUnreachable(f"{where} does not work just now: {code or status}", hint="try again in a while")
    return HostError(f"{where} refuses {action or 'a request'}: {message or code or status}")


def _denied(action: str, place: BucketPlace) -> Denied:
    allowed = f"s3:{action}" if action else "it"
    return Denied(f"these AWS credentials do not allow {allowed} in {place.address}", hint="remoterun doctor aws")


def _failed(error: Exception, place: BucketPlace) -> Exception:
    """What kept a request from its answer, as one of our errors."""
    from botocore import exceptions as b

    text = show(str(error)[:300])
    if is_one_of(error, {*NO_CREDENTIALS, "CredentialRetrievalError"}):
        return AuthenticationError("there are no AWS credentials", hint=LOGIN, evidence=text)
    if isinstance(error, b.ProfileNotFound):
        return AuthenticationError(f"there is no AWS profile `{place.profile}`", hint="aws configure list-profiles")
    if is_one_of(error, LOGIN_ENDED):
        return AuthenticationError("the AWS login has expired", hint="aws sso login", evidence=text)
    if isinstance(error, b.NoRegionError):
        return HostError(f"the region of {place.address} is not known", hint="set `region` in [aws] of config.toml")
    if isinstance(error, b.SSLError):
        return HostError(f"{place.address} can't be reached safely: {text}", hint="check `endpoint` in [aws]")
    if isinstance(error, b.ParamValidationError | ValueError) or type(error) is b.BotoCoreError:
        return HostError(f"{place.address} can't be asked: {text}", hint="check [aws] in config.toml")
    return HostUnreachable(f"{place.address} can't be reached: {text}", hint="check the network")
