"""Trees from a host: what is wanted is named, and comes in one flow; each file is whole and verified before it has its
name.

What lies at rest there comes by its digests, small files packed together; the files of a run that goes on by their
names, as they are at that moment. Nothing that comes from a host is trusted: see `agent.tree.Landing` and `check_path`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import stat
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.delta import BLOCK, DeltaError, Finder, parsed
from remoterun.agent.files import DISK_FULL
from remoterun.agent.packs import SMALL, PackError, inflate, unpack
from remoterun.agent.protocol import PIECE, Cancelled, Frame, LinkClosed, RemoteError, Stream
from remoterun.agent.tree import (
    Entry,
    Landing,
    Manifest,
    TreeError,
    hash_file,
    link_stays_inside,
    show,
)
from remoterun.errors import AlreadyExists, NotFound, TransferError, UnsafePath
from remoterun.session import Session
from remoterun.transfer.lanes import Lanes, lanes_for
from remoterun.transfer.progress import Progress

_RANGE = struct.Struct("!QQ")

MAX_TREE = 1 << 29
"""Bytes of a manifest that a host may send."""
KEPT = 1 << 20
"""Bytes of a large file that are kept for the next try if this one is cut."""
BATCH, BATCH_BYTES = 2000, 4 << 20
"""Small files that one of several connections is asked for at once."""
PART = 4 << 20
"""Bytes from which on a file is large: it comes by itself, and goes on where it was cut."""
FAR_PART = 1 << 20
"""Bytes of a large file that one of several connections is asked for."""
MOST_AT_ONCE = 100_000
"""Files that are asked for in one go: their names are in memory."""


@dataclass
class Fetched:
    """What a transfer from a host did."""

    files: int = 0
    size: int = 0
    there: int = 0
    """Of these bytes, those that were here already: of a cut try, or of a file that was replaced."""
    skipped: list[str] = field(default_factory=list)
    unchanged: int = 0
    warnings: list[str] = field(default_factory=list)


def fetch_manifest(session: Session, resource: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
    """(manifest, about) of a resource on a host. Raises `UnsafePath` when the host names a path that leads out."""
    with session.stream("tree", resource=resource) as stream:
        stream.end()
        data = bytearray()
        for frame in stream:
            data += _some(frame, session).body
            if len(data) > MAX_TREE:
                raise TransferError(f"{session.machine.name} sent a list without an end")
        about = stream.result
    try:
        manifest = Manifest.decode(data, hashed=not about.get("live"))
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
    left_out = _left_out(manifest, target, name, conflict, result)

    def plan() -> Iterator[Entry]:
        return (entry for entry in manifest.entries if entry.path not in left_out)

    live = bool(about.get("live"))
    wanted = [entry.size for entry in plan() if entry.kind == "f"]
    progress.start("copying", len(wanted), sum(wanted))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with Landing(str(target)) as landing:
            for entry in plan():
                if entry.kind == "d":
                    landing.folder(entry.path)
            landed = _Landed(landing, target, name, result, progress)
            if wanted:
                files = (entry for entry in plan() if entry.kind == "f")
                lanes = lanes_for(session, sum(wanted))
                if live:
                    again = list(files)
                elif lanes > 1:
                    again = _FarFetch(session, files, landed, target).run(lanes)
                else:
                    again = _fetch_blobs(session, files, landed)
                if again:
                    again = _fetch_files(session, resource, again, landed)
                if again:  # these changed while they were read, in a run that goes on
                    landed.final = True
                    for entry in _fetch_files(session, resource, again, landed):
                        result.warnings.append(
                            f"`{show(entry.path)}` became shorter while it was read; it was left out"
                        )
            for entry in plan():
                if entry.kind == "l":
                    _place_link(landing, entry, result)
        result.there = progress.bytes_there
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


def _left_out(
    manifest: Manifest, target: Path, name: str | None, conflict: Conflict, result: Fetched
) -> frozenset[str]:
    """Paths that are not fetched, as they are here already or shall stay; `name` is that of the one file, if it gets
    another."""
    if not os.path.lexists(target):
        return frozenset()
    found = set()
    for entry in manifest.entries:
        place = os.path.join(target, name or entry.path)
        try:
            status = os.lstat(place)
        except OSError:  # not there, or it can't be: that shows when it is written
            continue
        if entry.kind == "d":
            found.add(entry.path)
        elif stat.S_ISDIR(status.st_mode):
            result.warnings.append(f"`{show(place)}` is a folder here and a file there; it was left out")
            result.skipped.append(entry.path)
            found.add(entry.path)
        elif _same(entry, place, status):
            result.unchanged += 1
            found.add(entry.path)
        elif not conflict(place):
            result.skipped.append(entry.path)
            found.add(entry.path)
    return frozenset(found)


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
    target: Path
    name: str | None
    result: Fetched
    progress: Progress
    final: bool = False
    counting: threading.Lock = field(default_factory=threading.Lock)

    def place(self, entry: Entry) -> tuple[int, str]:
        return self.landing.place(self.name or entry.path)

    def changed(self, entry: Entry) -> bool:
        """Whether to take a file that changed."""
        if self.final:
            self.result.warnings.append(f"`{show(entry.path)}` changed while it was copied: here is what was read")
        return self.final

    def old(self, entry: Entry) -> _Old | None:
        """The file that is here and will be replaced, if it is large: it may have parts of the new one."""
        path = self.path(entry)
        try:
            return _Old(path) if os.lstat(path).st_size >= PART else None
        except (OSError, ValueError):
            return None

    def path(self, entry: Entry) -> str:
        return os.path.join(self.target, self.name or entry.path)

    def came(self, size: int, there: int = 0) -> None:
        with self.counting:
            self.progress.add(size, there=there)

    def took(self, entry: Entry) -> None:
        with self.counting:
            self.result.files += 1
            self.result.size += entry.size
            self.progress.add(0, 1)


# -- what lies at rest, by its digests


def _fetch_blobs(session: Session, files: Iterable[Entry], landed: _Landed) -> list[Entry]:
    """Fetch in one flow; those of which there is no blob."""
    gone: list[Entry] = []
    small: list[Entry] = []
    for entry in files:  # a large file comes by itself, after the small ones before it
        if entry.size <= PART:
            small.append(entry)
            if len(small) < MOST_AT_ONCE:
                continue
        gone += _fetch_small(session, small, landed)
        small = []
        if entry.size > PART and not _fetch_large(session, entry, landed):
            gone.append(entry)
    return gone + _fetch_small(session, small, landed)


def _fetch_small(session: Session, files: list[Entry], landed: _Landed) -> list[Entry]:
    if not files:
        return []
    gone: list[Entry] = []
    asking, expected = iter(files), iter(files)
    with session.stream("fetch") as stream:
        asker = _Asker(stream, asking)
        for frame in stream:
            try:
                body = frame.body
                if "z" in frame.header:
                    body = inflate(body, _number(frame, "z"))
                if "p" in frame.header:
                    for digest, content in unpack(body, _number(frame, "p")):
                        _land_small(_next_of(expected, session), digest, content, landed, session)
                        asker.answered()
                    continue
            except PackError as error:
                raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")
            entry = _next_of(expected, session)
            asker.answered()
            if "gone" in frame.header:
                gone.append(entry)
                continue
            _land_large(entry, Frame(frame.header, body), stream, landed, session)
        if next(expected, None) is not None:
            raise _ended(session)
        asker.join()
    return gone


class _Asker:
    """Names what is wanted, on a thread of its own, some way ahead of the answers: all at once could fill one
    direction's window, while the answers that nobody reads yet fill the other's."""

    PART, PARTS = 4000, 8

    def __init__(self, stream: Stream, entries: Iterable[Entry]) -> None:
        self._stream = stream
        self._entries = entries
        self._ahead = threading.Semaphore(self.PARTS)
        self._answered = 0
        self._thread = threading.Thread(target=self._run, name="remoterun asks", daemon=True)
        self._thread.start()

    def answered(self) -> None:
        self._answered += 1
        if self._answered % self.PART == 0:
            self._ahead.release()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            entries = iter(self._entries)
            while part := [bytes.fromhex(entry.digest) for entry in itertools.islice(entries, self.PART)]:
                while not self._ahead.acquire(timeout=1.0):
                    if self._stream.cancelled:
                        return
                self._stream.send(b"".join(part))
            self._stream.end()
        except (Cancelled, LinkClosed, RemoteError):
            pass  # the one who reads the answers is told


def _land_small(entry: Entry, digest: bytes, content: memoryview, landed: _Landed, session: Session) -> None:
    if len(content) != entry.size:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    if hashlib.sha256(content).hexdigest() != entry.digest or digest.hex() != entry.digest:
        raise _damaged(entry, session)
    folder, name = landed.place(entry)
    with _Temporary(folder, entry.executable) as temporary:
        temporary.write(content)
        temporary.rename(name)
    landed.came(entry.size)
    landed.took(entry)


def _land_large(entry: Entry, frame: Frame, stream: Stream, landed: _Landed, session: Session) -> None:
    if frame.header.get("s") != entry.size or frame.header.get("d") != entry.digest:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    folder, name = landed.place(entry)
    hashed = hashlib.sha256()
    have = 0
    with _Temporary(folder, entry.executable) as temporary:
        body: bytes = frame.body
        while True:
            have += len(body)
            if have > entry.size:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            hashed.update(body)
            temporary.write(body)
            landed.came(len(body))
            if have == entry.size:
                break
            following = _next(stream, session)
            body = following.body
            if "z" in following.header:
                try:
                    body = inflate(body, _number(following, "z"))
                except PackError as error:
                    raise TransferError(f"{session.machine.name} sent what can't be unpacked: {error}")
            if not body:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends less than it said")
        if hashed.hexdigest() != entry.digest:
            raise _damaged(entry, session)
        temporary.sync()
        temporary.rename(name)
    landed.took(entry)


# -- the same over several connections


class _FarFetch:
    """Small files go in batches, large ones in parts, to whichever lane is free."""

    def __init__(self, session: Session, files: Iterable[Entry], landed: _Landed, target: Path) -> None:
        self._session, self._landed, self._target = session, landed, target
        self._files = iter(files)
        self._next: Entry | None = next(self._files, None)
        self._parts: Iterator[tuple[_LargeFile, int, int]] = iter(())
        self._choosing = threading.Lock()
        self._gone: list[Entry] = []
        self._large: list[_LargeFile] = []
        self._stopped = False

    def run(self, lanes: int) -> list[Entry]:
        """The files of which there is no blob. Raises what a lane raised."""
        running = Lanes(self._session, lanes, self._work, each=3)
        try:
            running.join()
        finally:
            self._stopped = True
            running.close()
            for file in self._large:
                file.close()
        if running.failure is not None:
            raise running.failure
        return self._gone

    def _work(self, session: Session) -> None:
        with Landing(str(self._target)) as landing:
            own = replace(self._landed, landing=landing)
            while (task := self._task(own)) is not None:
                if isinstance(task, list):
                    gone = _fetch_blobs(session, task, own)
                    with self._choosing:
                        self._gone += gone
                else:
                    self._fetch_part(session, *task)

    def _task(self, landed: _Landed) -> list[Entry] | tuple[_LargeFile, int, int] | None:
        """Small files, or one that will be replaced, for it may have parts of the new one; or a part of a large one."""
        with self._choosing:
            if self._stopped:
                return None
            if (part := next(self._parts, None)) is not None:
                return part
            batch: list[Entry] = []
            size = 0
            while self._next is not None and len(batch) < BATCH and size < BATCH_BYTES:
                entry = self._next
                if entry.size > PART:
                    if batch:
                        break
                    self._next = next(self._files, None)
                    if os.path.lexists(landed.path(entry)):
                        return [entry]
                    file = _LargeFile(entry, landed, ordered=False)
                    self._large.append(file)
                    landed.came(file.start, there=file.start)
                    self._parts = file.parts(FAR_PART)
                    return next(self._parts)
                batch.append(entry)
                size += entry.size
                self._next = next(self._files, None)
            return batch or None

    def _fetch_part(self, session: Session, file: _LargeFile, offset: int, length: int) -> None:
        at = offset
        last = not length
        try:
            for data in _parts(session, file.entry, [(offset, offset + length)] if length else []):
                file.write(data, at)
                last = file.whole(at, len(data))
                at += len(data)
                self._landed.came(len(data))
        except NotFound as error:
            raise _damaged(file.entry, session) from error
        if last:
            hashed = hashlib.sha256()
            for data in file.pieces(file.entry.size):
                hashed.update(data)
            file.finish(hashed.hexdigest(), session)
            self._landed.took(file.entry)


class _LargeFile:
    """A file that comes piece by piece, perhaps from several threads, under a name of its own; it gets its real one
    when all is there, and its hash is right.

    If that is cut, what is there from the start on without a hole stays, and the next try goes on from `start`. With
    holes in it (`ordered` False: its parts come in any order) it has another name, that no next try takes: a SIGKILL
    leaves that.
    """

    def __init__(self, entry: Entry, landed: _Landed, ordered: bool = True) -> None:
        self.entry = entry
        folder, self._name = landed.place(entry)
        self._folder = os.dup(folder)
        self._kept = self._own = f".{entry.digest[:24]}.remoterun"
        mode = 0o777 if entry.executable else 0o666
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(self._own, flags, mode, dir_fd=self._folder)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody else is at it
            os.close(self._file)
            self._kept = self._own = f".{os.getpid()}-{next(_names)}.remoterun"
            self._file = os.open(self._own, flags | os.O_EXCL, mode, dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise
        self.start = os.fstat(self._file).st_size
        if self.start > entry.size:
            os.ftruncate(self._file, 0)
            self.start = 0
        self._there = {self.start: 0}
        """Where each stretch that is here ends, and where it starts."""
        self._left = entry.size - self.start
        self._counting = threading.Lock()
        self._using = threading.Lock()
        if not ordered:
            self._remove_abandoned()
            self._own = f".{entry.digest[:24]}.{os.getpid()}-{next(_names)}.remoterun"
            os.rename(self._kept, self._own, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove_abandoned(self) -> None:
        """Files with holes, of processes that were killed."""
        with os.scandir(self._folder) as found:
            names = [item.name for item in found if item.name.startswith(f".{self.entry.digest[:24]}.")]
        for name in names:
            if name == self._kept or not name.endswith(".remoterun"):
                continue
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody is at it
                    os.unlink(name, dir_fd=self._folder)
                finally:
                    os.close(file)

    def parts(self, size: int) -> Iterator[tuple[_LargeFile, int, int]]:
        """(this file, offset, length) of each that is missing, or an empty one; a host may list any size."""
        starts = range(self.start, self.entry.size, size) if self.start < self.entry.size else [self.start]
        return ((self, at, min(size, self.entry.size - at)) for at in starts)

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Raises `TransferError` once it is closed: another thread may be late to hear of it."""
        view = memoryview(data)
        with self._using:
            if self._folder < 0:
                raise TransferError(f"the copy of {show(self.entry.path)} was given up")
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written

    def whole(self, offset: int, length: int) -> bool:
        """Note that this much is here; whether it was the last."""
        with self._counting:
            self._there[offset + length] = self._there.pop(offset, offset)
            self._left -= length
            return self._left == 0

    def pieces(self, end: int) -> Iterator[bytes]:
        """What is here, up to `end`."""
        at = 0
        while at < end and (data := os.pread(self._file, min(1 << 20, end - at), at)):
            yield data
            at += len(data)

    def finish(self, digest: str, session: Session) -> None:
        """`digest`: of what was written."""
        if digest != self.entry.digest:
            os.ftruncate(self._file, 0)
            self._there = {}
            raise _damaged(self.entry, session)
        os.fsync(self._file)
        os.replace(self._own, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._own = ""
        self.close()

    def close(self) -> None:
        """May be called twice."""
        with self._using, self._counting:
            if self._folder < 0:
                return
            if self._own:
                end = next((end for end, start in self._there.items() if not start), 0)
                with contextlib.suppress(OSError):
                    if end < KEPT:
                        os.unlink(self._own, dir_fd=self._folder)
                    else:
                        os.ftruncate(self._file, end)
                        os.rename(self._own, self._kept, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.close(self._file)
            os.close(self._folder)
            self._folder = -1


def _fetch_large(session: Session, entry: Entry, landed: _Landed) -> bool:
    """One large file, in order; False if the host has no such blob."""
    old = landed.old(entry)
    file = _LargeFile(entry, landed)
    try:
        hashed = hashlib.sha256()
        for data in file.pieces(file.start):
            hashed.update(data)
        landed.came(file.start, there=file.start)
        if file.start < entry.size:
            if old is not None:
                with old:
                    _fetch_different(session, file, old, hashed, landed)
            else:
                _fetch_rest(session, file, file.start, entry.size, hashed, landed)
        file.finish(hashed.hexdigest(), session)
        landed.took(entry)
        return True
    except NotFound:
        return False
    finally:
        file.close()


def _fetch_rest(session: Session, file: _LargeFile, start: int, end: int, hashed: Any, landed: _Landed) -> None:
    """The bytes from `start` to `end`, which are written, and hashed."""
    at = start
    for data in _parts(session, file.entry, [(start, end)]):
        hashed.update(data)
        file.write(data, at)
        file.whole(at, len(data))
        at += len(data)
        landed.came(len(data))


def _fetch_different(session: Session, file: _LargeFile, old: _Old, hashed: Any, landed: _Landed) -> None:
    """What the file that is here has already is taken from there: see `agent.delta`."""
    size, at = file.entry.size, file.start
    finder = Finder([old.view], size)
    with session.stream("records", digest=file.entry.digest, offset=at) as stream:
        stream.end()
        for frame in stream:
            try:
                places = finder.find(at, parsed(frame.body))
            except DeltaError as error:
                raise TransferError(f"{session.machine.name} sent an answer that makes no sense: {error}")
            if at + (len(places) - 1) * BLOCK >= size:
                raise TransferError(f"{show(file.entry.path)}: {session.machine.name} sends more than it said")
            blocks = [(at + n * BLOCK, min(size, at + (n + 1) * BLOCK)) for n in range(len(places))]
            wanted = [block for block, place in zip(blocks, places, strict=True) if place is None]
            sent = _Bytes(_parts(session, file.entry, wanted) if wanted else iter(()))
            for (start, end), place in zip(blocks, places, strict=True):
                data = sent.take(end - start) if place is None else old.view[place[1] : place[1] + end - start]
                hashed.update(data)
                file.write(data, start)
                file.whole(start, end - start)
                landed.came(end - start, there=0 if place is None else end - start)
            sent.end()
            at = blocks[-1][1]
    if at < size:
        raise TransferError(f"{show(file.entry.path)}: {session.machine.name} sends less than it said")


def _parts(session: Session, entry: Entry, ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of the blob from start to end of each, one after the other: as many as that."""
    left = sum(end - start for start, end in ranges)
    with session.stream("fetch_parts", digest=entry.digest) as stream:
        stream.send(b"".join(_RANGE.pack(start, end - start) for start, end in ranges))
        stream.end()
        for frame in stream:
            left -= len(_some(frame, session).body)
            if left < 0:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            yield frame.body
    if left:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends less than it said")


class _Bytes:
    """Pieces of any length, to be taken in others."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._held = pieces, b""

    def take(self, size: int) -> bytes:
        while len(self._held) < size:
            self._held += next(self._pieces, b"") or _no_more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def end(self) -> None:
        for _ in self._pieces:  # what it raises at its end
            pass


def _no_more() -> bytes:
    raise TransferError("the transfer ended early", hint="repeat the command")


class _Old:
    """The file that is here, and will be replaced: its content, not to be changed."""

    def __init__(self, path: str) -> None:
        """Raises `OSError`, `ValueError` for one that is no file, or empty."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(path)
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self.view = memoryview(self._map)

    def __enter__(self) -> _Old:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BufferError):  # an error's traceback may hold a part
            self.view.release()
            self._map.close()


_names = itertools.count()


class _Temporary:
    """A file that has no name yet that anybody knows; gone afterwards if it got none."""

    def __init__(self, folder: int, executable: bool) -> None:
        self._folder = folder
        self._name = f".{os.getpid()}-{next(_names)}.remoterun"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._name, flags, 0o777 if executable else 0o666, dir_fd=folder)
        self._there = True

    def __enter__(self) -> _Temporary:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._there:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def sync(self) -> None:
        os.fsync(self._file)

    def rename(self, name: str) -> None:
        os.close(self._file)
        self._file = -1
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._there = False


# -- what may change, by its names


def _fetch_files(session: Session, resource: dict[str, Any], files: list[Entry], landed: _Landed) -> list[Entry]:
    """Fetch in one flow; the entries that changed while they were read, and were not taken."""
    again = []
    with session.stream("get", resource=resource) as stream:
        names = Names(stream, files)
        for entry in files:
            names.ask(entry)
            frame = _next(stream, session)
            if "gone" in frame.header:
                landed.result.warnings.append(f"`{show(entry.path)}` is gone: {show(str(frame.header['gone']))}")
                continue
            if _land_file(stream, session, entry, frame, landed):
                landed.took(entry)
            else:
                again.append(entry)
        stream.finish()
    return again


class Names:
    """The names of the wanted files, sent a little ahead of their answers: see `_Asker`."""

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
    size = frame.header.get("s")
    if not isinstance(size, int) or size < 0 or (entry.digest and size != entry.size):
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends another size than it listed")
    folder, name = landed.place(entry)
    with _Temporary(folder, bool(frame.header.get("x"))) as temporary:
        digest = hashlib.sha256()
        have = 0
        while True:
            have += len(frame.body)
            if have > size:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            digest.update(frame.body)
            temporary.write(frame.body)
            landed.came(len(frame.body))
            if "h" in frame.header:
                break
            frame = _next(stream, session)
            if "h" not in frame.header:
                _some(frame, session)
        if digest.hexdigest() != frame.header["h"] or (entry.digest and digest.hexdigest() != entry.digest):
            raise _damaged(entry, session)
        if have != size or (frame.header.get("c") and not landed.changed(entry)):
            return False
        if size > SMALL:
            temporary.sync()
        temporary.rename(name)
        return True


def _place_link(landing: Landing, entry: Entry, result: Fetched) -> None:
    if not link_stays_inside(entry.path, entry.target):
        result.warnings.append(f"`{show(entry.path)}` points outside (`{show(entry.target)}`); the link was left out")
        return
    folder, name = landing.place(entry.path)
    temporary = f".{os.getpid()}-{next(_names)}.remoterun"
    os.symlink(entry.target, temporary, dir_fd=folder)
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        os.unlink(temporary, dir_fd=folder)
        if error.errno not in (errno.EISDIR, errno.ENOTEMPTY):
            raise
        result.warnings.append(f"`{show(entry.path)}` is a folder here; the link was left out")


def _next(stream: Stream, session: Session) -> Frame:
    frame = stream.receive()
    if frame is None:
        raise _ended(session)
    return frame


def _some(frame: Frame, session: Session) -> Frame:
    """A frame that brings something: others could come without an end."""
    if not frame.body:
        raise TransferError(f"{session.machine.name} sends what makes no sense")
    return frame


def _next_of(expected: Iterator[Entry], session: Session) -> Entry:
    entry = next(expected, None)
    if entry is None:
        raise TransferError(f"{session.machine.name} sends more files than were asked for")
    return entry


def _number(frame: Frame, name: str) -> int:
    value = frame.header.get(name)
    if type(value) is not int:
        raise PackError(f"{name} is {value!r:.40}")
    return value


def _ended(session: Session) -> TransferError:
    return TransferError(f"{session.machine.name} ended the transfer early", hint="repeat the command")


def _damaged(entry: Entry, session: Session) -> TransferError:
    name = session.machine.name
    return TransferError(f"{show(entry.path)} arrived damaged from {name}", hint=f"remoterun check {name}")
