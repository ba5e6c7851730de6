"""What a host answers about blobs: which it lacks, whether the rest fits on its disk, and what is in small ones.

Nothing of an answer is believed before it was checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Generator, Iterable, Iterator

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Body, Frame, ProtocolError
from remoterun.agent.shared.packs import MISSING, expand, unpack
from remoterun.agent.shared.pieces import pack_numbers, piece_count
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


def require_room(session: Session, missing: int, room: int) -> None:
    """Raises `HostError` when `missing` bytes don't fit into `room`."""
    if missing > room:
        machine = session.machine.name
        raise HostError(
            f"the disk of {machine} is too full: {readable(missing)} are to be sent, and {readable(room)} fit there",
            hint=f"remoterun machines df {machine}   shows who uses it\n"
            f"remoterun machines gc {machine}   frees what nothing needs",
        )


def packed_blobs(session: Session, digests: list[str]) -> Generator[tuple[memoryview | None, int]]:
    """(content, size) of each blob in turn, which is not verified: without a content where it is large, and of 0 bytes
    then where the host has none."""
    wanted = iter(digests)
    with session.stream(api.fetch, api.RoundTrip(session.round_trip)) as stream:
        stream.send(bytes.fromhex("".join(digests)))
        stream.end()
        for frame in stream:
            if "p" in frame.header:
                count = number(frame, "p", session)
                for digest, content in _contents(unpacked(frame, session), count, session):
                    if digest.hex() != next(wanted, ""):
                        raise TransferError(f"{session.machine.name} sends other files than were asked for")
                    yield content, len(content)
                continue
            if next(wanted, None) is None:
                raise TransferError(f"{session.machine.name} sends more files than were asked for")
            yield None, 0 if "gone" in frame.header else number(frame, "large", session)
    if next(wanted, None) is not None:
        raise ended(session)


def _contents(pack: Body, count: int, session: Session) -> Iterator[tuple[bytes, memoryview]]:
    try:
        yield from unpack(pack, count)
    except ProtocolError as error:
        raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")


def contents(session: Session, digests: Iterable[str], most: int) -> dict[str, bytes]:
    """By digest: the blobs and lists of files that a host has whole. Raises `TransferError` for more than `most` bytes
    together."""
    wanted = list(dict.fromkeys(digests))
    found: dict[str, bytes] = {}
    large, total = {}, 0
    with contextlib.closing(packed_blobs(session, wanted)) as blobs:
        for digest, (packed, size) in zip(wanted, blobs, strict=True):
            total += size
            if total > most:
                raise TransferError(f"{session.machine.name} sends more than the {most} bytes expected at the most")
            found[digest] = bytes(packed or b"")
            if packed is None and size:
                large[digest] = size
    found |= {digest: _in_pieces(session, digest, size) for digest, size in large.items()}
    return {digest: content for digest, content in found.items() if hashlib.sha256(content).hexdigest() == digest}


def _in_pieces(session: Session, digest: str, size: int) -> bytes:
    data = bytearray()
    with session.stream(api.fetch_pieces, api.BlobPieces(digest, session.round_trip)) as stream:
        stream.send(pack_numbers(range(piece_count(size))))
        stream.end()
        for frame in stream:
            data += unpacked(not_empty(frame, session), session)
            if len(data) > size:
                raise nonsense(session)
    return bytes(data)
