"""Objects of a bucket, as a host reaches them: read by signed addresses, written by a form that a client has signed, or
the host itself by its role; or as files, where the bucket is mounted.

The server is given the SHA-256 of what is written, and refuses other bytes; of a file we do so. What is read is to be
verified by the caller, whatever the server says of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
from contextlib import suppress
from http.client import HTTPException
from typing import Callable, Dict, Iterable, Iterator, Sequence
from urllib.parse import unquote

from ..shared.archive import IDENTITY, MOUNTED, Grant
from ..shared.files import open_regular, token
from ..shared.paths import SafeFolder, TreeError
from ..shared.records import Record
from .host_role import ROLE, signed_form
from .http_client import Address, HttpClient, HttpError

CHECKSUM = "x-amz-checksum-sha256"
NEW = ".tmp"
"""How the name of a file ends that is being written."""
CARRIED = "Carried"
"""The `code` of the error where nobody takes an object."""
PIECE = 1 << 20
WRITES = 3
"""Times that writing an object is tried."""
READS = 8
"""Times in a row that reading may yield nothing."""
SHORTEST, LONGEST = 0.2, 10.0
"""Seconds between two tries of reading."""
SILENCE, TAKEN_POLL = 10.0, 0.05
"""Seconds after a client's last sign of life in which it may take an object; between two looks whether it has."""


class Unreadable(Exception):
    """A file can't be read, or has fewer bytes than it had: which one, and why. Not an `OSError`, which a connection
    raises, too."""


class FilePart(Record):
    """`length` bytes of the file at `path`, from `offset` on."""

    path: str
    offset: int
    length: int

    def pieces(self) -> Iterator[bytes]:
        """Raises `Unreadable`."""
        done = 0
        try:
            with open(open_regular(self.path), "rb", buffering=0) as file:
                file.seek(self.offset)
                while done < self.length:
                    piece = file.read(min(self.length - done, PIECE))
                    if not piece:
                        raise Unreadable("%s: it has fewer bytes than it had" % self.path)
                    done += len(piece)
                    yield piece
        except OSError as error:
            raise Unreadable("%s: %s" % (self.path, error.strerror))


class Content(Record):
    """What an object shall hold: `size` bytes with the SHA-256 `digest`. `pieces` gives them, as often as it is
    called, and raises `Unreadable`."""

    size: int
    digest: str
    pieces: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, data: bytes) -> "Content":
        return cls(len(data), hashlib.sha256(data).hexdigest(), lambda: [data])

    @classmethod
    def of_files(cls, parts: Sequence[FilePart]) -> "Content":
        """The parts, one after the other, which are read for their digest. Raises `Unreadable`."""
        hashed = hashlib.sha256()
        for part in parts:
            for piece in part.pieces():
                hashed.update(piece)
        return cls.of_hashed(parts, hashed.hexdigest())

    @classmethod
    def of_hashed(cls, parts: Sequence[FilePart], digest: str) -> "Content":
        size = sum(part.length for part in parts)
        return cls(size, digest, lambda: (piece for part in parts for piece in part.pieces()))


def post(http: HttpClient, grant: Grant, key: str, content: Content) -> None:
    """Write an object below the grant's prefix, or write it once more. What may succeed later is tried again; so is, by
    the grant's form, what the host's role is refused. Raises `HttpError`, `Unreadable`."""
    for failures in range(1, WRITES + 1):
        try:
            (_hand_over if grant.carried else _write if grant.folder else _post)(http, grant, key, content)
            return
        except HttpError as error:
            if error.refused and grant.bucket:
                with suppress(HttpError):
                    post(http, grant._replace(bucket=""), key, content)
                    return
            if failures == WRITES or not error.passing:
                raise
        http.pause(random.uniform(0.1, 0.3) * failures)


def _post(http: HttpClient, grant: Grant, key: str, content: Content) -> None:
    boundary = "remoterun" + token(16)
    form = _form_of_role(grant) if grant.bucket else grant.fields
    fields = {name: value for name, value in form.items() if name not in ("file", CHECKSUM)}
    fields["key"] = grant.prefix + key
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
    try:
        with http.ask("POST", grant.url, headers, body, size) as answer:
            answer.read(PIECE)
    except HttpError as error:
        if error.refused:
            ROLE.known = None  # others may be accepted
        raise


