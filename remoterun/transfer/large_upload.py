"""A large file to a host, in pieces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from remoterun.agent.shared import api
from remoterun.agent.shared.compression import CompressingStream
from remoterun.agent.shared.digests import unpacked
from remoterun.agent.shared.pieces import (
    PieceError,
    piece_hashes,
    piece_length,
    read_piece,
    unpack_numbers,
)
from remoterun.agent.shared.tree import show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, nonsense
from remoterun.transfer.lanes import Lanes
from remoterun.transfer.piece_flow import PieceFlow
from remoterun.transfer.reading import size_and_time

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
            except PieceError:
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
