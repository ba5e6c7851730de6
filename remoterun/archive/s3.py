"""The requests that S3 is asked: with s3_errors.py the room of boto3.

Every object is written with its SHA-256, so that the store refuses what did not arrive as it was sent. A request that
may do better later (no answer, "slow down", an error of the store's own) is repeated until `patience` is over.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from remoterun.agent.shared.archive import Grant
from remoterun.agent.shared.frames import Bytes
from remoterun.agent.store.http_client import HttpClient, HttpError
from remoterun.agent.store.objects import Content, post
from remoterun.archive import s3_session
from remoterun.archive.objects import OWNED, PATIENCE, Absent, BucketPlace, Denied, Objects, StoredObject
from remoterun.archive.s3_errors import Exists, OutOfRange, answered, failed
from remoterun.errors import HostError, HostUnreachable

CONNECT, READ = 10.0, 30.0
"""Seconds until a connection stands, and until the next bytes come."""
PAUSES = 0.2, 5.0
"""Seconds between two tries: the first pause, and the longest."""
CONNECTIONS = 16
REFUSES_FORMS = (400, 405, 411, 501)
"""Statuses of stores that know no forms."""
PAGE = 1000
"""Keys of a page of a listing."""
MOST_KEYS = 5_000_000
"""Keys that a listing may have."""
UNKNOWN = 3600.0
"""Seconds for which credentials are trusted to last that end some time, and don't say when."""
STORED = 0.023
"""US dollars a month for a GB in Amazon's S3, in most regions."""

T = TypeVar("T")


