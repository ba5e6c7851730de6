"""Verify a home, and mend it: every blob against its name, every list of files, every file that stands for a blob.

It goes in three phases:

    detect          detection.py reads all of the home
    quarantine      a damaged blob is moved to damaged/, under its own name: it must not pass for the content, or the
                    next upload would not send that
    bring again     a blob comes from its executable twin (or the other way round), or from a file of the home that is
                    not linked to it, each verified by its hash; where nothing here has it, from the client, by `put`
                    and `mend`. Then every place that refers to it gets the new file: folders of uploads and of outputs,
                    read-only ones too

Without `repair` there is only the first. What is found is a `Finding` (shared/findings.py).

Nothing damaged is deleted before there is a whole one in its place. Until then the links in folders of uploads stay as
they are, and the version is marked as damaged in versions.json: a repeated upload of the same content does not count it
as there, and makes a new one. A damaged blob that nothing refers to is set aside, and that is all it needs.

Memory: about 120 bytes for each digest that is referred to, and at most `MOST` findings; the rest is counted, for a
next check. What is removed during a check is not a finding.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Dict, Iterator, Set

from ..shared.api import CheckTotals
from ..shared.files import locked
from ..shared.frames import PIECE
from ..shared.protocol import Stream
from ..shared.tree import is_digest
from ..store.errors import HomeError
from ..store.home import Home
from .detection import CheckProgress, Detection
from .findings import BlobFinding
from .references import Referrer, of_run, of_upload
from .repair import DAMAGED, WHOLE, is_whole, place, reason, restore, restore_list


class Check:
    """One check of a home. `send(at=…)` is called as it goes on, `send(finding=…)` for each finding at the end."""

    def __init__(self, home: Home, repair: bool, send: Callable[..., Any]) -> None:
        self.home = home
        self._repair = repair
        self._send = send
        self._progress = CheckProgress(send)
        self._found = Detection(home, repair, self._progress)

    def run(self) -> CheckTotals:
        found = self._found
        found.run()
        if self._repair:
            self._mend()
        findings = found.all()
        for finding in findings:
            self._send(finding=finding.record())
        return CheckTotals(found.blobs, found.size, self._progress.files, len(findings), found.more)

    def _mend(self) -> None:
        found = self._found
        faults = [fault for fault in found.faults.values() if fault.counts]
        for fault in faults:
            try:
                _quarantine(self.home, fault)
                fault.mended = _bring(self.home, fault)
            except OSError as error:
                fault.why = reason(error)
        self._place({fault.digest for fault in faults if fault.mended})
        for fault in faults:
            if not fault.mended and not fault.why and not fault.users:
                fault.mended = "nothing refers to it: it was set aside"
        broken = [finding for finding in found.all() if not finding.mended]
        versions = {version for finding in broken for version in finding.versions}
        for name in self.home.uploads.names():
            _mark_versions(self.home, name, lambda upload, version: (upload, version["version"]) in versions)
        digests = {finding.digest for finding in broken}
        _drop_mended(self.home, lambda digest: digest not in digests)

    def _place(self, whole: Set[str]) -> None:
        """Put the blobs that are whole again, and those of files that were missing or changed, wherever they belong."""
        found = self._found
        wanted = whole | {finding.digest for findings in found.in_folders.values() for finding in findings}
        for referrer in found.referrers:
            in_folder = {finding.users[0]["path"]: finding for finding in found.in_folders.get(referrer, ())}
            if not referrer.folder or not (wanted or in_folder):
                continue
            for path, digest, why in place(self.home, referrer, wanted, set(in_folder)):
                if path in in_folder:
                    in_folder[path].settle("its blob", why)
                elif why and digest in found.faults:
                    found.faults[digest].settle("", why)


def mend(home: Home, wanted: Set[bytes], send: Callable[..., Any]) -> None:
    """Put the blobs of `wanted`, which the client may have brought, wherever they belong. May be repeated.

    `send(mended=digest)`, or `send(failed=digest, why=…)`: the blob is not here, or not whole, or has no way there.
    """
    whole: Set[str] = set()
    failed: Dict[str, str] = {}
    for raw in wanted:
        digest = raw.hex()
        if is_whole(home.blobs.path(digest), digest):
            whole.add(digest)
        else:
            failed[digest] = "it is not here"
    for referrer in _referrers(home):
        if referrer.digest in whole and not referrer.is_blob and not is_whole(referrer.manifest, referrer.digest):
            restore_list(home, referrer)
        if referrer.folder:
            with contextlib.suppress(HomeError):  # a list that can't be read is a finding of its own
                failed.update((digest, why) for _, digest, why in place(home, referrer, whole, set()) if why)
    for name in home.uploads.names():
        _mark_versions(home, name, lambda upload, version: _is_broken(home, upload, version))
    _drop_mended(home, lambda digest: digest in whole and digest not in failed)
    for digest in sorted(whole - set(failed)):
        send(mended=digest)
    for digest, why in sorted(failed.items()):
        send(failed=digest, why=why)


def send_blob(home: Home, digest: str, stream: Stream) -> None:
    """Send {"d": digest, "s": size} and the bytes of a blob, or of the list of files of that digest; {"d", "gone": 1}
    if there is none that is whole."""
    path = next((path for path in _contents(home, digest) if is_whole(path, digest)), None)
    if path is None:
        stream.send(d=digest, gone=1)
        return
    with open(path, "rb") as file:
        header: Dict[str, Any] = {"d": digest, "s": os.fstat(file.fileno()).st_size}
        while True:
            data = file.read(PIECE)
            if not data and "d" not in header:
                return
            stream.send(data, **header)
            header = {}


def _quarantine(home: Home, fault: BlobFinding) -> None:
    for twin, state in ((False, fault.plain), (True, fault.twin)):
        if state == DAMAGED:
            os.makedirs(home.damaged, 0o700, exist_ok=True)
            aside = os.path.join(home.damaged, fault.digest + (".x" if twin else ""))
            os.replace(home.blobs.path(fault.digest, twin), aside)


def _bring(home: Home, fault: BlobFinding) -> str:
    """Make a blob again; from what, or "" if nothing here has its content. Raises `OSError`."""
    plain, twin = home.blobs.path(fault.digest), home.blobs.path(fault.digest, True)
    words = "the blob beside it"
    if fault.plain != WHOLE:
        if fault.twin == WHOLE:
            source, words = twin, "its executable twin"
        elif fault.copies:
            source = fault.copies[0]
            words = "its copy in %s" % os.path.relpath(source, home.path)
        else:
            return ""
        restore(home, source, fault.digest, executable=False)
    if fault.twin == DAMAGED:
        restore(home, plain, fault.digest, executable=True)
    return words


def _referrers(home: Home) -> Iterator[Referrer]:
    """All that can be read."""
    for name in home.uploads.names():
        with contextlib.suppress(HomeError):
            yield from of_upload(home, name)
    for key in home.run_keys():
        with contextlib.suppress(HomeError, FileNotFoundError):
            yield from of_run(home, home.run(key))


def _contents(home: Home, digest: str) -> Iterator[str]:
    yield home.blobs.path(digest)
    yield home.blobs.path(digest, True)
    for referrer in _referrers(home):
        if referrer.digest == digest and referrer.manifest:
            yield referrer.manifest


def _drop_mended(home: Home, mended: Callable[[str], bool]) -> None:
    """Delete what was set aside, and of which there is a whole one again, wherever it belongs."""
    names = os.listdir(home.damaged) if os.path.isdir(home.damaged) else []
    for name in names:
        digest = name[:-2] if name.endswith(".x") else name
        if is_digest(digest) and mended(digest) and is_whole(home.blobs.path(digest), digest):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(home.damaged, name))


def _mark_versions(home: Home, name: str, broken: Callable[[str, Dict[str, Any]], bool]) -> None:
    """Note which versions of an upload are not whole."""
    unreadable = contextlib.suppress(OSError, ValueError, LookupError, TypeError)  # that is a finding of its own
    with unreadable, locked(home.lock("upload-" + name)):
        versions = home.uploads.versions(name)
        marked = []
        for version in versions:
            plain = {key: value for key, value in version.items() if key != "damaged"}
            marked.append(dict(plain, damaged=True) if broken(name, version) else plain)
        if marked != versions:
            home.uploads.write_versions(name, marked)


def _is_broken(home: Home, name: str, version: Dict[str, Any]) -> bool:
    """Whether a version that was damaged lacks a blob still."""
    if not version.get("damaged"):
        return False
    try:
        (referrer,) = [referrer for referrer in of_upload(home, name) if referrer.version == version["version"]]
        return not all(entry.kind != "f" or home.blobs.has(entry.digest) for entry in referrer.entries())
    except (HomeError, ValueError):
        return True
