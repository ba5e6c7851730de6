"""What is not as it should be in a home: see check.py."""

from __future__ import annotations

import os
import stat
import time
from typing import Any, Callable, Dict, List, Optional, Set

from ..shared.findings import MOST, Finding
from ..store.errors import HomeError
from ..store.home import Home
from .findings import BlobFinding
from .references import Referrer, gone, of_run, of_upload
from .repair import ABSENT, DAMAGED, WHOLE, is_whole, restore_list, state_of

SAY_EVERY = 0.2


class CheckProgress:
    """What `check` has gone through so far; `send(at=…)` is called now and then."""

    def __init__(self, send: Callable[..., Any]) -> None:
        self._send = send
        self._said = 0.0
        self._phase = ""
        self.files = self._files_total = self._bytes = self._bytes_total = 0

    def begin(self, phase: str, files: int = 0, size: int = 0) -> None:
        self._phase, self.files, self._bytes = phase, 0, 0
        self._files_total, self._bytes_total = files, size
        self._say()

    def add(self, size: int, files: int = 0) -> None:
        self._bytes += size
        self.files += files
        if time.monotonic() - self._said > SAY_EVERY:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        at = {"phase": self._phase, "files": self.files, "bytes": self._bytes}
        self._send(at=dict(at, files_total=self._files_total, bytes_total=self._bytes_total))


