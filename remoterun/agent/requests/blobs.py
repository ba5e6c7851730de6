"""Requests about blobs: which are missing, and their contents in both directions."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from ..shared import api, codecs
from ..shared.archive import SignedObject
from ..shared.compression import CompressingStream
from ..shared.delta import BLOCK, records
from ..shared.digests import RANGE, unpacked
from ..shared.frames import MAX_HEADER
from ..shared.packs import Pace
from ..shared.protocol import Stream
from ..shared.records import decode
from ..shared.tree import is_digest, show
from ..store import parts
from ..store.errors import HomeError
from ..store.home import Home
from ..store.incoming import BlobReceiver
from ..store.outgoing import BlobSender
from ..store.patching import Patch
from . import Call, Handler

PATCHED = 4 << 20
"""Bytes from which on it pays to look for the parts of a file in another."""
MOST_LIKE, MOST_LARGE, MOST_RANGES = 4, 5000, 5000
MOST_LINE = 64 << 20
TICK = 0.25
"""Seconds for which a line is waited for before others have their turn."""


def missing(call: Call, _: api.Nothing) -> api.Count:
    count = 0
    for frame in call.stream:
        found = call.delivery.missing(frame.body)
        call.stream.send(b"".join(found))
        count += len(found)
    return api.Count(count)


def codecs_of_home(call: Call, _: api.Nothing) -> api.Codecs:
    """How bodies may be compressed that come here."""
    return api.Codecs(list(codecs.codecs()))


def put(call: Call, _: api.Nothing) -> api.Count:
    with BlobReceiver(call.home, call.delivery.lease, call.delivery.seen) as receiver:
        for frame in call.stream:
            receiver.take(frame)
            call.delivery.put_in_place()
        receiver.end()
        return api.Count(receiver.count)


def download(call: Call, _: api.Nothing) -> api.Count:
    from ..store.download import CONNECTIONS, Download
    from ..store.http_client import run_jobs

    with Download(call.home, call.delivery) as transfer:
        jobs = transfer.jobs(_signed_objects(call.stream))
        run_jobs(jobs, CONNECTIONS, lambda: call.stream.send(at=transfer.got))
        return api.Count(transfer.finish())


def patch(call: Call, asked: api.PatchBlob) -> api.Nothing:
    blob = Patch(call.home, call.delivery.lease, asked.size, asked.key, asked.offset, asked.like[:MOST_LIKE])
    try:
        for frame in call.stream:
            answer = blob.frame(frame)
            if answer is not None:
                call.stream.send(answer)
        if not blob.done:
            raise HomeError("bad_stream", "a blob ended early")
    finally:
        blob.close()
    return api.Nothing()


def begun(call: Call, asked: api.Beginnings) -> api.Begun:
    """Where there are too many blobs to look at all, every size that was asked about counts as one of a blob here."""
    home = call.home
    large: List[api.LargeEntry] = []
    if asked.name and home.uploads.versions(asked.name):
        files = home.uploads.stored(asked.name).manifest().files
        large = [api.LargeEntry(f.path, f.size, f.digest) for f in files if f.size >= PATCHED][:MOST_LARGE]
    partial = {key: size for key, size in home.blobs.partials().items() if is_digest(key)}
    found = {key: parts.ranges(home, key)[:MOST_RANGES] for key in partial}
    return api.Begun(
        {key: size for key, size in partial.items() if not found[key]},
        dict(_fitting((key, [list(part) for part in ranges]) for key, ranges in found.items() if ranges)),
        [file for file, _ in _fitting((file, file.path) for file in large)],
        sorted(home.blobs.sizes_among(set(asked.sizes))) if asked.sizes else [],
        home.reserve.room(),
    )


def seal(call: Call, asked: api.SealBlob) -> api.Nothing:
    _check_digest(asked.key)
    told: List[str] = []

    def digest() -> str:
        """What the client says is the blob's digest; "" as long as it has not."""
        if not told:
            with contextlib.suppress(TimeoutError):
                told.append(_received_digest(call))
        return "".join(told)

    parts.seal(call.home, asked.key, asked.size, digest, lambda: not call.stream.cancelled)
    return api.Nothing()


