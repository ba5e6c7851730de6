"""Verify a home: every blob against its name, every list of files, every file that stands for a blob.

    lists       of the versions of uploads, and of runs: what should be in this home
    blobs       each is hashed; what should be, and is not, is missing
    folders     of uploads and of outputs: what is not a link to its blob is hashed, too
    set aside   a damaged blob is moved to damaged/, under its own name: it must not pass for the content, or the next
                upload would not send that. A version of an upload that is not whole is marked as damaged in
                versions.json: an upload of that content replaces it.

A damaged list stays in its place: it shows that nobody knows which blobs may be freed. Nothing damaged is deleted
before a whole blob has its name again.

Memory: about 120 bytes for each digest that is referred to, and at most `MOST` findings; the rest is counted, for a
next check. What is removed during a check is not a finding.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

from ..shared.api import CheckTotals
from ..shared.files import is_same, locked
from ..shared.tree import Entry, TreeError, hash_file, is_digest
from ..store.errors import HomeError
from ..store.home import Home
from .references import Referrer, gone, of_run, of_upload

USERS = 20
"""Places that are named of each finding; the rest is counted."""
MOST = 10_000
"""Findings of one check; the rest is counted."""
REPORT_EVERY = 0.2

WHOLE, DAMAGED, ABSENT = "whole", "damaged", "absent"

BlobFile = Tuple[str, bool]
"""The digest of a blob, and whether it is the executable twin."""


class Finding:
    """One thing that is not as it should be:

    "what"      "blob": a content is "damaged"; or "missing", and something refers to it
                "file": in an upload's folder, or among a run's outputs, a file is "missing", or is "changed": no longer
                what the list of files says
                "folder": all of them are missing
                "list": what an upload or a run refers to can't be read: "damaged"
    "problem"   one of these words
    "digest"    in hex, "" if there is none; "size": bytes, 0 if unknown
    "users"     where it belongs, as `Referrer.user` names it; "more" than those
    "why"       why a list can't be read
    """

    def __init__(self, what: str, problem: str, digest: str = "", size: int = 0, why: str = "") -> None:
        self.what, self.problem = what, problem
        self.digest, self.size, self.why = digest, size, why
        self.users: List[Dict[str, Any]] = []
        self.more = 0
        self.versions: Set[Tuple[str, str]] = set()
        """(name, digest) of the versions of uploads among all the places."""

    def used_by(self, referrer: Referrer, path: str = "") -> "Finding":
        if referrer.kind == "upload":
            self.versions.add((referrer.name, referrer.digest))
        if len(self.users) < USERS:
            self.users.append(referrer.user(path))
        else:
            self.more += 1
        return self

    def record(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in ("what", "problem", "digest", "size", "users", "more", "why")}


class Check:
    """One check of a home. `send(at=…)` is called as the blobs are read, `send(finding=…)` for each finding at the end.

    Without `set_aside` nothing is changed.
    """

    def __init__(self, home: Home, set_aside: bool, send: Callable[..., Any]) -> None:
        self.home = home
        self._set_aside = set_aside
        self._send = send
        self._referrers: List[Referrer] = []
        self._needed: Set[bytes] = set()
        self._faults: Dict[BlobFile, Finding] = {}
        self._others: List[Finding] = []
        """The findings that are not about blobs."""
        self._blobs = self._size = self._count = self._more = 0

    def run(self) -> CheckTotals:
        self._read_lists()
        self._verify_blobs()
        for referrer in self._referrers:
            self._verify_folder(referrer)
        faults = [fault for fault in self._faults.values() if fault.users or fault.problem == DAMAGED]
        findings = self._others + faults
        if self._set_aside:
            self._quarantine()
            self._mark_versions({version for finding in findings for version in finding.versions})
            self._drop_replaced()
        for finding in findings:
            self._send(finding=finding.record())
        return CheckTotals(self._blobs, self._size, self._more)

    def _may_add(self) -> bool:
        """Whether there may be one finding more, which is counted."""
        if self._count >= MOST:
            self._more += 1
            return False
        self._count += 1
        return True

    # -- lists of files

    def _read_lists(self) -> None:
        for name in self.home.uploads.names():
            self._read_all(Referrer("upload", name, 0, "files", "", ""), partial(of_upload, self.home, name))
        for key in self.home.run_keys():
            run = self.home.run(key)
            if run.exists():
                self._read_all(Referrer("run", key, 0, "spec", "", ""), partial(of_run, self.home, run))

    def _read_all(self, owner: Referrer, referrers: Callable[[], List[Referrer]]) -> None:
        try:
            for referrer in referrers():
                self._read_list(referrer)
        except FileNotFoundError:
            pass  # removed meanwhile
        except HomeError as error:
            self._add_list(owner, error.message)

    def _read_list(self, referrer: Referrer) -> None:
        try:
            if not referrer.is_blob and referrer.digest and state_of(referrer.manifest, referrer.digest) != WHOLE:
                raise HomeError("damaged", "the list of files of %s is not what it was" % referrer.title)
            self._needed.update(referrer.blobs())
            self._referrers.append(referrer)
        except HomeError as error:
            if not referrer.is_blob and not gone(self.home, referrer):  # a blob is a finding of its own
                self._add_list(referrer, error.message)

    def _add_list(self, referrer: Referrer, why: str) -> None:
        if self._may_add():
            self._others.append(Finding("list", DAMAGED, referrer.digest, why=why).used_by(referrer))

    # -- blobs

    def _verify_blobs(self) -> None:
        sizes = [size for _, _, size in self._each_blob()]
        self._blobs, self._size = len(sizes), sum(sizes)
        at = {"files_total": self._blobs, "bytes_total": self._size, "files": 0, "bytes": 0}
        reported = 0.0

        def came(size: int) -> None:
            nonlocal reported
            at["bytes"] += size
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                at["bytes_total"] = max(at["bytes_total"], at["bytes"])  # blobs may come while others are read
                self._send(at=dict(at))

        for path, digest, size in self._each_blob():
            twin = path.endswith(".x")
            state = state_of(path, digest.hex(), came)
            at["files"] += 1
            at["files_total"] = max(at["files_total"], at["files"])
            if not twin and state != ABSENT:
                self._needed.discard(digest)
            if state == DAMAGED and self._may_add():
                self._faults[digest.hex(), twin] = Finding("blob", DAMAGED, digest.hex(), size)
        for digest in self._needed:
            if self._may_add():
                self._faults[digest.hex(), False] = Finding("blob", "missing", digest.hex())

    def _each_blob(self) -> Iterator[Tuple[str, bytes, int]]:
        """(path, digest, size) of each file in blobs/."""
        for first in range(256):
            for path, digest in self.home.blobs.beginning_with(first):
                with contextlib.suppress(FileNotFoundError):
                    yield path, digest, os.stat(path).st_size

    # -- folders

    def _verify_folder(self, referrer: Referrer) -> None:
        fault = self._faults.get((referrer.digest, False)) if referrer.is_blob else None
        if fault is not None:
            fault.used_by(referrer)
        found: List[Finding] = []
        verified = referrer.whole and os.path.isdir(referrer.folder)
        try:
            for number, entry in enumerate(referrer.entries()):
                if number == 0 and referrer.whole and not verified:
                    found.append(Finding("folder", "missing").used_by(referrer))
                if entry.kind == "f" and self._has_fault(referrer, entry):
                    continue
                problem = self._verify_file(referrer, entry) if verified else ""
                if problem:
                    found.append(Finding("file", problem, entry.digest, entry.size).used_by(referrer, entry.path))
        except HomeError:
            pass  # removed meanwhile: it could be read before
        if found and not gone(self.home, referrer):
            self._others += [finding for finding in found if self._may_add()]

    def _has_fault(self, referrer: Referrer, entry: Entry) -> bool:
        """Whether the blob of a file, or its twin where it is executable, is a finding, which is used by the file."""
        faults = [self._faults.get((entry.digest, twin)) for twin in ((False, True) if entry.executable else (False,))]
        for fault in faults:
            if fault is not None:
                fault.size = entry.size
                fault.used_by(referrer, entry.path)
        return any(faults)

    def _verify_file(self, referrer: Referrer, entry: Entry) -> str:
        """ "missing", "changed", or "" for what is as it should be, or is damaged as its blob is."""
        path = os.path.join(referrer.folder, entry.path)
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
        if is_same(path, self.home.blobs.path(entry.digest, entry.executable)):
            return ""
        return "" if state_of(path, entry.digest) == WHOLE else "changed"

    # -- what is done about it

    def _quarantine(self) -> None:
        for (digest, twin), fault in self._faults.items():
            if fault.problem == DAMAGED:
                os.makedirs(self.home.damaged, 0o700, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    aside = os.path.join(self.home.damaged, digest + (".x" if twin else ""))
                    os.replace(self.home.blobs.path(digest, twin), aside)

    def _mark_versions(self, broken: Set[Tuple[str, str]]) -> None:
        """Note which versions of uploads are not whole. Where not all was inspected, a mark stays."""
        for name in self.home.uploads.names():
            unreadable = contextlib.suppress(OSError, ValueError, LookupError, TypeError)  # a finding of its own
            with unreadable, locked(self.home.lock("upload-" + name)):
                versions = self.home.uploads.versions(name)
                marked = []
                for version in versions:
                    was = version.get("damaged", False)
                    if (name, version["digest"]) in broken or (was and self._more):
                        marked.append(dict(version, damaged=True))
                    else:
                        marked.append({key: value for key, value in version.items() if key != "damaged"})
                if marked != versions:
                    self.home.uploads.write_versions(name, marked)

    def _drop_replaced(self) -> None:
        """Delete what was set aside, where its blob is whole again."""
        names = os.listdir(self.home.damaged) if os.path.isdir(self.home.damaged) else []
        for name in names:
            digest = name[:-2] if name.endswith(".x") else name
            if is_digest(digest) and (digest, False) not in self._faults and self.home.blobs.has(digest):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.home.damaged, name))


def state_of(path: str, digest: str, read: Callable[[int], None] = lambda count: None) -> str:
    """WHOLE, DAMAGED (also if it can't be read), or ABSENT. `read` is called with the bytes of each piece."""
    try:
        return WHOLE if hash_file(path, read)[0] == digest else DAMAGED
    except FileNotFoundError:
        return ABSENT
    except (OSError, TreeError):
        return DAMAGED
