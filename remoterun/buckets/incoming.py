"""Contents on their way into a bucket, as the frames of a `put` bring them: see agent/store/incoming.py.

Small ones are packed, larger ones are cut into chunks. Each is verified before it is written, by a few threads. At
most four chunks are in memory: three that are written, one that grows. What a cut transfer has written of packs and
chunks is not written again.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import CHUNK, SMALL, Chunk, ChunkList, PackBuilder, Packed
from remoterun.agent.shared.codecs import CodecError, expand
from remoterun.agent.shared.frames import Body, Bytes, Frame
from remoterun.agent.shared.packs import PackError, unpack
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.records import encode
from remoterun.agent.shared.tree import LARGEST, is_digest, show
from remoterun.buckets.contents import EMPTY, Scope
from remoterun.buckets.s3 import S3, StoredObject
from remoterun.buckets.workers import Workers

TELLING = 16 << 20
"""Bytes of an object from which on it tells how fast the link is."""
QUICK, SLOW = 8e6, 2e6
"""Bytes a second of such an object above which three chunks are written at once, and below which only one is: where
the link is slow, a cut would cost what has come of each of them."""


class BlobReceiver:
    """Takes the frames of one transfer, in their order. Its errors are `RemoteError`."""

    def __init__(self, s3: S3, workers: Workers, scope: Scope) -> None:
        self._s3, self._workers, self._scope = s3, workers, scope
        self._packing = PackBuilder()
        self._begun: set[bytes] = set()
        """Contents and chunks of this transfer that are being written, or wait for their pack to be full."""
        self._large: _Large | None = None
        self._writing: deque[tuple[Future[None], int]] = deque()
        self._begun_writes = self._written = 0
        self._unlisted: deque[tuple[int, bytes, ChunkList]] = deque()
        """Lists that are written once so many writes are done: a list is there only after all of its chunks."""
        self._held = 0
        self._most_held = 2 * CHUNK
        """Bytes that are being written at once: two chunks, as long as it is not known how fast that goes."""
        self.count = 0

    def take(self, frame: Frame) -> None:
        """Blocks while too much is held."""
        header, body = frame
        try:
            body = expand(header, body)
            if "p" in header:
                for digest, content in unpack(body, int(header["p"])):
                    self._check(digest, hashlib.sha256(content).digest())
                    self._pack(digest, bytes(content))
                    self.count += 1
                return
        except (PackError, CodecError) as error:
            raise RemoteError("bad_stream", str(error))
        if "n" in header:
            raise RemoteError("bad_stream", "a bucket does not take a content in parts")
        if "s" in header:
            self._no_large()
            self._large = _Large(header)
        large = self._large
        if large is None:
            raise RemoteError("bad_stream", "bytes of no content")
        self._take_large(large, body, str(header.get("h", "")))

    def end(self) -> None:
        """Blocks until all that came is written."""
        self._no_large()
        self._write_pack(self._packing.end())
        while self._writing:
            self._await_one()

    def _no_large(self) -> None:
        if self._large is not None:
            raise RemoteError("bad_stream", "a content ended early")

    def _take_large(self, large: _Large, body: Body, told: str) -> None:
        large.left -= len(body)
        if large.left < 0:
            raise RemoteError("bad_stream", "a content is longer than was said")
        view = memoryview(body)
        while len(view) or not large.left:
            part = view[: CHUNK - large.held]
            view = view[len(part) :]
            large.add(part)
            if large.held == CHUNK and large.size > CHUNK and (large.left or len(view)):
                self._write_chunk(large)
            if not large.left and not len(view):
                break
        if large.left:
            if told:
                raise RemoteError("bad_stream", "a content ended early")
            return
        self._large = None
        wanted = large.digest or told
        if not is_digest(wanted):
            raise RemoteError("bad_stream", f"not a digest: {show(wanted[:80])}")
        digest = bytes.fromhex(wanted)
        if large.hashed is not None:
            self._check(digest, large.hashed.digest())
        self._finish(large, digest)
        self.count += 1

    def _finish(self, large: _Large, digest: bytes) -> None:
        if large.size <= SMALL:
            self._pack(digest, b"".join(large.parts))
            return
        self._scope.look([digest])
        if large.size <= CHUNK:
            if not self._scope.has(digest):
                self._write_blob(digest, large.parts, large.size)
            return
        self._write_chunk(large)
        if self._scope.has(digest):
            return
        self._unlisted.append((self._begun_writes, digest, ChunkList(large.size, large.chunks)))
        self._write_lists()

    def _write_lists(self) -> None:
        while self._unlisted and self._unlisted[0][0] <= self._written:
            _, digest, chunks = self._unlisted.popleft()
            self._write_list(digest, chunks)

    def _write_list(self, digest: bytes, chunks: ChunkList) -> None:
        data = encode(chunks)

        def write(_: None) -> None:
            self._s3.write(self._scope.lists.key(digest), data)
            self._scope.add_list(digest, chunks, len(data), time.time())

        self._write(write, len(data))

    def _write_chunk(self, large: _Large) -> None:
        digest = large.chunk.digest()
        parts, size = large.next_chunk(digest)
        self._scope.blobs.look([digest])
        if digest not in self._scope.blobs.found:
            self._write_blob(digest, parts, size)

    def _write_blob(self, digest: bytes, parts: list[Body | memoryview], size: int) -> None:
        if digest in self._begun:
            return
        self._begun.add(digest)

        def write(_: None) -> None:
            self._put(self._scope.blobs.key(digest), parts, digest.hex())
            parts.clear()
            self._scope.blobs.add(digest, size, time.time())

        self._write(write, size)

    def _pack(self, digest: bytes, content: bytes) -> None:
        if digest == EMPTY or digest in self._begun or self._scope.has(digest):
            return
        self._begun.add(digest)
        self._write_pack(self._packing.add(digest.hex(), content))

    def _write_pack(self, pack: Packed | None) -> None:
        if pack is None:
            return
        prefix = self._scope.prefix

        def write(_: None) -> None:
            self._put(prefix + layout.pack_key(pack.name), [pack.data], pack.name)
            key = prefix + layout.index_key(pack.name)
            self._s3.write(key, pack.listing)
            self._scope.add_pack(StoredObject(key, len(pack.listing), time.time()), pack.listing)

        self._write(write, len(pack.data))

    def _put(self, key: str, parts: Sequence[Bytes], digest: str) -> None:
        size = sum(map(len, parts))
        begun = time.perf_counter()
        self._s3.put(key, parts, digest)
        if size >= TELLING:
            speed = size / (time.perf_counter() - begun)
            self._most_held = CHUNK * (3 if speed > QUICK else 1 if speed < SLOW else 2)

    def _write(self, job: Callable[[None], None], size: int) -> None:
        while self._writing and (self._writing[0][0].done() or self._held + size > self._most_held):
            self._await_one()
        self._writing.append((self._workers.submit(job, None), size))
        self._held += size
        self._begun_writes += 1

    def _await_one(self) -> None:
        future, size = self._writing.popleft()
        future.result()
        self._held -= size
        self._written += 1
        self._write_lists()

    def _check(self, wanted: bytes, digest: bytes) -> None:
        if wanted != digest:
            raise RemoteError(
                "damaged", f"the content of {wanted.hex()[:12]} did not arrive as it was read", "try again"
            )


class _Large:
    """A content that comes in several frames. `left`: bytes that have not come yet; `parts`: those of the chunk that
    grows, `held` bytes; `hashed` is fed with all of it, `chunk` with that chunk.

    A digest that is told after the content is of the very bytes that were sent: whoever tells it has hashed them in
    this process. Only one that was told before is verified, for the bytes may come from elsewhere by now.
    """

    def __init__(self, header: dict[str, Any]) -> None:
        self.digest, self.size = str(header.get("d", "")), int(header["s"])
        offset = header.get("o", 0)
        if not 0 <= self.size <= LARGEST or offset != 0:
            raise RemoteError("bad_stream", f"a content of {self.size} bytes from {offset!r:.40} on")
        self.left = self.size
        self.parts: list[Body | memoryview] = []
        self.held = 0
        self.hashed = hashlib.sha256() if self.digest or self.size <= SMALL else None
        self.chunk = hashlib.sha256()
        self.chunks: list[Chunk] = []

    def add(self, part: memoryview) -> None:
        if self.hashed is not None:
            self.hashed.update(part)
        if self.size > CHUNK:
            self.chunk.update(part)
        self.parts.append(part)
        self.held += len(part)

    def next_chunk(self, digest: bytes) -> tuple[list[Body | memoryview], int]:
        """The parts of the chunk that is whole, and its bytes; another one begins."""
        parts, size = self.parts, self.held
        self.chunks.append(Chunk(digest.hex(), size))
        self.parts, self.held, self.chunk = [], 0, hashlib.sha256()
        return parts, size