def fetch(call: Call, asked: api.Accept) -> api.Count:
    with BlobSender(call.home, call.stream, _compressing(call.stream, asked)) as sender:
        for frame in call.stream:
            for digest in unpacked(frame.body):
                sender.send(digest)
            sender.flush()
        return api.Count(sender.count)


def fetch_parts(call: Call, asked: api.BlobRanges) -> api.Nothing:
    pace = Pace()
    out = _compressing(call.stream, asked)
    with _open_blob(call.home, asked.digest) as file:
        for offset, length in RANGE.iter_unpack(call.stream.read()):
            file.seek(offset)
            while length > 0:
                data = file.read(min(length, pace.next()))
                if not data:
                    raise HomeError("not_found", "the blob %s is shorter than it was" % asked.digest[:12])
                length -= len(data)
                out.send(data, {})
    return api.Nothing()


def records_of(call: Call, asked: api.BlobFrom) -> api.Nothing:
    with _open_blob(call.home, asked.digest) as file:
        file.seek(asked.offset)
        data = b""
        while True:
            more = file.read(64 * BLOCK - len(data))
            data += more
            if len(data) == 64 * BLOCK or (data and not more):
                call.stream.send(records(data))
                data = b""
            if not more:
                return api.Nothing()


HANDLERS: Dict[str, Handler] = {
    "missing": missing,
    "codecs": codecs_of_home,
    "put": put,
    "download": download,
    "patch": patch,
    "begun": begun,
    "seal": seal,
    "fetch": fetch,
    "fetch_parts": fetch_parts,
    "records": records_of,
}


def _signed_objects(stream: Stream) -> Iterator[Optional[SignedObject]]:
    """What the client sends; None while nothing comes. Raises `HomeError`."""
    for line in _lines(stream):
        try:
            yield None if line is None else decode(SignedObject, line)
        except ValueError as error:
            raise HomeError("bad_stream", "a line of what to download that can't be read: %s" % error)


def _lines(stream: Stream) -> Iterator[Optional[bytes]]:
    """What the client sends, line by line; None while nothing comes."""
    begun: List[bytes] = []
    while True:
        try:
            frame = stream.receive(TICK)
        except TimeoutError:
            yield None
            continue
        if frame is None:
            break
        first, *others = bytes(frame.body).split(b"\n")
        begun.append(first)
        for line in others:
            yield b"".join(begun)
            begun = [line]
        if sum(map(len, begun)) > MOST_LINE:
            raise HomeError("too_large", "a line of more than %d bytes" % MOST_LINE)
    if any(begun):
        yield b"".join(begun)


def _received_digest(call: Call) -> str:
    """What is sent as the digest; raises `TimeoutError` as long as it is not. The blob is protected from then on."""
    frame = call.stream.receive(0)
    digest = str(frame.header.get("h")) if frame is not None else ""
    _check_digest(digest)
    call.delivery.lease.add(bytes.fromhex(digest))
    return digest


def _check_digest(text: str) -> None:
    if not is_digest(text):
        raise HomeError("bad_stream", "not a digest: %s" % show(text[:80]))


def _open_blob(home: Home, digest: str) -> Any:
    _check_digest(digest)
    try:
        return open(home.blobs.path(digest), "rb", buffering=0)
    except FileNotFoundError:
        raise HomeError("not_found", "there is no blob %s" % digest[:12])


def _compressing(stream: Stream, asked: Any) -> CompressingStream:
    """Compresses as the client accepts it, if that pays over its link."""

    def best() -> Optional[codecs.Codec]:
        return next((codec for key, codec in codecs.codecs().items() if key in asked.accept), None)

    return CompressingStream(stream, asked.round_trip, best)


def _fitting(items: Iterable[Tuple[Any, Any]]) -> Iterator[Tuple[Any, Any]]:
    """As many of them as fit into a third of a frame's header, by the length of the second of each pair."""
    room = MAX_HEADER // 3
    for item in items:
        room -= len(json.dumps(item[1])) + 150
        if room < 0:
            return
        yield item
