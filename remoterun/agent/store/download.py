"""Contents that a host downloads from an archive by itself, through addresses that its client has signed.

Contents of one object are read together where they lie side by side. One that is spread over several objects comes on
several connections, each part to its own place in a file; what has come of it is not read again after a cut. Every
content is verified by its digest before it has its name, whatever the server says of lengths.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import threading
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from ..shared.archive import SignedObject, Take
from ..shared.byte_source import ByteSource
from ..shared.files import remove_tree, token
from ..shared.frames import Bytes
from ..shared.tree import LARGEST, hash_file, is_digest, show
from .blobs import EMPTY
from .delivery import Delivery
from .errors import HomeError, damaged
from .home import Home
from .http_client import Address, HttpClient, HttpError, Job
from .incoming import BlobReceiver
from .objects import read_range

CONNECTIONS = 16
GAP = 128 << 10
"""Bytes that nobody needs, between two contents of an object, up to which one request asks for both."""
SPAN = 8 << 20
"""Bytes that one request asks for, if they are of several contents."""
SMALL = 1 << 20
"""Bytes of a content that is held in memory as a whole."""
SUFFIX, JOURNAL = ".download", ".parts"
"""Of the name of a spread content that is on its way, and, after that, of its journal."""


class Download:
    """One transfer into a home: a context manager. `got`: bytes so far, with those of contents that the home had;
    `count`: contents that have come."""

    def __init__(self, home: Home, delivery: Delivery) -> None:
        self.home = home
        self.got = 0
        self.count = 0
        self._delivery = delivery
        self._receiver = BlobReceiver(home)
        self._counting = threading.Lock()
        self._spread: Dict[str, SpreadFile] = {}
        self._ended = False
        self._protect([EMPTY])
        home.blobs.put(b"")  # no object has it

    def __enter__(self) -> "Download":
        return self

    def __exit__(self, *_: Any) -> None:
        """What has begun is saved for the next try."""
        self._ended = True
        for spread in self._spread.values():
            spread.close()
        self._receiver.__exit__()

    def jobs(self, lines: Iterable[Optional[SignedObject]]) -> Iterator[Optional[Job]]:
        """What to do for each of the lines; None where there is none yet. The jobs raise `HomeError`, as does this for
        a line that can't be."""
        for stored in lines:
            if stored is None:
                yield None
                continue
            _check(stored)
            self._protect([take.digest for take in stored.takes])
            for span in spans([take for take in stored.takes if not self._has(take)]):
                yield functools.partial(self._fetch, stored.url, span)

    def finish(self) -> int:
        """The number of contents that have come. Raises `HomeError` where a part of one was not among the lines."""
        for spread in self._spread.values():
            if not spread.whole:
                raise HomeError("bad_stream", "a part of the content %s is missing" % spread.digest[:12])
        return self.count

    def _protect(self, digests: List[str]) -> None:
        self._delivery.lease.add(b"".join(map(bytes.fromhex, digests)))

    def _has(self, take: Take) -> bool:
        found = self.home.blobs.has(take.digest)
        if not found and not take.whole:
            found = self._file_of(take).has(take)
        if found:
            self._add(take.length)
        return found

    def _file_of(self, take: Take) -> "SpreadFile":
        if take.digest not in self._spread:
            path = os.path.join(self.home.partial, take.digest + SUFFIX)
            self._spread[take.digest] = SpreadFile(path, take.digest, take.size)
        return self._spread[take.digest]

    # -- jobs

    def _fetch(self, url: str, takes: List[Take], http: HttpClient) -> None:
        """What is to be taken of one object, in the order of its offsets."""
        start = takes[0].offset
        source = ByteSource(self._read(http, url, start, takes[-1].offset + takes[-1].length - start))
        for take in takes:
            source.skip(take.offset - start)
            start = take.offset + take.length
            if not take.whole:
                spread = self._file_of(take)
                if spread.write(take, source.pieces_of(take.length)):
                    self._adopt(spread)
                continue
            if take.length <= SMALL:
                self._receiver.land(bytes.fromhex(take.digest), source.take(take.length))
            else:
                self._land(take, source.pieces_of(take.length))
            self._landed()
        source.end()

    def _land(self, take: Take, pieces: Iterable[Bytes]) -> None:
        hashed = hashlib.sha256()
        with self.home.temporary("download") as folder:
            path = os.path.join(folder, "blob")
            with open(path, "xb") as file:
                for piece in pieces:
                    hashed.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if hashed.hexdigest() != take.digest:
                raise damaged(take.digest)
            self.home.blobs.adopt(path, take.digest)

    def _adopt(self, spread: "SpreadFile") -> None:
        if not spread.verify():
            raise damaged(spread.digest)
        self.home.blobs.adopt(spread.path, spread.digest)
        spread.discard()
        self._landed()

    def _read(self, http: HttpClient, url: str, start: int, length: int) -> Iterator[bytes]:
        """Raises `HomeError`."""
        try:
            for data in read_range(http, url, start, length):
                if self._ended:
                    raise HomeError("bad_stream", "the transfer was given up")
                self.home.reserve.check(len(data))
                self._add(len(data))
                yield data
        except HttpError as error:
            raise _not_fetched(url, error)

    def _add(self, size: int) -> None:
        with self._counting:
            self.got += size

    def _landed(self) -> None:
        with self._counting:
            self.count += 1


