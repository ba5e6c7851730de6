"""Files at rest on a host, by their digests, in one flow: small ones packed together, large ones by themselves."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterable, Iterator

from remoterun.agent.shared import api
from remoterun.agent.shared.codecs import CodecError, expand
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.packs import PackError, unpack
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, RemoteError, Stream
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.codecs import own
from remoterun.transfer.landing import Landed, NewFile, ended, next_frame, number, write_file
from remoterun.transfer.large_file import LARGE, fetch_large

MOST_AT_ONCE = 100_000
"""Files that are asked for in one go: their names are in memory."""


def fetch_blobs(session: Session, files: Iterable[Entry], landed: Landed) -> list[Entry]:
    """Fetch files in one flow; the entries of which the host has no blob."""
    gone: list[Entry] = []
    small: list[Entry] = []
    for entry in files:  # a large file comes by itself, after the small ones before it
        if entry.size <= LARGE:
            small.append(entry)
            if len(small) < MOST_AT_ONCE:
                continue
        gone += _fetch_small(session, small, landed)
        small = []
        if entry.size > LARGE and not fetch_large(session, entry, landed):
            gone.append(entry)
    return gone + _fetch_small(session, small, landed)


def _fetch_small(session: Session, files: list[Entry], landed: Landed) -> list[Entry]:
    if not files:
        return []
    gone: list[Entry] = []
    asking, expected = iter(files), iter(files)
    with session.stream(api.fetch, api.Accept(list(own()), session.round_trip)) as stream:
        asker = _Asker(stream, asking)
        for frame in stream:
            try:
                body = expand(frame.header, frame.body)
                if "p" in frame.header:
                    for digest, content in unpack(body, number(frame, "p")):
                        _land_small(next_of(expected, session), digest, content, landed, session)
                        asker.answered()
                    continue
            except (PackError, CodecError) as error:
                raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")
            entry = next_of(expected, session)
            asker.answered()
            if "gone" in frame.header:
                gone.append(entry)
                continue
            _land_large(entry, Frame(frame.header, body), stream, landed, session)
        if next(expected, None) is not None:
            raise ended(session)
        asker.join()
    return gone


class _Asker:
    """Names what is wanted, on a thread of its own, some way before the answers. All names at once could fill
    one direction's window while the unread answers fill the other's."""

    LARGE, PARTS = 4000, 8

    def __init__(self, stream: Stream, entries: Iterable[Entry]) -> None:
        self._stream = stream
        self._entries = entries
        self._may_send = threading.Semaphore(self.PARTS)
        self._answered = 0
        self._thread = threading.Thread(target=self._run, name="remoterun asks", daemon=True)
        self._thread.start()

    def answered(self) -> None:
        self._answered += 1
        if self._answered % self.LARGE == 0:
            self._may_send.release()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            entries = iter(self._entries)
            while part := [bytes.fromhex(entry.digest) for entry in itertools.islice(entries, self.LARGE)]:
                while not self._may_send.acquire(timeout=1.0):
                    if self._stream.cancelled:
                        return
                self._stream.send(b"".join(part))
            self._stream.end()
        except (Cancelled, LinkClosed, RemoteError):
            pass  # the thread that reads the answers is told


def _land_small(entry: Entry, digest: bytes, content: memoryview, landed: Landed, session: Session) -> None:
    if digest.hex() != entry.digest:
        raise TransferError(f"{session.machine.name} sends other files than were asked for")
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.digest:
        landed.damaged(entry)
        return
    folder, name = landed.place(entry)
    write_file(folder, name, content, entry.executable)
    landed.took(entry, entry.size)


def _land_large(entry: Entry, frame: Frame, stream: Stream, landed: Landed, session: Session) -> None:
    size = frame.header.get("s")
    if type(size) is not int or not 0 <= size <= entry.size or frame.header.get("d") != entry.digest:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    folder, name = landed.place(entry)
    with NewFile(folder, entry.executable) as file:
        body = frame.body
        while True:
            if file.size + len(body) > size:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            file.write(body)
            landed.came(len(body))
            if file.size == size:
                break
            following = next_frame(stream, session)
            try:
                body = expand(following.header, following.body)
            except CodecError as error:
                raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")
            if not body:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends less than it said")
        if file.digest != entry.digest:
            landed.damaged(entry)
            return
        file.keep(name)
    landed.took(entry)


def next_of(expected: Iterator[Entry], session: Session) -> Entry:
    entry = next(expected, None)
    if entry is None:
        raise TransferError(f"{session.machine.name} sends more files than were asked for")
    return entry
