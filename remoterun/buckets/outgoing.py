"""Contents on their way out of a bucket, in the order in which they are asked for.

What is asked for is looked up in windows. In each, extents of an object that follow each other are read as one.
Several are read at once, and handed on in the order of the question. The receiver verifies what it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from remoterun.agent.shared.frames import MAX_BODY
from remoterun.agent.shared.packs import PACK, SMALL, pack
from remoterun.agent.shared.protocol import RemoteError, Stream
from remoterun.buckets.contents import ContentPlace, Contents, Extent
from remoterun.buckets.s3 import S3, Absent
from remoterun.buckets.workers import Workers

WINDOW = 48 << 20
"""Bytes of the contents that are looked up together."""
READ = 4 << 20
"""Bytes that are read at once."""
GAP = 64 << 10
"""Bytes that are rather read and dropped than left out by another request."""
AHEAD = 8
"""Reads that are under way, or done and not handed on."""
MOST_PACKED = 4096


class RangeReader:
    """Reads extents of objects, several at once."""

    def __init__(self, s3: S3, workers: Workers) -> None:
        self._s3, self._workers = s3, workers

    def pieces(self, extents: Iterable[Extent]) -> Iterator[bytes]:
        """The bytes of each, one after the other, in pieces of `READ` bytes. Ends early, without an error, where an
        object is gone or shorter than it should be."""
        for part, data in self.each(_cut(extents)):
            yield data
            if len(data) < part.length:
                return

    def each(self, parts: Iterable[Extent]) -> Iterator[tuple[Extent, bytes]]:
        """Each with its bytes, or with fewer where there are not so many."""

        def read(part: Extent) -> tuple[Extent, bytes]:
            try:
                return part, self._s3.get_range(*part)
            except Absent:
                return part, b""

        return self._workers.each(read, parts, AHEAD)


def _cut(extents: Iterable[Extent]) -> Iterator[Extent]:
    for extent in extents:
        for at in range(0, extent.length, READ):
            yield Extent(extent.key, extent.offset + at, min(READ, extent.length - at))


class BlobSender:
    """One answer: see agent/store/outgoing.py for its frames."""

    def __init__(self, contents: Contents, reader: RangeReader, stream: Stream) -> None:
        self._contents, self._reader, self._stream = contents, reader, stream
        self._small: list[tuple[bytes, bytes]] = []
        self._held = 0
        self.count = 0

    def send(self, digests: Sequence[bytes]) -> None:
        """Send the contents of these."""
        window: list[tuple[bytes, ContentPlace]] = []
        held = 0
        for digest, place in zip(digests, self._contents.places(digests), strict=True):
            if place is not None and place.size <= READ and held + place.size <= WINDOW:
                window.append((digest, place))
                held += place.size
                continue
            self._send_window(window)
            window, held = [], 0
            if place is None:
                self._gone(digest)
            elif place.size <= READ:
                window, held = [(digest, place)], place.size
            else:
                self._large(digest, place.size, self._reader.pieces(place.extents))
        self._send_window(window)
        self._flush()

    def _send_window(self, window: list[tuple[bytes, ContentPlace]]) -> None:
        extents = [extent for _, place in window for extent in place.extents]
        reads = _joined(extents)
        read_of = _covering(extents, reads)
        users = Counter(read_of[extent] for extent in extents)
        came = self._reader.each(reads)
        held: dict[Extent, bytes] = {}
        for digest, place in window:
            parts = []
            for extent in place.extents:
                read = read_of[extent]
                while read not in held:
                    arrived, data = next(came)
                    held[arrived] = data
                start = extent.offset - read.offset
                parts.append(held[read][start : start + extent.length])
                users[read] -= 1
                if not users[read]:
                    del held[read]
            self._send(digest, place.size, b"".join(parts))

    def _send(self, digest: bytes, size: int, content: bytes) -> None:
        if len(content) != size:
            self._gone(digest)
        elif size > SMALL:
            self._large(digest, size, iter([content]))
        else:
            self._small.append((digest, content))
            self._held += size
            if self._held >= PACK or len(self._small) >= MOST_PACKED:
                self._flush()

    def _gone(self, digest: bytes) -> None:
        self._flush()
        self._stream.send(gone=digest.hex())

    def _flush(self) -> None:
        if self._small:
            self._stream.send(pack(self._small), p=len(self._small))
            self.count += len(self._small)
            self._small, self._held = [], 0

    def _large(self, digest: bytes, size: int, pieces: Iterator[bytes]) -> None:
        self._flush()
        header: dict[str, object] = {"d": digest.hex(), "s": size}
        left = size
        for piece in pieces:
            if piece:
                self._stream.send_all(piece, MAX_BODY, **header)
                header = {}
            left -= len(piece)
        if left == size:
            self._gone(digest)
        elif left:
            raise RemoteError("damaged", f"the content of {digest.hex()[:12]} is shorter there than it should be")
        else:
            self.count += 1


def _joined(extents: list[Extent]) -> list[Extent]:
    """Reads that cover all of `extents`, in the order in which they are needed first."""
    order: dict[Extent, int] = {}
    for number, extent in enumerate(extents):
        order.setdefault(extent, number)
    joined: list[tuple[int, Extent]] = []
    for extent in sorted(order):
        if joined:
            first, last = joined[-1]
            end = extent.offset + extent.length
            near = extent.key == last.key and extent.offset <= last.offset + last.length + GAP
            if near and end - last.offset <= READ:
                length = max(last.length, end - last.offset)
                joined[-1] = min(first, order[extent]), last._replace(length=length)
                continue
        joined.append((order[extent], extent))
    return [read for _, read in sorted(joined)]


def _covering(extents: list[Extent], reads: list[Extent]) -> dict[Extent, Extent]:
    """The read that covers each extent."""
    found: dict[Extent, Extent] = {}
    left = iter(sorted(reads))
    read = next(left, None)
    for extent in sorted(set(extents)):
        while read is not None and not _covers(read, extent):
            read = next(left, None)
        assert read is not None
        found[extent] = read
    return found


def _covers(read: Extent, extent: Extent) -> bool:
    return (
        read.key == extent.key
        and read.offset <= extent.offset
        and extent.offset + extent.length <= read.offset + read.length
    )
