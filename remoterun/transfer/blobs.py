"""Files at rest on a host, by their digests: small ones packed together, large ones in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Body, Frame
from remoterun.agent.shared.packs import PackError, unpack
from remoterun.agent.shared.pieces import LARGE
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import ended, next_frame, number, unpacked
from remoterun.transfer.destination import Destination, NewFile, write_file
from remoterun.transfer.lanes import Lanes
from remoterun.transfer.large_download import LargeDownload

BATCH, BATCH_BYTES = 2000, 4 << 20
"""Small files that one task asks for."""


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
    with destination.of_thread() as own:
        gone += _fetch_small(session, files, own)


def _fetch_small(session: Session, files: list[Entry], destination: Destination) -> list[Entry]:
    gone: list[Entry] = []
    expected = iter(files)
    with session.stream(api.fetch, api.Link(session.round_trip)) as stream:
        stream.send(bytes.fromhex("".join(entry.digest for entry in files)))
        stream.end()
        for frame in stream:
            body = unpacked(frame, session)
            if "p" in frame.header:
                for digest, content in _contents(body, number(frame, "p", session), session):
                    entry = _next_of(expected, session)
                    _land_small(entry, digest, content, destination, session)
                continue
            entry = _next_of(expected, session)
            if "gone" in frame.header:
                gone.append(entry)
                continue
            _land_large(entry, Frame(frame.header, body), stream, destination, session)
        if next(expected, None) is not None:
            raise ended(session)
    return gone


def _contents(pack: Body, count: int, session: Session) -> Iterator[tuple[bytes, memoryview]]:
    try:
        yield from unpack(pack, count)
    except PackError as error:
        raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")


def _land_small(entry: Entry, digest: bytes, content: memoryview, destination: Destination, session: Session) -> None:
    if digest.hex() != entry.digest:
        raise TransferError(f"{session.machine.name} sends other files than were asked for")
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.digest:
        destination.damaged(entry)
        return
    folder, name = destination.place(entry)
    write_file(folder, name, content, entry.executable)
    destination.took(entry, entry.size)


def _land_large(entry: Entry, frame: Frame, stream: Stream, destination: Destination, session: Session) -> None:
    size = frame.header.get("s")
    if type(size) is not int or not 0 <= size <= entry.size or frame.header.get("d") != entry.digest:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    folder, name = destination.place(entry)
    with NewFile(folder, entry.executable) as file:
        body = frame.body
        while True:
            if file.size + len(body) > size:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            file.write(body)
            destination.came(len(body))
            if file.size == size:
                break
            body = unpacked(next_frame(stream, session), session)
            if not body:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends less than it said")
        if file.digest != entry.digest:
            destination.damaged(entry)
            return
        file.keep(name)
    destination.took(entry)


def _next_of(expected: Iterator[Entry], session: Session) -> Entry:
    entry = next(expected, None)
    if entry is None:
        raise TransferError(f"{session.machine.name} sends more files than were asked for")
    return entry
