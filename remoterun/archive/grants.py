"""What a host without credentials of its own may do in the bucket: download contents, and write what one run leaves.

All but what a host with a role signs is signed with the credentials of this machine, and ends with them at the latest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from urllib.parse import quote

from remoterun.agent.shared.archive import (
    IMAGE_PART,
    MOST_OBJECT,
    MOUNTED,
    PACK,
    ArchivedTree,
    Grant,
    ImageAccess,
    SignedObject,
    Take,
    image_key,
    image_parts,
    image_prefix,
    pack_key,
    spans,
)
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.records import decode, encode
from remoterun.agent.shared.states import BuiltImage
from remoterun.archive import Archive
from remoterun.archive.objects import Absent, Damaged, Unsigned
from remoterun.archive.runs import RunPlace
from remoterun.errors import HostError

LONGEST = 7 * 86400.0
"""Seconds for which a signature holds, at the longest."""
MOST_IMAGE_RECORD = 1 << 16
BUILD = 2 * 3600.0
"""Seconds in which a host builds an image and stores it, at the longest."""


def expires(archive: Archive, seconds: float) -> float:
    """Until when something surely holds that is signed now for so many seconds, in seconds since 1970."""
    moment = archive.clock() + min(seconds, LONGEST)
    return min(moment, archive.objects.credentials_end() or moment)


def downloads(
    archive: Archive, prefix: str, tree: ArchivedTree, digests: Iterable[str], seconds: float, folder: str = ""
) -> Iterator[SignedObject]:
    """The lines by which a host downloads contents of a tree whose packs lie below `prefix`, for so many seconds. No
    address gives anything but these contents: a pack may hold others, which that host has no business with. Where the
    host has the bucket as a `folder`, it reads the packs there."""
    if not folder:
        archive.objects.find_region()
    found = []
    for digest in dict.fromkeys(digests):
        extents = tree.places.get(digest, ())
        size, position = sum(extent.length for extent in extents), 0
        for extent in extents:
            part = "" if extent.offset else extent.pack
            found.append((extent.pack, Take(digest, size, position, extent.offset, extent.length, part)))
            position += extent.length
    for pack, together in groupby(sorted(found), lambda item: item[0]):
        for span in spans([take for _, take in together], 0):
            start, end = span[0].offset, span[-1].offset + span[-1].length
            # A whole pack has nothing else, and after a cut its rest may be asked for.
            only = (start, end - start) if end - start < PACK and not folder else None
            if folder:
                yield SignedObject(MOUNTED + quote(f"{folder}/{prefix}{pack_key(pack)}"), span)
                continue
            url = archive.objects.presigned_get(prefix + pack_key(pack), min(seconds, LONGEST), only)
            yield SignedObject(url, span, exact=only is not None)


def grant_for_run(archive: Archive, place: RunPlace, seconds: float, folder: str = "") -> Grant:
    """The permission of the newest host of a run to write, for so many seconds: by its role, if it has one; without
    one, or where the role is refused, by a form, which ends with the credentials at the latest. `folder`: where the
    host has the bucket as a folder, for which it needs no permission. Where the store takes no forms, a client has to
    carry there what the host leaves."""
    if folder:
        return Grant("", {}, place.folders[0], archive.clock() + LONGEST, folder=folder)
    try:
        signed = _grant(archive, place.folders[0], seconds, MOST_OBJECT)
    except Unsigned:
        return Grant("", {}, place.folders[0], archive.clock() + LONGEST, carried=True)
    if not any(place.writers[-1:]):
        return signed
    bucket, region = archive.objects.place.name, archive.objects.find_region()
    return signed._replace(expires=archive.clock() + seconds, bucket=bucket, region=region)


def image_access(archive: Archive, image: str, architecture: str, seconds: float) -> ImageAccess:
    """What a host of that architecture may do with an image of its run's environment: download the one that is stored
    and recorded, which counts as used now; else store it."""
    id = image_id(image, architecture)
    stored = _stored_image(archive, id)
    if stored is None or stored.image != image:
        archive.objects.delete([image_key(id)])  # a host may report one only where none is recorded
        return ImageAccess(image, grant=_grant(archive, image_prefix(id), min(seconds, BUILD), IMAGE_PART))
    archive.objects.put(image_key(id), encode(stored))  # `gc` goes by the age of the record
    archive.objects.find_region()
    parts, position = [], 0
    for key, length in image_parts(stored):
        url = archive.objects.presigned_get(image_prefix(id) + key, min(seconds, LONGEST))
        parts.append(SignedObject(url, [Take(stored.digest, stored.size, position, 0, length)]))
        position += length
    return ImageAccess(image, parts)


def record_image(archive: Archive, built: BuiltImage, architecture: str) -> None:
    """Record the image that a host reported before its command began: nothing else is loaded by others. One that is
    recorded stays, whatever has become of its parts. Raises `HostError`."""
    id = image_id(built.image, architecture)
    try:
        image_parts(built)
    except ValueError as error:
        raise HostError(f"the host reports an image that makes no sense: {error}")
    archive.objects.put_new(image_key(id), encode(built))


def read_image(archive: Archive, id: str) -> BuiltImage | None:
    """The record of an image; None without one that makes sense."""
    try:
        found = decode(BuiltImage, archive.objects.get(image_key(id), MOST_IMAGE_RECORD))
        image_parts(found)
        return found
    except (Absent, Damaged, ValueError):
        return None


def _stored_image(archive: Archive, id: str) -> BuiltImage | None:
    """The image that is recorded and stored whole."""
    image = read_image(archive, id)
    if image is None:
        return None
    sizes = {part.key: part.size for part in archive.objects.list(image_prefix(id))}
    if any(sizes.get(image_prefix(id) + key) != length for key, length in image_parts(image)):
        return None
    return image


def _grant(archive: Archive, prefix: str, seconds: float, most: int) -> Grant:
    archive.objects.find_region()
    url, fields = archive.objects.presigned_post(prefix, min(seconds, LONGEST), most)
    return Grant(url, fields, prefix, expires(archive, seconds))
