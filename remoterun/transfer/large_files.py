"""Large files in pieces, in either direction: see agent/shared/pieces.py.

Pieces are asked about a group at a time, which bounds the memory. The next group is asked about while pieces of the one
before are still under way, so that no connection waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Body, ProtocolError
from remoterun.agent.shared.packs import DIGEST_SIZE, CompressingStream, expand, unpacked
from remoterun.agent.shared.pieces import (
    GROUP,
    PIECE,
    pack_numbers,
    piece_count,
    piece_hashes,
    piece_is,
    piece_length,
    read_piece,
    unpack_numbers,
    whole_hash,
    write_at,
)
from remoterun.agent.shared.tree import Entry, show
from remoterun.errors import NotFound, TransferError
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, nonsense, not_empty
from remoterun.transfer.lanes import Lanes
from remoterun.transfer.reading import size_and_time

if TYPE_CHECKING:
    from remoterun.transfer.destination import Destination

LOW = GROUP
"""Pieces under way below which the next group is asked about: five connections hold nearly so many."""
AT_ONCE = 4
"""Pieces that one task moves."""
MOST_REMEMBERED = 50_000
"""Hashes of pieces that are remembered, to find the same piece again."""


class PieceFlow(ABC):
    """The pieces of one file of `size` bytes. `begin` is a task for a lane; all else follows as tasks. For several
    threads."""

    def __init__(self, size: int, lanes: Lanes) -> None:
        self.size = size
        self._lanes = lanes
        self._count = piece_count(size)
        self._next = self._under_way = 0
        """The first piece that was not asked about, and how many are on their way."""
        self._asking = True
        self._flowing = threading.Lock()

    @abstractmethod
    def ask(self, session: Session, numbers: range) -> list[int]:
        """Those pieces that the receiving side lacks."""

    @abstractmethod
    def move(self, session: Session, numbers: list[int]) -> None:
        """Move some pieces."""

    @abstractmethod
    def end(self, session: Session) -> None:
        """All pieces are there: have the whole verified."""

    def begin(self, session: Session) -> None:
        """Ask about a group of pieces, and have those moved that are missing."""
        numbers = range(self._next, min(self._next + GROUP, self._count))
        missing = self.ask(session, numbers)
        with self._flowing:
            self._next = numbers.stop
            self._under_way += len(missing)
            self._asking = False
        for at in range(0, len(missing), AT_ONCE):
            self._lanes.put_next(partial(self._move, missing[at : at + AT_ONCE]))
        self._go_on(session)

    def _move(self, numbers: list[int], session: Session) -> None:
        self.move(session, numbers)
        with self._flowing:
            self._under_way -= len(numbers)
        self._go_on(session)

    def _go_on(self, session: Session) -> None:
        with self._flowing:
            if self._asking or self._under_way >= LOW:
                return
            all_asked = self._next == self._count
            if all_asked and self._under_way:
                return
            self._asking = True
        if all_asked:
            self.end(session)
        else:
            self._lanes.put_next(self.begin)


Count = Callable[[int, int, int], None]
"""Called with bytes that were moved, blobs that are whole, and bytes that were there already."""


class LargeUpload(PieceFlow):
    """A file of this machine whose digest is known, and which the host lacks. Raises `TransferError`."""

    def __init__(
        self, path: str, stamp: tuple[int, int], digest: str, before: tuple[str, str], count: Count, lanes: Lanes
    ) -> None:
        """`stamp`: its size and time when it was hashed. `before`: the upload and the path there under which an earlier
        version may be found."""
        super().__init__(stamp[0], lanes)
        self._path, self._stamp, self._digest, self._before = path, stamp, digest, before
        self._tally = count
        self._same: dict[int, list[int]] = {}
        """All places of a piece that is sent, by the first of them."""

    def ask(self, session: Session, numbers: range) -> list[int]:
        with self._open() as file:
            hashes = piece_hashes(file, self.size, numbers)
        missing = self._missing(session, numbers, hashes)
        self._tally(0, 0, self._bytes(numbers) - self._bytes(missing))
        first: dict[bytes, int] = {}
        digests = dict(zip(numbers, unpacked(hashes), strict=True))
        for number in missing:
            self._same.setdefault(first.setdefault(digests[number], number), []).append(number)
        return list(first.values())

    def move(self, session: Session, numbers: list[int]) -> None:
        with self._open() as file, session.stream(api.put, api.Nothing()) as stream:
            out = CompressingStream(stream, session.round_trip)
            for number in numbers:
                data, places = read_piece(file, number, self.size), self._same.pop(number)
                out.send(data, {"d": self._digest, "s": self.size, "n": places})
                self._tally(len(data), 0, self._bytes(places[1:]))
            stream.end()
            stream.finish()

    def end(self, session: Session) -> None:
        with self._open():  # it has not changed
            session.ask(api.seal, api.WholeBlob(self._digest, self.size))
        self._tally(0, 1, 0)

    def _missing(self, session: Session, numbers: range, hashes: bytes) -> list[int]:
        asked = api.MissingPieces(self._digest, self.size, numbers.start, *self._before)
        with session.stream(api.missing_pieces, asked) as stream:
            stream.send(hashes)
            stream.end()
            answer = next_frame(stream, session).body
            try:
                missing = unpack_numbers(answer, self.size)
            except ProtocolError:
                raise nonsense(session)
            stream.finish()
        if missing != sorted(set(missing) & set(numbers)):
            raise nonsense(session)
        return missing

    def _bytes(self, numbers: range | list[int]) -> int:
        return sum(piece_length(number, self.size) for number in numbers)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """The open file. Raises `TransferError` where it is another than was hashed."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TransferError(f"`{show(self._path)}` can't be read: {error.strerror}")
        try:
            if size_and_time(os.fstat(file)) != self._stamp:
                raise TransferError(f"`{show(self._path)}` changed after it was read", hint="try again")
            yield file
        finally:
            os.close(file)


