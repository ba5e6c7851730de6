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
    runs/<key>/log/<16 digits>          a piece of the log, named by its offset; pieces may overlap; err/ has those of
                                        stderr where it is apart
    runs/<key>/outputs                  the manifest of its outputs, written once all their contents are there
    runs/<key>/{blobs,lists,packs,index}/…      contents of the outputs, as above
    envs/<id>/image.json                an image that a host has built: an `ImageArchive` as JSON, written last, and
                                        written anew when it is used, once a day
    envs/<id>/<sha256>                  a piece of its archive

The name of a content is its digest, so the server can be told to verify it, and nothing that is there is ever written
anew. Small contents never are objects of their own: ten thousand requests cost more than their bytes.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

from .records import Record, decode
from .states import RunEvent, RunStatus
from .tree import is_digest

FORMAT = 1
SMALL = 1 << 20
"""Bytes of the largest content that lies in a pack."""
PACK = 32 << 20
"""Bytes of a pack that is full."""
MOST_IN_PACK = 50_000
"""Contents of a pack that is full, if they are so small: its index is read as a whole."""
CHUNK = 64 << 20
"""Bytes of the largest content that is one object."""
MOST_LIST = 32 << 20
"""Bytes of the JSON of a `ChunkList`."""

IMAGE = "image.json"
IMAGE_PIECE = 16 << 20
"""Bytes of a piece of an image: a small machine holds several in memory."""
MOST_IMAGE = 64 << 30
"""Bytes of the archive of an image."""
MOST_IMAGE_RECORD = 1 << 20
"""Bytes of the JSON of an `ImageArchive`."""

EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"))
"""AWS's words for credentials, or what was signed with them, whose time is up."""

_RECORD = struct.Struct("!32sI")
MOST_INDEX = MOST_IN_PACK * _RECORD.size
"""Bytes of an index."""


class ContentRange(Record):
    """A content that lies in an object: its digest, and where."""

    digest: str
    offset: int
    length: int


class SignedObject(Record):
    """Contents to take out of one object, which `url` gives to whoever asks."""

    url: str
    takes: List[ContentRange]


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
    parcels: List[SignedObject]


class BringLine(Record):
    """A line of what `bring` sends: one of the two."""

    parcel: List[SignedObject] = []
    large: List[LargeContent] = []


class Grant(Record):
    """What a host may do in a bucket for one run, without credentials of its own: post a form of `fields` to `url` with
    a key that starts with `prefix`, until `expires` (seconds since 1970, by the client's clock). A secret."""

    url: str
    fields: Dict[str, str]
    prefix: str
    expires: float


class ImageArchive(Record):
    """An image as `docker save` writes it, compressed by gzip: `size` bytes, one piece after the other."""

    image: str
    size: int
    pieces: List[Chunk]


class ImageAccess(Record):
    """What a host may do with an image that the environment of its run is built of: fetch it, a piece after the other,
    where the bucket has it; else put it there with `grant`, once it was built. A secret."""

    image: str
    pieces: List[SignedObject] = []
    grant: Optional[Grant] = None


class RunRecord(Record):
    """A run as its host last told the bucket. `time` by the host's clock; `number` is what its client calls it;
    `split`: its stderr is apart."""

    status: RunStatus
    events: List[RunEvent]
    number: int = 0
    time: float = 0.0
    split: bool = False


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


def image_prefix(id: str) -> str:
    return "envs/%s/" % id


def run_prefix(key: str) -> str:
    return "runs/%s/" % key


def log_key(offset: int, name: str = "log") -> str:
    """Below the prefix of its run; `name` is "err" for its stderr, where that is apart."""
    return "%s/%016d" % (name, offset)


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


def index_entries(listing: bytes) -> Iterator[ContentRange]:
    """What an index lists. Raises `ValueError` for bytes that are not an index."""
    if len(listing) % _RECORD.size or len(listing) > MOST_INDEX:
        raise ValueError("an index of %d bytes" % len(listing))
    offset = 0
    for digest, length in _RECORD.iter_unpack(listing):
        if length > SMALL or offset + length > PACK + SMALL:
            raise ValueError("an index of contents that no pack can hold")
        yield ContentRange(digest.hex(), offset, length)
        offset += length


def chunk_list(data: bytes) -> ChunkList:
    """The list that an object holds. Raises `ValueError` for what is not one."""
    found = decode(ChunkList, data)
    if any(not is_digest(chunk.digest) or not 0 < chunk.length <= CHUNK for chunk in found.chunks):
        raise ValueError("a chunk that can't be one")
    if sum(chunk.length for chunk in found.chunks) != found.size:
        raise ValueError("chunks that are not as long as the whole")
    return found


def image_archive(data: bytes) -> ImageArchive:
    """The archive that an object describes. Raises `ValueError` for what is not one."""
    found = decode(ImageArchive, data)
    if any(not is_digest(piece.digest) or not 0 < piece.length <= IMAGE_PIECE for piece in found.pieces):
        raise ValueError("a piece that can't be one")
    if not 0 < found.size == sum(piece.length for piece in found.pieces) <= MOST_IMAGE:
        raise ValueError("pieces that are not as long as the whole")
    return found


class PackBuilder:
    """Contents on their way into packs: each is full before the next one begins."""

    def __init__(self) -> None:
        self._contents: List[Tuple[str, bytes]] = []
        self.size = 0
        """Bytes of the contents that wait for the pack to be full."""

    def add(self, digest: str, content: bytes) -> Optional[Packed]:
        """A pack that is full by now. `content` has `SMALL` bytes at the most."""
        self._contents.append((digest, content))
        self.size += len(content)
        full = self.size >= PACK or len(self._contents) >= MOST_IN_PACK
        return self.end() if full else None

    def end(self) -> Optional[Packed]:
        """The last pack, if something is left for it."""
        contents, self._contents, self.size = self._contents, [], 0
        return packed(contents) if contents else None
