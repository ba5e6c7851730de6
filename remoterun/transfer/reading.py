"""This machine's files, on their way into a manifest: listed in its order, hashed as they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from remoterun.agent.shared.records import Record
from remoterun.agent.shared.tree import ChangedWhileRead, Entry, hash_file, link_stays_inside, show, walk
from remoterun.errors import TransferError, UsageError
from remoterun.stamps import Stamps

MOST_LISTED = 20_000
"""Entries that are listed before the first one is sent: what a progress bar counts to, and what memory holds."""


class ListedEntry(Record):
    """`entry.digest` is "" while it is not known. `path` and `status` are of the file, on this machine."""

    entry: Entry
    path: str
    status: os.stat_result | None = None


@dataclass
class Reading:
    """A tree of this machine, to be gone through once, in the order of its manifest."""

    source: Iterator[ListedEntry]
    stamps: Stamps | None = None
    warnings: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0
    unknown: int = 0
    """Of what was listed so far: files, their bytes, and those whose digest is not known."""
    ended: bool = False
    may_lack_files: bool = True
    """Whether a file that vanishes is left out with a warning; otherwise it is an error."""
    _listed: deque[ListedEntry] = field(default_factory=deque)

    def list_more(self, count: int = MOST_LISTED) -> None:
        """List more entries until `count` wait, or all are listed. Raises `UsageError`, `TransferError`."""
        while len(self._listed) < count:
            try:
                item = next(self.source, None)
            except OSError as error:
                raise UsageError(f"{show(str(error.filename))} can't be read: {error.strerror}")
            if item is None:
                self.ended = True
                return
            self._listed.append(self._known(item))

    @property
    def hashed(self) -> bool:
        """Whether all digests are known, and nothing needs to be read."""
        return self.ended and not self.unknown

    def entries(self) -> list[Entry]:
        """Those that were listed, and are still to be gone through."""
        return [item.entry for item in self._listed]

    def hash_listed(self) -> None:
        """Hash what was listed and is not known yet. A file that changes or vanishes meanwhile stays unknown."""
        for number, item in enumerate(self._listed):
            if item.entry.kind == "f" and not item.entry.digest:
                read_at = time.time_ns()
                with contextlib.suppress(OSError, ChangedWhileRead):
                    digest, status = hash_file(item.path)
                    self.note(item, status, digest, read_at)
                    entry = item.entry._replace(size=status.st_size, digest=digest)
                    self._listed[number] = ListedEntry(entry, item.path, status)

    def __iter__(self) -> Iterator[ListedEntry]:
        while True:
            if not self._listed:
                self.list_more(min(MOST_LISTED, 1000))
            if not self._listed:
                return
            yield self._listed.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(complete=False)

    def close(self, complete: bool) -> None:
        """Keep the digests that were found. `complete`: it was gone through to its end. May be called twice."""
        if self.stamps is not None:
            self.stamps.close(complete and self.ended and not self._listed)
            self.stamps = None

    def note(self, item: ListedEntry, status: os.stat_result, digest: str, read_at: int) -> None:
        if self.stamps is not None:
            self.stamps.note(os.fsencode(item.entry.path), status, digest, read_at)

    def leave_out_vanished(self, item: ListedEntry) -> None:
        """Warn that a file vanished between being listed and being read, as rsync does.

        Raises `TransferError` where none may be left out.
        """
        if not self.may_lack_files:
            raise TransferError(f"`{show(item.path)}` vanished before it was read", hint="try again")
        self.warnings.append(f"`{show(item.entry.path)}` vanished before it was read; it was left out")

    def _known(self, item: ListedEntry) -> ListedEntry:
        entry, path, status = item
        if entry.kind == "f":
            self.files += 1
            self.size += entry.size
            if self.stamps is not None and status is not None:
                digest = self.stamps.known(os.fsencode(entry.path), status)
                if digest is not None:
                    return ListedEntry(Entry("f", entry.path, entry.size, digest, entry.executable), path, status)
            self.unknown += not entry.digest
        elif entry.kind == "l" and not link_stays_inside(entry.path, entry.target):
            self.warnings.append(
                f"`{show(entry.path)}` points outside the folder (`{show(entry.target)}`); it is sent as a link"
            )
        return item


def read_tree(path: Path, stamps: Path | None = None, git: bool = False) -> Reading:
    """The tree of a folder, or of one file (under its own name). `stamps`: the database of what was hashed before.

    `git`: a work tree's own `.git` is a part of it; otherwise it is left out with a warning. Raises `UsageError`.
    """
    warnings: list[str] = []
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"`{show(str(path))}` can't be read: {error.strerror}")
    if stat.S_ISREG(status.st_mode):
        one = ListedEntry(Entry("f", path.name, status.st_size, "", bool(status.st_mode & 0o100)), str(path), status)
        found: Iterator[ListedEntry] = iter([one])
        root = path.parent
    elif stat.S_ISDIR(status.st_mode):
        found = _below(str(path), warnings, git)
        root = path
    else:
        raise UsageError(
            f"`{show(str(path))}` is neither a file nor a folder", hint="remoterun upload PATH --name NAME"
        )
    key = os.path.join(root.resolve(), path.name if root != path else "")
    reading = Reading(found, Stamps(stamps, key) if stamps else None, warnings)
    try:
        reading.list_more()
        if not reading.files and reading.ended:
            raise UsageError(
                f"`{show(str(path))}` holds no file: there is nothing to upload",
                hint="remoterun upload PATH --name NAME",
            )
    except BaseException:
        reading.close(complete=False)
        raise
    return reading


def read_entries(found: Iterable[tuple[Entry, str]], root: str = "", stamps: Path | None = None) -> Reading:
    """The tree of these files; an entry's size may be another by now. `root`: the folder they are of.

    Raises `TransferError` for one that can't be read.
    """
    pairs = sorted(found, key=lambda pair: os.fsencode(pair[0].path))
    known = Stamps(stamps, root + "\0source") if stamps and root else None
    reading = Reading(iter(_with_status(entry, path) for entry, path in pairs), known, may_lack_files=False)
    try:
        reading.list_more()
    except BaseException:
        reading.close(complete=False)
        raise
    return reading


def _with_status(entry: Entry, path: str) -> ListedEntry:
    if entry.kind != "f" or not path:
        return ListedEntry(entry, path)
    if entry.digest:  # it need not be read, if the other side has it
        with contextlib.suppress(OSError):
            return ListedEntry(entry, path, os.stat(path))
        return ListedEntry(entry, path)
    try:
        status = os.stat(path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")
    return ListedEntry(entry._replace(size=status.st_size), path, status)


def _below(root: str, warnings: list[str], git: bool) -> Iterator[ListedEntry]:
    """What a folder holds; what is neither a file nor a link gets a line in `warnings` instead."""
    special: list[str] = []

    def warn() -> None:
        warnings.extend(f"`{show(path)}` is a socket, a pipe or a device; it was left out" for path in special)
        special.clear()

    if not git and os.path.lexists(os.path.join(root, ".git")):
        warnings.append("`.git`, which is git's own, is left out; --include-git sends it, too")
    prefix = root.rstrip("/") + "/"
    for entry, status in walk(root, skip=[] if git else [".git"], special=special):
        warn()
        if entry.path.rpartition("/")[2] != ".DS_Store":
            yield ListedEntry(entry, prefix + entry.path, status)
    warn()


# -- reading one file


def whole_content(item: ListedEntry, most: int) -> tuple[bytes, str, os.stat_result, int]:
    """(content, digest, status, when it was read) of a file.

    Raises `TransferError` for one that changes meanwhile, or has come to more than `most` bytes since it was listed;
    `FileNotFoundError` when it is gone.
    """
    read_at = time.time_ns()
    try:
        with open(item.path, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            content = file.read(min(before.st_size, most) + 1)
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransferError(f"`{show(item.path)}` can't be read: {error.strerror}")
    if len(content) != status.st_size or size_and_time(before) != size_and_time(status):
        raise changing(item.path)
    return content, hashlib.sha256(content).hexdigest(), status, read_at


def changing(path: str) -> TransferError:
    return TransferError(f"`{show(path)}` changes while it is read", hint="wait until nothing writes it, and try again")


def size_and_time(status: os.stat_result) -> tuple[int, int]:
    """What is compared to see whether a file changed while it was read."""
    return status.st_size, status.st_mtime_ns
