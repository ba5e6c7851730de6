"""What a host has already of what is to be sent to it, and whether the rest fits on its disk."""

from __future__ import annotations

import struct

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.digests import MISSING
from remoterun.agent.shared.protocol import Stream
from remoterun.errors import HostError
from remoterun.session import Session
from remoterun.sizes import size as readable
from remoterun.transfer.answers import next_frame, nonsense

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
