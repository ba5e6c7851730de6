"""Where the contents of a bucket lie: which of them are there, and in which objects.

Small ones are found by the indexes of their packs, which are listed once in a conversation, and kept on this machine.
Of larger ones the objects themselves are listed, or asked for one by one, whichever takes fewer requests.

Memory: some 200 bytes for each small content of the bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import Chunk, ChunkList, ContentRange
from remoterun.agent.shared.files import write_whole
from remoterun.agent.shared.tree import is_digest
from remoterun.buckets.s3 import S3, Absent, StoredObject
from remoterun.buckets.workers import Workers

EMPTY = hashlib.sha256(b"").digest()
_OFFSET, _PACK = 21, 48
"""Where in a number the place in a pack, and the pack, begin: below them is the length, up to `SMALL`."""


class Extent(NamedTuple):
    """Bytes of an object."""

    key: str
    offset: int
    length: int


class ContentPlace(NamedTuple):
    """Where a content lies: the objects that have its bytes, one after the other. `chunks` are theirs, where there are
    several; `whole`: it is the only content of its object."""

    size: int
    extents: list[Extent]
    chunks: Sequence[Chunk] = ()
    whole: bool = True


class ObjectListing:
    """Objects whose keys are `prefix`, two digits of a digest, a slash, and the digest."""

    def __init__(self, s3: S3, workers: Workers, prefix: str) -> None:
        self._s3, self._workers, self._prefix = s3, workers, prefix
        self._lock = threading.Lock()
        self.found: dict[bytes, StoredObject] = {}
        self._listed_to = ""
        """The key up to which all objects are in `found`."""
        self._pages = 0
        self._whole = False

    def key(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._prefix}{name[:2]}/{name}"

    def look(self, digests: Iterable[bytes]) -> None:
        """Afterwards those that are there are in `found`."""
        with self._lock:
            wanted = self._unknown(digests)
            while wanted:
                if self._pages and len(wanted) <= self._pages_left():
                    for digest, stored in zip(wanted, self._workers.each(self._head, wanted), strict=True):
                        if stored is not None:
                            self.found[digest] = stored
                    return
                self._list_page()
                wanted = self._unknown(wanted)

    def list_all(self) -> None:
        """Afterwards all are in `found`."""
        with self._lock:
            while not self._whole:
                self._list_page()

    def forget_absent(self) -> None:
        """What was not there may be there by now."""
        with self._lock:
            self._listed_to, self._pages, self._whole = "", 0, False

    def add(self, digest: bytes, size: int, modified: float) -> None:
        self.found[digest] = StoredObject(self.key(digest), size, modified)

    def _unknown(self, digests: Iterable[bytes]) -> list[bytes]:
        if self._whole:
            return []
        return [one for one in digests if one not in self.found and self.key(one) > self._listed_to]

    def _pages_left(self) -> float:
        """About how many pages follow: digests are spread evenly."""
        done = int(self._listed_to[-64:][:8], 16) / (1 << 32)
        return self._pages * (1 - done) / max(done, 1e-9)

    def _list_page(self) -> None:
        page = self._s3.page(self._prefix, self._listed_to)
        for stored in page.objects:
            name = stored.key.rpartition("/")[2]
            if not is_digest(name) or self.key(bytes.fromhex(name)) != stored.key:
                raise self._s3.bad(stored.key, "its name is not a digest")
            self.found[bytes.fromhex(name)] = stored
        self._pages += 1
        self._whole = not page.more
        if page.objects:
            self._listed_to = page.objects[-1].key

    def _head(self, digest: bytes) -> StoredObject | None:
        return self._s3.head(self.key(digest))


class Scope:
    """The contents below one prefix: those of the home, or those that one run left. Any thread may call any method."""

    def __init__(self, s3: S3, workers: Workers, prefix: str, cache: Path | None = None) -> None:
        """`cache`: a folder in which the indexes of packs are kept."""
        self._s3, self._workers, self.prefix = s3, workers, prefix
        self._cache = cache
        self.blobs = ObjectListing(s3, workers, prefix + "blobs/")
        self.lists = ObjectListing(s3, workers, prefix + "lists/")
        self.packs: list[StoredObject] = []
        """Those whose index is known: the index, with the name of the pack."""
        self._known: set[str] = set()
        self._packed: dict[bytes, int] = {}
        self._chunks: dict[bytes, ChunkList] = {}
        self._lock = threading.Lock()
        self._read = False

    def look(self, digests: Collection[bytes]) -> None:
        """Find out which of them are there. Asks nothing about those that were found before."""
        self.read_indexes()
        left = [digest for digest in digests if digest not in self._packed and digest != EMPTY]
        if left:
            self.blobs.look(left)
            left = [digest for digest in left if digest not in self.blobs.found]
        if left:
            self.lists.look(left)

    def look_again(self, digests: Collection[bytes]) -> None:
        """The same, for what was not found before: others may have brought it meanwhile."""
        self.read_indexes(again=True)
        self.blobs.forget_absent()
        self.lists.forget_absent()
        self.look(digests)

    def has(self, digest: bytes) -> bool:
        """Whether it is there, as far as that was looked for."""
        return digest == EMPTY or digest in self._packed or digest in self.blobs.found or digest in self.lists.found

    def written(self, digest: bytes) -> float:
        """When the oldest of the objects was written that a content lies in, in seconds since 1970; inf without one."""
        packed = self._packed.get(digest)
        if packed is not None:
            return self.packs[packed >> _PACK].modified
        if digest not in self.lists.found:
            return self._written(self.blobs, digest)
        chunks = [bytes.fromhex(chunk.digest) for chunk in self.chunks(digest).chunks]
        self.blobs.look(chunks)
        return min([self._written(self.lists, digest), *(self._written(self.blobs, chunk) for chunk in chunks)])

    def keys(self, digest: bytes) -> list[str]:
        """Of all objects that a content needs."""
        place = self.place(digest)
        found = [extent.key for extent in place.extents] if place is not None else []
        if digest in self._packed:
            found.append(self.packs[self._packed[digest] >> _PACK].key)
        elif digest in self.lists.found:
            found.append(self.lists.key(digest))
        return found

    def place(self, digest: bytes) -> ContentPlace | None:
        """Where a content lies that was looked for; None if it is not there. Raises `HostError` for a damaged list."""
        if digest == EMPTY:
            return ContentPlace(0, [])
        packed = self._packed.get(digest)
        if packed is not None:
            length, offset = packed & (1 << _OFFSET) - 1, packed >> _OFFSET & (1 << _PACK - _OFFSET) - 1
            name = self.packs[packed >> _PACK].key.rpartition("/")[2]
            return ContentPlace(length, [Extent(self.prefix + layout.pack_key(name), offset, length)], whole=False)
        blob = self.blobs.found.get(digest)
        if blob is not None:
            return ContentPlace(blob.size, [Extent(blob.key, 0, blob.size)])
        if digest not in self.lists.found:
            return None
        chunks = self.chunks(digest)
        return ContentPlace(
            chunks.size,
            [Extent(self.prefix + layout.blob_key(chunk.digest), 0, chunk.length) for chunk in chunks.chunks],
            chunks.chunks,
        )

    def chunks(self, digest: bytes) -> ChunkList:
        """What a list says. Raises `HostError` where it is damaged."""
        known = self._chunks.get(digest)
        if known is None:
            key = self.lists.key(digest)
            try:
                known = self._chunks[digest] = layout.chunk_list(self._s3.get(key, layout.MOST_LIST))
            except ValueError as error:
                raise self._s3.bad(key, str(error)[:200])
            except Absent:
                raise self._s3.bad(key, "it is gone")
        return known

    def read_indexes(self, again: bool = False) -> None:
        """List the indexes, and read those that are not known. Raises `HostError` for a damaged one."""
        with self._lock:
            if self._read and not again:
                return
            listed = list(self._s3.list(self.prefix + "index/"))
            new = [stored for stored in listed if stored.key not in self._known]
            for stored, data in zip(new, self._workers.each(self._index, new), strict=True):
                if data is not None:
                    self._add(stored, data)
            self._read = True
            if self._cache is not None and not again:
                self._forget_indexes({stored.key.rpartition("/")[2] for stored in listed})

    def add_pack(self, stored: StoredObject, listing: bytes) -> None:
        """A pack, and its index, are there now."""
        with self._lock:
            if stored.key not in self._known:
                self._add(stored, listing)
        self._keep(stored.key.rpartition("/")[2], listing)

    def add_list(self, digest: bytes, chunks: ChunkList, size: int, modified: float) -> None:
        """The list of a content in chunks is there now: an object of `size` bytes."""
        self._chunks[digest] = chunks
        self.lists.add(digest, size, modified)

    def packed_in(self) -> Iterator[tuple[bytes, int]]:
        """(digest, number of its pack among `packs`) of each content in a pack."""
        return ((digest, packed >> _PACK) for digest, packed in self._packed.items())

    def list_all(self) -> None:
        """Afterwards all contents are known."""
        self.read_indexes()
        self.blobs.list_all()
        self.lists.list_all()

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """(digest, bytes) of each content that is known; of one in chunks, of its chunks."""
        yield from ((digest, packed & (1 << _OFFSET) - 1) for digest, packed in self._packed.items())
        yield from ((digest, stored.size) for digest, stored in self.blobs.found.items())

    def expanded(self, digests: Iterable[bytes]) -> Iterator[bytes]:
        """Contents, and the chunks of those that have any. Raises `HostError` for a damaged list."""
        for digest in digests:
            yield digest
            if digest in self.lists.found:
                yield from (bytes.fromhex(chunk.digest) for chunk in self.chunks(digest).chunks)

    def _add(self, stored: StoredObject, data: bytes) -> None:
        number = len(self.packs) << _PACK
        try:
            found = list(layout.index_entries(data))
        except ValueError as error:
            raise self._s3.bad(stored.key, str(error))
        self._known.add(stored.key)
        self.packs.append(stored)
        for take in found:
            self._packed[bytes.fromhex(take.digest)] = number | take.offset << _OFFSET | take.length

    def _index(self, stored: StoredObject) -> bytes | None:
        """None for one that is gone by now."""
        name = stored.key.rpartition("/")[2]
        if not is_digest(name):
            raise self._s3.bad(stored.key, "its name is not a digest")
        data = self._kept(name, stored.size)
        if data is None:
            try:
                data = self._s3.get(stored.key, layout.MOST_INDEX)
            except Absent:
                return None
            self._keep(name, data)
        return data

    def _written(self, listing: ObjectListing, digest: bytes) -> float:
        stored = listing.found.get(digest)
        return stored.modified if stored is not None else float("inf")

    # -- indexes that are kept here: each with its own digest before it

    def _kept(self, name: str, size: int) -> bytes | None:
        if self._cache is None:
            return None
        try:
            with open(self._cache / name, "rb") as file:
                data = file.read(layout.MOST_INDEX + 33)
        except OSError:
            return None
        whole = len(data) == size + 32 and hashlib.sha256(data[32:]).digest() == data[:32]
        return data[32:] if whole else None

    def _keep(self, name: str, data: bytes) -> None:
        if self._cache is not None:
            with contextlib.suppress(OSError):  # it will be read from the bucket again
                self._cache.mkdir(0o700, parents=True, exist_ok=True)
                write_whole(str(self._cache / name), hashlib.sha256(data).digest() + data)

    def _forget_indexes(self, names: set[str]) -> None:
        assert self._cache is not None
        with contextlib.suppress(OSError):
            for name in os.listdir(self._cache):
                if is_digest(name) and name not in names:
                    os.unlink(self._cache / name)


class Contents:
    """The contents of a home in a bucket, and of the runs that left theirs in it."""

    def __init__(self, s3: S3, workers: Workers, cache: Path | None = None) -> None:
        self._s3, self._workers = s3, workers
        self.home = Scope(s3, workers, "", cache)
        self._runs: dict[str, Scope] = {}
        self._lock = threading.Lock()

    def of_run(self, key: str) -> Scope:
        """What the run of that key left. Afterwards `places` knows of it, too."""
        with self._lock:
            if key not in self._runs:
                self._runs[key] = Scope(self._s3, self._workers, layout.run_prefix(key))
            return self._runs[key]

    def forget_run(self, key: str) -> None:
        with self._lock:
            self._runs.pop(key, None)

    def places(self, digests: Sequence[bytes]) -> list[ContentPlace | None]:
        """Where each of them lies; None for one that is not there. Raises `HostError`."""
        with self._lock:
            scopes = [*self._runs.values(), self.home]
        found: dict[bytes, ContentPlace] = {}
        for look in (Scope.look, Scope.look_again):
            for scope in scopes:
                left = [digest for digest in digests if digest not in found]
                if not left:
                    break
                look(scope, left)
                for digest in left:
                    place = scope.place(digest)
                    if place is not None:
                        found[digest] = place
        return [found.get(digest) for digest in digests]

    def place(self, digest: bytes) -> ContentPlace | None:
        return self.places([digest])[0]


def ranges_of(digest: bytes, place: ContentPlace) -> list[ContentRange]:
    """The same, for a host that gets an address for each object."""
    if place.chunks:
        return [ContentRange(chunk.digest, 0, chunk.length) for chunk in place.chunks]
    return [ContentRange(digest.hex(), extent.offset, extent.length) for extent in place.extents]
