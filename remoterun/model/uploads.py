"""Versions of named data sets, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from remoterun.agent.shared.api import UploadVersion
from remoterun.agent.shared.tree import is_digest
from remoterun.errors import HostError
from remoterun.model.runs import check_time
from remoterun.sizes import iso


@dataclass(frozen=True)
class UploadCopy:
    """Where a version of an upload lies. `seen`: when that machine was last asked, in seconds since 1970; `fault`: why
    it could not be asked just now."""

    machine: str
    seen: float | None = None
    fault: HostError | None = None


@dataclass(frozen=True)
class Upload:
    """A version of a named data set. Its `digest` is the identity."""

    name: str
    version: int
    """The number that this client gave it; in what a home reports, that of the client which uploaded it."""
    digest: str
    size: int
    """Bytes."""
    files: int
    created: float
    """Seconds since 1970."""
    machine: str
    """Has it, and so have all of `copies`."""
    home_id: str
    path: str | None = None
    """From where this client uploaded it."""
    damaged: bool = field(default=False, compare=False)
    for_mount: bool = field(default=False, compare=False)
    """It was copied to that machine for a run that mounts it."""
    ours: bool = field(default=False, compare=False)  # this client uploaded it
    copies: tuple[UploadCopy, ...] = field(default=(), compare=False)
    runs: tuple[int, ...] = field(default=(), compare=False)
    """The numbers of those that read it, as far as this client knows."""

    @classmethod
    def told(cls, name: str, item: UploadVersion, machine: str, home_id: str, clock_skew: float = 0.0) -> Upload:
        """The version that a home reports, whose clock is ahead of ours by `clock_skew` seconds.

        Raises `ValueError` for what makes no sense.
        """
        for number in ("version", "size", "files"):
            if getattr(item, number) < 0:
                raise ValueError(f"{number}: {getattr(item, number)}")
        if not is_digest(item.digest):
            raise ValueError(f"digest: {item.digest[:80]!r}")
        created = max(check_time(item.created) - clock_skew, 0.0)
        told = (item.version, item.digest, item.size, item.files, created)
        return cls(name, *told, machine, home_id, damaged=item.damaged, for_mount=item.for_mount)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("name", "version", "digest", "size", "files", "created", "machine", "path")
        copies = [
            {"machine": copy.machine, "last_seen": iso(copy.seen), "reachable": copy.fault is None}
            for copy in self.copies
        ]
        record = {name: getattr(self, name) for name in names}
        return {**record, "created": iso(self.created), "copies": copies, "runs": list(self.runs)}
