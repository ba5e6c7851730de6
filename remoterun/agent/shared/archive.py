"""How uploads and copies of runs lie in a bucket: for the client that owns it, and for hosts that write there.

    remoterun.json                 {"format": 2, "id": …}; made once, with If-None-Match
    uploads/<name>/<8 digits>      an archived tree: that version of an upload; made once, with If-None-Match
    uploads/<name>/packs/<sha256>  contents of the versions of that upload
    runs/<key>/spec.json           the run's spec
    runs/<key>/source              an archived tree: its source
    runs/<key>/mounts/<sha256>     archived trees that it mounts; older versions made them
    runs/<key>/status.json         a `RunRecord`, written anew at each change
    runs/<key>/log/<16 digits>     a piece of the log, named by its offset; pieces may overlap; err/ has those of stderr
                                   where it is apart
    runs/<key>/outputs             an archived tree: its outputs, written once all their contents are stored
    runs/<key>/packs/<sha256>      contents of these trees
    runs/<key>/hosts               the writers of the run's hosts, the newest last, as the client writes them before its
                                   command starts; absent where no host has a role
    hosts/<writer>/<key>/          as runs/<key>/ from status.json to packs/, of a host that saves by its role:
                                   it may write below hosts/<writer>/; nobody reads what the client has not named
    images/<id>.json               a `BuiltImage`; the client writes it as the host reported it before its command began
    envs/<id>/<sha256>/<number>    a part of it, which the host writes; what is not in the record is never loaded

An archived tree says itself where each content lies: in packs below its own folder, that of its upload or of its run.
A pack is named by its SHA-256, so that the server can verify it, and nothing that is stored is ever written anew. Since
a tree names packs by their digests only, it can't name anything outside its folder.
"""

from __future__ import annotations

import io
import json
import re
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .facts import RunEvent, RunStatus
from .logs import LOG_PIECE
from .measured import MOST_POINTS, POINT
from .records import Record, decode, encode, from_json, parse
from .states import BuiltImage
from .tree import LARGEST, Manifest, TreeError, is_digest

FORMAT = 2
IDENTITY = "remoterun.json"
"""The object that each archive has: a folder without it is not the bucket."""
MOUNTED = "file://"
"""How an address begins that is a path, quoted, of the bucket as a folder. New files may show late there."""
TREE_FORMAT = 1
PACK = 32 << 20
"""Bytes of a pack that is full."""
MOST_TREE = 1 << 30
"""Bytes of an archived tree of an upload."""
MOST_RUN_TREES = 256 << 20
"""Bytes of all trees of a run together, which its host may write: those of a million and a half files."""
MOST_RECORD = 1 << 20
"""Bytes of a run's status: `ps` reads those of many runs."""
MOST_HEADER = 4096
"""Bytes of its first line."""
MOST_EXTENTS = 1 << 18
"""Places that its contents may have beyond one each: 8 TiB in full packs."""
IMAGE_PART = 256 << 20
"""Bytes of a part of an image."""
MOST_OBJECT = 5 << 30
"""Bytes of an object that a host may write: S3 takes no more at once."""
GAP = 128 << 10
"""Bytes that nobody needs, between two contents of an object, up to which one request asks for both."""
SPAN = 4 << 20
"""Bytes that one request asks for, if they are of several contents: as many are in memory."""
MOST_TAKES = 2000
"""Contents that one request asks for."""
MOST_IMAGE = 64 << 30
"""Bytes of an image as it is stored."""

EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"))
"""S3's words for credentials, or what was signed with them, whose time is up."""


# -- an archived tree


class Extent(Record):
    """Bytes of a pack, which is named by its SHA-256."""

    pack: str
    offset: int
    length: int


Places = Dict[str, Tuple[Extent, ...]]
"""Where each content lies, by its digest: its bytes one after the other. An empty content lies nowhere."""


class TreeHeader(Record):
    """The first line of an archived tree: what is known of it without reading more. `size` and `files` are those of the
    manifest; `created` in seconds since 1970."""

    digest: str
    size: int
    files: int
    created: float
    manifest: int
    """Bytes of the manifest, which follows the header."""
    damaged: bool = False
    """A check has found that some of its contents are not stored."""
    format: int = TREE_FORMAT

    @classmethod
    def decode(cls, data: bytes) -> "TreeHeader":
        """Of an archived tree of which `data` is the beginning. Raises `ValueError`."""
        line, newline, _ = data[:MOST_HEADER].partition(b"\n")
        if not newline:
            raise ValueError("not an archived tree")
        header = decode(cls, line)
        if header.format != TREE_FORMAT:
            raise ValueError("an archived tree of format %d" % header.format)
        if not is_digest(header.digest) or min(header.size, header.files, header.manifest) < 0:
            raise ValueError("the header of an archived tree that can't be one")
        return header


