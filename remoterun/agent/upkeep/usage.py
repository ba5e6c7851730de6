"""Who uses how much of a home: `UsageReport`.

Two sizes of each user, in bytes of content: `size` is what it refers to, each blob once, and what lies in its own
folder; `alone` is the part that nobody else refers to: what removing it, and `gc`, would give back. Data that two
uploads share is in the `size` of both and in the `alone` of neither.

Memory: about 150 bytes for each file in blobs/ that somebody refers to.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ..running.engines import every_engine
from ..shared.api import UsageTotals
from ..shared.facts import RunStatus
from ..shared.files import own_bytes, size_of
from ..store import leases
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder
from .references import Referrer, of_run, of_upload

_PARTS = ("blobs", "uploads", "runs", "envs", "partial", "tmp", "damaged")


class UsageReport:
    """One report. `send(row=…)` is called with {"kind", "name", "size", "alone", …} for each user of the disk:

    "upload" with its "versions"; "run" with its "state", "work", "outputs" and "log"; "environment" and "image" with
    "used" and "contents", what is in it for people; and, where there is any, "partial", "temporary", "damaged",
    "leased", "unreferenced" (what `gc` frees) and "other", with "count".
    """

    def __init__(self, home: Home, send: Callable[..., Any]) -> None:
        self.home = home
        self._send = send
        self._claims: Dict[bytes, int] = {}
        """By the file of a blob (its digest, and a byte for its executable twin): the row that refers to it."""
        self._rows: List[Dict[str, Any]] = []

    def run(self) -> UsageTotals:
        for name in self.home.uploads.names():
            self._upload(name)
        for key in self.home.run_keys():
            self._run(self.home.run(key))
        users = len(self._rows)
        blobs = self._blobs()
        for row in self._rows[:users]:
            row["size"], row["alone"] = row["size"] + row["own"], row["alone"] + row["own"]
        self._environments()
        self._folder("partial", self.home.partial)
        self._folder("temporary", self.home.tmp)
        self._folder("damaged", self.home.damaged)
        others = [name for name in os.listdir(self.home.path) if name not in _PARTS]
        own = sum(own_bytes(os.path.join(self.home.path, name)) for name in others)
        self._row("other", "", own, size=own, alone=own, count=len(others))
        total = blobs[1] + sum(row.pop("own", 0) for row in self._rows)
        for row in self._rows:
            self._send(row=row)
        disk = shutil.disk_usage(self.home.path)
        return UsageTotals(total, disk.free, disk.total, *blobs)

    def _row(self, kind: str, name: str, own: int = 0, **more: Any) -> Dict[str, Any]:
        """`own`: bytes that are not blobs."""
        row = {"kind": kind, "name": name, "size": 0, "alone": 0, "own": own, **more}
        self._rows.append(row)
        return row

    def _upload(self, name: str) -> None:
        try:
            versions = self.home.uploads.versions(name)
            referrers = of_upload(self.home, name)
        except (HomeError, ValueError):
            versions, referrers = [], []
        if versions or os.listdir(self.home.uploads.folder_of(name)):
            row = self._row("upload", name, own_bytes(self.home.uploads.folder_of(name)), versions=versions)
            self._claim(row, referrers)

    def _run(self, run: RunFolder) -> None:
        status: Optional[RunStatus] = None
        referrers: List[Referrer] = []
        try:
            status, referrers = run.status(), of_run(self.home, run)
        except FileNotFoundError:
            return  # removed meanwhile, or its remains
        except (HomeError, ValueError, LookupError, TypeError):
            pass
        row = self._row(
            "run",
            run.key,
            own_bytes(run.path),
            state=status.state.value if status else None,
            created=status.created if status else None,
            work=own_bytes(run.work),
            outputs=status.outputs.size if status and status.outputs else 0,
            log=own_bytes(run.log) + own_bytes(run.err),
        )
        self._claim(row, referrers)

    def _claim(self, row: Dict[str, Any], referrers: List[Referrer]) -> None:
        """Count what the referrers refer to, each blob once, as this row's, which is the last one."""
        owner = len(self._rows) - 1

        def claim(key: bytes, size: int) -> None:
            before = self._claims.get(key)
            if before not in (owner, _shared_by(owner)):
                row["size"] += size
                self._claims[key] = owner if before is None else _shared_by(owner)

        for referrer in referrers:
            if referrer.is_blob:
                claim(bytes.fromhex(referrer.digest) + b"\0", size_of(self.home.blobs.path(referrer.digest)))
            try:
                for entry in referrer.entries():
                    if entry.kind == "f":
                        claim(bytes.fromhex(entry.digest) + b"\0", entry.size)
                        if entry.executable and referrer.whole:
                            claim(bytes.fromhex(entry.digest) + b"\1", entry.size)
            except HomeError:
                row["damaged"] = True

    def _blobs(self) -> Tuple[int, int, int, int]:
        """How many blobs, their bytes, and the same of those that several users share."""
        sizes: List[int] = []
        by_user: Dict[str, List[int]] = {"shared": [], "leased": [], "unreferenced": []}
        leased: Set[bytes] = set()
        leases.read(self.home.leases, leased, time.time(), sweep=False)
        for first in range(256):
            for path, digest in self.home.blobs.beginning_with(first):
                sizes.append(size_of(path))
                plain = self._claims.get(digest + b"\0")
                owner = self._claims.get(digest + b"\1", plain) if path.endswith(".x") else plain
                if owner is None:
                    by_user["leased" if digest in leased else "unreferenced"].append(sizes[-1])
                elif owner < 0:
                    by_user["shared"].append(sizes[-1])
                else:
                    self._rows[owner]["alone"] += sizes[-1]
        shared = by_user.pop("shared")
        for kind, found in by_user.items():
            if found:
                self._row(kind, "", size=sum(found), alone=sum(found), count=len(found))
        return len(sizes), sum(sizes), len(shared), sum(shared)

    def _environments(self) -> None:
        """What engines keep. Images are not in the home."""
        for engine in every_engine(self.home):
            for kept in engine.kept():
                own = kept.size if kept.kind == "environment" else 0
                sizes = {"own": own, "size": kept.size, "alone": kept.alone}
                self._row(kept.kind, kept.name, used=round(kept.used, 3), contents=kept.contents, **sizes)

    def _folder(self, kind: str, path: str) -> None:
        try:
            count = len(os.listdir(path))
        except FileNotFoundError:
            return
        own = own_bytes(path)
        if count:
            self._row(kind, "", own, size=own, alone=own, count=count)


def _shared_by(owner: int) -> int:
    """What stands for a blob of several rows, the last of which is number `owner`."""
    return -owner - 1
