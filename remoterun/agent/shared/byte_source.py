"""Bytes that come in pieces of any length, to be taken in others."""

from __future__ import annotations

from typing import Iterator

from .frames import Bytes


class ByteSource:
    """No more may be taken than `pieces` gives, which is to raise where that is less than it promised."""

    def __init__(self, pieces: Iterator[Bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def pieces_of(self, length: int) -> Iterator[memoryview]:
        """So many bytes, as they came."""
        while length:
            if not self._rest:
                self._rest = memoryview(next(self._pieces))
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            yield piece

    def take(self, length: int) -> memoryview:
        """So many bytes in one piece."""
        if len(self._rest) >= length:
            return next(self.pieces_of(length), memoryview(b""))
        return memoryview(b"".join(self.pieces_of(length)))

    def skip(self, length: int) -> None:
        for _ in self.pieces_of(length):
            pass

    def end(self) -> None:
        """Nothing is left: let `pieces` come to its end, and raise what it raises there."""
        for _ in self._pieces:
            pass
