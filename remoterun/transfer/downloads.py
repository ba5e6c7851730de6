"""Files of a host on their way to a `Destination`: blobs at rest by their digests, small ones packed together and large
ones in pieces; the files of a run that goes on by their names, as they are at that moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.packs import LARGE
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.sizes import size as readable
from remoterun.transfer.answers import next_frame, not_empty
from remoterun.transfer.blobs import packed_blobs
from remoterun.transfer.destination import SPARE, Destination, Duplicates, NewFile, require_room
from remoterun.transfer.lanes import Lanes
from remoterun.transfer.large_files import LargeDownload

Download = Callable[[Iterable[Entry], int, Destination], None]
"""Downloads files, of so many bytes together, to where they go."""

BATCH, BATCH_BYTES = 2000, 4 << 20
"""Small files that one task asks for."""


def download(
    session: Session, resource: ResourceRef, files: Iterable[Entry], size: int, destination: Destination
) -> None:
    """Download files of a resource, of `size` bytes together: by their digests what is at rest, by their names the
    rest."""
    duplicates = Duplicates()
    once = duplicates.without(files)
    left = fetch_blobs(session, once, destination, size) if destination.at_rest else list(once)
    left += fetch_blobs(session, duplicates.copy(destination), destination, 0)
    if left:
        left = fetch_live(session, resource, left, destination)
    if left:  # these changed while they were read, in a run that goes on
        destination.final = True
        for entry in fetch_live(session, resource, left, destination):
            destination.result.warn(f"`{show(entry.path)}` became shorter while it was read; it was left out")


def fetch_blobs(session: Session, files: Iterable[Entry], destination: Destination, size: int) -> list[Entry]:
    """Fetch files, of `size` bytes together; the entries of which the host has no blob."""
    gone: list[Entry] = []
    large: list[LargeDownload] = []
    try:
        with Lanes(session, size) as lanes:
            for batch in _batches(files):
                if batch[0].size > LARGE:
                    large.append(LargeDownload(batch[0], destination, lanes, gone))
                    lanes.put(large[-1].begin, BATCH_BYTES)
                    large = [file for file in large if not file.is_done]
                else:
                    lanes.put(partial(_fetch_batch, batch, destination, gone), sum(entry.size for entry in batch))
    finally:
        for file in large:
            file.close()
    return gone


def _batches(files: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The files in groups; a large one by itself."""
    batch: list[Entry] = []
    size = 0
    for entry in files:
        if entry.size > LARGE:
            yield [entry]
            continue
        batch.append(entry)
        size += entry.size
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fetch_batch(files: list[Entry], destination: Destination, gone: list[Entry], session: Session) -> None:
    blobs = packed_blobs(session, [entry.digest for entry in files])
    with destination.of_thread() as own, contextlib.closing(blobs):
        for entry, (content, size) in zip(files, blobs, strict=True):
            if content is None and not size:
                gone.append(entry)
            elif content is None or size != entry.size:
                own.damaged(entry)
            else:
                own.land(entry, content)


def fetch_live(session: Session, resource: ResourceRef, files: list[Entry], destination: Destination) -> list[Entry]:
    """Fetch in one flow; the entries that changed while they were read, and were not taken."""
    again = []
    with session.stream(api.get, api.OfResource(resource)) as stream:
        stream.send_all(b"".join(os.fsencode(entry.path) + b"\0" for entry in files))
        stream.end()
        for entry in files:
            frame = next_frame(stream, session)
            if "gone" in frame.header and destination.at_rest:
                destination.damaged(entry)
                continue
            if "gone" in frame.header:
                destination.result.warn(f"`{show(entry.path)}` is gone: {show(str(frame.header['gone']))}")
                continue
            if not _land_file(stream, session, entry, frame, destination):
                again.append(entry)
        stream.finish()
    return again


def _land_file(stream: Stream, session: Session, entry: Entry, frame: Frame, destination: Destination) -> bool:
    """Receive one file into its place. False when it changed on the host meanwhile, and is not taken so."""
    size = frame.header.get("s")
    if not isinstance(size, int) or size < 0 or (destination.at_rest and size > entry.size):
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    if size > entry.size:
        grown = f"`{show(entry.path)}` has grown from {readable(entry.size)} to {readable(size)} since it was listed"
        require_room(destination.target, size, grown, SPARE)  # nobody has agreed to so much
    folder, name = destination.place(entry)
    with NewFile(folder, bool(frame.header.get("x"))) as file:
        while True:
            if file.size + len(frame.body) > size:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            file.write(frame.body)
            destination.came(len(frame.body))
            if "h" in frame.header:
                break
            frame = next_frame(stream, session)
            if "h" not in frame.header:
                not_empty(frame, session)
        if file.digest != frame.header["h"]:
            raise TransferError(
                f"{show(entry.path)}: {session.machine.name} says another hash than that of what it sent"
            )
        other = bool(entry.digest) and file.digest != entry.digest
        if other and destination.at_rest:
            destination.damaged(entry)
            return True
        if file.size != size or ((other or frame.header.get("c")) and not destination.changed(entry)):
            return False
        file.keep(name, sync=size > LARGE)
        destination.took(entry._replace(size=size))
        return True
