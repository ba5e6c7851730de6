"""What one client brings to a home: blobs, and the version of an upload that they are for.

The client asks which blobs are missing, sends those, and commits a manifest that names them all; these are requests of
their own, on threads of their own, which meet here. From the question to the commit a lease protects the blobs from
`gc`.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ..shared.api import CommitUpload
from ..shared.digests import MISSING, unpacked
from ..shared.frames import Body
from ..shared.protocol import MOST_READ, Stream
from . import parts
from .errors import HomeError
from .home import Home
from .pending_version import PendingVersion

MOST_SIZES = 50_000
LOOK_AGAIN, SOON = 0.05, 0.005
"""Seconds between looks whether a blob has come on another connection; the latter when nothing else is missing."""


class Delivery:
    """For the requests of one conversation; each of its methods may be called on any thread."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.lease = home.lease()
        """Protects what the client has asked about, and not committed yet."""
        self._sizes: Dict[str, int] = {}
        """Sizes of blobs that were seen here, by their digests: a commit need not look them up again."""
        self._any_missing = False
        """Whether a blob that the client asked about was missing: then what it commits is new."""
        self._missing_lock = threading.Lock()
        """Held while the home is searched for blobs. The client waits for that, so that other work gives way."""
        self._version: Optional[PendingVersion] = None
        """The version that takes shape while its blobs come."""

    def missing(self, digests: Body) -> List[bytes]:
        """A `MISSING` record for each of the packed `digests` of which there is no blob here; all are protected."""
        wanted = list(unpacked(digests))
        self.lease.add(b"".join(wanted))  # before the home is searched
        with self._missing_lock:
            found = list(self._search(wanted))
        self._any_missing = self._any_missing or bool(found)
        return found

    def seen(self, digest: str, size: int) -> None:
        """Note the size of a blob that is here."""
        if len(self._sizes) < MOST_SIZES or digest in self._sizes:
            self._sizes[digest] = size

    def put_in_place(self) -> None:
        """Give the files whose blobs have come their places in the version that takes shape, if one does."""
        version = self._version
        if version is not None:
            version.place(self._missing_lock.locked)

    def commit(self, asked: CommitUpload, stream: Stream) -> Tuple[Dict[str, Any], bool]:
        """Make what the manifest on `stream` names a version of an upload: (version, whether it is new).

        Blocks until the client ends the stream, or until all is here if that is sooner. Raises `HomeError` and
        `TreeError`.
        """
        self.home.uploads.folder_of(asked.name)  # refuses what is not a name
        with PendingVersion(self.home, self._sizes) as version:
            self._version = version
            try:
                self._receive(version, stream)
            finally:
                self._version = None
            committed = version.commit(asked.name, asked)
        if committed[0]["digest"] in self.home.uploads.brought(asked.name):
            self._protect(asked.name, committed[0])
        self._sizes, self._any_missing = {}, False
        self.lease.settle(version.digests)
        return committed

    def _protect(self, name: str, version: Dict[str, Any]) -> None:
        """Keep what was brought for a mount until the run is there that mounts it, or for as long as a cut transfer."""
        self.lease.add(bytes.fromhex(version["digest"]))
        if version["digest"] not in self.home.uploads.brought(name):
            raise HomeError("busy", "a gc has freed %s meanwhile" % name, "try again")

    def settle(self, digests: Set[bytes]) -> None:
        """Manifests name these by now: nothing else need protect them."""
        self._sizes = {}
        self.lease.settle(digests)

    def _search(self, digests: List[bytes]) -> Iterator[bytes]:
        begun = frozenset(os.listdir(self.home.partial))
        for place, digest in enumerate(one.hex() for one in digests):
            size = self.home.blobs.size(digest)
            if size is not None:
                self.seen(digest, size)
                continue
            have = self.home.blobs.partial_size(digest) if digest in begun else 0
            yield MISSING.pack(place, 0 if have and parts.listed(self.home, digest) else have)

    def _receive(self, version: PendingVersion, stream: Stream) -> None:
        """Take the manifest to its end whatever is still missing: a blob that never comes must be an error, and not a
        wait."""
        whole = False
        size = 0
        while not (whole and self._any_missing and version.place(self._missing_lock.locked)):
            try:
                frame = stream.receive(SOON if whole else LOOK_AGAIN)
            except TimeoutError:
                if self._any_missing:
                    version.place(self._missing_lock.locked)
                continue
            if frame is None:
                return
            size += len(frame.body)
            if size > MOST_READ:
                raise HomeError("too_large", "a list of more than %d bytes" % MOST_READ)
            version.take(frame.body)
            whole = "last" in frame.header
