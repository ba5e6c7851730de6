"""Parts of a new file that an old one has: so that of a large file that changed a little, little is sent.

The side with the new file sends a record of each of its blocks: a checksum and the first bytes. The side with the old
file looks where in it such a block stands. It does not look at every place, as rsync does: Python is too slow for that.
It looks where the block before was found, after what came or went in between; and if that fails, where the block's
first bytes occur. A block that is not found is sent. The whole is verified by its SHA-256 like everything else, so a
checksum that is the same by chance costs time, and nothing more.
"""

from __future__ import annotations

import struct
import zlib
from typing import Callable, List, Optional, Sequence, Tuple

from .frames import Bytes

BLOCK = 64 << 10
PROBE = 12
"""Of a block's first bytes."""
RECORD_SIZE = 4 + PROBE
NEAR = 32 << 20
"""Bytes before and after the place where a block is expected, among which it is looked for."""
OCCURRENCES = 8
"""Of a block's first bytes, that are looked at."""

_RECORD = struct.Struct("!I%ds" % PROBE)

BlockRecord = Tuple[int, bytes]
OldPlace = Tuple[int, int]
"""Which of the old files, and where in it."""


class DeltaError(Exception):
    """Bytes that are not records."""


def records(data: Bytes, crc32: Callable[[Bytes], int] = zlib.crc32) -> bytes:
    """The records of the blocks of `data`, which starts at a block's start; the last block may be shorter.

    `crc32`: a faster one than zlib's, if there is one.
    """
    view = memoryview(data)
    parts = []
    for at in range(0, len(view), BLOCK):
        block = view[at : at + BLOCK]
        parts.append(_RECORD.pack(crc32(block), bytes(block[:PROBE])))
    return b"".join(parts)


def parsed(body: Bytes) -> List[BlockRecord]:
    """Raises `DeltaError`."""
    if len(body) % RECORD_SIZE:
        raise DeltaError("%d bytes are not records of blocks" % len(body))
    return list(_RECORD.iter_unpack(body))


class BlockFinder:
    """Looks for the blocks of a new file of `size` bytes in old ones, in their order. `old`: their content."""

    def __init__(self, old: Sequence[memoryview], size: int) -> None:
        self._old = old
        self._size = size
        self._which = 0
        self._shift = 0
        """Where a block is expected: in the old file `_which`, so many bytes after its place in the new one."""
        self._pause = self._patience = 0
        """Calls without a search, after one that found nothing: twice as many each time."""

    def find(self, start: int, blocks: Sequence[BlockRecord]) -> List[Optional[OldPlace]]:
        """Of each block, from `start` on in the new file, a place where it stands in an old one, or None."""
        found: List[Optional[OldPlace]] = [None] * len(blocks)
        if not self._old:
            return found
        searched = self._pause > 0
        self._pause = max(0, self._pause - 1)
        number = 0
        while number < len(blocks):
            at = start + number * BLOCK
            place = self._expected(at, blocks[number])
            if place is None and not self._goes_on(start, number, blocks):
                place = self._elsewhere(at, blocks[number])
                if place is None and not searched:
                    searched = True
                    if self._search(start, number, blocks):
                        self._patience = 0
                        continue
                    self._patience = 2 * self._patience or 1
                    self._pause = self._patience
            found[number] = place
            number += 1
        return found

    def expected(self, start: int, blocks: Sequence[BlockRecord]) -> List[OldPlace]:
        """Where the blocks, from `start` on in the new file, are expected, if the first bytes of each stand there;
        otherwise none."""
        at, old = start + self._shift, self._old[self._which] if self._old else memoryview(b"")
        if at < 0 or at + min(len(blocks) * BLOCK, self._size - start) > len(old):
            return []
        for number, (_, first) in enumerate(blocks):
            if old[at + number * BLOCK : at + number * BLOCK + len(first)] != first:
                return []
        return [(self._which, at + number * BLOCK) for number in range(len(blocks))]

    def _expected(self, at: int, block: BlockRecord) -> Optional[OldPlace]:
        where = at + self._shift
        return (self._which, where) if self._stands(self._which, where, at, block) else None

    def _goes_on(self, start: int, number: int, blocks: Sequence[BlockRecord]) -> bool:
        """Whether a later block is where it is expected: then this one was changed, and nothing has moved."""
        old = self._old[self._which]
        for later in range(number + 1, len(blocks)):
            where = start + later * BLOCK + self._shift
            if 0 <= where < len(old) and old[where : where + PROBE] == blocks[later][1]:
                return True
        return False

    def _elsewhere(self, at: int, block: BlockRecord) -> Optional[OldPlace]:
        """At the same place of another old file, or as far from its end."""
        for which, old in enumerate(self._old):
            for shift in (0, len(old) - self._size):
                if (which, shift) != (self._which, self._shift) and self._stands(which, at + shift, at, block):
                    self._which, self._shift = which, shift
                    return which, at + shift
        return None

    def _search(self, start: int, number: int, blocks: Sequence[BlockRecord]) -> bool:
        """Look for some of the next blocks around where they are expected; sets what is expected from then on.

        The first may have been changed in its midst, and the next may lie in what came in: so for the last one, too.
        """
        last = len(blocks) - 1
        for later in sorted({number, min(number + 1, last), (number + last) // 2, last}):
            probe = blocks[later][1]
            if len(probe) < PROBE or len(set(probe)) < 4:
                continue  # zeros are everywhere
            at = start + later * BLOCK
            for which, old in enumerate(self._old):
                shift = self._shift if which == self._which else 0
                low, high = max(0, at + shift - NEAR), min(len(old), at + shift + NEAR)
                for _ in range(OCCURRENCES):
                    where = _find(old, probe, low, high)
                    if where < 0:
                        break
                    if self._stands(which, where, at, blocks[later]):
                        self._which, self._shift = which, where - at
                        return True
                    low = where + 1
        return False

    def _stands(self, which: int, where: int, at: int, block: BlockRecord) -> bool:
        old = self._old[which]
        length = min(BLOCK, self._size - at)
        if where < 0 or where + length > len(old) or old[where : where + len(block[1])] != block[1]:
            return False
        return zlib.crc32(old[where : where + length]) == block[0]


def _find(old: memoryview, probe: bytes, low: int, high: int) -> int:
    """Where `probe` occurs first between `low` and `high`, or -1. Nothing is copied of a mapped file."""
    if low >= high:
        return -1
    return int(old.obj.find(probe, low, high))  # type: ignore[attr-defined]
