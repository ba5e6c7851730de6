"""Objects that a host writes into a bucket by a signed form: all that it may write there.

The server is told the SHA-256 of each, and refuses other bytes, if the form's policy lets us say so; otherwise an
answer of success is all that is known.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time
from typing import Any, BinaryIO, Callable, Iterator, NamedTuple

from ..shared.bucket import Grant
from ..shared.files import token
from .http_client import HttpClient, HttpError

CHECKSUM = "x-amz-checksum-sha256"
PIECE = 1 << 20
TRIES = 3
"""Tries of one object."""


class Content(NamedTuple):
    """`size` bytes with the SHA-256 `digest`: `data`, or those of the file at `path` from `offset` on."""

    size: int
    digest: str
    data: bytes = b""
    path: str = ""
    offset: int = 0

    @classmethod
    def of(cls, data: bytes) -> "Content":
        return cls(len(data), hashlib.sha256(data).hexdigest(), data)

    @classmethod
    def of_file(cls, path: str, offset: int, size: int, whole: Any = None) -> "Content":
        """Reads it for its digest, and adds it to the hash of the `whole` file. Raises `Unreadable`."""
        content = cls(size, "", path=path, offset=offset)
        hashed = hashlib.sha256()
        for piece in content.pieces():
            hashed.update(piece)
            if whole is not None:
                whole.update(piece)
        return content._replace(digest=hashed.hexdigest())

    def pieces(self) -> Iterator[bytes]:
        if not self.path:
            yield self.data
            return
        try:
            file = open(self.path, "rb", buffering=0)
        except OSError as error:
            raise Unreadable("%s: %s" % (self.path, error.strerror))
        with file:
            file.seek(self.offset)
            left = self.size
            while left:
                piece = _read(file, min(left, PIECE))
                left -= len(piece)
                yield piece


class Unreadable(Exception):
    """A file can't be read, or has fewer bytes than it had: which one, and why. Not an `OSError`, which a connection
    raises, too."""


def post(
    http: HttpClient,
    grant: Grant,
    key: str,
    content: Content,
    pause: Callable[[int], None] = lambda failures: time.sleep(random.uniform(0.1, 0.3) * failures),
) -> None:
    """Write an object below the grant's prefix, or write it once more. What may succeed later is tried again, after
    `pause`, which is told how often it failed. Raises `HttpError`, `Unreadable`, and what `pause` raises."""
    for failures in range(1, TRIES + 1):
        try:
            _post(http, grant, key, content)
            return
        except HttpError as error:
            if failures == TRIES or not error.passing:
                raise
        pause(failures)


def _post(http: HttpClient, grant: Grant, key: str, content: Content) -> None:
    boundary = "remoterun" + token(16)
    fields = {"key": grant.prefix + key, **{name: grant.fields[name] for name in grant.fields if name not in _OURS}}
    if takes_checksum(grant):
        fields[CHECKSUM] = base64.b64encode(bytes.fromhex(content.digest)).decode()
    head = "".join(
        '--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (boundary, name, value)
        for name, value in fields.items()
    )
    head += '--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n' % (boundary, os.path.basename(key))
    first = (head + "Content-Type: application/octet-stream\r\n\r\n").encode()
    last = ("\r\n--%s--\r\n" % boundary).encode()

    def body() -> Iterator[bytes]:
        yield first
        yield from content.pieces()
        yield last

    size = len(first) + content.size + len(last)
    headers = {"Content-Type": "multipart/form-data; boundary=" + boundary, "Content-Length": str(size)}
    with http.ask("POST", grant.url, headers, body, size) as answer:
        answer.read(PIECE)


def _read(file: BinaryIO, most: int) -> bytes:
    try:
        piece = file.read(most)
    except OSError as error:
        raise Unreadable("%s: %s" % (file.name, error.strerror))
    if not piece:
        raise Unreadable("%s: it has fewer bytes than it had" % file.name)
    return piece


_OURS = ("key", "file", CHECKSUM)


def takes_checksum(grant: Grant) -> bool:
    """Whether the policy of the form lets us tell the server what the SHA-256 of an object must be."""
    try:
        conditions = json.loads(base64.b64decode(grant.fields["policy"]))["conditions"]
        return any("$" + CHECKSUM in condition or CHECKSUM in condition for condition in conditions)
    except (KeyError, ValueError, TypeError):
        return False
