"""Files by their names, as they are at that moment: of a run that goes on, or of which there is no blob."""

from __future__ import annotations

import os
from collections.abc import Iterable

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import PIECE, Frame
from remoterun.agent.shared.packs import SMALL
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, not_empty
from remoterun.transfer.destination import Destination, NewFile


def fetch_live(session: Session, resource: ResourceRef, files: list[Entry], destination: Destination) -> list[Entry]:
    """Fetch in one flow; the entries that changed while they were read, and were not taken."""
    again = []
    with session.stream(api.get, api.OfResource(resource)) as stream:
        names = _FileRequests(stream, files)
        for entry in files:
            frame = next_frame(stream, session)
            names.answered(entry)
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


class _FileRequests:
    """The names of the wanted files, in the order of the answers, sent some way before these come. All at once could
    fill the window of one direction while the unread answers fill that of the other."""

    def __init__(self, stream: Stream, files: Iterable[Entry]) -> None:
        self._stream = stream
        self._left = iter(files)
        self._unanswered = 0
        self._ended = False
        self._send()

    def answered(self, entry: Entry) -> None:
        """To be called for each file once its answer has begun to come."""
        self._unanswered -= len(_name(entry))
        if self._unanswered < PIECE and not self._ended:
            self._send()

    def _send(self) -> None:
        names = bytearray()
        for entry in self._left:
            names += _name(entry)
            if len(names) > 2 * PIECE:
                break
        else:
            self._ended = True
        self._unanswered += len(names)
        self._stream.send(bytes(names))
        if self._ended:
            self._stream.end()


def _name(entry: Entry) -> bytes:
    return os.fsencode(entry.path) + b"\0"


def _land_file(stream: Stream, session: Session, entry: Entry, frame: Frame, destination: Destination) -> bool:
    """Receive one file into its place. False when it changed on the host meanwhile, and is not taken so."""
    size = frame.header.get("s")
    if not isinstance(size, int) or size < 0 or (destination.at_rest and size > entry.size):
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
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
        file.keep(name, sync=size > SMALL)
        destination.took(entry)
        return True