class LargeDownload(PieceFlow):
    """A file that comes under a name of its own; it gets its real one when all is there and its digest is right. What
    a cut transfer left stays under that name, and the next one goes on with it. Raises `TransferError`."""

    def __init__(self, entry: Entry, destination: Destination, lanes: Lanes, gone: list[Entry]) -> None:
        """`gone` gets the entry if the host has not all of its blob."""
        super().__init__(entry.size, lanes)
        self._entry, self._destination, self._gone = entry, destination, gone
        self._first: dict[bytes, int] = {}
        """The first piece with a hash, by that."""
        self._again: list[tuple[int, int]] = []
        """Pieces that are the same as an earlier one, with that: they are copied at the end."""
        self._file = self._folder = self._old = -1
        self._name = self._own = ""
        self._any = False
        """Whether a piece is here."""
        self._using = threading.Lock()
        self.is_done = False

    def begin(self, session: Session) -> None:
        if self._file < 0:
            self._open()
        with self._unless_gone():
            super().begin(session)

    def ask(self, session: Session, numbers: range) -> list[int]:
        asked = api.PieceHashes(self._entry.digest, numbers.start, numbers.stop)
        with session.stream(api.piece_hashes, asked) as stream:
            stream.end()
            hashes = next_frame(stream, session).body
            if len(hashes) % DIGEST_SIZE or len(hashes) > DIGEST_SIZE * len(numbers):
                raise nonsense(session)
            stream.finish()
        if len(hashes) < DIGEST_SIZE * len(numbers):
            raise NotFound(f"the blob of {show(self._entry.path)} is shorter than it was")
        digests = dict(zip(numbers, unpacked(hashes), strict=True))
        return [number for number in numbers if not self._find(number, digests[number])]

    def move(self, session: Session, numbers: list[int]) -> None:
        if self.is_done:
            return
        asked = api.BlobPieces(self._entry.digest, session.round_trip)
        with self._unless_gone(), session.stream(api.fetch_pieces, asked) as stream:
            stream.send(pack_numbers(numbers))
            stream.end()
            left = iter(numbers)
            for frame in stream:
                self._take(next(left, None), expand(frame.header, not_empty(frame, session).body), session)
            if next(left, None) is not None:
                raise TransferError(f"{show(self._entry.path)}: {session.machine.name} sends less than was asked for")

    def end(self, session: Session) -> None:
        """Verify all of it, and give it its name."""
        if self.is_done:
            return
        for number, first in self._again:
            self._write(number, read_piece(self._file, first, self.size), there=True)
        if os.fstat(self._file).st_size == self.size and whole_hash(self._file, self.size) == self._entry.digest:
            os.fsync(self._file)
            os.replace(self._own, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._own = ""
            self._destination.took(self._entry)
        else:
            self._drop()
            self._destination.damaged(self._entry)
        self.is_done = True
        self.close()

    def close(self) -> None:
        """What has come stays for the next try. May be called twice."""
        with self._using:
            if self._file < 0:
                return
            if self._own and not self._any:
                self._drop()
            for file in (self._file, self._folder, self._old):
                if file >= 0:
                    os.close(file)
            self._file = self._folder = self._old = -1

    def _open(self) -> None:
        """Open the partial file, and the file that will be replaced, which may have pieces of the new one."""
        from remoterun.transfer.destination import part_name, temporary_name

        with self._destination.of_thread() as own:
            folder, self._name = own.place(self._entry)
            self._folder = os.dup(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = 0o777 if self._entry.executable else 0o666
        self._own = part_name(self._entry)
        self._file = os.open(self._own, flags, mode, dir_fd=self._folder)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another copy is writing it
            os.close(self._file)
            self._own = temporary_name()
            self._file = os.open(self._own, flags | os.O_EXCL, mode, dir_fd=self._folder)
        if os.fstat(self._file).st_size > self.size:
            os.ftruncate(self._file, self.size)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            self._old = os.open(self._name, flags, dir_fd=self._folder)
            if not stat.S_ISREG(os.fstat(self._old).st_mode):
                os.close(self._old)
                self._old = -1

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """For what asks for pieces: a blob of which there is not all is asked for by the file's name, later."""
        try:
            yield
        except NotFound:
            with self._using:
                if not self.is_done:
                    self.is_done = True
                    self._gone.append(self._entry)
                    self._drop()

    def _find(self, number: int, digest: bytes) -> bool:
        """Whether a piece is here, or comes as an earlier one; what is here is put in its place."""
        first = self._first.get(digest)
        if first is None and len(self._first) < MOST_REMEMBERED:
            self._first[digest] = number
        if piece_is(self._file, number, self.size, digest):
            self._write(number, b"", there=True)
        elif self._old >= 0 and piece_is(self._old, number, self.size, digest):
            self._write(number, read_piece(self._old, number, self.size), there=True)
        elif first is not None and len(self._again) < MOST_REMEMBERED:
            self._again.append((number, first))
        else:
            return False
        return True

    def _take(self, number: int | None, data: Body, session: Session) -> None:
        """A piece has come."""
        length = piece_length(number, self.size) if number is not None else 0
        if number is None or len(data) > length:
            raise TransferError(f"{show(self._entry.path)}: {session.machine.name} sends more than was asked for")
        if len(data) < length:
            raise NotFound(f"the blob of {show(self._entry.path)} is shorter than it was")
        self._write(number, data)

    def _write(self, number: int, data: Body, there: bool = False) -> None:
        """Put a piece in its place, unless it is there (`data` is empty)."""
        with self._using:
            if self._file < 0:  # this thread is late; the number may be another file's by now
                raise TransferError(f"the copy of {show(self._entry.path)} was given up")
            if data:
                write_at(self._file, number * PIECE, data)
            self._any = True
        length = piece_length(number, self.size)
        self._destination.came(length, there=length if there else 0)

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._own, dir_fd=self._folder)
        self._own = ""
