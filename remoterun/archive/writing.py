"""A tree of this machine on its way into the archive: what is new of it goes into packs, several at once.

Contents that the newest tree of that name has, and packs that a cut transfer has written, are not sent again: packs are
named by what they hold, and the same files in the same order make the same ones.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from remoterun.agent.shared.archive import PACK, ArchivedTree, Extent, Places, pack_key
from remoterun.agent.shared.tree import Entry, Manifest, ManifestBuilder, TreeError, show
from remoterun.archive import Archive
from remoterun.errors import TransferError
from remoterun.threads import start
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import ListedEntry, Reading, changing, size_and_time, whole_content
from remoterun.transfer.sending import Sent

WHOLE = 4 << 20
"""Bytes of the largest file that is read before anything of it is packed."""
MOST_HELD = 3
"""Packs that are being written at once."""
YOUNG = 86400.0
"""Seconds for which a pack that no tree names surely stays: half of what `gc` leaves it."""


def put_tree(
    archive: Archive,
    prefix: str,
    tree: Reading,
    progress: Progress,
    base: ArchivedTree | None = None,
    again: bool = False,
) -> tuple[ArchivedTree, Sent]:
    """Store the contents of `tree`, which is used up, below `prefix`; the object that names them is for the caller.

    `base`: an archived tree of the same prefix. `again`: what is stored is damaged, and all of it is sent. A transfer
    that was cut goes on when it is repeated. Raises `TransferError`, `UsageError`, `HostError`.
    """
    complete = False
    try:
        progress.start("sending", tree.files, tree.size)
        writer = _Writer(archive, prefix, base, progress, again)
        manifest = _manifest(writer, tree, progress)
        writer.end()
        complete = True
        return ArchivedTree(manifest, writer.places), Sent(writer.packs, writer.sent, writer.already)
    except TreeError as error:
        raise TransferError(str(error), hint="wait until nothing writes the files, and try again")
    finally:
        tree.close(complete)


def _manifest(writer: _Writer, tree: Reading, progress: Progress) -> Manifest:
    build = ManifestBuilder()
    counted = tree.files
    for item in tree:
        if tree.files > counted:
            progress.expect(tree.files - counted, item.entry.size)
            counted = tree.files
        try:
            build.add(writer.file(item, tree) if item.entry.kind == "f" else item.entry)
        except FileNotFoundError:
            tree.leave_out_vanished(item)
            progress.expect(-1, -item.entry.size)
    return Manifest.built(build)


class _Writer:
    """Takes files in the order of their manifest; `places` says where their contents lie once `end` has returned."""

    def __init__(
        self, archive: Archive, prefix: str, base: ArchivedTree | None, progress: Progress, again: bool
    ) -> None:
        self._archive, self._prefix, self._progress = archive, prefix, progress
        since = archive.clock() - YOUNG
        found = () if again else archive.objects.list(prefix + pack_key(""))
        listed = {stored.key[len(prefix + pack_key("")) :]: stored for stored in found}
        named = set(base.packs) if base is not None else set()
        self._stored = {name for name, stored in listed.items() if name in named or stored.modified > since}
        """Packs that need not be written."""
        known = base.places.items() if base is not None else ()
        self.places: Places = {
            digest: extents for digest, extents in known if all(extent.pack in listed for extent in extents)
        }
        self._pack = bytearray()
        self._contents: list[tuple[str, int]] = []
        """(digest, length) of what lies in the pack that grows."""
        self._writing: deque[tuple[Future[None], int, int]] = deque()
        self.packs = self.sent = self.already = 0

    def file(self, item: ListedEntry, tree: Reading) -> Entry:
        """The entry with its digest. Blocks while too much is held. Raises `FileNotFoundError` for one that is gone."""
        entry = item.entry
        if entry.digest and (entry.digest in self.places or not entry.size):
            self._has(entry.size)
            return entry
        if entry.size > WHOLE:
            return self._large(item, tree)
        content, digest, status, read_at = whole_content(item, 2 * WHOLE)
        tree.note(item, status, digest, read_at)
        if digest in self.places or not content:
            self._has(len(content))
        else:
            self._small(digest, content)
        return entry._replace(size=len(content), digest=digest)

    def end(self) -> None:
        """Blocks until all is written."""
        self._flush()
        while self._writing:
            self._await_one()

    def _has(self, size: int) -> None:
        self.already += size
        self._progress.add(size, 1, there=size)

    def _small(self, digest: str, content: bytes) -> None:
        if len(self._pack) + len(content) > PACK:
            self._flush()
        self.places[digest] = ()  # what follows need not be packed again
        self._contents.append((digest, len(content)))
        self._pack += content

    def _flush(self) -> None:
        if not self._contents:
            return
        name = self._write(self._pack, len(self._contents))
        offset = 0
        for digest, length in self._contents:
            self.places[digest] = (Extent(name, offset, length),)
            offset += length
        self._pack, self._contents = bytearray(), []

    def _large(self, item: ListedEntry, tree: Reading) -> Entry:
        """A file in packs of its own. One whose digest is not known is read to learn it, and its packs that are stored
        already are not sent."""
        self._flush()
        hashed = hashlib.sha256()
        before = os.stat(item.path)
        extents = []
        read_at = time.time_ns()
        for piece in _pieces(item.path, before.st_size):
            hashed.update(piece)
            extents.append(Extent(self._write(piece, 0), 0, len(piece)))
        after = os.stat(item.path)
        if size_and_time(before) != size_and_time(after):
            raise changing(item.path)
        digest = hashed.hexdigest()
        self.places.setdefault(digest, tuple(extents))
        tree.note(item, after, digest, read_at)
        self._progress.add(0, 1)
        return item.entry._replace(size=after.st_size, digest=digest)

    def _write(self, data: bytes | bytearray, files: int) -> str:
        """Begin to write a pack of so many whole files; its name."""
        name = hashlib.sha256(data).hexdigest()
        if name in self._stored:
            self.already += len(data)
            self._progress.add(len(data), files, there=len(data))
            return name
        self._stored.add(name)
        while len(self._writing) >= MOST_HELD:
            self._await_one()
        key = self._prefix + pack_key(name)
        writing = start(partial(self._archive.objects.put, key, data, name))
        self._writing.append((writing, len(data), files))
        return name

    def _await_one(self) -> None:
        writing, size, files = self._writing.popleft()
        writing.result()
        self.packs, self.sent = self.packs + 1, self.sent + size
        self._progress.add(size, files)


def _pieces(path: str, size: int) -> Iterator[bytes]:
    """The bytes of a file, `PACK` of them at a time. Raises `TransferError`, also if there are fewer."""
    try:
        with open(path, "rb", buffering=0) as file:
            left = size
            while left:
                data = file.read(min(PACK, left))
                if not data:
                    raise changing(path)
                left -= len(data)
                yield data
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")
