"""Contents out of the archive, verified: into files, or into memory.

Extents of a pack that follow each other are read as one, several at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from remoterun.agent.shared.archive import Extent, Places, pack_key
from remoterun.agent.shared.tree import Entry
from remoterun.archive import Archive
from remoterun.archive.s3_errors import Absent
from remoterun.transfer.destination import Destination, Duplicates, NewFile, write_file

READ = 4 << 20
"""Bytes that are read at once."""
GAP = 64 << 10
"""Bytes that are rather read and dropped than left out by another request."""
AHEAD = 8
"""Reads that are under way, or done and not taken."""


class Joined(NamedTuple):
    """A part of a pack that is read at once, and what lies in it: (entry, its first byte in that part)."""

    pack: str
    offset: int
    length: int
    entries: list[tuple[Entry, int]]

    def is_near(self, pack: str, offset: int, end: int) -> bool:
        """Whether the bytes of a pack from `offset` to `end`, which come later, are better read with these."""
        return pack == self.pack and offset <= self.offset + self.length + GAP and end - self.offset <= READ


class TreeReader:
    """Reads contents that lie in packs below `prefix`."""

    def __init__(self, archive: Archive, prefix: str, places: Places) -> None:
        self._archive, self._prefix, self._places = archive, prefix, places

    def place(self, files: Iterable[Entry], size: int, destination: Destination) -> None:
        """Write files to where they go. One whose content is not what it should be is reported as damaged."""
        duplicates = Duplicates()
        self._place(list(duplicates.without(files)), destination)
        self._place(duplicates.copy(destination), destination)

    def contents(self, entries: Iterable[Entry], most: int) -> dict[str, bytes]:
        """The contents of small files, by their digests, up to `most` bytes together; without what is damaged."""
        wanted, size = {}, 0
        for entry in entries:
            if entry.digest not in wanted and size + entry.size <= most:
                wanted[entry.digest] = entry
                size += entry.size
        found = {}
        for entry in wanted.values():
            data = b"".join(self._pieces(self._places.get(entry.digest, ())))
            if hashlib.sha256(data).hexdigest() == entry.digest:
                found[entry.digest] = data
        return found

    def _place(self, files: Sequence[Entry], destination: Destination) -> None:
        small: list[Entry] = []
        large: list[Entry] = []
        for entry in files:
            is_small = entry.size <= READ and len(self._places.get(entry.digest, ())) == 1
            (small if is_small else large).append(entry)
        for entry, content in self._small(small):
            if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.digest:
                destination.damaged(entry)
                continue
            folder, name = destination.place(entry)
            write_file(folder, name, content, entry.executable)
            destination.took(entry, entry.size)
        for entry in large:
            self._place_large(entry, destination)

    def _place_large(self, entry: Entry, destination: Destination) -> None:
        folder, name = destination.place(entry)
        with NewFile(folder, entry.executable) as file:
            for piece in self._pieces(self._places.get(entry.digest, ())):
                file.write(piece)
                destination.came(len(piece))
            if file.digest != entry.digest:
                destination.damaged(entry)
                return
            file.keep(name)
        destination.took(entry)

    def _small(self, files: Iterable[Entry]) -> Iterator[tuple[Entry, memoryview]]:
        """Each with its content, or with fewer bytes where the pack has not as many."""

        def read(joined: Joined) -> tuple[Joined, bytes]:
            return joined, self._read(Extent(joined.pack, joined.offset, joined.length))

        for joined, data in self._archive.workers.each(read, self._joined(files), AHEAD):
            for entry, start in joined.entries:
                yield entry, memoryview(data)[start : start + entry.size]

    def _joined(self, files: Iterable[Entry]) -> Iterator[Joined]:
        joined: Joined | None = None
        for (pack, offset, length), entry in sorted((self._places[entry.digest][0], entry) for entry in files):
            end = offset + length
            if joined is not None and joined.is_near(pack, offset, end):
                joined.entries.append((entry, offset - joined.offset))
                joined = joined._replace(length=max(joined.length, end - joined.offset))
                continue
            if joined is not None:
                yield joined
            joined = Joined(pack, offset, length, [(entry, 0)])
        if joined is not None:
            yield joined

    def _pieces(self, extents: Iterable[Extent]) -> Iterator[bytes]:
        """The bytes of extents, one after the other; fewer where a pack has not as many."""
        cut = (
            Extent(pack, at, min(READ, offset + length - at))
            for pack, offset, length in extents
            for at in range(offset, offset + length, READ)
        )
        return self._archive.workers.each(self._read, cut, AHEAD)

    def _read(self, extent: Extent) -> bytes:
        try:
            return self._archive.s3.get_range(self._prefix + pack_key(extent.pack), extent.offset, extent.length)
        except Absent:
            return b""
