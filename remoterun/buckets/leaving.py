"""Contents on their way out of a bucket, in the order in which they are asked for.

What is asked for is looked up in windows. In each, stretches of an object that follow each other are read as one.
Several are read at once, and handed on in the order of the question. The receiver verifies what it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from remoterun.agent.shared.frames import MAX_BODY
from remoterun.agent.shared.packs import PACK, SMALL, pack
from remoterun.agent.shared.protocol import RemoteError, Stream
from remoterun.buckets.contents import Contents, Place, Stretch
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


class Reader:
    """Reads stretches of objects, several at once."""

    def __init__(self, s3: S3, workers: Workers) -> None:
        self._s3, self._workers = s3, workers

    def pieces(self, stretches: Iterable[Stretch]) -> Iterator[bytes]:
        """The bytes of each, one after the other, in pieces of `READ` bytes. Ends early, without an error, where an
        object is gone or shorter than it should be."""
        for part, data in self.each(_cut(stretches)):
            yield data
            if len(data) < part.length:
                return

    def each(self, parts: Iterable[Stretch]) -> Iterator[tuple[Stretch, bytes]]:
        """Each with its bytes, or with fewer where there are not so many."""

        def read(part: Stretch) -> tuple[Stretch, bytes]:
            try:
                return part, self._s3.get_range(*part)
            except Absent:
                return part, b""

        return self._workers.each(read, parts, AHEAD)


def _cut(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    for stretch in stretches:
        for at in range(0, stretch.length, READ):
            yield Stretch(stretch.key, stretch.offset + at, min(READ, stretch.length - at))


class Shipping:
    """One answer: see agent/store/outgoing.py for its frames."""

    def __init__(self, contents: Contents, reader: Reader, stream: Stream) -> None:
        self._contents, self._reader, self._stream = contents, reader, stream
        self._small: list[tuple[bytes, bytes]] = []
        self._held = 0
        self.count = 0

    def ship(self, digests: Sequence[bytes]) -> None:
        """Send the contents of these."""
        window: list[tuple[bytes, Place]] = []
        held = 0
        for digest, place in zip(digests, self._contents.places(digests), strict=True):
            if place is not None and place.size <= READ and held + place.size <= WINDOW:
                window.append((digest, place))
                held += place.size
                continue
            self._ship_window(window)
            window, held = [], 0
            if place is None:
                self._gone(digest)
            elif place.size <= READ:
                window, held = [(digest, place)], place.size
            else:
                self._large(digest, place.size, self._reader.pieces(place.stretches))
        self._ship_window(window)
        self._flush()

    def _ship_window(self, window: list[tuple[bytes, Place]]) -> None:
        stretches = [stretch for _, place in window for stretch in place.stretches]
        reads = _joined(stretches)
        read_of = _covering(stretches, reads)
        users = Counter(read_of[stretch] for stretch in stretches)
        came = self._reader.each(reads)
        held: dict[Stretch, bytes] = {}
        for digest, place in window:
            parts = []
            for stretch in place.stretches:
                read = read_of[stretch]
                while read not in held:
                    arrived, data = next(came)
                    held[arrived] = data
                start = stretch.offset - read.offset
                parts.append(held[read][start : start + stretch.length])
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


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """Reads that cover all of `stretches`, in the order in which they are needed first."""
    order: dict[Stretch, int] = {}
    for number, stretch in enumerate(stretches):
        order.setdefault(stretch, number)
    joined: list[tuple[int, Stretch]] = []
    for stretch in sorted(order):
        if joined:
            first, last = joined[-1]
            end = stretch.offset + stretch.length
            near = stretch.key == last.key and stretch.offset <= last.offset + last.length + GAP
            if near and end - last.offset <= READ:
                length = max(last.length, end - last.offset)
                joined[-1] = min(first, order[stretch]), last._replace(length=length)
                continue
        joined.append((order[stretch], stretch))
    return [read for _, read in sorted(joined)]


def _covering(stretches: list[Stretch], reads: list[Stretch]) -> dict[Stretch, Stretch]:
    """The read that covers each stretch."""
    found: dict[Stretch, Stretch] = {}
    left = iter(sorted(reads))
    read = next(left, None)
    for stretch in sorted(set(stretches)):
        while read is not None and not _covers(read, stretch):
            read = next(left, None)
        assert read is not None
        found[stretch] = read
    return found


def _covers(read: Stretch, stretch: Stretch) -> bool:
    return (
        read.key == stretch.key
        and read.offset <= stretch.offset
        and stretch.offset + stretch.length <= read.offset + read.length
    )
