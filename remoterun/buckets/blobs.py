"""Requests about blobs: which are missing, and their contents in both directions."""

from __future__ import annotations

from remoterun.agent.shared import api
from remoterun.agent.shared.digests import MISSING, RANGE, unpacked
from remoterun.agent.shared.frames import MAX_BODY
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.tree import LARGEST, is_digest, show
from remoterun.buckets.contents import ContentPlace, Extent
from remoterun.buckets.incoming import BlobReceiver
from remoterun.buckets.outgoing import BlobSender
from remoterun.buckets.serving import Call, Handler


def missing(call: Call, _: api.Nothing) -> api.Count:
    """Of what a cut transfer left, nothing is said: the chunks that were written count when the rest is sent."""
    home = call.bucket.contents.home
    count = 0
    for frame in call.stream:
        digests = list(unpacked(frame.body))
        home.look(digests)
        absent = [MISSING.pack(place, 0) for place, digest in enumerate(digests) if not home.has(digest)]
        call.stream.send(b"".join(absent))
        count += len(absent)
    return api.Count(count)


def codecs(call: Call, _: api.Nothing) -> api.Codecs:
    """None: what is sent here does not go over a link yet."""
    return api.Codecs([])


def put(call: Call, _: api.Nothing) -> api.Count:
    bucket = call.bucket
    receiver = BlobReceiver(bucket.s3, bucket.workers, bucket.contents.home)
    bucket.contents.home.read_indexes()
    for frame in call.stream:
        receiver.take(frame)
    receiver.end()
    return api.Count(receiver.count)


def begun(call: Call, asked: api.Beginnings) -> api.Begun:
    """Nothing that a content could be patched from, or go on from: see `missing`."""
    return api.Begun({}, {}, [], [], LARGEST)


def fetch(call: Call, asked: api.Accept) -> api.Count:
    sender = BlobSender(call.bucket.contents, call.bucket.reader, call.stream)
    for frame in call.stream:
        sender.send(list(unpacked(frame.body)))
    return api.Count(sender.count)


def fetch_parts(call: Call, asked: api.BlobRanges) -> api.Nothing:
    if not is_digest(asked.digest):
        raise RemoteError("bad_stream", f"not a digest: {show(asked.digest[:80])}")
    place = call.bucket.contents.place(bytes.fromhex(asked.digest))
    if place is None:
        raise RemoteError("not_found", f"there is no blob {asked.digest[:12]}")
    for offset, length in RANGE.iter_unpack(call.stream.read()):
        for piece in call.bucket.reader.pieces(part_of(place, offset, length)):
            call.stream.send_all(piece, MAX_BODY)
            length -= len(piece)
        if length > 0:
            raise RemoteError("not_found", f"the blob {asked.digest[:12]} is shorter than it was")
    return api.Nothing()


HANDLERS: dict[str, Handler] = {
    "missing": missing,
    "codecs": codecs,
    "put": put,
    "begun": begun,
    "fetch": fetch,
    "fetch_parts": fetch_parts,
}


def part_of(place: ContentPlace, offset: int, length: int) -> list[Extent]:
    """Where the bytes of a content from `offset` on lie."""
    found = []
    for extent in place.extents:
        if length > 0 and offset < extent.length:
            take = min(length, extent.length - offset)
            found.append(Extent(extent.key, extent.offset + offset, take))
            length -= take
        offset = max(0, offset - extent.length)
    return found
