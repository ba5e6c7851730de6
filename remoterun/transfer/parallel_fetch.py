"""Files at rest on a host, over several connections: see lanes.py."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

from remoterun.agent.shared.paths import SafeFolder
from remoterun.agent.shared.tree import Entry
from remoterun.errors import NotFound
from remoterun.session import Session
from remoterun.transfer.blobs import fetch_blobs
from remoterun.transfer.destination import Damaged, Destination
from remoterun.transfer.lanes import Lanes
from remoterun.transfer.large_file import LARGE, LargeFile, parts_of

BATCH, BATCH_BYTES = 2000, 4 << 20
"""Small files that one connection is asked for at once."""
PART = 1 << 20
"""Bytes of a large file that are."""


class ParallelFetch:
    """Small files go in batches, large ones in parts, to whichever lane is free."""

    THREADS = 3
    """That ask and answer on each lane."""

    def __init__(self, files: Iterable[Entry], destination: Destination) -> None:
        self._destination = destination
        self._files = iter(files)
        self._next: Entry | None = next(self._files, None)
        self._parts: Iterator[tuple[LargeFile, int, int]] = iter(())
        self._choosing = threading.Lock()
        self._gone: list[Entry] = []
        self._large: list[LargeFile] = []
        self._stopped = False

    def run(self, lanes: Lanes) -> list[Entry]:
        """The files of which there is no blob. Raises what a lane raised."""
        lanes.start(self._work)
        try:
            lanes.join()
        finally:
            self._stopped = True
            lanes.close()
            for file in self._large:
                file.close()
        if lanes.failure is not None:
            raise lanes.failure
        return self._gone

    def _work(self, session: Session) -> None:
        with SafeFolder(str(self._destination.target)) as root:
            own = replace(self._destination, root=root)
            while (task := self._task(own)) is not None:
                if isinstance(task, list):
                    gone = fetch_blobs(session, task, own)
                    with self._choosing:
                        self._gone += gone
                else:
                    self._fetch_part(session, *task)

    def _task(self, destination: Destination) -> list[Entry] | tuple[LargeFile, int, int] | None:
        """Small files, or one that will be replaced, for it may have parts of the new one; or a part of a large one."""
        with self._choosing:
            if self._stopped:
                return None
            if (part := next(self._parts, None)) is not None:
                return part
            batch: list[Entry] = []
            size = 0
            while self._next is not None and len(batch) < BATCH and size < BATCH_BYTES:
                entry = self._next
                if entry.size > LARGE:
                    if batch:
                        break
                    self._next = next(self._files, None)
                    if os.path.lexists(destination.path(entry)):
                        return [entry]
                    file = LargeFile(entry, destination, ordered=False)
                    self._large.append(file)
                    destination.came(file.start, there=file.start)
                    self._parts = file.parts(PART)
                    return next(self._parts)
                batch.append(entry)
                size += entry.size
                self._next = next(self._files, None)
            return batch or None

    def _fetch_part(self, session: Session, file: LargeFile, offset: int, length: int) -> None:
        if file.given_up:
            return
        at = offset
        last = not length
        try:
            for data in parts_of(session, file.entry, [(offset, offset + length)] if length else []):
                file.write(data, at)
                last = file.whole(at, len(data))
                at += len(data)
                self._destination.came(len(data))
        except NotFound:
            self._give_up(file)
            return
        if not last or file.given_up:
            return
        hashed = hashlib.sha256()
        for data in file.pieces(file.entry.size):
            hashed.update(data)
        try:
            file.finish(hashed.hexdigest(), session)
        except Damaged:
            if file.start:  # what a cut try left here may be what is not sound
                self._give_up(file)
            else:
                self._destination.damaged(file.entry)
                file.close()
        else:
            self._destination.took(file.entry)

    def _give_up(self, file: LargeFile) -> None:
        """It is asked for by its name, later."""
        with self._choosing:
            if file.given_up:
                return
            file.give_up()
            self._gone.append(file.entry)
