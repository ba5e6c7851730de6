"""Messages in the wire format of Protocol Buffers, read without their schema."""

from __future__ import annotations

import struct
from typing import Any, List, Tuple

MALFORMED = (ValueError, TypeError, AttributeError, LookupError, struct.error)
"""What the reader of a message meets where it is not what it should be."""


def fields(data: bytes) -> List[Tuple[int, Any]]:
    """Number and value of each: an integer, or bytes. Raises what is `MALFORMED`."""
    found: List[Tuple[int, Any]] = []
    at, end = 0, len(data)
    while at < end:
        key, at = (data[at], at + 1) if data[at] < 128 else varint(data, at)
        kind = key & 7
        if kind in (0, 2):
            size, at = (data[at], at + 1) if data[at] < 128 else varint(data, at)
        else:
            size = 8 if kind == 1 else 4
        found.append((key >> 3, data[at : at + size] if kind else size))
        at += size if kind else 0
        if at > end or kind and size < 0 or kind not in (0, 1, 2, 5):
            raise ValueError("A message is damaged.")
    return found


def varint(data: bytes, at: int) -> Tuple[int, int]:
    """The signed integer that begins there, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value - (value >> 63 << 64), at + place + 1
    raise ValueError("A message is damaged.")
