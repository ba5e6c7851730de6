"""SHA-256 digests as they travel, 32 bytes each, one after the other; and what is said of the blobs that they name."""

from __future__ import annotations

import struct
from typing import Iterator

from .frames import Bytes

SIZE = 32
"""Bytes of a digest."""
MISSING = struct.Struct("!IQ")
"""Of a blob that is not there: its place among those that were asked about, and the bytes that a cut transfer left."""


def unpacked(raw: Bytes) -> Iterator[bytes]:
    """Digests that stand one after the other; a last one that is cut is left out."""
    whole = bytes(raw)
    for at in range(0, len(whole) - SIZE + 1, SIZE):
        yield whole[at : at + SIZE]
