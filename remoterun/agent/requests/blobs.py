"""Requests about blobs: which are missing, and their contents in both directions."""

from __future__ import annotations

import os
from typing import Any, Iterator, List

from ..shared import api
from ..shared.archive import SignedObject
from ..shared.files import own_bytes, size_of
from ..shared.frames import Body
from ..shared.packs import DIGEST_SIZE, MISSING, CompressingStream, unpacked
from ..shared.pieces import GROUP, pack_numbers, piece_count, read_piece, unpack_numbers
from ..shared.pieces import piece_hashes as pieces_of
from ..shared.protocol import Stream
from ..shared.records import decode
from ..shared.tree import is_digest, show
from ..store import pieces
from ..store.blob_streams import BlobReceiver, BlobSender, blob_named
from ..store.errors import HomeError
from ..store.home import Home
from . import Call


def missing(call: Call, _: api.Nothing) -> api.Nothing:
    for frame in call.stream:
        digests = list(unpacked(frame.body))
        call.lease.add(b"".join(digests))  # before the home is searched
        call.stream.send(b"".join(_missing(call.home, digests)))
    return api.Nothing()


def _missing(home: Home, digests: List[bytes]) -> Iterator[bytes]:
    begun = frozenset(os.listdir(home.partial))
    for place, digest in enumerate(one.hex() for one in digests):
        if not home.blobs.has(digest):
            yield MISSING.pack(place, home.blobs.partial_size(digest) if digest in begun else 0)


def room(call: Call, asked: api.Arriving) -> api.Room:
    room, home = call.home.reserve.room(), call.home
    if asked.size <= room:
        return api.Room(room)
    paths = (path for first in range(256) for path, _ in home.blobs.beginning_with(first))
    return api.Room(room, sum(map(size_of, paths)) + own_bytes(home.partial))


def put(call: Call, _: api.Nothing) -> api.Nothing:
    with BlobReceiver(call.home) as receiver:
        for frame in call.stream:
            receiver.take(frame)
    return api.Nothing()


def download(call: Call, _: api.Nothing) -> api.Count:
    from ..store.download import CONNECTIONS, Download
    from ..store.http_client import run_jobs

    with Download(call.home, call.lease) as transfer:
        jobs = transfer.jobs(_signed_objects(call.stream))
        run_jobs(jobs, CONNECTIONS, lambda: call.stream.send(at=transfer.got))
        return api.Count(transfer.finish())


def missing_pieces(call: Call, asked: api.MissingPieces) -> api.Nothing:
    digest, size = blob_named({"d": asked.digest, "s": asked.size})
    before = call.home.uploads.file_before(asked.name, asked.path)
    wanted = _frame(call.stream)
    if len(wanted) % DIGEST_SIZE or not 0 <= asked.first <= piece_count(size) - len(wanted) // DIGEST_SIZE:
        raise HomeError("bad_stream", "%d bytes of hashes from piece %d on" % (len(wanted), asked.first))
    call.stream.send(pack_numbers(pieces.missing(call.home, digest, size, asked.first, wanted, before)))
    return api.Nothing()


def seal(call: Call, asked: api.WholeBlob) -> api.Nothing:
    pieces.seal(call.home, *blob_named({"d": asked.digest, "s": asked.size}))
    return api.Nothing()


def fetch(call: Call, asked: api.RoundTrip) -> api.Nothing:
    out = CompressingStream(call.stream, asked.round_trip)
    with BlobSender(call.home, call.stream, out) as sender:
        for frame in call.stream:
            for digest in unpacked(frame.body):
                sender.send(digest)
            sender.flush()
    return api.Nothing()


def piece_hashes(call: Call, asked: api.PieceHashes) -> api.Nothing:
    with _open_blob(call.home, asked.digest) as file:
        size = os.fstat(file.fileno()).st_size
        last = min(asked.end, asked.first + GROUP, piece_count(size))
        call.stream.send(pieces_of(file.fileno(), size, range(max(0, asked.first), last)))
    return api.Nothing()


def fetch_pieces(call: Call, asked: api.BlobPieces) -> api.Nothing:
    out = CompressingStream(call.stream, asked.round_trip)
    with _open_blob(call.home, asked.digest) as file:
        size = os.fstat(file.fileno()).st_size
        for number in unpack_numbers(_frame(call.stream), size):
            out.send(read_piece(file.fileno(), number, size), {})
    return api.Nothing()


def _signed_objects(stream: Stream) -> Iterator[SignedObject]:
    """What the client sends, one in a frame. Raises `HomeError`."""
    for frame in stream:
        try:
            yield decode(SignedObject, bytes(frame.body))
        except ValueError as error:
            raise HomeError("bad_stream", "what to download can't be read: %s" % error)


def _frame(stream: Stream) -> Body:
    """What the client sends, in one frame."""
    frame = stream.receive()
    return frame.body if frame is not None else b""


def _open_blob(home: Home, digest: str) -> Any:
    if not is_digest(digest):
        raise HomeError("bad_stream", "not a digest: %s" % show(digest[:80]))
    try:
        return open(home.blobs.path(digest), "rb", buffering=0)
    except FileNotFoundError:
        raise HomeError("not_found", "there is no blob %s" % digest[:12])
