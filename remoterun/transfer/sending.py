"""Trees to a host: one flow, in which listing, reading, hashing, asking and sending overlap.

    this thread      list → read → hash ─┬─ small files, in batches: which are missing? ─┐
                                         └─ large ones, piece by piece as they are read ─┤
    the other one                                  the answers, one after the other ─────┴→ packs, pieces → the host

reading.py lists and reads, large_upload.py sends large files, outbox.py holds the thread that sends and the other
connections. A batch is asked about while the next ones are read, and what is missing of it is sent from memory. What a
cut transfer left is not sent again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.packs import PACK, SMALL, pack
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import Entry, Manifest, ManifestBuilder, TreeError, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.inventory import AT_ONCE, Inventory, file_key, missing_blobs, read_missing
from remoterun.transfer.large_upload import LargeFiles
from remoterun.transfer.outbox import Outbox, Task
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import ListedEntry, Reading, read_entries, size_and_time, whole_content
from remoterun.transfer.room import may_not_fit, require_room

BATCH = AT_ONCE
"""Files of a batch, or `BATCH_BYTES` of them."""
BATCH_BYTES = 1 << 20
WHOLE = 4 << 20
"""Bytes of the largest file that is read before anything of it is sent."""
EAGER = 4 << 20
"""Bytes of small files that go over the open connection before others are opened for them."""
WORTH_NOTING, MOST_MET = 4096, 200_000
"""Bytes from which on, and how many, contents are noted, so that none is sent twice."""
TOLD = 64 << 10
"""Bytes of the manifest that are sent at once, while it grows."""


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
    """Size and mtime of that file when it was looked at."""


@dataclass
class _Batch:
    blobs: list[_Blob] = field(default_factory=list)
    held: int = 0

    def add(self, blob: _Blob) -> bool:
        """Whether it is full."""
        self.blobs.append(blob)
        self.held += len(blob.content or b"")
        return len(self.blobs) >= BATCH or self.held >= BATCH_BYTES


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
        with Outbox(session, progress, tree.size) as outbox, session.stream(api.missing, Nothing()) as asking:
            manifest = _Sender(outbox, asking, progress, commit).send(tree, extra, name)
        complete = True
        return manifest, Sent(outbox.blobs, outbox.moved, outbox.already)
    finally:
        tree.close(complete)


def send_blobs(session: Session, blobs: dict[str, bytes], progress: Progress) -> None:
    """Send what of `blobs` (digest to content) the host lacks, as `send_tree`."""
    send_tree(session, read_entries([]), blobs, progress)


class _Sender:
    """See the module."""

    def __init__(self, outbox: Outbox, asking: Stream, progress: Progress, commit: Stream | None) -> None:
        self._outbox, self._session = outbox, outbox.session
        self._asking, self._progress, self._commit = asking, progress, commit
        self._inventory = Inventory()
        self._large = LargeFiles(outbox, self._inventory)
        self._met: set[str] = set()
        """Digests that were met before: these are there, or on their way."""
        self._size = 0

    def send(self, tree: Reading, extra: dict[str, bytes], name: str) -> Manifest:
        self._size, commit = tree.size, self._commit
        if tree.ended and self._outbox.is_far(sum(entry.size for entry in tree.entries() if not entry.digest)):
            self._outbox.open_lanes()  # they will be wanted, most likely
        self._look_what_is_there(name, tree)
        self._make_sure_it_fits(tree)
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
                    self._make_sure_it_fits(tree)
                entry = item.entry
                if entry.size > WHOLE and not entry.digest:  # goes by itself
                    batch = self._flush(batch)
                try:
                    if entry.kind == "f":
                        batch, entry = self._file(batch, item, tree)
                except FileNotFoundError:
                    tree.leave_out_vanished(item)
                    self._progress.expect(-1, -entry.size)
                    continue
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

    def _file(self, batch: _Batch, item: ListedEntry, tree: Reading) -> tuple[_Batch, Entry]:
        """(the batch that takes more, the entry with its digest). Raises `FileNotFoundError` for one that is gone."""
        entry = item.entry
        if entry.digest:
            stamp = size_and_time(item.status) if item.status else (0, 0)
            return self._take(batch, _Blob(entry.digest, entry.size, None, item.path, stamp)), entry
        if entry.size <= WHOLE:
            content, digest, status, read_at = whole_content(item, 2 * WHOLE)
            tree.note(item, status, digest, read_at)
            entry = Entry("f", entry.path, len(content), digest, entry.executable)
            return self._take(batch, _Blob(digest, len(content), content)), entry

        def ask(digest: str, status: os.stat_result) -> None:
            stamp = size_and_time(status)
            self._flush(self._take(_Batch(), _Blob(digest, stamp[0], None, item.path, stamp)))

        digest, size = self._large.send(item, tree, ask)
        self._met.add(digest)
        return batch, entry._replace(digest=digest, size=size)

    def _take(self, batch: _Batch, blob: _Blob) -> _Batch:
        if self._is_again(blob.digest, blob.size):
            return batch
        return self._flush(batch) if batch.add(blob) else batch

    def _is_again(self, digest: str, size: int) -> bool:
        """Whether this content was met before, and is there or on its way: then it is done. Notes it if not."""
        if digest in self._met:
            self._outbox.count(0, 1, there=size)
            return True
        if size >= WORTH_NOTING and len(self._met) < MOST_MET:
            self._met.add(digest)
        return False

    def _flush(self, batch: _Batch) -> _Batch:
        """Ask about a batch, and have sent what is missing of it."""
        if batch.blobs:
            if self._commit is not None and self._commit.cancelled:
                self._commit.send()  # raises why
            self._asking.send(b"".join([bytes.fromhex(blob.digest) for blob in batch.blobs]))
            self._outbox.later(lambda: self._send_missing(batch), batch.held)
        return _Batch()

    def _look_what_is_there(self, name: str, tree: Reading) -> None:
        """Only if there are large files to read, or if little room may be left; it costs a round trip."""
        large = {entry.size for entry in tree.entries() if entry.size > WHOLE and not entry.digest}
        if large or not tree.ended or may_not_fit(self._session, tree.size):
            self._inventory.ask(self._session, name, large)

    def _make_sure_it_fits(self, tree: Reading) -> None:
        """Where all of what was listed would not fit: hash it, and ask what of it is missing. Raises `HostError`."""
        room = self._inventory.room
        if room is None or tree.size - self._outbox.already <= room:
            return
        tree.hash_listed()
        known = {item.entry.digest: item for item in tree.listed() if item.entry.digest}
        missing = [known[digest] for digest, _ in missing_blobs(self._session, list(known)) if digest not in self._met]
        missing += [item for item in tree.listed() if item.entry.kind == "f" and not item.entry.digest]
        begun = {item.path: self._inventory.begun(file_key(item.path, item.status)) for item in missing if item.status}
        to_come = sum(max(0, item.entry.size - begun.get(item.path, 0)) for item in missing)
        require_room(self._session, self._outbox.moved + to_come, room)

    # -- on the thread that sends

    def _send_missing(self, batch: _Batch) -> None:
        missing = dict(read_missing(self._asking, len(batch.blobs), self._session))
        done = sum(blob.size for place, blob in enumerate(batch.blobs) if place not in missing)
        self._outbox.count_there(len(batch.blobs) - len(missing), done)
        ready: list[tuple[bytes, bytes]] = []
        held = 0
        for place, have in sorted(missing.items()):
            blob = batch.blobs[place]
            if blob.content is None and blob.size > SMALL:
                self._large.send_known(blob.path, blob.stamp, blob.digest, have)
                continue
            content = blob.content if blob.content is not None else _reread(blob)
            if len(content) > SMALL:
                have = have if have <= blob.size else 0
                self._outbox.send_blob(blob.digest, blob.size, have, _slices(content, have))
                continue
            ready.append((bytes.fromhex(blob.digest), content))
            held += len(content)
            if held >= PACK:
                self._send_pack(ready, held)
                ready, held = [], 0
        if ready:
            self._send_pack(ready, held)

    def _send_pack(self, contents: list[tuple[bytes, bytes]], size: int) -> None:
        frame: tuple[bytes, dict[str, Any]] = pack(contents), {"p": len(contents)}
        if self._outbox.moved > EAGER and self._outbox.is_far(self._size - self._outbox.moved):
            self._outbox.share(Task([frame], size, len(contents)))
            return
        self._outbox.send(*frame)
        self._outbox.count(size, len(contents))


def _tell(commit: Stream, build: ManifestBuilder, told: int, **header: Any) -> int:
    """Send what of the manifest was not `told` yet; how much is now."""
    while build.length - told > PIECE:
        commit.send(build.part(told, PIECE))
        told += PIECE
    commit.send(build.part(told, PIECE), **header)
    return build.length


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


def _slices(content: bytes, start: int) -> Iterator[bytes]:
    return (content[at : at + PIECE] for at in range(start, len(content), PIECE))
