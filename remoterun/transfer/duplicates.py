"""Files of a tree that have the same content: it comes once, and is copied here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from remoterun.agent.shared.tree import Entry
from remoterun.transfer.destination import Destination, NewFile

WORTH = 4096
"""Bytes from which on it pays."""
MOST = 200_000
"""Contents that are remembered."""
PIECE = 1 << 20


class Duplicates:
    """Those of one copy."""

    def __init__(self) -> None:
        self._first: dict[bytes, Entry] = {}
        self._duplicates: list[tuple[Entry, Entry]] = []

    def without(self, files: Iterable[Entry]) -> Iterator[Entry]:
        """The files, but for repetitions: these are noted."""
        for entry in files:
            if entry.size >= WORTH and entry.digest:
                digest = bytes.fromhex(entry.digest)
                first = self._first.get(digest)
                if first is not None and first.size == entry.size:
                    self._duplicates.append((entry, first))
                    continue
                if len(self._first) < MOST:
                    self._first[digest] = entry
            yield entry

    def copy(self, destination: Destination) -> list[Entry]:
        """Copy the repetitions. Those that can't be, as their first has not come, or was changed meanwhile."""
        return [entry for entry, first in self._duplicates if not _copy(entry, first, destination)]


def _copy(entry: Entry, first: Entry, destination: Destination) -> bool:
    folder, name = destination.place(first)
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        folder, name = destination.place(entry)
        with NewFile(folder, entry.executable) as file:
            while file.size < entry.size and (data := os.read(source, min(PIECE, entry.size - file.size))):
                file.write(data)
            if file.digest != entry.digest:
                return False
            file.keep(name, sync=False)
    finally:
        os.close(source)
    destination.came(entry.size, there=entry.size)
    destination.took(entry)
    return True
