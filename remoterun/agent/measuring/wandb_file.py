"""The file that wandb writes offline: messages `Record` in the framing of LevelDB's log.

After 7 bytes it is blocks of 32 KiB, in which chunks follow each other: a checksum (4 bytes), a length (2), a kind (1)
and data. A record is one chunk that is `FULL`, or one `FIRST`, any number of others, and one `LAST`.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import Point
from .json_text import add_params, parse, points
from .protobuf import MALFORMED, fields

MOST_RECORD = 1 << 18
"""Bytes; a longer one is skipped."""
_BEGIN = b":W&B\xe1\xbe\x00"
_BLOCK, _HEAD = 1 << 15, struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: List[Point] = []
    offset, consumed = state.get("offset", 0), 0
    try:
        for record, end in _records(data, offset):
            for number, part in fields(record):
                if number == 2:
                    found += points(_items(part))
                elif number in (5, 17):
                    add_params(_items(part if number == 5 else dict(fields(part)).get(4, b"")), state)
            consumed = end
    except MALFORMED:
        if not consumed:
            raise ValueError("It is damaged, or is not a file of wandb.")
        # The points so far are good; the next call begins here.
    state["offset"] = offset + consumed
    return found, consumed


def _records(data: bytes, offset: int) -> Iterator[Tuple[bytes, int]]:
    """Those that are whole, and where each ends; b"" stands for what is skipped. Raises ValueError."""
    at = start = 0 if offset else len(_BEGIN)
    if not offset and data[:at] != _BEGIN[: len(data)]:
        raise ValueError("It does not begin as a file of wandb.")
    record: Optional[bytearray] = None
    while at + _HEAD.size <= len(data):
        room = _BLOCK - (offset + at) % _BLOCK - _HEAD.size
        if room < 0:
            at += room + _HEAD.size
            continue
        check, size, kind = _HEAD.unpack_from(data, at)
        begin, end = at + _HEAD.size, at + _HEAD.size + size
        if end > len(data) and size <= room:
            return
        if size > room or zlib.crc32(data[begin - 1 : end]) != check:
            raise ValueError("A chunk is damaged.")
        if kind in (_FULL, _FIRST):
            record, start = bytearray(), at
        at = end
        if record is not None:
            record += data[begin:end]
        if kind in (_FULL, _LAST) or record is None or at - start > MOST_RECORD:
            yield bytes(record or b"") if at - start <= MOST_RECORD else b"", at
            record = None


def _items(update: bytes) -> Dict[str, Any]:
    """Of a history or a configuration: each item has a key, or the keys of a path, and a value in JSON."""
    found = {}
    for item in (fields(part) for number, part in fields(update) if number == 1):
        name = b"/".join(part for number, part in item if number in (1, 2)).decode("utf-8", "replace")
        found[name] = parse(dict(item).get(16, b""))
    return found
