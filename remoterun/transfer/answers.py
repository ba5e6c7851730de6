"""What a host answers about blobs: which it lacks, whether the rest fits on its disk, and what is in small ones.

Nothing of an answer is believed before it was checked.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Body, Frame, ProtocolError
from remoterun.agent.shared.packs import MISSING, expand
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


def unpacked(frame: Frame, session: Session) -> Body:
    """The body of a frame, which may be compressed."""
    try:
        return expand(frame.header, frame.body)
    except ProtocolError as error:
        raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")


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


def may_not_fit(session: Session, size: int) -> bool:
    """Whether it pays to ask how much fits there now; what was said when the conversation began is known without."""
    return size > session.room // 2


def room_on(session: Session) -> int:
    """Bytes that may arrive there now. A round trip."""
    return session.ask(api.room, Nothing()).room


def require_room(session: Session, missing: int, room: int) -> None:
    """Raises `HostError` when `missing` bytes don't fit into `room`."""
    if missing > room:
        machine = session.machine.name
        raise HostError(
            f"the disk of {machine} is too full: {readable(missing)} are to be sent, and {readable(room)} fit there",
            hint=f"remoterun machines df {machine}   shows who uses it\n"
            f"remoterun machines gc {machine}   frees what nothing needs",
        )


def contents(session: Session, digests: Iterable[str], most: int) -> dict[str, bytes]:
    """By digest: the blobs and lists of files that a host has whole. Raises `TransferError` for more than `most` bytes
    of one, and for what has another digest."""
    wanted = list(dict.fromkeys(digests))
    found = {}
    with session.stream(api.blobs, Nothing()) as stream:
        stream.send(bytes.fromhex("".join(wanted)))
        stream.end()
        for digest in wanted:
            frame = next_frame(stream, session)
            if frame.header.get("d") != digest:
                raise nonsense(session)
            if not frame.header.get("gone"):
                found[digest] = _content(frame, digest, most, stream, session)
    return found


def _content(frame: Frame, digest: str, most: int, stream: Stream, session: Session) -> bytes:
    size = frame.header.get("s")
    if type(size) is not int or not 0 <= size <= most:
        raise TransferError(f"{session.machine.name} sends another size than the {most} bytes expected at the most")
    data = bytearray(frame.body)
    while len(data) < size:
        data += not_empty(next_frame(stream, session), session).body
    if hashlib.sha256(data).hexdigest() != digest:
        raise TransferError(f"{session.machine.name} sends another content than was asked for")
    return bytes(data)
