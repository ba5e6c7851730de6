"""Contents from a host, into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Body
from remoterun.agent.shared.protocol import Stream
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, nonsense


def contents(session: Session, digests: Iterable[str], most: int) -> dict[str, bytes]:
    """By digest: the blobs and lists of files that a host has whole. Raises `TransferError` for more than `most` bytes
    of one, and for what has another digest."""
    found = {}
    for digest, size, pieces in each_content(session, list(dict.fromkeys(digests))):
        if size > most:
            raise TransferError(f"{session.machine.name} sends {size} bytes where {most} were expected at the most")
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != digest:
            raise TransferError(f"{session.machine.name} sends another content than was asked for")
        found[digest] = data
    return found


def each_content(source: Session, digests: list[str]) -> Iterator[tuple[str, int, Iterator[Body]]]:
    """(digest, size, pieces) of the blobs and lists of files that `source` has; each is to be read before the next."""
    with source.stream(api.blobs, Nothing()) as stream:
        stream.send(bytes.fromhex("".join(digests)))
        stream.end()
        for digest in digests:
            frame = next_frame(stream, source)
            size = frame.header.get("s")
            if frame.header.get("d") != digest:
                raise nonsense(source)
            if frame.header.get("gone"):
                continue
            if type(size) is not int or size < 0:
                raise nonsense(source)
            yield digest, size, _body(frame.body, size, stream, source)


def _body(first: Body, size: int, stream: Stream, source: Session) -> Iterator[Body]:
    left = size - len(first)
    yield first
    while left > 0:
        body = next_frame(stream, source).body
        left -= len(body)
        yield body
    if left:
        raise TransferError(f"{source.machine.name} sends more than it said")
