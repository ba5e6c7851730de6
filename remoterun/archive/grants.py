"""What a host without credentials of its own may do in the bucket: download contents, and write what one run leaves.

All is signed with the credentials of this machine, and ends with them at the latest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice

from remoterun.agent.shared.archive import (
    IMAGE_PART,
    ArchivedTree,
    ContentRange,
    DownloadLine,
    Grant,
    ImageAccess,
    SignedContent,
    SignedExtent,
    SignedObject,
    image_key,
    image_parts,
    image_prefix,
    pack_key,
    run_prefix,
)
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.records import decode, encode
from remoterun.agent.shared.spec import KEY
from remoterun.agent.shared.states import BuiltImage
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive.s3_errors import Absent, Damaged
from remoterun.errors import HostError

LONGEST = 7 * 86400.0
"""Seconds for which a signature holds, at the longest."""
UNKNOWN = 3600.0
"""Seconds for which credentials are trusted to last that end some time, and don't say when."""
MOST_OBJECT = 5 << 30
"""Bytes of an object that a host may write: S3 takes no more at once."""
MOST_TAKES = 2000
"""Contents of a line of `download`."""
MOST_IMAGE_RECORD = 1 << 16
USED_AGAIN = 86400.0
"""Seconds after which a use of an image is noted anew."""


def expires(archive: Archive, seconds: float) -> float:
    """Until when something surely holds that is signed now for so many seconds, in seconds since 1970."""
    now = archive.clock()
    moments = [now + min(seconds, LONGEST)]
    end = archive.s3.credentials_end()
    if end is not None:
        moments.append(end)
    elif not archive.s3.lasting_credentials:
        moments.append(now + UNKNOWN)
    return min(moments)


def downloads(
    archive: Archive, prefix: str, tree: ArchivedTree, digests: Iterable[str], seconds: float
) -> Iterator[DownloadLine]:
    """The lines by which a host downloads contents of a tree whose packs lie below `prefix`; each pack is signed once,
    for so many seconds. An empty content is `b""` by itself."""
    signed: dict[str, str] = {}

    def url(pack: str) -> str:
        if pack not in signed:
            signed[pack] = archive.s3.presigned_get(prefix + pack_key(pack), min(seconds, LONGEST))
        return signed[pack]

    whole = []
    for digest in dict.fromkeys(digests):
        extents = tree.places.get(digest, ())
        if len(extents) == 1:
            whole.append((extents[0], digest))
            continue
        parts = [SignedExtent(url(extent.pack), extent.offset, extent.length) for extent in extents]
        yield DownloadLine(spread=[SignedContent(digest, sum(extent.length for extent in extents), parts)])
    for pack, found in groupby(sorted(whole), lambda item: item[0].pack):
        takes = (ContentRange(digest, extent.offset, extent.length) for extent, digest in found)
        while together := list(islice(takes, MOST_TAKES)):
            yield DownloadLine(objects=[SignedObject(url(pack), together)])


def grant_for_run(archive: Archive, key: str, seconds: float) -> Grant:
    """What a host may write of the run of that key, for so many seconds, or until the credentials end."""
    if not KEY.match(key):
        raise HostError(f"{show(key[:80])} is not the key of a run")
    return _grant(archive, run_prefix(key), seconds, MOST_OBJECT)


def image_access(archive: Archive, image: str, architecture: str, seconds: float) -> ImageAccess:
    """What a host of that architecture may do with an image of its run's environment: download the one that is stored
    and recorded, which counts as used now; else store it."""
    id = image_id(image, architecture)
    stored = _stored_image(archive, id)
    if stored is None or stored.image != image:
        return ImageAccess(image, None, _grant(archive, image_prefix(id), seconds, IMAGE_PART))
    parts = [
        SignedExtent(archive.s3.presigned_get(image_prefix(id) + key, min(seconds, LONGEST)), 0, length)
        for key, length in image_parts(stored)
    ]
    return ImageAccess(image, SignedContent(stored.digest, stored.size, parts))


def record_image(archive: Archive, built: BuiltImage, architecture: str) -> None:
    """Record the image that a host reported before its command began: nothing else is loaded by others. One that is
    stored whole stays. Raises `HostError`."""
    id = image_id(built.image, architecture)
    try:
        image_parts(built)
    except ValueError as error:
        raise HostError(f"the host reports an image that makes no sense: {error}")
    if _stored_image(archive, id) is None:
        archive.s3.put(image_key(id), encode(built))


def read_image(archive: Archive, id: str) -> BuiltImage | None:
    """The record of an image; None without one that makes sense."""
    try:
        found = decode(BuiltImage, archive.s3.get(image_key(id), MOST_IMAGE_RECORD))
        image_parts(found)
        return found
    except (Absent, Damaged, ValueError):
        return None


def _stored_image(archive: Archive, id: str) -> BuiltImage | None:
    """The image that is recorded and stored whole, noted as used."""
    stored = next(archive.s3.list(image_key(id)), None)
    image = read_image(archive, id) if stored is not None else None
    if stored is None or image is None:
        return None
    sizes = {part.key: part.size for part in archive.s3.list(image_prefix(id))}
    if any(sizes.get(image_prefix(id) + key) != length for key, length in image_parts(image)):
        return None
    if archive.clock() - stored.modified > USED_AGAIN:
        archive.s3.touch(image_key(id))
    return image


def _grant(archive: Archive, prefix: str, seconds: float, most: int) -> Grant:
    url, fields = archive.s3.presigned_post(prefix, min(seconds, LONGEST), most)
    return Grant(url, fields, prefix, expires(archive, seconds))
