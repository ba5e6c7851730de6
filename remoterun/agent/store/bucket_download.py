"""Contents that a host fetches from a bucket by itself, through addresses that its client has signed.

Small ones are parts of packs, and land as `put` lands them. Of a large one the chunks come on several connections, each
to its own place in the partial file, as with parts.py. Every content is verified by its digest before it has its name,
whatever the server says of lengths.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import random
import threading
import time
from typing import Any, Callable, Iterator, List, Optional

from ..shared.bucket import BringLine, ContentRange, LargeContent, SignedObject
from ..shared.byte_source import ByteSource
from ..shared.tree import LARGEST, is_digest, show
from . import parts
from .delivery import Delivery
from .errors import HomeError, damaged
from .home import Home
from .http_client import Address, HttpClient, HttpError
from .incoming import BlobReceiver
from .large_blob import LargeBlob

CONNECTIONS = 16
TRIES = 8
"""Tries in a row that may bring nothing."""
SHORTEST, LONGEST = 0.2, 10.0
"""Seconds between tries."""
GAP = 128 << 10
"""Bytes that nobody needs, between two contents of an object, up to which one question is asked for both."""
SPAN = 8 << 20
"""Bytes that one question asks for, if they are of several contents."""
SMALL = 1 << 20
"""Bytes of a content that is held in memory as a whole."""
PIECE = 1 << 20
TICK = 0.25
"""Seconds between two calls of `tick`."""

PATIENCE = 2.0
"""Seconds for threads to put away what has come, after a failure; a server that is silent would hold them longer."""

_Job = Callable[[HttpClient, BlobReceiver], None]


class BucketDownload:
    """One transfer. A context manager: what has begun is kept for the next try. `tick` is called every `TICK` seconds
    while something is waited for, and may raise. `got`: bytes so far, with those of contents that were here before."""

    def __init__(self, home: Home, delivery: Delivery, tick: Callable[[], None] = lambda: None) -> None:
        self.home = home
        self._delivery = delivery
        self._tick = tick
        self._jobs: "queue.Queue[Optional[_Job]]" = queue.Queue(2 * CONNECTIONS)
        self._workers: List[threading.Thread] = []
        self._larges: List[_LargeDownload] = []
        self._failure: Optional[BaseException] = None
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._ticked = time.monotonic()
        self.got = 0
        self.count = 0

    def __enter__(self) -> "BucketDownload":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))

    def add(self, line: BringLine) -> None:
        """Fetch what a line of `bring` names. Blocks while much is waited for. Raises `HomeError`, also for an earlier
        line."""
        for parcel in line.parcel:
            self._check(parcel)
            self._protect([take.digest for take in parcel.takes])
            for span in spans([take for take in parcel.takes if not self._here(take.digest)]):
                self._do(functools.partial(self._fetch, parcel.url, span))
        for content in line.large:
            self._check_large(content)
            self._protect([content.digest])
            if not self._here(content.digest):
                self._assemble(content)

    def finish(self) -> None:
        """Blocks until all is here. Raises `HomeError`."""
        for _ in self._workers:
            self._put(None)
        while any(thread.is_alive() for thread in self._threads()):
            self.look()
            for thread in self._threads():
                thread.join(TICK)
        self.look()

    # -- what is asked for

    def _check(self, parcel: SignedObject) -> None:
        try:
            Address.of(parcel.url)
        except HttpError as error:
            raise HomeError("refused", error.message)
        for take in parcel.takes:
            if not is_digest(take.digest):
                raise HomeError("bad_stream", "not a digest: %s" % show(take.digest[:80]))
            if not (0 <= take.offset <= LARGEST and 0 <= take.length <= LARGEST):
                raise HomeError("bad_stream", "%d bytes from %d on" % (take.length, take.offset))

    def _check_large(self, content: LargeContent) -> None:
        for parcel in content.parcels:
            self._check(parcel)
        size = sum(take.length for parcel in content.parcels for take in parcel.takes)
        if not is_digest(content.digest) or size != content.size or size > LARGEST:
            raise HomeError("bad_stream", "%d bytes for a content of %d" % (size, content.size))

    def _protect(self, digests: List[str]) -> None:
        self._delivery.lease.add(b"".join(map(bytes.fromhex, digests)))

    def _here(self, digest: str) -> bool:
        size = self.home.blobs.size(digest)
        if size is None:
            return False
        self._delivery.seen(digest, size)
        self._advance(size)
        return True

    def _assemble(self, content: LargeContent) -> None:
        known = parts.ranges(self.home, content.digest)
        whole = _LargeDownload(self.home, content, self._alive, self._landed, self._fail)
        self._larges.append(whole)
        position = 0
        for parcel in content.parcels:
            for take in parcel.takes:
                end = position + take.length
                if any(start <= position and end <= start + length for start, length in known):
                    self._advance(take.length)
                elif take.length:
                    self._do(functools.partial(self._fetch_chunk, whole, parcel.url, take, position))
                position = end
        self._do(lambda http, receiver: whole.begin())

    # -- the threads

    def _do(self, job: _Job) -> None:
        if len(self._workers) < CONNECTIONS:
            worker = threading.Thread(target=self._work, name="remoterun brings", daemon=True)
            self._workers.append(worker)
            worker.start()
        self._put(job)

    def _put(self, job: Optional[_Job]) -> None:
        while True:
            self.look()
            try:
                return self._jobs.put(job, timeout=TICK)
            except queue.Full:
                continue

    def look(self) -> None:
        """Raises what went wrong. To be called while nothing is added."""
        if self._failure is not None:
            raise self._failure
        now = time.monotonic()
        if now - self._ticked >= TICK:
            self._ticked = now
            self._tick()

    def _threads(self) -> List[threading.Thread]:
        larges = [whole.thread for whole in self._larges if whole.thread.ident is not None]
        return self._workers + larges

    def _work(self) -> None:
        with HttpClient() as http, BlobReceiver(self.home, self._delivery.lease, self._delivery.seen) as receiver:
            while self._alive():
                try:
                    job = self._jobs.get(timeout=TICK)
                except queue.Empty:
                    continue
                if job is None:
                    return
                try:
                    job(http, receiver)
                except BaseException as error:  # noqa: BLE001 - `add` and `finish` raise it
                    self._fail(error)

    def _alive(self) -> bool:
        return self._failure is None and not self._stopped.is_set()

    def _fail(self, error: BaseException) -> None:
        with self._counting:
            self._failure = self._failure or error

    def _advance(self, size: int) -> None:
        with self._counting:
            self.got += size

    def _landed(self, digest: str, size: int) -> None:
        self._delivery.seen(digest, size)
        with self._counting:
            self.count += 1
        self._delivery.put_in_place()

    # -- their jobs

    def _fetch(self, url: str, takes: List[ContentRange], http: HttpClient, receiver: BlobReceiver) -> None:
        """Contents of one object, in the order of their offsets."""
        start = takes[0].offset
        end = takes[-1].offset + takes[-1].length
        source = ByteSource(self._read(http, url, start, end - start))
        for take in takes:
            source.skip(take.offset - start)
            start = take.offset + take.length
            if take.length <= SMALL:
                receiver.land(bytes.fromhex(take.digest), source.take(take.length))
            else:
                self._land_large(take, source)
            self._landed(take.digest, take.length)
        source.end()

    def _land_large(self, take: ContentRange, source: ByteSource) -> None:
        blob = LargeBlob(self.home, self._delivery.lease, {"d": take.digest, "s": take.length})
        try:
            for data in source.pieces_of(take.length):
                blob.take(data, "")
        finally:
            blob.suspend()

    def _fetch_chunk(
        self, whole: "_LargeDownload", url: str, take: ContentRange, position: int, http: HttpClient, _: BlobReceiver
    ) -> None:
        whole.begin()
        hashed = hashlib.sha256()
        left = take.length
        part = parts.Part(self.home, whole.digest, whole.size, position, take.length)
        try:
            for data in self._read(http, url, take.offset, take.length):
                hashed.update(data)
                left -= len(data)
                if not left and hashed.hexdigest() != take.digest:
                    raise damaged(take.digest)  # before the part counts as one that is here
                part.take(data)
        finally:
            part.suspend()

    def _read(self, http: HttpClient, url: str, start: int, length: int) -> Iterator[bytes]:
        """So many bytes of an object, from `start` on. Raises `HomeError`."""

        def wait(failures: int) -> None:
            self._stopped.wait(min(LONGEST, SHORTEST * 2**failures) * random.uniform(0.5, 1))

        try:
            for data in whole_part(http, url, start, length, TRIES, wait):
                if not self._alive():
                    raise HomeError("bad_stream", "the transfer was given up")
                self.home.reserve.check(len(data))
                self._advance(len(data))
                yield data
        except HttpError as error:
            raise _not_fetched(url, error)


class _LargeDownload:
    """A large content that takes shape: its SHA-256 is computed while its chunks come."""

    def __init__(
        self,
        home: Home,
        content: LargeContent,
        alive: Callable[[], bool],
        landed: Callable[[str, int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.digest, self.size = content.digest, content.size
        self._home, self._alive, self._landed, self._failed = home, alive, landed, failed
        self._beginning = threading.Lock()
        self.thread = threading.Thread(target=self._seal, name="remoterun seals", daemon=True)

    def begin(self) -> None:
        """May be called for each chunk."""
        with self._beginning:
            if self.thread.ident is None:
                self.thread.start()

    def _seal(self) -> None:
        try:
            parts.seal(self._home, self.digest, self.size, lambda: self.digest, self._alive, patience=float("inf"))
            self._landed(self.digest, self.size)
        except BaseException as error:  # noqa: BLE001 - of the transfer
            self._failed(error)


def spans(takes: List[ContentRange]) -> Iterator[List[ContentRange]]:
    """The contents of an object in groups, each to be fetched by one question."""
    group: List[ContentRange] = []
    start = end = 0
    for take in sorted(set(takes), key=lambda take: (take.offset, take.length)):
        if group and not (end <= take.offset <= end + GAP and take.offset + take.length - start <= SPAN):
            yield group
            group = []
        if not group:
            start = take.offset
        group.append(take)
        end = take.offset + take.length
    if group:
        yield group


def whole_part(
    http: HttpClient, url: str, start: int, length: int, tries: int, wait: Callable[[int], object]
) -> Iterator[bytes]:
    """As `part_of`, also over cut connections: so many `tries` in a row may bring nothing, and after each `wait` is
    called with how many they are. Raises `HttpError`."""
    done = failures = 0
    while done < length:
        try:
            for data in part_of(http, url, start + done, length - done):
                done += len(data)
                failures = 0
                yield data
        except HttpError as error:
            failures += 1
            if not error.passing or failures > tries:
                raise
            wait(failures)


def part_of(http: HttpClient, url: str, start: int, length: int) -> Iterator[bytes]:
    """So many bytes of an object. Raises `HttpError` where fewer come; no more are read."""
    asked = {"Range": "bytes=%d-%d" % (start, start + length - 1)}
    with http.ask("GET", url, asked, size=length) as answer:
        if not _is_from(answer.status, answer.getheader("Content-Range", ""), start):
            raise HttpError("%s gives another part than was asked for" % Address.of(url).host, 422)
        while length:
            data = answer.read(min(PIECE, length))
            if not data:
                raise HttpError("%s has cut the connection" % Address.of(url).host)
            length -= len(data)
            yield data


def _is_from(status: int, content_range: str, start: int) -> bool:
    if status == 206:
        return content_range.replace("bytes ", "").partition("-")[0].strip() == str(start)
    return status == 200 and start == 0


def _not_fetched(url: str, error: HttpError) -> HomeError:
    what = "%s can't be fetched: %s" % (Address.of(url).shown, error.message)
    if error.expired:
        return HomeError("expired", what)
    if error.passing:
        return HomeError("not_fetched", what, "see whether that machine may connect to there")
    return HomeError("not_found" if error.status in (404, 416) else "refused", what)
