"""What a check finds: see check.py."""

from __future__ import annotations

from typing import Any, Dict, List, Set, Tuple

from ..store.home import Home
from .placing import DAMAGED, state_of
from .references import Holder

USERS = 20
"""Places that are named of each finding; the rest is counted."""


class Finding:
    """One thing that is not as it should be. `users`: where it belongs, and `more` places than those; `mended`: from
    what, "" if it is not; then `why`, if that is known."""

    def __init__(self, what: str, problem: str, digest: str = "", size: int = 0) -> None:
        self.what, self.problem = what, problem
        self.digest, self.size = digest, size
        self.users: List[Dict[str, Any]] = []
        self.more = 0
        self.mended = self.why = ""
        self.versions: Set[Tuple[str, int]] = set()
        """The versions of uploads among all the places."""

    def used_by(self, holder: Holder, path: str = "") -> "Finding":
        if holder.kind == "upload":
            self.versions.add((holder.name, holder.version))
            user: Dict[str, Any] = {"upload": holder.name, "version": holder.version, "path": path}
        else:
            user = {"run": holder.name, "part": holder.part, "path": path}
        if len(self.users) < USERS:
            self.users.append(user)
        else:
            self.more += 1
        return self

    def settle(self, mended: str, why: str) -> None:
        """It is mended, unless there is a reason why not."""
        self.mended, self.why = ("", why) if why else (mended, "")

    def record(self) -> Dict[str, Any]:
        fields = ("what", "problem", "digest", "size", "users", "more", "mended", "why")
        return {name: getattr(self, name) for name in fields}


class Fault(Finding):
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
