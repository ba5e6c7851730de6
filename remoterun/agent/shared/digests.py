"""Sets of SHA-256 digests that stay small: 32 bytes a digest, whatever their number.

A set of a million hex strings takes 150 MB, and this one 32 MB. It is kept in 256 parts by a digest's first byte, as
`blobs/` is; only one part at a time becomes a set of Python's. Standard library only; Python >= 3.8.
"""

from __future__ import annotations

from typing import Iterator, List, Set

SIZE = 32
"""Bytes of a digest."""
_LEAST = 256 * SIZE


class Digests:
    """A set of raw digests (`bytes.fromhex` of a blob's name). Not for several threads at once."""

    def __init__(self) -> None:
        self._parts: List[bytearray] = [bytearray() for _ in range(256)]
        self._limits: List[int] = [_LEAST] * 256

    def add(self, digest: bytes) -> None:
        first = digest[0]
        part = self._parts[first]
        part += digest
        if len(part) > self._limits[first]:  # twice what it was: those that came twice go
            self._replace(first, self.part(first))

    def add_packed(self, raw: bytes) -> None:
        """Digests one after the other; a last one that is cut is left out."""
        for digest in unpacked(raw):
            self.add(digest)

    def part(self, first: int) -> Set[bytes]:
        """Those that begin with the byte `first`."""
        return set(unpacked(bytes(self._parts[first])))

    def remove_all(self, others: "Digests") -> None:
        for first in range(256):
            if self._parts[first]:
                self._replace(first, self.part(first) - others.part(first))

    def packed(self) -> bytes:
        return b"".join(digest for first in range(256) for digest in self.part(first))

    def __bool__(self) -> bool:
        return any(self._parts)

    def _replace(self, first: int, digests: Set[bytes]) -> None:
        self._parts[first] = bytearray().join(digests)
        self._limits[first] = max(_LEAST, 2 * len(self._parts[first]))


def unpacked(raw: bytes) -> Iterator[bytes]:
    for at in range(0, len(raw) - SIZE + 1, SIZE):
        yield raw[at : at + SIZE]