class ArchivedTree(Record):
    """A tree, and where its contents lie.

    Its form: a `TreeHeader`, the canonical manifest, a line with the names of the packs, and for each distinct content
    that is not empty, in the manifest's order, a line of [number of a pack, offset, length, number of a pack, …]."""

    manifest: Manifest
    places: Places

    def encode(self, created: float) -> bytes:
        """Raises `KeyError` for a content without a place."""
        text = self.manifest.encode()
        digest, count = self.manifest.digest, self.manifest.file_count
        packs: Dict[str, int] = {}
        lines = []
        for name, _ in contents_of(self.manifest):
            numbers = []
            for extent in self.places[name]:
                numbers += [packs.setdefault(extent.pack, len(packs)), extent.offset, extent.length]
            lines.append(json.dumps(numbers).encode())
        header = TreeHeader(digest, self.manifest.size, count, created, len(text))
        return b"".join((encode(header), b"\n", text, b"\n".join([json.dumps(list(packs)).encode(), *lines]), b"\n"))

    @classmethod
    def decode(cls, data: bytes) -> "ArchivedTree":
        """Raises `ValueError` for what is not one: every field is checked."""
        header = TreeHeader.decode(data)
        start = data.index(b"\n") + 1
        try:
            manifest = Manifest.decode(data[start : start + header.manifest])
        except TreeError as error:
            raise ValueError(str(error))
        if manifest.digest != header.digest:
            raise ValueError("a manifest that is not the one that it was")
        lines = io.BytesIO(data[start + header.manifest :])
        packs = _packs(next(lines, b""))
        places: Places = {}
        more = MOST_EXTENTS
        for digest, size in contents_of(manifest):
            places[digest] = _extents(next(lines, b""), packs, size, more)
            more -= len(places[digest]) - 1
        if next(lines, b""):
            raise ValueError("places of contents that the tree does not have")
        return cls(manifest, places)

    @property
    def packs(self) -> List[str]:
        """The packs in which its contents lie."""
        return list({extent.pack: None for extents in self.places.values() for extent in extents})


def contents_of(manifest: Manifest) -> Iterator[Tuple[str, int]]:
    """(digest, size) of each distinct content that is not empty, in the manifest's order."""
    seen: Set[str] = set()
    for entry in manifest.files:
        if entry.size and entry.digest not in seen:
            seen.add(entry.digest)
            yield entry.digest, entry.size


