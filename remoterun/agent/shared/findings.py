"""What a check of a home finds, of either kind of home, as the client gets it."""

from __future__ import annotations

from typing import Any, Dict, List, Set, Tuple

USERS = 20
"""Places that are named of each finding; the rest is counted."""
MOST = 10_000
"""Findings that are told; the rest is counted."""


class Finding:
    """One thing that is not as it should be:

    "what"      "blob": a content is "damaged"; or "missing", and something refers to it
                "file": in an upload's folder, or among a run's outputs, a file is "missing", or is "changed": no longer
                what the list of files says
                "folder": all of them are missing
                "list": what an upload or a run refers to can't be read: "damaged"
    "problem"   one of these words
    "digest"    in hex, "" if there is none; "size": bytes, 0 if unknown
    "users"     where it belongs: {"upload", "version", "path"} or {"run" (its key), "part", "path"}; "more" than those
    "mended"    from what, in words; "" if it could not be: "why" then says why not, if that is known
    """

    def __init__(self, what: str, problem: str, digest: str = "", size: int = 0, why: str = "") -> None:
        self.what, self.problem = what, problem
        self.digest, self.size = digest, size
        self.users: List[Dict[str, Any]] = []
        self.more = 0
        self.mended, self.why = "", why
        self.versions: Set[Tuple[str, int]] = set()
        """The versions of uploads among all the places."""

    def used_by(self, user: Dict[str, Any]) -> "Finding":
        if "upload" in user:
            self.versions.add((user["upload"], user["version"]))
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
