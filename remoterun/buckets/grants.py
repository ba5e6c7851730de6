"""What a host without credentials of its own may do in a bucket: fetch contents, and write what one run leaves.

Both are signed with the credentials of this machine, and end with them at the latest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from typing import TYPE_CHECKING

from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import (
    BringLine,
    ContentRange,
    Grant,
    ImageAccess,
    LargeContent,
    RunRecord,
    SignedObject,
)
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.spec import KEY
from remoterun.agent.shared.states import RunEvent
from remoterun.agent.shared.tree import is_digest, show
from remoterun.buckets.contents import EMPTY, ranges_of
from remoterun.buckets.host import BucketHost, of_machine
from remoterun.buckets.images import use
from remoterun.buckets.runs import settle
from remoterun.buckets.serving import Bucket
from remoterun.errors import HostError, TransferError
from remoterun.hosts.base import NOBODY

if TYPE_CHECKING:
    from remoterun.config import Config
    from remoterun.model import MachineType

LONGEST = 7 * 86400.0
"""Seconds for which a signature holds, at the longest."""
UNKNOWN = 3600.0
"""Seconds for which credentials are trusted to last that end some time, and don't say when."""
MOST_OBJECT = 5 << 30
"""Bytes of an object that a host may write: S3 takes no more at once."""
AT_ONCE = 10_000
"""Contents that are looked up together."""
MOST_TAKES = 2000
"""Contents of a line of `bring`."""


@contextmanager
def signing(machine: MachineType, config: Config) -> Iterator[Signer]:
    """For a machine type with a `bucket`. Raises as `BucketHost.open`."""
    host: BucketHost = of_machine(machine, config, NOBODY)
    bucket = host.bucket()
    try:
        bucket.s3.find_region()
        yield Signer(bucket)
    finally:
        bucket.close()


class Signer:
    """For one bucket. Signing asks nothing of the store; looking up where contents lie does."""

    def __init__(self, bucket: Bucket, clock: Callable[[], float] = time.time) -> None:
        self._bucket = bucket
        self._clock = clock

    @property
    def home_id(self) -> str:
        return self._bucket.home_id

    def expires(self, seconds: float) -> float:
        """Until when something surely holds that is signed now for so many seconds, in seconds since 1970."""
        now = self._clock()
        moments = [now + min(seconds, LONGEST)]
        end = self._bucket.s3.credentials_end()
        if end is not None:
            moments.append(end)
        elif not self._bucket.s3.lasting_credentials:
            moments.append(now + UNKNOWN)
        return min(moments)

    def parcels(self, digests: Iterable[str], seconds: float, run: str | None = None) -> Iterator[BringLine]:
        """The lines by which a host is told to `bring` contents; each object is signed once, for so many seconds.

        `run`: the key of a run, where they are those of its outputs. Raises `TransferError` for one that is not there.
        """
        if run is not None:
            self._bucket.contents.of_run(run)
        signed: dict[str, str] = {}

        def url(key: str) -> str:
            if key not in signed:
                signed[key] = self._bucket.s3.presigned_get(key, min(seconds, LONGEST))
            return signed[key]

        left = iter(dict.fromkeys(digests))
        while part := list(islice(left, AT_ONCE)):
            if any(not is_digest(digest) for digest in part):
                raise TransferError("a content without a digest can't be fetched")
            places = self._bucket.contents.places([bytes.fromhex(digest) for digest in part])
            small: list[tuple[str, ContentRange]] = []
            for digest, place in zip(part, places, strict=True):
                if place is None:
                    address = self._bucket.s3.place.address
                    raise TransferError(f"the content {digest[:12]} is not in {address}", hint="upload it again")
                takes = ranges_of(bytes.fromhex(digest), place)
                if place.chunks or bytes.fromhex(digest) == EMPTY:
                    parcels = [
                        SignedObject(url(extent.key), [take]) for extent, take in zip(place.extents, takes, strict=True)
                    ]
                    yield BringLine(large=[LargeContent(digest, place.size, parcels)])
                else:
                    small.append((place.extents[0].key, takes[0]))
            for key, found in groupby(sorted(small, key=lambda item: (item[0], item[1].offset)), lambda item: item[0]):
                together = [take for _, take in found]
                for start in range(0, len(together), MOST_TAKES):
                    yield BringLine(parcel=[SignedObject(url(key), together[start : start + MOST_TAKES])])

    def grant(self, key: str, seconds: float) -> Grant:
        """What a host may write of the run of that key, for so many seconds, or until the credentials end."""
        if not KEY.match(key):
            raise HostError(f"{show(key[:80])} is not the key of a run")
        return self._grant(layout.run_prefix(key), seconds, MOST_OBJECT)

    def image(self, name: str, architecture: str, seconds: float) -> ImageAccess:
        """What a host of that architecture may do with an image of its run's environment. One that is there counts as
        used now; no host may write it anew, for others run what is in it."""
        prefix = layout.image_prefix(image_id(name, architecture))
        pieces = [
            SignedObject(
                self._bucket.s3.presigned_get(prefix + piece.digest, min(seconds, LONGEST)),
                [ContentRange(piece.digest, 0, piece.length)],
            )
            for piece in use(self._bucket, prefix, name)
        ]
        return ImageAccess(name, pieces, None if pieces else self._grant(prefix, seconds, layout.IMAGE_PIECE))

    def _grant(self, prefix: str, seconds: float, most: int) -> Grant:
        url, fields = self._bucket.s3.presigned_post(prefix, min(seconds, LONGEST), most)
        return Grant(url, fields, prefix, self.expires(seconds))

    def record(self, key: str, spec: bytes, source: bytes) -> None:
        """Write what was asked of a run before its host knows it, so that it is there whatever becomes of the host."""
        for name, data in (("spec.json", spec), ("source", source)):
            self._bucket.s3.write(layout.run_prefix(key) + name, data)

    def introduce(
        self, key: str, spec: bytes, source: bytes, images: Sequence[str], architecture: str, seconds: float
    ) -> tuple[Grant, tuple[ImageAccess, ...]]:
        """`record`, `grant` and, for each of the images, `image`: at once, as somebody waits for the run."""
        asked = [
            self._bucket.workers.submit(lambda name: self.image(name, architecture, seconds), name) for name in images
        ]
        self.record(key, spec, source)
        return self.grant(key, seconds), tuple(one.result() for one in asked)

    def settle(self, key: str, event: RunEvent) -> RunRecord:
        """Write the end of a run whose host is gone, unless its host wrote one."""
        return settle(self._bucket.s3, key, event)
