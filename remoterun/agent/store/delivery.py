"""What one client brings to a home: blobs, and the version of an upload that they are for.

The client asks which blobs are missing, sends those, and commits a manifest that names them all. From the question to
the commit a lease protects the blobs from `gc`.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterator, List, Set, Tuple

from ..shared.api import CommitUpload
from ..shared.frames import Body
from ..shared.packs import MISSING, unpacked
from ..shared.pieces import LARGE
from ..shared.tree import Manifest
from .blobs import packed
from .home import Home


class Delivery:
    """For the requests of one conversation."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.lease = home.lease()
        """Protects what the client has asked about, and not committed yet."""
        self._before: Dict[str, Dict[str, str]] = {}
        """Digests of the large files of the newest version of an upload, by their paths."""

    def missing(self, digests: Body) -> List[bytes]:
        """A `MISSING` record for each of the packed `digests` of which there is no blob here; all are protected."""
        wanted = list(unpacked(digests))
        self.lease.add(b"".join(wanted))  # before the home is searched
        return list(self._search(wanted))

    def version_before(self, name: str, path: str) -> str:
        """The digest of a large file in the newest version of the upload `name`, at `path` or of that base name; ""
        where there is none."""
        if not name:
            return ""
        if name not in self._before:
            files = self.home.uploads.stored(name).manifest().files if self.home.uploads.versions(name) else ()
            large = {entry.path: entry.digest for entry in files if entry.size > LARGE}
            self._before[name] = {**{os.path.basename(path): digest for path, digest in large.items()}, **large}
        return self._before[name].get(path) or self._before[name].get(os.path.basename(path), "")

    def commit(self, asked: CommitUpload, manifest: Manifest) -> Tuple[Dict[str, Any], bool]:
        """Make the manifest a version of an upload: (version, whether it is new). Raises `HomeError`."""
        committed = self.home.uploads.commit(asked.name, manifest, asked)
        self._before.pop(asked.name, None)
        self.settle(set(unpacked(packed(manifest))))
        return committed

    def settle(self, digests: Set[bytes]) -> None:
        """Manifests name these by now: nothing else need protect them."""
        self.lease.settle(digests)

    def close(self) -> None:
        """The conversation has ended: what it has sent counts as a cut transfer's."""
        self.lease.close()

    def _search(self, digests: List[bytes]) -> Iterator[bytes]:
        begun = frozenset(os.listdir(self.home.partial))
        for place, digest in enumerate(one.hex() for one in digests):
            if not self.home.blobs.has(digest):
                yield MISSING.pack(place, self.home.blobs.partial_size(digest) if digest in begun else 0)
