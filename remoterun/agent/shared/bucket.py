"""How a home lies in a bucket, for the client that owns it and for a host that may write one run's part of it.

    remoterun.json                      {"format": 1, "home_id": …}; made once, with If-None-Match
    blobs/ab/<sha256>                   a content of more than SMALL and up to CHUNK bytes
    lists/ab/<sha256>                   a larger content: a `ChunkList` as JSON; each chunk is a blob
    packs/<sha256>                      contents of up to SMALL bytes, one after the other
    index/<sha256>                      what the pack of that name holds: a record for each content, in its order
    trees/<sha256>                      a manifest (tree.py)
    uploads/<name>/<8 digits>.json      a version: an `api.UploadVersion` as JSON; made once, with If-None-Match
    runs/<key>/spec.json                the run's spec
    runs/<key>/source                   the manifest of its source
    runs/<key>/status.json              a `RunRecord`, written anew at each change
    runs/<key>/log/<16 digits>          a piece of the log, named by its offset; pieces may overlap
    runs/<key>/outputs                  the manifest of its outputs, written once all their contents are there
    runs/<key>/{blobs,lists,packs,index}/…      contents of the outputs, as above

The name of a content is its digest, so the server can be told to verify it, and nothing that is there is ever written
anew. Small contents never are objects of their own: ten thousand requests cost more than their bytes.

Used by both sides. Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Dict, Iterable, Iterator, List, Tuple

from .records import Record
from .states import RunEvent, RunStatus

FORMAT = 1
SMALL = 1 << 20
"""Bytes of the largest content that lies in a pack."""
PACK = 32 << 20
"""Bytes of a pack that is full."""
CHUNK = 64 << 20
"""Bytes of the largest content that is one object."""

_RECORD = struct.Struct("!32sI")


class Take(Record):
    """A content that lies in an object: its digest, and where."""

    digest: str
    offset: int
    length: int


class Parcel(Record):
    """Contents to take out of one object, which `url` gives to whoever asks."""

    url: str
    takes: List[Take]


class Chunk(Record):
    digest: str
    length: int


class ChunkList(Record):
    """A content of `size` bytes, one chunk after the other."""

    size: int
    chunks: List[Chunk]


class LargeContent(Record):
    """A large content to be put together: the digest of the whole, and a parcel with one take for each chunk."""

    digest: str
    size: int
    parcels: List[Parcel]


class Bringing(Record):
    """A line of what `bring` sends: one of the two."""

    parcel: List[Parcel] = []
    large: List[LargeContent] = []


class Grant(Record):
    """What a host may do in a bucket for one run, without credentials of its own: post a form of `fields` to `url` with
    a key that starts with `prefix`, until `expires` (seconds since 1970, by the client's clock). A secret."""

    url: str
    fields: Dict[str, str]
    prefix: str
    expires: float


class RunRecord(Record):
    """A run as its host last told the bucket. `time` by the host's clock; `number` is what its client calls it."""

    status: RunStatus
    events: List[RunEvent]
    number: int = 0
    time: float = 0.0


def blob_key(digest: str) -> str:
    return "blobs/%s/%s" % (digest[:2], digest)


def list_key(digest: str) -> str:
    return "lists/%s/%s" % (digest[:2], digest)


def pack_key(name: str) -> str:
    return "packs/" + name


def index_key(name: str) -> str:
    return "index/" + name


def tree_key(digest: str) -> str:
    return "trees/" + digest


def version_key(name: str, version: int) -> str:
    return "uploads/%s/%08d.json" % (name, version)


def run_prefix(key: str) -> str:
    return "runs/%s/" % key


def log_key(offset: int) -> str:
    """Below the prefix of its run."""
    return "log/%016d" % offset


class Packed(Record):
    """A pack ready to be stored: its name (the SHA-256 of `data`), its bytes, and its index."""

    name: str
    data: bytes
    listing: bytes


def packed(contents: Iterable[Tuple[str, bytes]]) -> Packed:
    """The pack of (digest, content) of each."""
    listed = list(contents)
    data = b"".join(content for _, content in listed)
    listing = b"".join(_RECORD.pack(bytes.fromhex(digest), len(content)) for digest, content in listed)
    return Packed(hashlib.sha256(data).hexdigest(), data, listing)


def takes(listing: bytes) -> Iterator[Take]:
    """What an index lists. Raises `ValueError` for bytes that are no index."""
    if len(listing) % _RECORD.size:
        raise ValueError("an index of %d bytes" % len(listing))
    offset = 0
    for digest, length in _RECORD.iter_unpack(listing):
        yield Take(digest.hex(), offset, length)
        offset += length