class SpreadFile:
    """A spread content as it takes shape in a file. Beside it, a journal names the parts that the file has."""

    def __init__(self, path: str, digest: str, size: int) -> None:
        """`path`: a file that an earlier try may have begun. Where another process is at it, a new one is made."""
        self.digest = digest
        begun = _open_locked(path)
        self._resumable = begun is not None
        self.path = path if self._resumable else "%s-%s" % (path, token())
        self._file: BinaryIO = begun if begun is not None else open(self.path, "x+b", buffering=0)
        self._lock = threading.Lock()
        self._done = self._read_journal() if os.fstat(self._file.fileno()).st_size else set()
        self._missing = size - sum(length for _, length in self._done)
        while self._missing <= 0:  # a cut came before it was verified: a part that comes once more leads to that
            self._missing += self._done.pop()[1]

    def has(self, take: Take) -> bool:
        return (take.position, take.length) in self._done

    @property
    def whole(self) -> bool:
        """Whether the file has all parts."""
        return self._missing <= 0

    def write(self, take: Take, pieces: Iterable[Bytes]) -> bool:
        """Whether this was the last part that was missing. Raises what `pieces` raises."""
        position = take.position
        for data in pieces:
            _write_at(self._file.fileno(), data, position)
            position += len(data)
        with self._lock:
            with open(self.path + JOURNAL, "ab", buffering=0) as journal:
                journal.write(b"%d %d\n" % (take.position, take.length))
            before, self._missing = self._missing, self._missing - take.length
            return before > 0 >= self._missing

    def verify(self) -> bool:
        """Whether the file has the digest of the content; it is deleted if not."""
        os.fsync(self._file.fileno())
        whole = hash_file(self.path)[0] == self.digest
        if not whole:
            self.discard()
        return whole

    def discard(self) -> None:
        remove_tree(self.path + JOURNAL)
        remove_tree(self.path)

    def close(self) -> None:
        """What the file has is saved for the next try, if that can find it."""
        if not self._resumable:
            self.discard()
        self._file.close()

    def _read_journal(self) -> Set[Tuple[int, int]]:
        done = set()
        with contextlib.suppress(FileNotFoundError, ValueError), open(self.path + JOURNAL, "rb") as journal:
            for line in journal.read().split(b"\n")[:-1]:
                position, length = line.split()
                done.add((int(position), int(length)))
        return done


def _open_locked(path: str) -> Optional[BinaryIO]:
    """A file, made if missing, locked until it is closed; None while another process has it."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        except PermissionError:  # read-only: a crash came when it became a blob
            os.unlink(path)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        links = os.fstat(file.fileno()).st_nlink
        if links == 1:
            return file
        file.close()
        if links > 1:  # a crash came just after it had become a blob
            os.unlink(path)


def spans(takes: List[Take]) -> Iterator[List[Take]]:
    """The contents of an object in groups, each to be read by one request."""
    group: List[Take] = []
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


def _write_at(descriptor: int, data: Bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


def _check(stored: SignedObject) -> None:
    try:
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
    what = "%s can't be fetched: %s" % (Address.of(url).shown, error.message)
    if error.expired:
        return HomeError("expired", what)
    if error.passing:
        return HomeError("not_fetched", what, "see whether that machine may connect to there")
    return HomeError("not_found" if error.status in (404, 416) else "refused", what)
