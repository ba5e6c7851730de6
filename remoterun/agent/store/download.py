"""Contents that a host downloads from an archive by itself, through addresses that its client has signed.

Small contents that lie side by side in one object have one address. A large one may be spread over several objects
and comes on several connections, each part to its own place in a file; what has come of it is not read again after a
cut. Every content is verified by its digest before it has its name, whatever the server says of lengths.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from typing import Any, Dict, Iterable, Iterator, List

from ..shared.archive import MOUNTED, SPAN, SignedObject, Take
from ..shared.frames import Bytes
from ..shared.tree import LARGEST, is_digest, show
from . import pieces
from .blob_streams import BlobReceiver
from .blobs import EMPTY
from .errors import HomeError
from .home import Home
from .http_client import Address, HttpClient, HttpError, Job
from .leases import Lease
from .objects import read_range

CONNECTIONS = 16


class Download:
    """One transfer into a home: a context manager. `got`: bytes so far, with those of contents that the home had;
    `count`: contents that have come."""

    def __init__(self, home: Home, lease: Lease) -> None:
        self.home = home
        self.got = 0
        self.count = 0
        self._lease = lease
        self._receiver = BlobReceiver(home)
        self._counting = threading.Lock()
        self._missing: Dict[str, int] = {}
        """Bytes that have yet to come of each content that comes in parts."""
        self._ended = False
        self._protect([EMPTY])
        home.blobs.put(b"")  # no object has it

    def __enter__(self) -> "Download":
        return self

    def __exit__(self, *_: Any) -> None:
        """What has come of spread contents is saved for the next try."""
        self._ended = True
        self._receiver.__exit__()

    def jobs(self, lines: Iterable[SignedObject]) -> Iterator[Job]:
        """What to do for each of the lines. The jobs raise `HomeError`, as does this for a line that can't be."""
        for stored in lines:
            _check(stored)
            self._protect([take.digest for take in stored.takes])
            missing = [take for take in stored.takes if not self._has(take)]
            if missing:
                yield functools.partial(self._fetch, stored, missing)

    def finish(self) -> int:
        """The number of contents that have come. Raises `HomeError` where a part of one was not among the lines."""
        for digest, missing in self._missing.items():
            if missing > 0 and not self.home.blobs.has(digest):
                raise HomeError("bad_stream", "a part of the content %s is missing" % digest[:12])
        return self.count

    def _protect(self, digests: List[str]) -> None:
        self._lease.add(b"".join(map(bytes.fromhex, digests)))

    def _has(self, take: Take) -> bool:
        found = self.home.blobs.has(take.digest) or (not _is_small(take) and self._has_part(take))
        if found:
            self._add(take.length)
        return found

    def _has_part(self, take: Take) -> bool:
        """Whether an earlier try got it. The last one comes once more all the same: that leads to the verification."""
        is_here = self._is_here(take)
        with self._counting:
            missing = self._missing.setdefault(take.digest, take.size)
            if is_here and missing > take.length:
                self._missing[take.digest] -= take.length
                return True
        return False

    def _is_here(self, take: Take) -> bool:
        if not take.part:
            return False
        try:
            with open(os.path.join(self.home.partial, take.digest), "rb") as file:
                file.seek(take.position)
                return hashlib.sha256(file.read(take.length)).hexdigest() == take.part
        except FileNotFoundError:
            return False

    # -- jobs

    def _fetch(self, stored: SignedObject, missing: List[Take], http: HttpClient) -> None:
        """What is to be taken of one object. Its address may give all of that or nothing."""
        start = min(take.offset for take in stored.takes)
        came = self._read(http, stored, start, max(take.offset + take.length for take in stored.takes) - start)
        if len(stored.takes) == 1:
            self._store(missing[0], came)
            return
        data = memoryview(b"".join(came))
        for take in missing:
            at = take.offset - start
            self._store(take, [data[at : at + take.length]])

    def _store(self, take: Take, came: Iterable[Bytes]) -> None:
        if _is_small(take):
            self._receiver.land(bytes.fromhex(take.digest), memoryview(b"".join(came)))
        elif not self._store_part(take, came):
            return
        with self._counting:
            self.count += 1

    def _store_part(self, take: Take, came: Iterable[Bytes]) -> bool:
        """Whether the content is whole now."""
        position = take.position
        for data in came:
            pieces.write(self.home, take.digest, position, data)
            position += len(data)
        with self._counting:
            self._missing[take.digest] -= take.length
            is_last = self._missing[take.digest] <= 0
        if is_last:
            try:
                pieces.seal(self.home, take.digest, take.size)
            except HomeError:
                pieces.discard(self.home, take.digest)
                raise
        return is_last

    def _read(self, http: HttpClient, stored: SignedObject, start: int, length: int) -> Iterator[bytes]:
        """Raises `HomeError`."""
        try:
            for data in read_range(http, stored.url, start, length, stored.exact):
                if self._ended:
                    raise HomeError("bad_stream", "the transfer was given up")
                self.home.reserve.check(len(data))
                self._add(len(data))
                yield data
        except HttpError as error:
            raise _not_fetched(stored.url, error)

    def _add(self, size: int) -> None:
        with self._counting:
            self.got += size


def _is_small(take: Take) -> bool:
    """Whether it comes in one go."""
    return take.whole and take.length <= SPAN


def _check(stored: SignedObject) -> None:
    try:
        if not stored.url.startswith(MOUNTED):
            Address.of(stored.url)
    except HttpError as error:
        raise HomeError("refused", error.message)
    for take in stored.takes:
        if not is_digest(take.digest):
            raise HomeError("bad_stream", "not a digest: %s" % show(take.digest[:80]))
        numbers = (take.size, take.position, take.offset, take.length)
        if min(numbers) < 0 or max(numbers) > LARGEST or take.position + take.length > take.size:
            raise HomeError("bad_stream", "%d bytes at %d of a content of %d" % (take.length, take.position, take.size))


def _not_fetched(url: str, error: HttpError) -> HomeError:
    if url.startswith(MOUNTED):
        return HomeError("not_fetched", "the mounted bucket lacks what the archive has: %s" % error.message)
    what = "%s can't be fetched: %s" % (Address.of(url).shown, error.message)
    if error.expired or 300 <= error.status < 400:
        return HomeError("expired" if error.expired else "moved", what)
    if error.passing:
        return HomeError("not_fetched", what, "see whether that machine may connect to there")
    return HomeError("not_found" if error.status in (404, 416) else "refused", what)
