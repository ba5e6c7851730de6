"""What a host answers about blobs: which it lacks, and whether the rest fits on its disk; and the frames of any answer.

Nothing of an answer is believed before it was checked.
"""

from __future__ import annotations

import struct

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.packs import MISSING
from remoterun.agent.shared.protocol import Stream
from remoterun.errors import HostError, TransferError
from remoterun.session import Session
from remoterun.sizes import size as readable


def next_frame(stream: Stream, session: Session) -> Frame:
    frame = stream.receive()
    if frame is None:
        raise ended(session)
    return frame


def not_empty(frame: Frame, session: Session) -> Frame:
    """A frame that brings something: others could come without an end."""
    if not frame.body:
        raise nonsense(session)
    return frame


def number(frame: Frame, name: str, session: Session) -> int:
    """A number above zero in the header of a frame."""
    value = frame.header.get(name)
    if type(value) is not int or value <= 0:
        raise nonsense(session)
    return value


def ended(session: Session) -> TransferError:
    return TransferError(f"{session.machine.name} ended the transfer early", hint="repeat the command")


def nonsense(session: Session) -> TransferError:
    return TransferError(f"{session.machine.name} sent an answer that makes no sense")


AT_ONCE = 1000
"""Digests that are asked about in one frame."""


def missing_blobs(session: Session, digests: list[str]) -> list[tuple[str, int]]:
    """(digest, bytes that a cut transfer left there) of each blob that the host lacks."""
    found = []
    with session.stream(api.missing, Nothing()) as stream:
        for start in range(0, len(digests), AT_ONCE):
            part = digests[start : start + AT_ONCE]
            stream.send(b"".join(map(bytes.fromhex, part)))
            found += [(part[place], have) for place, have in _read_missing(stream, len(part), session)]
        stream.end()
        stream.finish()
    return found


def _read_missing(stream: Stream, count: int, session: Session) -> list[tuple[int, int]]:
    """The answer about `count` blobs: (place among them, bytes there already) of each that is missing."""
    try:
        found = list(MISSING.iter_unpack(next_frame(stream, session).body))
    except struct.error:
        raise nonsense(session)
    if any(place >= count for place, _ in found):
        raise nonsense(session)
    return found


def require_room(session: Session, missing: int, room: int) -> None:
    """Raises `HostError` when `missing` bytes don't fit into `room`."""
    if missing > room:
        machine = session.machine.name
        raise HostError(
            f"the disk of {machine} is too full: {readable(missing)} are to be sent, and {readable(room)} fit there",
            hint=f"remoterun machines df {machine}   shows who uses it\n"
            f"remoterun machines gc {machine}   frees what nothing needs",
        )
