"""Contents of blobs of a host, in memory, by their digests: small ones packed together, large ones in pieces."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterable

from remoterun.agent.shared import api
from remoterun.agent.shared.packs import expand, unpack
from remoterun.agent.shared.pieces import pack_numbers, piece_count
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import ended, nonsense, not_empty, number


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
                for digest, content in unpack(expand(frame.header, frame.body), count):
                    if digest.hex() != next(wanted, ""):
                        raise TransferError(f"{session.machine.name} sends other files than were asked for")
                    yield content, len(content)
                continue
            if next(wanted, None) is None:
                raise TransferError(f"{session.machine.name} sends more files than were asked for")
            yield None, 0 if "gone" in frame.header else number(frame, "large", session)
    if next(wanted, None) is not None:
        raise ended(session)


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
            data += expand(frame.header, not_empty(frame, session).body)
            if len(data) > size:
                raise nonsense(session)
    return bytes(data)
