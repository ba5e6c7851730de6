"""A large file to a host, read and hashed piece by piece while it is sent, in the cheapest of four ways:

compared    the host has a file like it: only what that one does not have is sent (agent/store/patching.py)
in parts    over several connections, where the link is far (agent/store/parts.py)
in order    otherwise; its digest comes last (agent/store/large_blob.py)
known       its digest is known from before: in order, or in parts

Parts could serve them all. In order a near host hashes a file as it writes it; sent in parts it reads all of it once
more, which makes the upload of one large file a quarter slower where both ends share two cores.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.delta import BLOCK, records
from remoterun.agent.shared.frames import PIECE, Body
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.tree import ChangedWhileRead, show
from remoterun.errors import TransferError
from remoterun.transfer.answers import next_frame, nonsense
from remoterun.transfer.codecs import crc32
from remoterun.transfer.inventory import Inventory, file_key
from remoterun.transfer.outbox import Outbox, Task
from remoterun.transfer.reading import ListedEntry, Reading, changing, pieces, size_and_time

BLOCKS = 64
"""Blocks of a file that are asked about in one frame."""
QUESTIONS = 3
"""Frames of questions that are sent before the first answer is waited for."""
PART = 1 << 20
"""Bytes of a part."""


class LargeFiles:
    """Those of one tree."""

    def __init__(self, outbox: Outbox, inventory: Inventory) -> None:
        self._outbox, self._session = outbox, outbox.session
        self._inventory = inventory

    def send(self, item: ListedEntry, tree: Reading, ask: Callable[[str, os.stat_result], None]) -> tuple[str, int]:
        """Send a file whose digest is not known; (digest, size). One that changes while it is read is sent once more.

        `ask` is told digest and status of a file that may be there, and sends it if it is not. Raises `TransferError`,
        and `FileNotFoundError` when the file is gone.
        """
        for _ in range(2):
            read_at = time.time_ns()
            try:
                before = os.stat(item.path)
                like = self._inventory.similar.of(item.entry.path, before.st_size)
                may_be_there = not like and before.st_size in self._inventory.sizes
                if may_be_there:
                    digest = _hashed(item.path, before.st_size).hexdigest()
                else:
                    digest = self._send(item.path, before, like)
                after = os.stat(item.path)
            except ChangedWhileRead:
                continue
            except FileNotFoundError:
                raise
            except OSError as error:
                raise TransferError(f"`{show(item.path)}` can't be read: {error.strerror}")
            if size_and_time(before) == size_and_time(after):
                tree.note(item, after, digest, read_at)
                if may_be_there:
                    ask(digest, after)
                else:
                    self._inventory.sizes.add(after.st_size)
                return digest, after.st_size
        raise changing(item.path)

    def send_known(self, path: str, stamp: tuple[int, int], digest: str, have: int) -> None:
        """Send a file whose digest is known, and of which the host has `have` bytes. On the thread that sends.

        Raises `TransferError`, also if its size and mtime are not `stamp` any more.
        """
        size = stamp[0]
        offset, key = have if have <= size else 0, digest
        try:
            status = os.stat(path)
            if size_and_time(status) != stamp:
                raise ChangedWhileRead(path)
            if not offset:  # it may have been begun when its digest was not known yet, or in parts
                if not self._inventory.asked:
                    self._inventory.ask(self._session, "", set())
                begun = file_key(path, status)
                there = self._inventory.partial.get(begun, 0)
                if begun in self._inventory.parts or 0 < there <= size:
                    offset, key = (0 if begun in self._inventory.parts else there), begun
            if self._outbox.is_far(size - offset) and not offset:
                self._in_parts(path, size, key, digest)
            else:
                rest = pieces(path, offset, size, self._outbox.pace.next)
                self._outbox.send_blob(digest, size, offset, rest, key)
        except (ChangedWhileRead, FileNotFoundError):
            raise TransferError(f"`{show(path)}` changed after it was read", hint="try again")

    def _send(self, path: str, status: os.stat_result, like: list[str]) -> str:
        """The digest."""
        size, key = status.st_size, file_key(path, status)
        there = self._inventory.partial.get(key, 0)
        there = there if there <= size else 0
        if like:
            try:
                return self._compare(path, size, there, key, like)
            except TransferError as error:
                cause = error.__context__
                if not (isinstance(cause, RemoteError) and cause.code == "damaged"):
                    raise
                there = 0  # a block had another's checksum by chance: it would have so again
        elif self._outbox.is_far(size) and not there:
            return self._in_parts(path, size, key)
        return self._in_order(path, size, there, key)

    def _compare(self, path: str, size: int, there: int, key: str, like: list[str]) -> str:
        """Send what the blobs `like` don't have of it: see `agent.shared.delta`. The digest."""
        digest = _hashed(path, there)
        self._outbox.count(0, 0, there=there)
        asked: deque[bytes] = deque()
        with self._session.stream(api.patch, api.PatchBlob(size, key, there, like)) as stream:
            compressing = self._outbox.compressing(stream)

            def answer() -> None:
                frame = next_frame(stream, self._session)
                data = memoryview(asked.popleft())
                if len(frame.body) != -(-len(data) // BLOCK):
                    raise nonsense(self._session)
                wanted = 0
                for start, end in _runs(frame.body):
                    end = min(end * BLOCK, len(data))
                    wanted += end - start * BLOCK
                    for at in range(start * BLOCK, end, PIECE):
                        compressing.send(data[at : min(at + PIECE, end)], {})
                self._outbox.count(wanted, 0, there=len(data) - wanted)

            for data in pieces(path, there, size, BLOCKS * BLOCK):
                digest.update(data)
                stream.send(records(data, crc32), w=1, u=digest.copy().hexdigest())
                asked.append(data)
                if len(asked) > QUESTIONS:
                    answer()
            while asked:
                answer()
            stream.send(b"", h=digest.hexdigest())
            stream.end()
            stream.finish()
        self._outbox.count(0, 1)
        return digest.hexdigest()

    def _in_order(self, path: str, size: int, there: int, key: str) -> str:
        """Send it by the thread that sends, from byte `there` on. The digest."""
        digest = _hashed(path, there)
        self._outbox.count(0, 0, there=there)
        header: dict[str, Any] = {"s": size, "o": there, "k": key}
        left = size - there
        for piece in pieces(path, there, size, lambda: self._outbox.pace.size):
            digest.update(piece)
            left -= len(piece)
            if not left:
                header["h"] = digest.hexdigest()
            self._send_later(piece, header, ends=not left)
            header = {}
        if there == size:
            self._send_later(b"", {**header, "h": digest.hexdigest()}, ends=True)
        return digest.hexdigest()

    def _send_later(self, data: bytes, header: dict[str, Any], ends: bool) -> None:
        def job() -> None:
            self._outbox.pace.next()
            self._outbox.send(data, header)
            self._outbox.count(len(data), int(ends))

        self._outbox.later(job, len(data))

    def _in_parts(self, path: str, size: int, key: str, digest: str = "") -> str:
        """Send it over all connections; its digest, if that is not known. Blocks until it is there."""
        with self._session.stream(api.seal, api.SealBlob(key, size)) as stream:  # hashes there what has come
            hashed = hashlib.sha256()
            there = deque(sorted(self._inventory.parts.get(key, ())))
            at = 0
            for data in pieces(path, 0, size, PART):
                if not digest:
                    hashed.update(data)
                start, at = at, at + len(data)
                while there and sum(there[0]) < at:
                    there.popleft()
                if there and there[0][0] <= start:
                    self._outbox.count(0, 0, there=len(data))
                    continue
                if stream.cancelled:  # `finish` tells why
                    break
                header: dict[str, Any] = {"k": key, "s": size, "o": start, "n": len(data)}
                self._outbox.share(Task([(data, header)], len(data), 0))
            digest = digest or hashed.hexdigest()
            stream.send(b"", h=digest)
            stream.end()
            while True:
                try:
                    stream.finish(0.5)
                    break
                except TimeoutError:
                    self._outbox.raise_failure_of_lanes()
        self._outbox.count(0, 1)
        return digest


def _hashed(path: str, end: int) -> hashlib._Hash:
    """SHA-256 of a file up to `end`, to go on with."""
    digest = hashlib.sha256()
    for piece in pieces(path, 0, end, 1 << 20):
        digest.update(piece)
    return digest


def _runs(flags: Body) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of ones."""
    at = 0
    for flag, run in itertools.groupby(flags):
        length = sum(1 for _ in run)
        if flag:
            yield at, at + length
        at += length
