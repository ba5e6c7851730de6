"""SHA-256 digests as they travel: 32 bytes each, one after the other."""

from __future__ import annotations

from typing import Iterator

SIZE = 32
"""Bytes of a digest."""


def unpacked(raw: bytes) -> Iterator[bytes]:
    """Digests that stand one after the other; a last one that is cut is left out."""
    for at in range(0, len(raw) - SIZE + 1, SIZE):
        yield raw[at : at + SIZE]
