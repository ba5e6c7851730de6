"""What a check finds about blobs: see check.py."""

from __future__ import annotations

from typing import List, Set

from ..shared.findings import Finding
from ..store.home import Home
from .repair import DAMAGED, state_of


class BlobFinding(Finding):
    """A digest with something wrong in blobs/: `plain` and `twin` are the states of its two files, `copies` files of
    the home that have its content and are not linked to its blob."""

    def __init__(self, home: Home, digest: str) -> None:
        self.plain = state_of(home.blobs.path(digest), digest)
        self.twin = state_of(home.blobs.path(digest, True), digest)
        super().__init__("blob", DAMAGED if DAMAGED in (self.plain, self.twin) else "missing", digest)
        self.inodes: Set[int] = set()
        self.copies: List[str] = []

    @property
    def counts(self) -> bool:
        """A blob that is not here is a finding only if something refers to it."""
        return bool(self.users) or self.problem == DAMAGED
