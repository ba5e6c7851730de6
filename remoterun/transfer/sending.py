"""Trees to a host: one flow, in which listing, reading, hashing, asking and sending overlap.

    this thread     list → read → hash → batches of small files, large files
    the lanes       ask which are missing → packs, pieces → the host

reading.py lists and reads, lanes.py holds the threads and the connections, large_files.py sends large files. What is
missing of a batch is sent from memory. What a cut transfer left is not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.packs import LARGE, PACK, CompressingStream, pack
from remoterun.agent.shared.tree import ChangedWhileRead, Entry, Manifest, ManifestBuilder, TreeError, hash_file, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import AT_ONCE, missing_blobs, require_room
from remoterun.transfer.lanes import WORTH, Lanes
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import ListedEntry, Reading, changing, read_entries, size_and_time, whole_content

BATCH = AT_ONCE
"""Files of a batch, or `BATCH_BYTES` of them."""
BATCH_BYTES = 4 << 20
WORTH_NOTING, MOST_MET = 4096, 200_000
"""Bytes from which on, and how many, contents are noted, so that none is sent twice."""


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
    item: ListedEntry | None = None
    stamp: tuple[int, int] = (0, 0)
    """Size and mtime of that file when it was looked at."""


@dataclass
class _Batch:
    blobs: list[_Blob] = field(default_factory=list)
    held: int = 0
    """Bytes that are in memory."""
    size: int = 0
    """Bytes of its small files."""

    def add(self, blob: _Blob) -> bool:
        """Whether it is full."""
        self.blobs.append(blob)
        self.held += len(blob.content or b"")
        self.size += blob.size if blob.size <= LARGE else 0
        return len(self.blobs) >= BATCH or self.size >= BATCH_BYTES


def send_tree(
    session: Session,
    tree: Reading,
    extra: dict[str, bytes],
    progress: Progress,
    name: str = "",
) -> tuple[Manifest, Sent]:
    """Send what of `tree` and of `extra` (digest to content) the host lacks; the tree's manifest. `tree` is used up.

    `name`: of the upload there that gets a new version: pieces that the version before has of a file are not sent.

    A transfer that was cut goes on when it is repeated. Raises `TransferError`, `UsageError`, `HostError`.
    """
    complete = False
    try:
        progress.start("sending", tree.files, tree.size)
        sender = _Sender(session, progress, name)
        manifest = sender.send(tree, extra)
        complete = True
        return manifest, Sent(sender.blobs, sender.moved, sender.already)
    finally:
        tree.close(complete)


def send_blobs(session: Session, blobs: dict[str, bytes], progress: Progress) -> None:
    """Send what of `blobs` (digest to content) the host lacks, as `send_tree`."""
    send_tree(session, read_entries([]), blobs, progress)


class _Sender:
    """See the module."""

    def __init__(self, session: Session, progress: Progress, name: str) -> None:
        self._session, self._progress = session, progress
        self._name = name
        self._met: set[str] = set()
        """Digests that were met before: these are there, or on their way."""
        self._room: int | None = None
        """Bytes that may arrive there, where that may be too little."""
        self.blobs = self.moved = self.already = 0
        """What was sent: blobs and bytes; and bytes that were there already."""
        self._expected = 0
        """Bytes that will be sent, most likely."""
        self._counting = threading.Lock()

    def send(self, tree: Reading, extra: dict[str, bytes]) -> Manifest:
        if not tree.ended or tree.size >= WORTH:
            self._room = self._session.ask(api.room, api.Arriving()).room
        self._make_sure_it_fits(tree)
        self._expected = sum(entry.size for entry in tree.entries() if not entry.digest)
        with contextlib.ExitStack() as stack, Lanes(self._session, self._expected) as self._lanes:
            batch = _Batch()
            for digest, content in extra.items():
                batch = self._take(batch, self._of_memory(digest, content, stack))
            try:
                return self._send_tree(tree, batch)
            except TreeError as error:
                raise TransferError(str(error), hint="wait until nothing writes there, or send less: a tar archive")

    def _of_memory(self, digest: str, content: bytes, files: contextlib.ExitStack) -> _Blob:
        """A content as a blob; a large one is in a temporary file, which `files` deletes."""
        if len(content) <= LARGE:
            return _Blob(digest, len(content), content)
        file = files.enter_context(tempfile.NamedTemporaryFile())
        file.write(content)
        file.flush()
        status = os.stat(file.name)
        item = ListedEntry(Entry("f", "", len(content), digest), file.name, status)
        return _Blob(digest, len(content), None, item, size_and_time(status))

    def _send_tree(self, tree: Reading, batch: _Batch) -> Manifest:
        build = ManifestBuilder()
        counted = tree.files
        for item in tree:
            if tree.files > counted:
                self._progress.expect(tree.files - counted, item.entry.size)
                counted = tree.files
                self._make_sure_it_fits(tree)
            entry = item.entry
            if entry.size > LARGE and not entry.digest:  # it is hashed first, while the batch is sent
                batch = self._flush(batch)
            try:
                if entry.kind == "f":
                    batch, entry = self._file(batch, item, tree)
            except FileNotFoundError:
                tree.leave_out_vanished(item)
                self._progress.expect(-1, -entry.size)
                continue
            build.add(entry)
        self._flush(batch)
        return Manifest.built(build)

    def _file(self, batch: _Batch, item: ListedEntry, tree: Reading) -> tuple[_Batch, Entry]:
        """(the batch that takes more, the entry with its digest). Raises `FileNotFoundError` for one that is gone."""
        entry = item.entry
        if entry.digest:
            stamp = size_and_time(item.status) if item.status else (0, 0)
            return self._take(batch, _Blob(entry.digest, entry.size, None, item, stamp)), entry
        if entry.size <= LARGE:
            content, digest, status, read_at = whole_content(item, LARGE)
            tree.note(item, status, digest, read_at)
            entry = Entry("f", entry.path, len(content), digest, entry.executable)
            return self._take(batch, _Blob(digest, len(content), content)), entry
        digest, status = _hash_large(item, tree)
        entry = entry._replace(digest=digest, size=status.st_size)
        batch = self._take(batch, _Blob(digest, entry.size, None, item, size_and_time(status)))
        return self._flush(batch), entry

    def _take(self, batch: _Batch, blob: _Blob) -> _Batch:
        if self._is_again(blob.digest, blob.size):
            return batch
        return self._flush(batch) if batch.add(blob) else batch

    def _is_again(self, digest: str, size: int) -> bool:
        """Whether this content was met before, and is there or on its way: then it is done. Notes it if not."""
        if digest in self._met:
            self._count_present(1, size)
            return True
        if size >= WORTH_NOTING and len(self._met) < MOST_MET:
            self._met.add(digest)
        return False

    def _flush(self, batch: _Batch) -> _Batch:
        """Have sent what the host lacks of a batch."""
        if batch.blobs:
            self._lanes.put(partial(self._send_batch, batch), batch.held)
        return _Batch()

    def _make_sure_it_fits(self, tree: Reading) -> None:
        """Where all of what was listed would not fit: hash it, and ask what of it is missing; but not where it can't be
        there already. Raises `HostError`."""
        if self._room is None or tree.size - self.already <= self._room:
            return
        least = sum({entry.size for entry in tree.entries() if entry.kind == "f"})  # files of one size may be equal
        if least > self._room + self._session.ask(api.room, api.Arriving(tree.size)).stored:
            require_room(self._session, least, self._room)
        tree.hash_listed()
        sizes = {entry.digest: entry.size for entry in tree.entries() if entry.digest and entry.digest not in self._met}
        to_come = sum(max(0, sizes[digest] - have) for digest, have in missing_blobs(self._session, list(sizes)))
        to_come += sum(entry.size for entry in tree.entries() if entry.kind == "f" and not entry.digest)
        require_room(self._session, self.moved + to_come, self._room)

    # -- on the threads of the lanes

    def _send_batch(self, batch: _Batch, session: Session) -> None:
        """Ask on the first connection, whose agent protects the blobs; send on whichever is free."""
        lacking = {digest for digest, _ in missing_blobs(self._session, [blob.digest for blob in batch.blobs])}
        missing = [blob for blob in batch.blobs if blob.digest in lacking]
        there = sum(blob.size for blob in batch.blobs if blob.digest not in lacking)
        self._count_present(len(batch.blobs) - len(missing), there)
        small = []
        for blob in missing:
            if blob.size > LARGE:
                assert blob.item is not None
                before = (self._name, blob.item.entry.path)
                from remoterun.transfer.large_files import LargeUpload

                large = LargeUpload(blob.item.path, blob.stamp, blob.digest, before, self._count, self._lanes)
                self._lanes.put_next(large.begin)
            else:
                small.append(blob)
        with self._counting:
            self._expected += sum(blob.size for blob in missing if blob.content is None)
        self._lanes.add_connections(self._expected)
        if small:
            with session.stream(api.put, Nothing()) as stream:
                self._send_small(small, CompressingStream(stream, session.round_trip))
                stream.end()
                stream.finish()

    def _send_small(self, blobs: list[_Blob], out: CompressingStream) -> None:
        ready: list[tuple[bytes, bytes]] = []
        held = 0
        for blob in blobs:
            content = blob.content if blob.content is not None else _reread(blob)
            if ready and held + len(content) > PACK:
                self._send_pack(ready, held, out)
                ready, held = [], 0
            ready.append((bytes.fromhex(blob.digest), content))
            held += len(content)
        if ready:
            self._send_pack(ready, held, out)

    def _send_pack(self, contents: list[tuple[bytes, bytes]], size: int, out: CompressingStream) -> None:
        out.send(pack(contents), {"p": len(contents)})
        self._count(size, len(contents), 0)

    def _count(self, moved: int, blobs: int, there: int) -> None:
        with self._counting:
            self.moved += moved
            self.blobs += blobs
            self.already += there
            self._progress.add(moved + there, blobs, there)

    def _count_present(self, files: int, size: int) -> None:
        """Files that the host has already."""
        with self._counting:
            self.already += size
            self._progress.add(size, files, size)


def _hash_large(item: ListedEntry, tree: Reading) -> tuple[str, os.stat_result]:
    """Digest and status of a file. Raises `TransferError`, and `FileNotFoundError` when the file is gone."""
    read_at = time.time_ns()
    try:
        digest, status = hash_file(item.path)
    except ChangedWhileRead:
        raise changing(item.path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransferError(f"`{show(item.path)}` can't be read: {error.strerror}")
    tree.note(item, status, digest, read_at)
    return digest, status


def _reread(blob: _Blob) -> bytes:
    """The content of a file whose digest was known. Raises `TransferError` if it is another by now."""
    assert blob.item is not None
    path = blob.item.path
    try:
        with open(path, "rb") as file:
            content = file.read(blob.size + 1)
    except OSError as error:
        raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")
    if hashlib.sha256(content).hexdigest() != blob.digest:
        raise TransferError(f"`{show(path)}` changed after it was read", hint="try again")
    return content