class Detection:
    """Reads all of a home. Changes nothing but, with `repair`, lists of files that can be written anew: without them
    nobody knows which files belong to a version.

    `faults` are the findings about blobs, by digest; `findings` those about lists; `in_folders` those about files, and
    whole folders, by their referrers. `more` were not looked into, since there were too many.
    """

    def __init__(self, home: Home, repair: bool, progress: CheckProgress) -> None:
        self.home = home
        self.referrers: List[Referrer] = []
        self.faults: Dict[str, BlobFinding] = {}
        self.findings: List[Finding] = []
        self.in_folders: Dict[Referrer, List[Finding]] = {}
        self.more = 0
        self.blobs = self.size = 0
        self._repair = repair
        self._progress = progress
        self._needed: Set[bytes] = set()
        self._count = 0

    def run(self) -> None:
        self._progress.begin("lists")
        self._read_lists()
        self._count_blobs()
        self._progress.begin("blobs", self.blobs, self.size)
        self._verify_blobs()
        self._progress.begin("files")
        for referrer in self.referrers:
            self._verify_folder(referrer)

    def all(self) -> List[Finding]:
        files = [finding for found in self.in_folders.values() for finding in found]
        return self.findings + files + [fault for fault in self.faults.values() if fault.counts]

    def _may_add(self) -> bool:
        """Whether there may be one finding more, which is counted."""
        if self._count >= MOST:
            self.more += 1
            return False
        self._count += 1
        return True

    # -- lists of files

    def _read_lists(self) -> None:
        for name in self.home.uploads.names():
            try:
                referrers = of_upload(self.home, name)
            except HomeError as error:
                self._add_list(Referrer("upload", name, 0, "files", "", ""), error.message)
                continue
            for referrer in referrers:
                self._read_list(referrer)
        for key in self.home.run_keys():
            run = self.home.run(key)
            if not run.exists():
                continue
            try:
                referrers = of_run(self.home, run)
            except FileNotFoundError:
                continue
            except HomeError as error:
                self._add_list(Referrer("run", key, 0, "spec", "", ""), error.message)
                continue
            for referrer in referrers:
                self._read_list(referrer)

    def _read_list(self, referrer: Referrer) -> None:
        if referrer.is_blob:
            self._needed.add(bytes.fromhex(referrer.digest))
        elif referrer.digest and not is_whole(referrer.manifest, referrer.digest) and not gone(self.home, referrer):
            mended = restore_list(self.home, referrer) if self._repair else ""
            self._add_list(referrer, "", mended)
            if not mended:
                return
        try:
            for entry in referrer.entries():
                if entry.kind == "f":
                    self._needed.add(bytes.fromhex(entry.digest))
                self._progress.add(0, 1)
        except HomeError as error:
            if not referrer.is_blob and not gone(self.home, referrer):  # a blob shows itself
                self._add_list(referrer, error.message)
            return
        self.referrers.append(referrer)

    def _add_list(self, referrer: Referrer, why: str, mended: str = "") -> None:
        if self._may_add():
            finding = Finding("list", DAMAGED, referrer.digest).used_by(referrer.user())
            finding.mended, finding.why = mended, why
            self.findings.append(finding)

    # -- blobs

    def _count_blobs(self) -> None:
        self._progress.begin("counting")
        for first in range(256):
            for path, _ in self.home.blobs.beginning_with(first):
                try:
                    self.size += os.stat(path).st_size
                except FileNotFoundError:
                    continue
                self.blobs += 1

    def _verify_blobs(self) -> None:
        for first in range(256):
            for path, digest in self.home.blobs.beginning_with(first):
                state = self._verify_blob(digest.hex(), path.endswith(".x"))
                if not path.endswith(".x") and state != ABSENT:
                    self._needed.discard(digest)
        for digest in self._needed:  # those that are left are missing
            self._fault(digest.hex())

    def _verify_blob(self, digest: str, twin: bool) -> str:
        path = self.home.blobs.path(digest, twin)
        state = state_of(path, digest, self._progress.add)
        self._progress.add(0, 1)
        if state == DAMAGED:
            fault = self._fault(digest)
            if fault is not None:
                status = os.stat(path)
                fault.inodes.add(status.st_ino)
                fault.size = status.st_size
        return state

    def _fault(self, digest: str) -> Optional[BlobFinding]:
        """Of that digest; None when there are too many."""
        if digest not in self.faults:
            if not self._may_add():
                return None
            self.faults[digest] = BlobFinding(self.home, digest)
        return self.faults[digest]

    # -- folders

    def _verify_folder(self, referrer: Referrer) -> None:
        found: List[Finding] = []
        if referrer.is_blob and referrer.digest in self.faults:
            self.faults[referrer.digest].used_by(referrer.user())
        look = referrer.whole
        try:
            for number, entry in enumerate(referrer.entries()):
                if number == 0 and look and not os.path.isdir(referrer.folder):
                    found.append(Finding("folder", "missing").used_by(referrer.user()))
                    look = False
                problem = self._verify_file(referrer, entry) if look else ""
                fault = self.faults.get(entry.digest) if entry.kind == "f" else None
                if fault is not None:
                    fault.size = entry.size
                    if fault.plain != WHOLE or entry.executable or problem:
                        fault.used_by(referrer.user(entry.path))
                elif problem and len(found) < MOST:
                    found.append(Finding("file", problem, entry.digest, entry.size).used_by(referrer.user(entry.path)))
        except HomeError:
            pass  # removed meanwhile: it could be read before
        if found and not gone(self.home, referrer):
            self.in_folders[referrer] = [finding for finding in found if self._may_add()]

    def _verify_file(self, referrer: Referrer, entry: Any) -> str:
        """ "missing", "changed", or "" for what is as it should be, or the fault of its blob."""
        path = os.path.join(referrer.folder, entry.path)
        self._progress.add(0, 1)
        try:
            status = os.lstat(path)
        except OSError:
            return "missing"
        if entry.kind == "d":
            return "" if stat.S_ISDIR(status.st_mode) else "changed"
        if entry.kind == "l":
            return "" if stat.S_ISLNK(status.st_mode) and os.readlink(path) == entry.target else "changed"
        if not stat.S_ISREG(status.st_mode):
            return "changed"
        fault = self.faults.get(entry.digest)
        if fault is not None and status.st_ino in fault.inodes:
            return ""
        blobs = (self.home.blobs.path(entry.digest), self.home.blobs.path(entry.digest, True))
        if fault is None and _same_file(status, *blobs):
            return ""
        if state_of(path, entry.digest, self._progress.add) == WHOLE:
            if fault is not None:
                fault.copies.append(path)
            return ""
        return "changed"


def _same_file(status: os.stat_result, *paths: str) -> bool:
    for path in paths:
        try:
            other = os.stat(path)
        except OSError:
            continue
        if (other.st_ino, other.st_dev) == (status.st_ino, status.st_dev):
            return True
    return False
