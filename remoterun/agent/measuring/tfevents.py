"""TensorBoard's event files: scalars, as `simple_value` and as tensors of one number.

A record is its length (8 bytes), a checksum of that (4), a message `Event`, and its checksum (4). No checksum is
verified: without C that takes longer than all else, and what is damaged is not a message.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import Point
from .protobuf import MALFORMED, fields, varint

MOST_RECORD = 1 << 18  # Bytes; a longer one is not a scalar, but a picture or a graph, and is skipped.
_KINDS = {1: ("<f", 5), 2: ("<d", 6), 3: ("<i", 7), 9: ("<q", 10), 19: ("<e", 13)}
"""Of tensors: the format of `DataType` for `struct`, and the field for single numbers of it."""
_ONE = (b"", b"\x12\x02\x08\x01")  # The shapes [] and [1].
_SCALARS = b"\x0a\x07scalars"  # The name of the plugin in a value's metadata, where it has one.


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    points: List[Point] = []
    at = state.get("skip", 0)
    try:
        while at + 12 < len(data):
            end = at + 16 + int.from_bytes(data[at : at + 8], "little")
            if data[at + 12] != 0x09:
                raise ValueError("An event does not begin with its time.")
            if end - at <= MOST_RECORD:
                if end > len(data):
                    break
                points += _scalars(data[at + 12 : end - 4])
            at = end
    except MALFORMED:
        if not at:
            raise ValueError("It is damaged, or not an event file of TensorBoard.")  # Else once more, by the next call.
    state["skip"] = max(0, at - len(data))
    return points, min(at, len(data))


def _scalars(event: bytes) -> Iterator[Point]:
    time, step = None, 0.0
    for number, part in fields(event):
        if number == 1:
            time = struct.unpack("<d", part)[0]
        elif number == 2:
            step = float(part)
        elif number == 5:
            for value in (dict(fields(each)) for _, each in fields(part)):
                scalar = _scalar(value)
                if scalar is not None and value.get(1):
                    yield Point(value[1].decode("utf-8", "replace"), scalar, step, time)


def _scalar(value: Dict[int, Any]) -> Optional[float]:
    if 2 in value:
        return float(struct.unpack("<f", value[2])[0])
    if 8 not in value or _SCALARS not in value.get(9, _SCALARS):
        return None
    tensor = dict(fields(value[8]))
    form, field = _KINDS.get(tensor.get(1, 0), ("", 0))
    content = tensor.get(4, tensor.get(field))
    if content is None or not form or tensor.get(2, b"") not in _ONE:
        return None
    if field > 6 and 4 not in tensor:  # An integer, also for the bits of a half.
        integer = content if isinstance(content, int) else varint(content, 0)[0]
        content = struct.pack("<q", integer)[: struct.calcsize(form)]
    return float(struct.unpack(form, content)[0])