def _packs(line: bytes) -> List[str]:
    packs = from_json(List[str], parse(line, 2 + len(line) // 32))
    if not all(map(is_digest, packs)):
        raise ValueError("names of packs that can't be ones")
    return packs


def _extents(line: bytes, packs: Sequence[str], size: int, more: int) -> Tuple[Extent, ...]:
    numbers = parse(line, 3 * (1 + more))
    if not isinstance(numbers, list) or len(numbers) % 3 or not numbers:
        raise ValueError("not the places of a content")
    if not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
        raise ValueError("a place that can't be one")
    if any(number >= len(packs) for number in numbers[::3]) or sum(numbers[2::3]) != size:
        raise ValueError("places that don't have the whole content")
    found = zip(numbers[::3], numbers[1::3], numbers[2::3])  # noqa: B905 - Python 3.8 has no `strict`
    return tuple(Extent(packs[pack], offset, length) for pack, offset, length in found)


# -- what a host may fetch and write


class Take(Record):
    """`length` bytes of an object, from `offset` on. They stand at `position` in the content `digest`, which has `size`
    bytes: all of them, unless it is spread over several objects."""

    digest: str
    size: int
    position: int
    offset: int
    length: int
    part: str = ""
    """The SHA-256 of these bytes, if they are all of their object and that is named by it."""

    @property
    def whole(self) -> bool:
        return self.length == self.size


def spans(takes: List[Take], gap: int = GAP) -> Iterator[List[Take]]:
    """The contents of an object in groups, each to be read by one request: with up to `gap` other bytes between two."""
    group: List[Take] = []
    for take in sorted(set(takes), key=lambda take: (take.offset, take.length)):
        if group:
            end = group[-1].offset + group[-1].length
            near = end <= take.offset <= end + gap and take.offset + take.length - group[0].offset <= SPAN
            if not near or len(group) == MOST_TAKES:
                yield group
                group = []
        group.append(take)
    if group:
        yield group


class SignedObject(Record):
    """What to take out of one object, by one request to `url`: a frame of the request `download`. A secret."""

    url: str
    takes: List[Take]
    exact: bool = False
    """It gives the bytes from the first of these to the last one, and no other part of the object."""


class Grant(Record):
    """What a host may do in a bucket for one run: post a form of `fields` to `url`, with a key that starts with
    `prefix`, until `expires` (seconds since 1970, by the client's clock). A secret.

    With `bucket` the host signs forms itself, with the credentials of its role; `fields` are for when it is refused.
    With `folder` the bucket is mounted there, so that an object is a file of it. Where it is `carried` as well, that is
    a folder of the run, from which a client takes each object to the bucket, which the host can't reach."""

    url: str
    fields: Dict[str, str]
    prefix: str
    expires: float
    bucket: str = ""
    """Its name, and the region for which a form is signed, where the host has a role."""
    region: str = ""
    folder: str = ""
    carried: bool = False


class ImageAccess(Record):
    """What a host may do with an image that the environment of its run is built of: download it where it is
    stored and recorded; else store it below `grant`, once it was built. A secret."""

    image: str
    stored: List[SignedObject] = []
    grant: Optional[Grant] = None


class RunRecord(Record):
    """A run as its host last reported it to the bucket. `time` by the host's clock; `number` is what its client calls
    it; `split`: its stderr is apart; `attempt`: the number of that host."""

    status: RunStatus
    events: List[RunEvent]
    number: int = 0
    time: float = 0.0
    split: bool = False
    attempt: int = 1


# -- names of objects


def upload_prefix(name: str) -> str:
    return "uploads/%s/" % name


def version_key(name: str, version: int) -> str:
    return "%s%08d" % (upload_prefix(name), version)


def run_prefix(key: str) -> str:
    return "runs/%s/" % key


def host_prefix(writer: str, key: str) -> str:
    """Of what the host `writer` writes of a run: the run's own folder for one without a role."""
    return "hosts/%s/%s/" % (writer, key) if writer else run_prefix(key)


def pack_key(name: str) -> str:
    """Below the prefix of its upload, or of its run."""
    return "packs/" + name


def log_key(offset: int, name: str = "log") -> str:
    """Below the prefix of its run; `name` is "err" for its stderr, where that is apart."""
    return "%s/%016d" % (name, offset)


OBJECTS = {
    r"status\.json": MOST_RECORD,
    r"((metrics|usage)\.points|metrics\.names)": MOST_POINTS * POINT.size,
    r"(log|err)/[0-9]{16}": LOG_PIECE,
    r"packs/[0-9a-f]{64}": PACK,
    r"outputs": MOST_RUN_TREES,
}
"""What a host writes below the folder of its run → how many bytes an object has at the most."""


def most_of(key: str, prefix: str) -> int:
    """Bytes that an object below the folder `prefix` of a run may have; 0 for what no host writes."""
    fitting = (most for form, most in OBJECTS.items() if re.fullmatch(re.escape(prefix) + form, key))
    return next(fitting, 0)


def image_key(id: str) -> str:
    """The record of a stored image."""
    return "images/%s.json" % id


def image_prefix(id: str) -> str:
    """Of the parts of an image, which a host writes; not of the record, which it must not write."""
    return "envs/%s/" % id


def image_parts(image: BuiltImage) -> List[Tuple[str, int]]:
    """(key below its prefix, bytes) of each part of an image. Raises `ValueError` for a record that can't be one."""
    if not is_digest(image.digest) or not 0 < image.size <= MOST_IMAGE:
        raise ValueError("an image of %d bytes that can't be one" % image.size)
    starts = range(0, image.size, IMAGE_PART)
    return [
        ("%s/%d" % (image.digest, number), min(IMAGE_PART, image.size - start)) for number, start in enumerate(starts)
    ]
