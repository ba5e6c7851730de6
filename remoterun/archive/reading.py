"""Contents out of the archive, verified: into files, or into memory.

Extents of a pack that follow each other are read as one, several at once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from remoterun.agent.shared.archive import Extent, Places, Take, pack_key, spans
from remoterun.agent.shared.tree import Entry
from remoterun.archive import Archive
from remoterun.archive.objects import Absent
from remoterun.threads import each
from remoterun.transfer.destination import Destination, Duplicates, NewFile

READ = 4 << 20
"""Bytes that are read at once."""


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
            destination.land(entry, content)
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

    def _small(self, files: Sequence[Entry]) -> Iterator[tuple[Entry, memoryview]]:
        """Each with its content, or with fewer bytes where the pack has not as many."""
        entries = defaultdict[str, list[Entry]](list)
        found = set()
        for entry in files:
            entries[entry.digest].append(entry)
            (extent,) = self._places[entry.digest]
            found.add((extent.pack, Take(entry.digest, entry.size, 0, extent.offset, extent.length)))
        by_pack = groupby(sorted(found), lambda item: item[0])
        to_read = ((pack, span) for pack, together in by_pack for span in spans([take for _, take in together]))

        def read(wanted: tuple[str, list[Take]]) -> tuple[list[Take], memoryview]:
            pack, span = wanted
            start = span[0].offset
            end = span[-1].offset + span[-1].length
            return span, memoryview(self._read(Extent(pack, start, end - start)))

        for span, data in each(read, to_read):
            for take in span:
                at = take.offset - span[0].offset
                for entry in entries[take.digest]:
                    yield entry, data[at : at + take.length]

    def _pieces(self, extents: Iterable[Extent]) -> Iterator[bytes]:
        """The bytes of extents, one after the other; fewer where a pack has not as many."""
        cut = (
            Extent(pack, at, min(READ, offset + length - at))
            for pack, offset, length in extents
            for at in range(offset, offset + length, READ)
        )
        return each(self._read, cut)

    def _read(self, extent: Extent) -> bytes:
        try:
            return self._archive.objects.get_range(self._prefix + pack_key(extent.pack), extent.offset, extent.length)
        except Absent:
            return b""
