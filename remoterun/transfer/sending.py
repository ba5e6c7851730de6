"""Trees to a host: one flow, in which listing, reading, hashing, asking and sending overlap.

    this thread      list → read → hash ─┬─ small files, in batches: which are missing? ─┐
                                         └─ large ones, piece by piece as they are read ─┤
    the other one                                  the answers, one after the other ─────┴→ packs, pieces → the host

Over a link on which an answer takes long, packs and large files, these in parts, go over several connections: lanes.py.

A batch is asked about while the next ones are read, and what is missing of it is sent from memory. A large file whose
digest is not known is hashed while it is sent. What a cut transfer left is not sent again.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.delta import BLOCK, records
from remoterun.agent.shared.packs import PACK, SMALL, Pace, pack
from remoterun.agent.shared.protocol import PIECE, Body, RemoteError, Stream
from remoterun.agent.shared.squeezing import Squeezing
from remoterun.agent.shared.tree import Entry, Manifest, ManifestBuilder, TreeError, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.codecs import best, crc32
from remoterun.transfer.lanes import FAR, Lanes, lanes_for
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import Changing, Listed, Reading, changing, pieces, whole_content

BATCH = 1000
"""Files that are asked about at once, or `BATCH_BYTES` of them."""
BATCH_BYTES = 1 << 20
WHOLE = 4 << 20
"""Bytes of the largest file that is read before anything of it is sent."""
UNDER_WAY = 16 << 20
"""Bytes that are read and not sent yet."""
BLOCKS = 64
"""Of a file that is compared with another there: asked about at once, ..."""
QUESTIONS = 3
"""... and so many times before the first answer is waited for."""
EAGER = 4 << 20
"""Bytes of small files that go over the open connection before others are opened for them."""
WORTH_NOTING, MOST_MET = 4096, 200_000
"""Bytes from which on, and how many, contents are noted, so that none is sent twice."""
TOLD = 64 << 10
"""Bytes of the manifest that are sent at once, while it grows."""
MOST_SIZES = 10_000
"""Of large files, that are asked about."""
PART = 1 << 20
"""Bytes of a large file that go over one of several connections."""

STOP_SECONDS = 5.0
"""For the thread that sends to end, after an error; a link that stands still may hold it."""


@dataclass(frozen=True)
class Sent:
    """What a transfer to a host moved: blobs and bytes, and bytes that were there already."""

    blobs: int
    size: int
    already: int


@dataclass(slots=True)
class _Blob:
    """A content that may be missing there: at hand, or in a file of this machine that has been hashed before."""

    digest: str
    size: int
    content: bytes | None
    path: str = ""
    stamp: tuple[int, int] = (0, 0)
    """Of that file, when it was looked at: size and mtime."""


@dataclass
class _Batch:
    blobs: list[_Blob] = field(default_factory=list)
    held: int = 0

    def add(self, blob: _Blob) -> bool:
        """Whether it is full."""
        self.blobs.append(blob)
        self.held += len(blob.content or b"")
        return len(self.blobs) >= BATCH or self.held >= BATCH_BYTES


@dataclass(slots=True)
class _Piece:
    """A frame of a large file that is being read; `there` of the file's bytes are there already."""

    header: dict[str, Any]
    data: bytes
    ends: bool = False


def send_tree(
    session: Session,
    tree: Reading,
    extra: dict[str, bytes],
    progress: Progress,
    name: str = "",
    commit: Stream | None = None,
) -> tuple[Manifest, Sent]:
    """Send what of `tree` and of `extra` (digest to content) the host lacks; the tree's manifest. `tree` is used up.

    `name`: of an upload there whose large files it may share parts with. `commit`: where the manifest goes as it grows,
    for the host to put files in place meanwhile; the caller ends it.

    A transfer that was cut goes on when it is repeated. Raises `TransferError`, `UsageError`, `HostError`.
    """
    complete = False
    try:
        progress.start("sending", tree.files, tree.size)
        sender = _Sender(session, progress)
        with sender:
            manifest = sender.send(tree, extra, name, commit)
        complete = True
        return manifest, sender.sent
    finally:
        tree.close(complete)


