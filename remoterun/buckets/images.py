"""Images of environments in a bucket: hosts put them there and fetch them by themselves; see agent/shared/bucket.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import Chunk, ImageArchive
from remoterun.buckets.s3 import S3, Absent, Damaged, StoredObject
from remoterun.buckets.serving import Bucket
from remoterun.errors import HostError

USED_AGAIN = 86400.0
"""Seconds after which a use of an image is noted anew."""
UNUSED = 30 * 86400.0
"""Seconds without a use after which an image is not kept any more."""


@dataclass(frozen=True)
class KeptImage:
    """All objects of one image. `name` is None where no archive is described: one that was never written to its end."""

    name: str | None
    size: int
    used: float
    objects: list[StoredObject]
    needed: frozenset[str]
    """The keys of the objects that its archive is made of."""


def use(bucket: Bucket, prefix: str, name: str) -> list[Chunk]:
    """The pieces of the image of that name; none where the bucket does not have all of them, or what it has makes no
    sense. The use is noted, once a day."""
    key = prefix + layout.IMAGE
    try:
        archive = _read(bucket.s3, key)
        objects = {stored.key: stored for stored in bucket.s3.list(prefix)}
    except (Absent, HostError):
        return []
    sizes = {stored.key: stored.size for stored in objects.values()}
    whole = key in objects and all(sizes.get(prefix + piece.digest) == piece.length for piece in archive.pieces)
    if archive.image != name or not whole:
        return []
    if bucket.clock() - objects[key].modified > USED_AGAIN:
        bucket.s3.copy(key, key)
    return archive.pieces


def kept(s3: S3) -> Iterator[KeptImage]:
    """Every image in the bucket. Raises `HostError` where the bucket does not answer."""
    for id in s3.folders("envs/"):
        prefix = layout.image_prefix(id)
        objects = list(s3.list(prefix))
        size = sum(stored.size for stored in objects)
        used = max((stored.modified for stored in objects if stored.key == prefix + layout.IMAGE), default=0.0)
        try:
            archive = _read(s3, prefix + layout.IMAGE)
        except (Absent, Damaged):
            yield KeptImage(None, size, used, objects, frozenset())
            continue
        needed = {prefix + piece.digest for piece in archive.pieces} | {prefix + layout.IMAGE}
        yield KeptImage(archive.image, size, used, objects, frozenset(needed))


def unneeded(image: KeptImage, before: float, unused_since: float) -> list[str]:
    """The keys of its objects that nobody needs, what names the others first: all of an image that was last used before
    `unused_since`, and what does not belong to it and was written before `before` (seconds since 1970)."""
    if image.name is not None and image.used < unused_since:
        found = image.objects
    else:
        found = [stored for stored in image.objects if stored.key not in image.needed and stored.modified < before]
    return sorted((stored.key for stored in found), key=lambda key: not key.endswith("/" + layout.IMAGE))


def _read(s3: S3, key: str) -> ImageArchive:
    """Raises `Absent`, and `HostError` for what makes no sense."""
    try:
        return layout.image_archive(s3.get(key, layout.MOST_IMAGE_RECORD))
    except ValueError as error:
        raise s3.bad(key, str(error)[:200])
