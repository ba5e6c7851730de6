"""The file that wandb writes offline: messages `Record` in the framing of LevelDB's log.

After 7 bytes it is blocks of 32 KiB, in which chunks follow each other: a checksum (4 bytes), a length (2), a kind (1)
and data. A record is one chunk that is `FULL`, or one `FIRST`, any number of others, and one `LAST`.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Dict, Iterator, List, Tuple

from . import Point
from .histogram import percentiles
from .lines import params, parse, points
from .protobuf import MALFORMED, fields

_BEGIN, _BLOCK, _HEAD = b":W&B\xe1\xbe\x00", 1 << 15, struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: List[Point] = []
    offset, consumed, record = state.get("offset", 0), 0, bytearray()
    at = 0 if offset else len(_BEGIN)
    try:
        while at + _HEAD.size <= len(data):
            room = _BLOCK - (offset + at) % _BLOCK
            if room < _HEAD.size:
                at += room
                continue
            check, size, kind = _HEAD.unpack_from(data, at)
            begin, end = at + _HEAD.size, at + _HEAD.size + size
            if end - at > room or not offset and not data.startswith(_BEGIN):
                raise ValueError("It is not a chunk.")
            if end > len(data):
                break
            if zlib.crc32(data[begin - 1 : end]) != check:
                raise ValueError("A chunk is damaged.")
            if kind in (_FULL, _FIRST):
                record.clear()
            record += data[begin:end]
            at = end
            if kind in (_FULL, _LAST):
                found += _points(bytes(record), state)
                consumed = at
    except MALFORMED:
        if not consumed:
            raise ValueError("It is damaged, or not a file of wandb.")  # Else once more, by the next call.
    state["offset"] = offset + consumed
    return found, consumed


def _points(record: bytes, state: Dict[str, Any]) -> Iterator[Point]:
    for number, part in fields(record):
        if number == 2:
            items = _items(part)
            typed = {name.rpartition("/")[0] for name in items if name.endswith("/_type")}
            # A histogram, a picture, a table: its numbers are no metrics.
            metrics = {name: value for name, value in items.items() if name.rpartition("/")[0] not in typed}
            for name in typed:
                bins, counts = items.get(name + "/bins"), items.get(name + "/values")
                if isinstance(bins, list) and isinstance(counts, list):
                    metrics.update((name + end, value) for end, value in percentiles(bins, bins[1:], counts))
            yield from points(metrics)
        elif number in (5, 17):
            for config in [part] if number == 5 else [inner for place, inner in fields(part) if place == 4]:
                given = {name: value for name, value in _items(config).items() if not name.startswith("_")}
                state["params"] = {**state.get("params", {}), **params(given)}


def _items(message: bytes) -> Dict[str, Any]:
    """The values of a record of the history, or of the configuration, by name."""
    found = {}
    for item in (fields(part) for number, part in fields(message) if number == 1):
        name = b"/".join(part for number, part in item if number in (1, 2))  # A key, or those of a path.
        value, key = parse(dict(item).get(16, b"")), name.decode("utf-8", "replace")
        inner = value if isinstance(value, dict) else {}  # So a picture is written by some versions.
        found.update({key + "/" + last: each for last, each in inner.items()} or {key: value})
    return found
