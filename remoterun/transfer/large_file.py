"""One large file from a host: it goes on where it was cut, and takes from the file here what that has of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.byte_source import ByteSource
from remoterun.agent.shared.delta import BLOCK, BlockFinder, DeltaError, parsed
from remoterun.agent.shared.digests import RANGE
from remoterun.agent.shared.frames import Body
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import NotFound, TransferError
from remoterun.session import Session
from remoterun.transfer.answers import not_empty, unpacked
from remoterun.transfer.codecs import own
from remoterun.transfer.destination import Damaged, Destination, temporary_name

MOST_BLOCKS = 1024
"""Whose records a host may send at once."""
KEPT = 1 << 20
"""Bytes of a large file that are kept for the next try if this one is cut."""
LARGE = 4 << 20
"""Bytes from which on a file is large: it comes by itself, and goes on where it was cut."""


class LargeFile:
    """A file that comes piece by piece, perhaps from several threads, under a name of its own; it gets its real one
    when all is there, and its hash is right.

    If that is cut, what is there from the start on without a hole stays, and the next try goes on from `start`. With
    holes in it (`ordered` False: its parts come in any order) it has another name, that no next try takes: a SIGKILL
    leaves that.
    """

    def __init__(self, entry: Entry, destination: Destination, ordered: bool = True) -> None:
        self.entry = entry
        folder, self._name = destination.place(entry)
        self._folder = os.dup(folder)
        self._kept = self._own = f".{entry.digest[:24]}.remoterun"
        mode = 0o777 if entry.executable else 0o666
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(self._own, flags, mode, dir_fd=self._folder)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another copy is writing it
            os.close(self._file)
            self._kept = self._own = temporary_name()
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
        self.given_up = False
        """No part of it is worth fetching any more."""
        self._counting = threading.Lock()
        self._using = threading.Lock()
        if not ordered:
            self._remove_abandoned()
            self._own = f".{entry.digest[:24]}{temporary_name()}"
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
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while another copy is writing it
                    os.unlink(name, dir_fd=self._folder)
                finally:
                    os.close(file)

    def parts(self, size: int) -> Iterator[tuple[LargeFile, int, int]]:
        """(this file, offset, length) of each that is missing, or an empty one; a host may list any size."""
        starts = range(self.start, self.entry.size, size) if self.start < self.entry.size else [self.start]
        return ((self, at, min(size, self.entry.size - at)) for at in starts)

    def write(self, data: Body | memoryview, at: int) -> None:
        """Raises `TransferError` once it is closed: another thread may be late to hear of it."""
        view = memoryview(data)
        with self._using:
            if self.given_up:
                return
            if self._folder < 0:
                raise TransferError(f"the copy of {show(self.entry.path)} was given up")
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written

    def whole(self, offset: int, length: int) -> bool:
        """Note that this much is here; whether it was the last."""
        with self._counting:
            if self.given_up:
                return False
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
            raise Damaged(f"{show(self.entry.path)} arrived damaged from {session.machine.name}")
        os.fsync(self._file)
        os.replace(self._own, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._own = ""
        self.close()

    def give_up(self) -> None:
        """Nothing of it is worth keeping: the host has not all of it."""
        with self._counting:
            self.given_up = True
            self._there = {}
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


def fetch_large(session: Session, entry: Entry, destination: Destination) -> bool:
    """One large file, in order; False if the host has no such blob, or not all of it was that."""
    old = _old_file(destination.path(entry)) if session.hello.compares else None
    file = LargeFile(entry, destination)
    try:
        hashed = hashlib.sha256()
        for data in file.pieces(file.start):
            hashed.update(data)
        destination.came(file.start, there=file.start)
        if file.start < entry.size:
            if old is not None:
                with old:
                    _fetch_different(session, file, old, hashed, destination)
            else:
                _fetch_rest(session, file, file.start, entry.size, hashed, destination)
        file.finish(hashed.hexdigest(), session)
        destination.took(entry)
        return True
    except NotFound:
        file.give_up()
        return False
    except Damaged:
        if file.start or old is not None:  # what is here may be what is not sound, or its checksum another's by chance
            return False
        destination.damaged(entry)
        return True
    finally:
        file.close()


def _fetch_rest(session: Session, file: LargeFile, start: int, end: int, hashed: Any, destination: Destination) -> None:
    """The bytes from `start` to `end`, which are written, and hashed."""
    at = start
    for data in parts_of(session, file.entry, [(start, end)]):
        hashed.update(data)
        file.write(data, at)
        file.whole(at, len(data))
        at += len(data)
        destination.came(len(data))


def _fetch_different(
    session: Session, file: LargeFile, old: ExistingFile, hashed: Any, destination: Destination
) -> None:
    """What the file that is here has already is taken from there: see `agent.shared.delta`."""
    size, at = file.entry.size, file.start
    finder = BlockFinder([old.view], size)
    with session.stream(api.records, api.BlobFrom(file.entry.digest, at)) as stream:
        stream.end()
        for frame in stream:
            try:
                told = parsed(frame.body)
            except DeltaError as error:
                raise TransferError(f"{session.machine.name} sent an answer that makes no sense: {error}")
            if not 0 < len(told) <= MOST_BLOCKS or at + (len(told) - 1) * BLOCK >= size:
                raise TransferError(f"{show(file.entry.path)}: {session.machine.name} sends more than it said")
            places = finder.find(at, told)
            blocks = [(at + n * BLOCK, min(size, at + (n + 1) * BLOCK)) for n in range(len(places))]
            wanted = [block for block, place in zip(blocks, places, strict=True) if place is None]
            sent = ByteSource(parts_of(session, file.entry, wanted) if wanted else iter(()))
            for (start, end), place in zip(blocks, places, strict=True):
                data = sent.take(end - start) if place is None else old.view[place[1] : place[1] + end - start]
                hashed.update(data)
                file.write(data, start)
                file.whole(start, end - start)
                destination.came(end - start, there=0 if place is None else end - start)
            sent.end()
            at = blocks[-1][1]
    if at < size:
        raise NotFound(f"the blob of {show(file.entry.path)} on {session.machine.name} is shorter than it was")


def parts_of(session: Session, entry: Entry, ranges: list[tuple[int, int]]) -> Iterator[Body]:
    """The bytes of the blob from start to end of each, one after the other: as many as that."""
    left = sum(end - start for start, end in ranges)
    asked = api.BlobRanges(entry.digest, list(own()), session.round_trip)
    with session.stream(api.fetch_parts, asked) as stream:
        stream.send(b"".join(RANGE.pack(start, end - start) for start, end in ranges))
        stream.end()
        for frame in stream:
            body = unpacked(not_empty(frame, session), session)
            left -= len(body)
            if left < 0:
                raise TransferError(f"{show(entry.path)}: {session.machine.name} sends more than it said")
            yield body
    if left:
        raise TransferError(f"{show(entry.path)}: {session.machine.name} sends less than it said")


class ExistingFile:
    """The file that is here, and will be replaced: its content, not to be changed."""

    def __init__(self, path: str) -> None:
        """Raises `OSError`, `ValueError` for what is not a file, and for an empty one."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(path)
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self.view = memoryview(self._map)

    def __enter__(self) -> ExistingFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BufferError):  # an error's traceback may hold a part
            self.view.release()
            self._map.close()


def _old_file(path: str) -> ExistingFile | None:
    """The file that is here and will be replaced, if it is large: it may have parts of the new one."""
    try:
        return ExistingFile(path) if os.lstat(path).st_size >= LARGE else None
    except (OSError, ValueError):
        return None