def missing_blobs(session: Session, digests: list[str]) -> list[tuple[str, int]]:
    """(digest, bytes that a cut transfer left there) of each blob the host lacks."""
    found = []
    with session.stream(api.missing, Nothing()) as stream:
        for start in range(0, len(digests), BATCH):
            part = digests[start : start + BATCH]
            stream.send(b"".join(map(bytes.fromhex, part)))
            found += [(part[place], have) for place, have in _answer(stream, len(part), session)]
        stream.end()
        stream.finish()
    return found


class _Sender:
    """See the module. The thread that sends is started with the context and has ended when it is left."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session = session
        self._progress = progress
        self._room = _Room(UNDER_WAY)
        self._todo: queue.SimpleQueue[_Batch | _Piece | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="remoterun sends", daemon=True)
        self._stack = ExitStack()
        self._blobs = self._moved = self._already = 0
        self._counting = threading.Lock()
        self._pace = Pace()
        """Of large files; kept by the thread that sends."""
        self._partial: dict[str, int] = {}
        self._parts: dict[str, list[tuple[int, int]]] = {}
        self._likely = Likely([])
        self._asked = False
        self._sizes: set[int] = set()
        """Of large files that are there: one of that size is hashed before it is sent."""
        self._met: set[str] = set()
        self._size = 0
        self._commit: Stream | None = None
        self._opening = threading.Lock()
        self._shared: _Shared | None = None
        self._lanes: Lanes | None = None

    def __enter__(self) -> _Sender:
        self._asking = self._stack.enter_context(self._session.stream(api.missing, Nothing()))
        self._putting = self._stack.enter_context(self._session.stream(api.put, Nothing()))
        self._bulk = self._squeezing(self._putting)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _Failed):
            error = self._cause() or error
        if error is None:
            self._todo.put(None)
            while self._thread.is_alive():
                self._thread.join(0.2)  # so that ^C is heard
            if self._shared is not None and self._lanes is not None:
                self._shared.close()
                self._lanes.join()
            error = self._cause()
        else:
            self._putting.cancel()
            self._asking.cancel()
            self._todo.put(None)
            if self._shared is not None and self._lanes is not None:
                self._shared.close()
                self._lanes.close()
            self._thread.join(STOP_SECONDS)
        if error is None:
            self._stack.close()
        elif not self._stack.__exit__(type(error), error, error.__traceback__):  # turns it into one of ours
            raise error

    def _cause(self) -> BaseException | None:
        lanes = self._lanes.failure if self._lanes is not None else None
        return lanes if isinstance(self._failure, _Failed) else self._failure or lanes

    @property
    def sent(self) -> Sent:
        return Sent(self._blobs, self._moved, self._already)

    def send(self, tree: Reading, extra: dict[str, bytes], name: str, commit: Stream | None) -> Manifest:
        self._size, self._commit = tree.size, commit
        if tree.ended and self._is_far(sum(entry.size for entry in tree.entries() if not entry.digest)):
            self._open_lanes()  # it will be wanted, most likely
        self._look_what_is_there(name, tree)
        build = ManifestBuilder()
        told = 0
        batch = _Batch()
        for digest, content in extra.items():
            batch = self._take(batch, _Blob(digest, len(content), content))
        counted = tree.files
        try:
            for item in tree:
                if tree.files > counted:
                    self._progress.expect(tree.files - counted, item.entry.size)
                    counted = tree.files
                entry = item.entry
                if entry.kind == "f":
                    if entry.digest:
                        stamp = _stamp(item.status) if item.status else (0, 0)
                        batch = self._take(batch, _Blob(entry.digest, entry.size, None, item.path, stamp))
                    elif entry.size <= WHOLE:
                        try:
                            content, digest, status, read_at = whole_content(item, 2 * WHOLE)
                        except FileNotFoundError:
                            self._leave_out_vanished(item, tree)
                            continue
                        tree.note(item, status, digest, read_at)
                        entry = Entry("f", entry.path, len(content), digest, entry.executable)
                        batch = self._take(batch, _Blob(digest, len(content), content))
                    else:
                        batch = self._flush(batch)
                        try:
                            digest, size = self._large(item, tree)
                        except FileNotFoundError:
                            self._leave_out_vanished(item, tree)
                            continue
                        entry = entry._replace(digest=digest, size=size)
                build.add(entry)
                # Of files that are asked about: the host need not look for others yet.
                if commit is not None and not batch.blobs and build.length - told >= TOLD:
                    told = _tell(commit, build, told)
        except TreeError as error:
            raise TransferError(str(error), hint="wait until nothing writes there, and try again")
        self._flush(batch)
        self._asking.end()
        if commit is not None:
            _tell(commit, build, told, last=1)
        return Manifest.built(build)

    def _leave_out_vanished(self, item: Listed, tree: Reading) -> None:
        tree.leave_out_vanished(item)
        self._progress.expect(-1, -item.entry.size)

    def _take(self, batch: _Batch, blob: _Blob) -> _Batch:
        if self._is_again(blob.digest, blob.size):
            return batch
        return self._flush(batch) if batch.add(blob) else batch

    def _is_again(self, digest: str, size: int) -> bool:
        """Whether this content was met before, and is there or on its way: then it is done. Notes it if not."""
        if digest in self._met:
            self._count(0, 1, there=size)
            return True
        if size >= WORTH_NOTING and len(self._met) < MOST_MET:
            self._met.add(digest)
        return False

    def _flush(self, batch: _Batch) -> _Batch:
        if batch.blobs:
            self._take_room(batch.held)
            self._asking.send(b"".join([bytes.fromhex(blob.digest) for blob in batch.blobs]))
            self._todo.put(batch)
        return _Batch()

    def _take_room(self, size: int) -> None:
        while not self._room.take(size, 0.2):
            if self._failure is not None:
                raise _Failed
        if self._failure is not None:
            raise _Failed
        if self._commit is not None and self._commit.cancelled:
            self._commit.send()  # raises why

    def _look_what_is_there(self, name: str, tree: Reading) -> None:
        """Only if there are large files to read; it costs a round trip."""
        large = {entry.size for entry in tree.entries() if entry.size > WHOLE and not entry.digest}
        if large or not tree.ended:
            self._ask_what_is_there(name, large)

    def _ask_what_is_there(self, name: str, sizes: set[int]) -> None:
        there = self._session.ask(api.begun, api.Beginnings(name, sorted(sizes)[:MOST_SIZES]))
        self._asked = True
        self._sizes = set(there.sizes)
        self._partial = there.partial
        with self._session.understood():
            self._parts = {key: [(offset, length) for offset, length in found] for key, found in there.parts.items()}
        self._likely = Likely([(file.path, file.size, file.digest) for file in there.large])

    # -- a large file, read and hashed here, piece by piece

    def _large(self, item: Listed, tree: Reading) -> tuple[str, int]:
        """(digest, size). One that changes while it is read is sent once more.

        Raises `TransferError`, and `FileNotFoundError` when it is gone.
        """
        for _ in range(2):
            read_at = time.time_ns()
            try:
                before = os.stat(item.path)
                key = _key(item.path, before)
                there = self._partial.get(key, 0)
                there = there if there <= before.st_size else 0
                like = self._likely.of(item.entry.path, before.st_size)
                if not like and before.st_size in self._sizes:
                    digest = self._hashed(item.path, before.st_size)
                    after = os.stat(item.path)
                    if _stamp(before) != _stamp(after):
                        continue
                    tree.note(item, after, digest, read_at)
                    self._flush(self._take(_Batch(), _Blob(digest, before.st_size, None, item.path, _stamp(before))))
                    return digest, before.st_size
                if like:
                    digest = self._compared(item.path, before.st_size, there, key, like)
                elif self._is_far(before.st_size) and not there:
                    digest = self._in_parts(item.path, before.st_size, key)
                else:
                    digest = self._read(item.path, before.st_size, there, key)
                after = os.stat(item.path)
            except Changing:
                continue
            except FileNotFoundError:
                raise
            except OSError as error:
                raise TransferError(f"`{show(item.path)}` can't be read: {error.strerror}")
            if _stamp(before) == _stamp(after):
                tree.note(item, after, digest, read_at)
                self._met.add(digest)
                self._sizes.add(after.st_size)
                return digest, after.st_size
        raise changing(item.path)

    def _compared(self, path: str, size: int, there: int, key: str, like: list[str]) -> str:
        try:
            return self._compare(path, size, there, key, like)
        except TransferError as error:
            cause = error.__context__
            if not (isinstance(cause, RemoteError) and cause.code == "damaged"):
                raise
        return self._read(path, size, 0, key)  # a block had another's checksum by chance: it would have so again

    def _hashed(self, path: str, size: int) -> str:
        """There is a blob of that size: it may be this one, so it is not sent before that is known."""
        digest = hashlib.sha256()
        for piece in pieces(path, 0, size, 1 << 20):
            digest.update(piece)
        return digest.hexdigest()

    def _compare(self, path: str, size: int, there: int, key: str, like: list[str]) -> str:
        """Send what others there don't have of it: see `agent.delta`. The digest."""
        digest = hashlib.sha256()
        for piece in pieces(path, 0, there, 1 << 20):
            digest.update(piece)
        self._count(0, 0, there=there)
        asked: deque[bytes] = deque()
        with self._session.stream(api.patch, api.PatchBlob(size, key, there, like)) as stream:
            bulk = self._squeezing(stream)

            def answer() -> None:
                frame = stream.receive()
                data = memoryview(asked.popleft())
                blocks = -(-len(data) // BLOCK)
                if frame is None or len(frame.body) != blocks:
                    raise TransferError(f"{self._session.machine.name} sent an answer that makes no sense")
                for start, end in _runs(frame.body):
                    for at in range(start * BLOCK, min(end * BLOCK, len(data)), PIECE):
                        bulk.send(data[at : min(at + PIECE, end * BLOCK)], {})
                wanted = sum(len(data[n * BLOCK : (n + 1) * BLOCK]) for n, flag in enumerate(frame.body) if flag)
                self._count(wanted, 0, there=len(data) - wanted)

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
        self._count(0, 1)
        return digest.hexdigest()

    def _read(self, path: str, size: int, there: int, key: str) -> str:
        digest = hashlib.sha256()
        for piece in pieces(path, 0, there, 1 << 20):
            digest.update(piece)
        header: dict[str, Any] = {"s": size, "o": there, "k": key}
        self._count(0, 0, there=there)
        left = size - there
        for piece in pieces(path, there, size, lambda: self._pace.size):
            digest.update(piece)
            left -= len(piece)
            if not left:
                header["h"] = digest.hexdigest()
            self._piece(_Piece(header, piece, ends=not left))
            header = {}
        if there == size:
            self._piece(_Piece({**header, "h": digest.hexdigest()}, b"", ends=True))
        return digest.hexdigest()

    def _is_far(self, size: int) -> bool:
        return lanes_for(self._session, size) > 1

    def _in_parts(self, path: str, size: int, key: str, digest: str = "") -> str:
        """Send a file over all lanes; its digest, if that is not known. Blocks until it is there."""
        with self._session.stream(api.seal, api.SealBlob(key, size)) as stream:  # hashes there what has come
            hashed = hashlib.sha256()
            there = deque(sorted(self._parts.get(key, ())))
            at = 0
            for data in pieces(path, 0, size, PART):
                if not digest:
                    hashed.update(data)
                part = (at, len(data))
                at += len(data)
                while there and sum(there[0]) < at:
                    there.popleft()
                if there and there[0][0] <= part[0]:
                    self._count(0, 0, there=len(data))
                    continue
                if stream.cancelled:  # `finish` tells why
                    break
                header: dict[str, Any] = {"k": key, "s": size, "o": part[0], "n": part[1]}
                self._share([(data, header)], len(data), 0)
            digest = digest or hashed.hexdigest()
            stream.send(b"", h=digest)
            stream.end()
            while True:
                try:
                    stream.finish(0.5)
                    break
                except TimeoutError:
                    if self._lanes is not None and self._lanes.failure:
                        raise _Failed from None
        self._count(0, 1)
        return digest

    def _share(self, frames: list[tuple[bytes, dict[str, Any]]], size: int, blobs: int) -> None:
        """Give something to whichever lane is free; they are opened with the first."""
        self._open_lanes()
        assert self._shared is not None and self._lanes is not None
        while not self._shared.put(_Task(frames, size, blobs), 0.2):
            if self._lanes.failure:
                raise _Failed

    def _open_lanes(self) -> None:
        with self._opening:
            if self._shared is None:
                self._shared = _Shared()
                self._lanes = Lanes(self._session, lanes_for(self._session, self._size))
                self._lanes.start(self._work)

    def _work(self, session: Session) -> None:
        """One lane."""
        assert self._shared is not None
        with session.stream(api.put, Nothing()) as stream:
            bulk = self._squeezing(stream)
            while (task := self._shared.get()) is not None:
                for data, header in task.frames:
                    bulk.send(data, header)
                self._count(task.size, task.blobs)
            stream.end()
            stream.finish()

    def _squeezing(self, stream: Stream) -> Squeezing:
        return Squeezing(stream, self._session.round_trip, lambda: best(self._session.codecs()))

    def _count(self, moved: int, blobs: int, there: int = 0) -> None:
        with self._counting:
            self._moved += moved
            self._blobs += blobs
            self._already += there
            self._progress.add(moved + there, blobs, there)

    def _piece(self, piece: _Piece) -> None:
        self._take_room(len(piece.data))
        self._todo.put(piece)

    # -- the thread that sends

    def _run(self) -> None:
        try:
            if self._session.round_trip > FAR:
                self._session.codecs()  # asks
            while (task := self._todo.get()) is not None:
                if isinstance(task, _Piece):
                    self._send_piece(task)
                    self._room.give(len(task.data))
                else:
                    self._send_missing(task)
                    self._room.give(task.held)
            if self._failure is None:
                self._putting.end()
                self._putting.finish()
        except BaseException as error:  # noqa: BLE001 - raised where the context is left
            self._failure = error

    def _send_piece(self, piece: _Piece) -> None:
        self._pace.next()
        self._bulk.send(piece.data, piece.header)
        self._count(len(piece.data), int(piece.ends))

    def _send_missing(self, batch: _Batch) -> None:
        missing = dict(_answer(self._asking, len(batch.blobs), self._session))
        done = sum(blob.size for place, blob in enumerate(batch.blobs) if place not in missing)
        with self._counting:
            self._already += done
            self._progress.add(done, len(batch.blobs) - len(missing), done)
        ready: list[tuple[bytes, bytes]] = []
        held = 0
        for place, have in sorted(missing.items()):
            blob = batch.blobs[place]
            if blob.content is None and blob.size > SMALL:
                self._send_known(blob, have)
                continue
            content = blob.content if blob.content is not None else _reread(blob)
            if len(content) > SMALL:
                self._send_pieces(blob, have, _slices(content, have if have <= blob.size else 0))
                continue
            ready.append((bytes.fromhex(blob.digest), content))
            held += len(content)
            if held >= PACK:
                self._send_pack(ready, held)
                ready, held = [], 0
        if ready:
            self._send_pack(ready, held)

    def _send_pack(self, contents: list[tuple[bytes, bytes]], size: int) -> None:
        if self._moved > EAGER and self._is_far(self._size - self._moved):
            self._share([(pack(contents), {"p": len(contents)})], size, len(contents))
            return
        self._bulk.send(pack(contents), {"p": len(contents)})
        self._count(size, len(contents))

    def _send_known(self, blob: _Blob, have: int) -> None:
        """A large file that was hashed before."""
        offset, key = have if have <= blob.size else 0, blob.digest
        try:
            status = os.stat(blob.path)
            if _stamp(status) != blob.stamp:
                raise Changing
            if not offset:  # it may have been begun when its digest was not known yet, or in parts
                if not self._asked:
                    self._ask_what_is_there("", set())
                begun = _key(blob.path, status)
                there = self._partial.get(begun, 0)
                if begun in self._parts or 0 < there <= blob.size:
                    offset, key = (0 if begun in self._parts else there), begun
            if self._is_far(blob.size - offset) and not offset:
                self._in_parts(blob.path, blob.size, key, blob.digest)
            else:
                self._send_pieces(blob, offset, pieces(blob.path, offset, blob.size, self._pace.next), key)
        except (Changing, FileNotFoundError):
            raise TransferError(f"`{show(blob.path)}` changed after it was read", hint="try again")

    def _send_pieces(self, blob: _Blob, offset: int, parts: Iterable[bytes], key: str = "") -> None:
        if offset > blob.size:
            offset = 0
        header: dict[str, Any] = {"d": blob.digest, "s": blob.size, "o": offset, "k": key}
        self._count(0, 0, there=offset)
        for part in parts:
            self._bulk.send(part, header)
            header = {}
            self._count(len(part), 0)
        if header:
            self._putting.send(b"", **header)
        self._count(0, 1)


@dataclass(slots=True)
class _Task:
    """Frames that belong together, on whatever connection: a pack, or a part of a large file."""

    frames: list[tuple[bytes, dict[str, Any]]]
    size: int
    blobs: int


class _Shared:
    """What the lanes are to send, at most `UNDER_WAY` bytes of it."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._room = _Room(UNDER_WAY)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, task: _Task, timeout: float) -> bool:
        """Whether there was room within `timeout` seconds."""
        if not self._room.take(task.size, timeout):
            return False
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()
        return True

    def get(self) -> _Task | None:
        """Blocks until there is one; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._closed)
            task = self._tasks.popleft() if self._tasks else None
        if task is not None:
            self._room.give(task.size)
        return task

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Room:
    """So many bytes may be under way; one alone may be larger."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    def take(self, size: int, timeout: float) -> bool:
        """Whether there was room within `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= min(size, self._size), timeout):
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()


class Likely:
    """Large files that are there, of which another may have parts: by its path, its name, or its size."""

    def __init__(self, files: list[tuple[str, int, str]]) -> None:
        self._by_path = {path: digest for path, _, digest in files}
        self._by_name: dict[str, str] = {}
        for path, _, digest in files:
            self._by_name.setdefault(path.rpartition("/")[2], digest)
        self._sizes = sorted((size, digest) for _, size, digest in files)

    def of(self, path: str, size: int) -> list[str]:
        """Digests, the likeliest first."""
        names = [self._by_path.get(path), self._by_name.get(path.rpartition("/")[2])]
        at = bisect.bisect_left(self._sizes, (size, ""))
        near = sorted(self._sizes[max(0, at - 2) : at + 2], key=lambda file: abs(file[0] - size))
        return list(dict.fromkeys([name for name in names if name] + [digest for _, digest in near[:1]]))


class _Failed(Exception):
    """The thread that sends has failed: its error is the one to tell."""


def _tell(commit: Stream, build: ManifestBuilder, told: int, **header: Any) -> int:
    """Send what of the manifest was not `told` yet; how much is now."""
    while build.length - told > PIECE:
        commit.send(build.part(told, PIECE))
        told += PIECE
    commit.send(build.part(told, PIECE), **header)
    return build.length


_MISSING = struct.Struct("!IQ")


def _answer(stream: Stream, count: int, session: Session) -> list[tuple[int, int]]:
    """(place, bytes there already) of each of `count` blobs that is missing there."""
    frame = stream.receive()
    try:
        if frame is None:
            raise IndexError
        found = list(_MISSING.iter_unpack(frame.body))
        if any(place >= count for place, _ in found):
            raise IndexError
    except (struct.error, IndexError):
        raise TransferError(f"{session.machine.name} sent an answer that makes no sense")
    return found


def _reread(blob: _Blob) -> bytes:
    """The content of a small file whose digest was known. Raises `TransferError` if it is another by now."""
    try:
        with open(blob.path, "rb") as file:
            content = file.read(SMALL + 1)
    except OSError as error:
        raise TransferError(f"`{show(blob.path)}` can't be read: {error.strerror}")
    if hashlib.sha256(content).hexdigest() != blob.digest:
        raise TransferError(f"`{show(blob.path)}` changed after it was read", hint="try again")
    return content


def _runs(flags: Body) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of ones."""
    at = 0
    for flag, run in itertools.groupby(flags):
        length = sum(1 for _ in run)
        if flag:
            yield at, at + length
        at += length


def _slices(content: bytes, start: int) -> Iterator[bytes]:
    return (content[at : at + PIECE] for at in range(start, len(content), PIECE))


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _key(path: str, status: Any) -> str:
    """What a large file on its way is called there: by its place and its stamp, as its digest is not known yet."""
    stamp = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(b"%s\0%s" % (path.encode(errors="surrogateescape"), stamp.encode())).hexdigest()