def _hand_over(http: HttpClient, grant: Grant, key: str, content: Content) -> None:
    """Wait until a client has taken it, which puts it into the bucket before it says so (`requests/carried.py`). As
    long as that one shows signs of life, it has time."""
    path = _write(http, grant, "%s.%s" % (key, token(8)), content)
    sign, give_up_at = 0, 0.0
    while os.path.exists(path):
        newest = os.stat(grant.folder).st_mtime_ns
        if newest != sign:
            sign, give_up_at = newest, time.monotonic() + SILENCE
        if http.pause(TAKEN_POLL) or time.monotonic() > give_up_at:
            with suppress(FileNotFoundError):  # it was taken
                os.unlink(path)
                raise HttpError("nobody has fetched it", 403, CARRIED)


def _write(_: HttpClient, grant: Grant, key: str, content: Content) -> str:
    """The path of its file."""
    hashed, wanted = hashlib.sha256(), os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        if grant.carried:
            os.makedirs(grant.folder, exist_ok=True)
        elif not os.path.isfile(os.path.join(grant.folder, IDENTITY)):
            raise OSError(0, "the bucket is not mounted there")
        with SafeFolder(grant.folder) as folder:  # others write into a bucket, too
            parent, name = folder.place(grant.prefix + key)
            part = "%s.%s%s" % (name, token(8), NEW)
            try:
                with open(os.open(part, wanted, 0o666, dir_fd=parent), "wb") as file:
                    for piece in content.pieces():
                        file.write(piece)
                        hashed.update(piece)
                if hashed.hexdigest() != content.digest:
                    raise HttpError("%s has changed while it was written" % key, 400)
                os.replace(part, name, src_dir_fd=parent, dst_dir_fd=parent)
            finally:
                with suppress(OSError):
                    os.unlink(part, dir_fd=parent)
        return os.path.join(grant.folder, grant.prefix + key)
    except (OSError, TreeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise HttpError("%s can't be written: %s" % (grant.folder, why))


def _form_of_role(grant: Grant) -> Dict[str, str]:
    try:
        return signed_form(grant, ROLE.credentials(), time.time())
    except (OSError, HTTPException, AttributeError, TypeError, ValueError) as error:
        status = getattr(error, "code", 503) if isinstance(error, (OSError, HTTPException)) else 403
        raise HttpError("the metadata service gives no credentials of a role: %s" % error, status)


def read_range(http: HttpClient, url: str, start: int, length: int, exact: bool = False) -> Iterator[bytes]:
    """So many bytes of an object, also over cut connections. `exact`: the address gives these and no others, so that
    after a cut all of them are asked for again. Raises `HttpError`."""
    done = failures = 0
    while done < length:
        skipped = done if exact else 0
        try:
            for data in _read_once(http, url, start + done - skipped, length - done + skipped):
                fresh = data[skipped:]
                skipped -= len(data) - len(fresh)
                if fresh:
                    done += len(fresh)
                    failures = 0
                    yield fresh
        except HttpError as error:
            failures += 1
            if not error.passing or failures > READS:
                raise
            http.pause(min(LONGEST, SHORTEST * 2**failures) * random.uniform(0.5, 1))


def _read_once(http: HttpClient, url: str, start: int, length: int) -> Iterator[bytes]:
    """Raises `HttpError` where fewer bytes come; no more are read."""
    if url.startswith(MOUNTED):
        try:
            yield from FilePart(unquote(url[len(MOUNTED) :]), start, length).pieces()
            return
        except Unreadable as error:
            raise HttpError(str(error))
    wanted = {"Range": "bytes=%d-%d" % (start, start + length - 1)}
    with http.ask("GET", url, wanted, size=length) as answer:
        begins = answer.getheader("Content-Range", "bytes 0-").partition("-")[0]  # without one it is all of it
        if begins.split()[-1:] != [str(start)]:
            raise HttpError("%s gives another part than was asked for" % Address.of(url).host, 422)
        while length:
            data = answer.read(min(PIECE, length))
            if not data:
                raise HttpError("%s has cut the connection" % Address.of(url).host)
            length -= len(data)
            yield data