class S3(Objects):
    """One bucket."""

    def __init__(self, place: BucketPlace, patience: float = PATIENCE) -> None:
        """Asks nothing of the store."""
        self.place = place
        owned = OWNED.match(place.name)
        self._where = {"Bucket": place.name, **({"ExpectedBucketOwner": owned[1]} if owned else {})}
        self.patience = patience
        self.requests = 0
        """Requests that were made: of those, S3 takes its price."""
        self.closed = threading.Event()
        self._finding = threading.Lock()
        self._found_region = False
        self._forms: bool | None = None
        self._client = self._translating(lambda: _client(place))

    def close(self) -> None:
        self.closed.set()
        self._client.close()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if not length:
            return b""

        def read() -> bytes:
            wanted = f"bytes={offset}-{offset + length - 1}"
            answer = self._client.get_object(**self._where, Key=key, Range=wanted)
            with answer["Body"] as body:
                if answer["ContentLength"] > length:
                    raise self.bad(key, "more bytes came than were asked for")
                return bytes(body.read())

        try:
            return self._ask("GetObject", key, read)
        except OutOfRange:
            return b""

    def head(self, key: str) -> tuple[int, str] | None:
        try:
            asked = {**self._where, "Key": key, "ChecksumMode": "ENABLED"}
            answer = self._ask("GetObject", key, lambda: self._client.head_object(**asked))  # its permission
        except Absent:
            return None
        with suppress(ValueError):
            return answer["ContentLength"], base64.b64decode(answer.get("ChecksumSHA256", ""), validate=True).hex()
        return answer["ContentLength"], ""

    def put(self, key: str, data: Bytes, digest: str = "", **conditions: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(digest) if digest else hashlib.sha256(data).digest()).decode()
        written = {**self._where, "Key": key, "ChecksumSHA256": checksum, **conditions}
        self._ask("PutObject", key, lambda: self._client.put_object(**written, Body=io.BytesIO(data)))

    def put_new(self, key: str, data: Bytes) -> bool:
        try:
            self.put(key, data, IfNoneMatch="*")
        except Exists:
            with suppress(Absent):
                return self.get_range(key, 0, len(data) + 1) == data
            return False
        return True

    def list(self, prefix: str, after: str = "", most: int = MOST_KEYS) -> Iterator[StoredObject]:
        for key, item in self._listed("Contents", "Key", prefix, after, most, MaxKeys=PAGE):
            yield StoredObject(key, max(item["Size"], 0), item["LastModified"].timestamp())

    def folders(self, prefix: str) -> Iterator[str]:
        for name, _ in self._listed("CommonPrefixes", "Prefix", prefix, "", MOST_KEYS, Delimiter="/"):
            yield name[len(prefix) : -1]

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), PAGE):
            self._delete([{"Key": key} for key in keys[start : start + PAGE]])

    def _delete(self, part: Sequence[dict[str, str]]) -> None:
        wanted = {**self._where, "Delete": {"Objects": part, "Quiet": True}}
        answer = self._ask("DeleteObject", part[0]["Key"], lambda: self._client.delete_objects(**wanted))
        for error in answer.get("Errors", ()):
            raise answered({"Error": error}, self.place.name, "DeleteObject", str(error.get("Key")))

    def remove(self) -> None:
        while True:
            listed = self._ask("ListBucketVersions", "", lambda: self._client.list_object_versions(**self._where))
            found = [*listed.get("Versions", ()), *listed.get("DeleteMarkers", ())]
            if not found:
                break
            self._delete([{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found])
        self._ask("DeleteBucket", "", lambda: self._client.delete_bucket(**self._where))

    def find_region(self) -> str:
        """Ask from now on where the bucket is, in the region that this returns. Other requests find their way from any
        region; what is signed does not."""
        with self._finding:
            if not self._found_region and _is_amazon(self._client):
                answer = self._ask("ListBucket", "", lambda: self._client.head_bucket(**self._where))
                found = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
                if found and found != self.region:
                    self._client.close()
                    there = replace(self.place, region=found)
                    self._client = self._translating(lambda: _client(there))
                self._found_region = True
            return self.region

    def presigned_get(self, key: str, seconds: float, part: tuple[int, int] | None = None) -> str:
        wanted = {"Bucket": self.place.name, "Key": key}
        if part is not None:
            wanted["Range"] = f"bytes={part[0]}-{sum(part) - 1}"
        asked = {"Params": wanted, "ExpiresIn": int(seconds)}
        return str(self._translating(lambda: self._client.generate_presigned_url("get_object", **asked)))

    def presigned_post(self, prefix: str, seconds: float, most: int) -> tuple[str, dict[str, str]]:
        if self.place.endpoint is not None and not self._takes_forms():
            return super().presigned_post(prefix, seconds, most)
        return self._form(prefix, seconds, most)

    def _takes_forms(self) -> bool:
        """Whether the store does, as some do not: an empty object is posted to find out. One that does not answer may
        do."""
        if self._forms is None:
            url, fields = self._form("may-write", 60, 1)
            with HttpClient() as http:
                try:
                    post(http, Grant(url, fields, "", 0.0), "may-write", Content.of(b""))
                    self._forms = True
                    with suppress(HostError):
                        self.delete(["may-write"])
                except HttpError as error:
                    self._forms = False if error.status in REFUSES_FORMS else None
        return self._forms is not False

    def _form(self, prefix: str, seconds: float, most: int) -> tuple[str, dict[str, str]]:
        conditions: list[Any] = [["starts-with", "$x-amz-checksum-sha256", ""], ["content-length-range", 0, most]]
        asked = {"Key": prefix + "${filename}", "Conditions": conditions, "ExpiresIn": int(seconds)}
        answer = self._translating(lambda: self._client.generate_presigned_post(self.place.name, **asked))
        return answer["url"], {name: value for name, value in answer["fields"].items() if name != "key"}

    def credentials_end(self) -> float | None:
        credentials = self._client._request_signer._credentials
        expiry = getattr(credentials, "_expiry_time", None)
        if isinstance(expiry, datetime):
            return expiry.timestamp()
        return None if credentials.get_frozen_credentials().token is None else time.time() + UNKNOWN

    def monthly(self, size: int) -> float | None:
        return size / 1e9 * STORED if self.place.endpoint is None else None

    @property
    def region(self) -> str:
        """The region that is asked; "" where none was named."""
        return self._client.meta.region_name or ""

    def create(self) -> None:
        where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        more = {} if self.region in ("", "us-east-1", "aws-global") else where
        with suppress(Exists):
            self._ask("CreateBucket", "", lambda: self._client.create_bucket(Bucket=self.place.name, **more))

    def tag(self, labels: dict[str, str]) -> None:
        tags = dict[str, str]()
        with suppress(HostError):  # it has none
            listed = self._ask("GetBucketTagging", "", lambda: self._client.get_bucket_tagging(**self._where))
            tags = {each["Key"]: each["Value"] for each in listed["TagSet"]}
        if not labels.items() <= tags.items():
            tagged = {"TagSet": [{"Key": key, "Value": value} for key, value in {**tags, **labels}.items()]}
            self._ask("PutBucketTagging", "", lambda: self._client.put_bucket_tagging(**self._where, Tagging=tagged))

    def names(self) -> Sequence[str]:
        answer = self._ask("ListAllMyBuckets", "", lambda: self._client.list_buckets())
        return [str(bucket["Name"]) for bucket in answer.get("Buckets", ())]

    def _listed(
        self, kind: str, field: str, prefix: str, after: str, most: int, **asked: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, all that is said of it) of up to `most` things of a kind, in the order of their names."""
        count = 0
        while True:
            words = {**self._where, "Prefix": prefix, **({"StartAfter": after} if after else {}), **asked}
            answer = self._ask("ListBucket", prefix, functools.partial(self._client.list_objects_v2, **words))
            found = answer.get(kind, ())
            count += len(found)
            if count > most:
                raise self.bad(prefix, f"it has more than {most:,} objects")
            for item in found:
                if not item[field].startswith(prefix) or item[field] <= after:
                    raise self.bad(item[field], "the listing of the store makes no sense")
                after = item[field]
                yield after, item
            if not answer.get("IsTruncated") or not found:
                return
            after += "􏿿" if "Delimiter" in asked else ""

    def _ask(self, action: str, key: str, request: Callable[[], T]) -> T:
        until = time.monotonic() + self.patience
        pause = PAUSES[0]
        while True:
            self.requests += 1
            try:
                return self._translating(request, action, key)
            except Denied:
                if self._is_anothers():
                    message = f"{self.place.address} belongs to another AWS account than the one in its name"
                    raise Denied(message, hint="name another bucket in config.toml: [archive] bucket")
                raise
            except HostUnreachable:
                if self.closed.is_set() or time.monotonic() + pause > until:
                    raise
            self.closed.wait(pause)
            pause = min(pause * 2, PAUSES[1])

    def _is_anothers(self) -> bool:
        """Whether the bucket is there only for who does not ask for its owner."""

        def is_there(**where: str) -> bool:
            with suppress(Exception):  # of boto3: why something was refused is known by now
                return bool(self._client.head_bucket(**where))
            return False

        return not is_there(**self._where) and is_there(Bucket=self.place.name)

    def _translating(self, request: Callable[[], T], action: str = "", key: str = "") -> T:
        import botocore.exceptions

        try:
            return request()
        except botocore.exceptions.ClientError as error:
            raise answered(error.response, self.place.name, action, key) from error
        except (botocore.exceptions.BotoCoreError, OSError, ValueError, EOFError) as error:
            raise failed(error, self.place.name, self.place.profile) from error


def _is_amazon(client: Any) -> bool:
    return ".amazonaws." in str(client.meta.endpoint_url)


def _client(place: BucketPlace) -> Any:
    from botocore.config import Config

    plain = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT,
        read_timeout=READ,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3={"payload_signing_enabled": False},  # the checksum is signed, and verified
    )
    client = s3_session.client("s3", place.profile, place.region, endpoint_url=place.endpoint, config=plain)
    if not _is_amazon(client) or "." in place.name:
        return client
    # Else what is signed names s3.amazonaws.com, which sends whoever asks for a new bucket elsewhere for a day.
    client.close()
    regional = plain.merge(Config(s3={**plain.s3, "addressing_style": "virtual"}))
    return s3_session.client("s3", place.profile, place.region, endpoint_url=place.endpoint, config=regional)
