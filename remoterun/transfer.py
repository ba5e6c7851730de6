"""Trees on their way: hashed here, sent as the blobs that are missing there, fetched into a folder, or passed on.

Nothing that comes from a host is trusted: see `agent.tree.Landing` and `check_path`; each file is verified by its hash
before it gets its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import secrets
import stat
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remoterun.agent.files import DISK_FULL
from remoterun.agent.protocol import PIECE, Frame, Stream
from remoterun.agent.tree import (
    ChangedWhileRead,
    Entry,
    Landing,
    Manifest,
    SpecialFile,
    TreeError,
    hash_file,
    link_stays_inside,
    show,
    walk,
)
from remoterun.errors import AlreadyExists, TransferError, UnsafePath, UsageError
from remoterun.session import Session

MAX_TREE = 1 << 30
"""Bytes of a manifest that a host may send."""


@dataclass
class Progress:
    """What has been moved so far, of what will be. `report` is called as it grows, often."""

    report: Callable[[Progress], None] = lambda _: None
    phase: str = ""
    bytes_total: int = 0
    bytes_done: int = 0
    files_total: int = 0
    files_done: int = 0

    def start(self, phase: str, files: int, size: int) -> None:
        self.phase, self.files_total, self.bytes_total = phase, files, size
        self.files_done = self.bytes_done = 0
        self.report(self)

    def add(self, size: int, files: int = 0) -> None:
        self.bytes_done += size
        self.files_done += files
        self.report(self)


@dataclass(frozen=True)
class LocalTree:
    """A manifest, and where on this machine the content of each digest can be read: a path, or the bytes themselves."""

    manifest: Manifest
    origins: dict[str, str | bytes]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sent:
    """What a transfer to a host moved: blobs and bytes, and bytes that were there already."""

    blobs: int
    size: int
    already: int


@dataclass
class Fetched:
    """What a transfer from a host did."""

    files: int = 0
    size: int = 0
    skipped: list[str] = field(default_factory=list)
    unchanged: int = 0
    warnings: list[str] = field(default_factory=list)


# -- reading this machine's files


def read_tree(path: Path, progress: Progress) -> LocalTree:
    """The tree of a folder, or of one file (under its own name), hashed. Raises `UsageError`, `TransferError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"`{show(str(path))}` can't be read: {error.strerror}")
    if stat.S_ISREG(status.st_mode):
        found = [(Entry("f", path.name, status.st_size, "", bool(status.st_mode & 0o100)), str(path))]
    elif stat.S_ISDIR(status.st_mode):
        try:
            walked = list(walk(str(path)))
        except SpecialFile as error:
            raise UsageError(f"{error}: it can't be uploaded", hint="move it out of the folder, and try again")
        except OSError as error:
            raise UsageError(f"{show(str(error.filename))} can't be read: {error.strerror}")
        found = [(item.entry, os.path.join(path, item.entry.path)) for item in walked]
        found = [pair for pair in found if os.path.basename(pair[0].path) != ".DS_Store"]
    else:
        raise UsageError(
            f"`{show(str(path))}` is neither a file nor a folder", hint="remoterun upload PATH --name NAME"
        )
    if not any(entry.kind == "f" for entry, _ in found):
        raise UsageError(
            f"`{show(str(path))}` holds no file: there is nothing to upload", hint="remoterun upload PATH --name NAME"
        )
    warnings = tuple(
        f"`{show(entry.path)}` points outside the folder (`{show(entry.target)}`); it is sent as a link"
        for entry, _ in found
        if entry.kind == "l" and not link_stays_inside(entry.path, entry.target)
    )
    return hash_entries(found, progress, warnings)


def hash_entries(found: Iterable[tuple[Entry, str]], progress: Progress, warnings: tuple[str, ...] = ()) -> LocalTree:
    """Hash each file; one that changes meanwhile is read once more. Raises `TransferError` naming the file."""
    pairs = list(found)
    progress.start("reading", sum(entry.kind == "f" for entry, _ in pairs), sum(entry.size for entry, _ in pairs))
    entries = []
    origins: dict[str, str | bytes] = {}
    for entry, path in pairs:
        if entry.kind == "f":
            digest, status = _hash(path, progress)
            entry = entry._replace(digest=digest, size=status.st_size)
            origins[digest] = path
            progress.add(0, 1)
        entries.append(entry)
    try:
        return LocalTree(Manifest(entries), origins, warnings)
    except TreeError as error:
        raise TransferError(str(error))


def _hash(path: str, progress: Progress) -> tuple[str, os.stat_result]:
    for last in (False, True):
        try:
            return hash_file(path, progress.add)
        except ChangedWhileRead:
            if last:
                raise TransferError(
                    f"`{show(path)}` changes while it is read", hint="wait until nothing writes it, and try again"
                )
        except OSError as error:
            raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")
    raise AssertionError


# -- sending


def send_blobs(session: Session, tree: LocalTree, extra: dict[str, bytes], progress: Progress) -> Sent:
    """Send what of `tree` and of `extra` (digest to content) the host lacks. A cut transfer resumes when repeated."""
    sizes: dict[str, int] = {entry.digest: entry.size for entry in tree.manifest.files}
    sizes.update({digest: len(data) for digest, data in extra.items()})
    origins: dict[str, str | bytes] = {**tree.origins, **extra}
    missing = missing_blobs(session, list(sizes))
    total = sum(sizes[digest] - have for digest, have in missing)
    progress.start("sending", len(missing), total)
    if missing:
        with session.stream("put") as stream:
            for digest, have in missing:
                _send_blob(stream, digest, sizes[digest], have, origins[digest], progress)
            stream.end()
            stream.finish()
    return Sent(len(missing), total, sum(sizes.values()) - total)


def missing_blobs(session: Session, digests: list[str]) -> list[tuple[str, int]]:
    """(digest, bytes that a cut transfer left there) of each blob the host lacks."""
    if not digests:
        return []
    _, body = session.request("missing", b"".join(bytes.fromhex(digest) for digest in digests))
    try:
        return [(digests[index], have) for index, have in struct.iter_unpack("!IQ", body)]
    except (struct.error, IndexError):
        raise TransferError(f"{session.machine.name} sent an answer that makes no sense")


def _send_blob(stream: Stream, digest: str, size: int, offset: int, origin: str | bytes, progress: Progress) -> None:
    if offset > size:
        offset = 0
    header: dict[str, Any] = {"d": digest, "s": size, "o": offset}
    if isinstance(origin, bytes):
        _send_pieces(stream, header, (origin[at : at + PIECE] for at in range(offset, size, PIECE)), progress)
        return
    try:
        with open(origin, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size:
                raise TransferError(f"`{show(origin)}` changed after it was read", hint="try again")
            file.seek(offset)
            sent = _send_pieces(stream, header, iter(lambda: file.read(PIECE), b""), progress, size - offset)
    except OSError as error:
        raise TransferError(f"`{show(origin)}` can't be read: {error.strerror}")
    if sent != size - offset:
        raise TransferError(f"`{show(origin)}` changed while it was sent", hint="try again")


def _send_pieces(
    stream: Stream, header: dict[str, Any], pieces: Iterator[bytes], progress: Progress, limit: int | None = None
) -> int:
    sent = 0
    for piece in pieces:
        if limit is not None:
            piece = piece[: limit - sent]
        stream.send(piece, **header)
        header = {}
        sent += len(piece)
        progress.add(len(piece))
        if limit is not None and sent >= limit:
            break
    if header:
        stream.send(b"", **header)
    progress.add(0, 1)
    return sent


# -- fetching


def fetch_manifest(session: Session, resource: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
    """(manifest, about) of a resource on a host. Raises `UnsafePath` when the host names a path that leads out."""
    with session.stream("tree", resource=resource) as stream:
        stream.end()
        parts = []
        size = 0
        for frame in stream:
            size += len(frame.body)
            if size > MAX_TREE:
                raise TransferError(f"{session.machine.name} sent a list without an end")
            parts.append(frame.body)
        about = stream.result
    try:
        manifest = Manifest.decode(b"".join(parts), hashed=not about.get("live"))
    except TreeError as error:
        raise UnsafePath(f"{session.machine.name} sent a list of files that is refused: {error}")
    return manifest, about


Conflict = Callable[[str], bool]
"""Asked for each file that exists already, with its path for people: overwrite it? May raise."""


def refuse(path: str) -> bool:
    """The conflict policy without a person: never overwrite silently."""
    raise AlreadyExists(f"`{show(path)}` exists already", hint="-f overwrites, -i keeps what is there")


def fetch(
    session: Session,
    resource: dict[str, Any],
    target: Path,
    conflict: Conflict,
    progress: Progress,
    *,
    into: bool = False,
    only: Collection[str] | None = None,
) -> Fetched:
    """Copy a resource to `target`, as `cp` does: a folder's contents land in it, and it is made; one file gets that
    name, or keeps its own if `target` is a folder (or is to be one: `into`). `only`: no other paths than these.

    Every file appears whole, after its hash was checked. Conflicts are asked about before anything is written.
    Raises `AlreadyExists`, `UnsafePath`, `TransferError`, `NotFound`.
    """
    manifest, about = fetch_manifest(session, resource)
    if only is not None:
        manifest = Manifest([entry for entry in manifest.entries if entry.path in only])
    name = None
    if about.get("single") and len(manifest.entries) == 1 and not into and not os.path.isdir(target):
        target, name = target.parent, target.name
    if os.path.exists(target) and not os.path.isdir(target):
        raise AlreadyExists(f"`{show(str(target))}` is no folder", hint="name a folder: it is made if it isn't there")
    result = Fetched()
    plan = _plan(manifest, target, name, conflict, result)
    files = [entry for entry in plan if entry.kind == "f"]
    progress.start("copying", len(files), sum(entry.size for entry in files))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with Landing(str(target)) as landing:
            for entry in plan:
                if entry.kind == "d":
                    landing.folder(entry.path)
            landed = _Landed(landing, name, result, progress)
            again = _fetch_files(session, resource, files, landed)
            if again:  # these changed while they were read, in a run that goes on
                landed.final = True
                for entry in _fetch_files(session, resource, again, landed):
                    result.warnings.append(f"`{show(entry.path)}` became shorter while it was read; it was left out")
            for entry in plan:
                if entry.kind == "l":
                    _place_link(landing, entry, result)
    except TreeError as error:
        raise UnsafePath(f"refused: {error}")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise TransferError(
                f"the disk that holds `{show(str(target))}` is full", hint="free some space, and repeat the command"
            )
        shown = show(str(error.filename)) if error.filename else ""
        where = f" (`{shown}`)" if shown not in ("", show(str(target))) else ""
        raise TransferError(
            f"`{show(str(target))}` can't be written: {error.strerror}{where}",
            hint="name a folder that you may write, after the resource",
        )
    return result


def _plan(manifest: Manifest, target: Path, name: str | None, conflict: Conflict, result: Fetched) -> list[Entry]:
    """What to fetch; `name` is that of the one file, if it gets another."""
    plan = []
    for entry in manifest.entries:
        place = os.path.join(target, name or entry.path)
        try:
            status = os.lstat(place)
        except OSError:  # not there, or it can't be: that shows when it is written
            plan.append(entry)
            continue
        if entry.kind == "d":
            continue
        if stat.S_ISDIR(status.st_mode):
            result.warnings.append(f"`{show(place)}` is a folder here and a file there; it was left out")
            result.skipped.append(entry.path)
        elif _same(entry, place, status):
            result.unchanged += 1
        elif conflict(place):
            plan.append(entry)
        else:
            result.skipped.append(entry.path)
    return plan


def _same(entry: Entry, place: str, status: os.stat_result) -> bool:
    if entry.kind == "l":
        return stat.S_ISLNK(status.st_mode) and os.readlink(place) == entry.target
    if not entry.digest or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        return False
    try:
        return hash_file(place)[0] == entry.digest
    except (OSError, TreeError):
        return False


@dataclass
class _Landed:
    """Where fetched files go: below `landing`, the one file under `name` if that is set. `final`: a file that changes
    while it is read is taken as it came, and named in a warning."""

    landing: Landing
    name: str | None
    result: Fetched
    progress: Progress
    final: bool = False

    def changed(self, entry: Entry) -> bool:
        """Whether to take a file that changed."""
        if self.final:
            self.result.warnings.append(f"`{show(entry.path)}` changed while it was copied: here is what was read")
        return self.final


def _fetch_files(session: Session, resource: dict[str, Any], files: list[Entry], landed: _Landed) -> list[Entry]:
    """Fetch in one flow; the entries that changed while they were read, and were not taken."""
    if not files:
        return []
    again = []
    with session.stream("get", resource=resource) as stream:
        names = _Names(stream, files)
        for entry in files:
            names.ask(entry)
            frame = _next(stream, session)
            if "gone" in frame.header:
                landed.result.warnings.append(f"`{show(entry.path)}` is gone: {frame.header['gone']}")
                continue
            if _land_file(stream, session, entry, frame, landed):
                landed.result.files += 1
                landed.result.size += entry.size
            else:
                again.append(entry)
        stream.finish()
    return again


class _Names:
    """The names of the wanted files, sent a little ahead of their answers.

    All of them at once could fill one direction's window while the answers that nobody reads fill the other's.
    """

    def __init__(self, stream: Stream, files: list[Entry]) -> None:
        self._stream = stream
        self._left = iter(files)
        self._ahead = 0
        self._ended = False

    def ask(self, entry: Entry) -> None:
        """To be called before the answer for `entry` is read, in the order of the files."""
        if self._ahead < PIECE and not self._ended:
            self._send()
        self._ahead -= len(_name(entry))

    def _send(self) -> None:
        body = bytearray()
        for entry in self._left:
            body += _name(entry)
            if len(body) > 2 * PIECE:
                break
        else:
            self._ended = True
        self._ahead += len(body)
        self._stream.send(bytes(body))
        if self._ended:
            self._stream.end()


def _name(entry: Entry) -> bytes:
    return os.fsencode(entry.path) + b"\0"


def _land_file(stream: Stream, session: Session, entry: Entry, frame: Frame, landed: _Landed) -> bool:
    """Receive one file into its place. False when it changed on the host meanwhile, and is not taken so."""
    folder, name = landed.landing.place(landed.name or entry.path)
    progress = landed.progress
    temporary = f".{secrets.token_hex(6)}.remoterun"
    size = frame.header.get("s")
    mode = 0o777 if frame.header.get("x") else 0o666
    if not isinstance(size, int) or size < 0 or (entry.digest and size != entry.size):
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        digest = hashlib.sha256()
        have = 0
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while True:
                have += len(frame.body)
                if have > size:
                    raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
                digest.update(frame.body)
                view = memoryview(frame.body)
                while view:
                    view = view[file.write(view) :]
                progress.add(len(frame.body))
                if "h" in frame.header:
                    break
                frame = _next(stream, session)
            if digest.hexdigest() != frame.header["h"] or (entry.digest and digest.hexdigest() != entry.digest):
                raise TransferError(f"{show(entry.path)} arrived damaged from {session.machine.name}")
            if have != size or (frame.header.get("c") and not landed.changed(entry)):
                return False
            if size > PIECE:
                os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        progress.add(0, 1)
        return True
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)


def _next(stream: Stream, session: Session) -> Frame:
    frame = stream.receive()
    if frame is None:
        raise TransferError(f"{session.machine.name} ended the transfer early", hint="repeat the command")
    return frame


def _place_link(landing: Landing, entry: Entry, result: Fetched) -> None:
    if not link_stays_inside(entry.path, entry.target):
        result.warnings.append(f"`{show(entry.path)}` points outside (`{show(entry.target)}`); the link was left out")
        return
    folder, name = landing.place(entry.path)
    temporary = f".{secrets.token_hex(6)}.remoterun"
    os.symlink(entry.target, temporary, dir_fd=folder)
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        os.unlink(temporary, dir_fd=folder)
        if error.errno not in (errno.EISDIR, errno.ENOTEMPTY):
            raise
        result.warnings.append(f"`{show(entry.path)}` is a folder here; the link was left out")


# -- from one host to another


def relay(source: Session, resource: dict[str, Any], manifest: Manifest, target: Session, progress: Progress) -> Sent:
    """Pass the blobs of a stored tree that `target` lacks through this machine, without touching its disk."""
    by_digest = {entry.digest: entry for entry in manifest.files}
    missing = missing_blobs(target, list(by_digest))
    wanted = [by_digest[digest] for digest, _ in missing]
    progress.start("passing on", len(wanted), sum(entry.size for entry in wanted))
    if wanted:
        with source.stream("get", resource=resource) as incoming, target.stream("put") as outgoing:
            names = _Names(incoming, wanted)
            for entry in wanted:
                names.ask(entry)
                header: dict[str, Any] = {"d": entry.digest, "s": entry.size, "o": 0}
                while True:
                    frame = _next(incoming, source)
                    if "gone" in frame.header or frame.header.get("s", entry.size) != entry.size:
                        raise TransferError(f"{show(entry.path)} is damaged on {source.machine.name}")
                    outgoing.send(frame.body, **header)
                    header = {}
                    progress.add(len(frame.body))
                    if "h" in frame.header:
                        break
                progress.add(0, 1)
            incoming.finish()
            outgoing.end()
            outgoing.finish()
    size = sum(entry.size for entry in wanted)
    return Sent(len(wanted), size, manifest.size - size)


def base_name(path: Path) -> str:
    """The name of what `path` leads to, also for `.` and `dir/`."""
    return posixpath.basename(str(path.resolve()))
