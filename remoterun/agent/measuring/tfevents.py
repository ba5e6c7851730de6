"""TensorBoard's event files: scalars, as `simple_value` and as tensors of one number; pictures, sounds, texts, of which
Hugging Face's `args` are parameters; and of a histogram three percentiles, each a series of its own.

A record is its length (8 bytes), a checksum of that (4), a message `Event`, and its checksum (4). No checksum is
verified: without C that takes longer than all else, and what is damaged is not a message.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import MOST_WHOLE, Point
from .histogram import doubles, percentiles
from .lines import params, parse
from .protobuf import MALFORMED, fields, varint

_KINDS = {1: ("<f", 5), 2: ("<d", 6), 3: ("<i", 7), 9: ("<q", 10), 19: ("<e", 13)}
"""Of tensors: the format of `DataType` for `struct`, and the field for single numbers of it."""
_ONE = (b"", b"\x12\x02\x08\x01")  # The shapes [] and [1].
_SCALARS, _TEXT, _HISTOGRAMS = b"\x0a\x07scalars", b"\x0a\x04text", b"\x0a\x0ahistograms"
"""The name of the plugin in a value's metadata, where it has one."""
_BEGINNINGS = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".wav"))


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    points: List[Point] = []
    at = state.get("skip", 0)
    state.pop("need", None)
    try:
        while at + 12 < len(data):
            end = at + 16 + int.from_bytes(data[at : at + 8], "little")
            if data[at + 12] != 0x09:
                raise ValueError("An event does not begin with its time.")
            if end - at <= MOST_WHOLE:
                if end > len(data):
                    state["need"] = end - at
                    break
                points += _points(data[at + 12 : end - 4], state)
            at = end
    except MALFORMED:
        if not at:
            raise ValueError("It is damaged, or not an event file of TensorBoard.")  # Else once more, by the next call.
    state["skip"] = max(0, at - len(data))
    return points, min(at, len(data))


def _points(event: bytes, state: Dict[str, Any]) -> Iterator[Point]:
    time, step = None, 0.0
    for number, part in fields(event):
        if number == 1:
            time = struct.unpack("<d", part)[0]
        elif number == 2 and isinstance(part, int):
            step = float(part)
        elif number == 5:
            for value in (dict(fields(each)) for _, each in fields(part)):
                scalar, name = _scalar(value), value.get(1, b"").decode("utf-8", "replace")
                if name and scalar is not None:
                    yield Point(name, scalar, step, time)
                elif name:
                    for end, share in _shares(value):
                        yield Point(name + end, share, step, time)
                    for end, content in _contents(value):
                        name = name.replace("/text_summary", "")
                        given = parse(content) if name == "args" else None
                        if isinstance(given, dict):
                            state["params"] = params(given)
                        yield Point(name + end, math.nan, step, time, content)


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


def _shares(value: Dict[int, Any]) -> Iterator[Tuple[str, float]]:
    """The percentiles of a histogram: a `HistogramProto`, or a tensor with rows of (left, right, count)."""
    if 5 in value:
        histogram = dict(fields(value[5]))
        least, most = (struct.unpack("<d", histogram.get(number, bytes(8)))[0] for number in (1, 2))
        edges = [min(max(edge, least), most) for edge in doubles(histogram.get(6, b""))]
        yield from percentiles([least, *edges], edges, doubles(histogram.get(7, b"")))
    elif _HISTOGRAMS in value.get(9, b""):
        tensor = dict(fields(value[8]))
        rows = doubles(tensor.get(4, tensor.get(6, b"")))
        yield from percentiles(rows[::3], rows[1::3], rows[2::3])


def _contents(value: Dict[int, Any]) -> Iterator[Tuple[str, bytes]]:
    """(end of its name, content) of each picture, sound or text: an `Image` or an `Audio`, or strings of a tensor."""
    field = next((number for number in (4, 6, 8) if number in value), 0)
    inner = field if field == 8 else 4
    strings = [part for number, part in fields(value.get(field, b"")) if number == inner and isinstance(part, bytes)]
    if _TEXT in value.get(9, b""):
        yield ".txt", b"\n\n".join(strings)
        return
    kinds = [(kind, each) for each in strings for begin, kind in _BEGINNINGS if each.startswith(begin)]
    for place, (kind, each) in enumerate(kinds):
        yield ("-%d" % (place + 1) if place else "") + kind, each
