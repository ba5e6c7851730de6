"""What the readers of metrics make of a file, however it grows."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from remoterun.agent.measuring import (
    MOST_DATA,
    MOST_WHOLE,
    Point,
)
from tests.workshop import command_line, pids

Reader = Callable[[bytes, dict[str, Any]], tuple[list[Point], int]]
Values = list[tuple[str, float | None, float]]


def read(
    function: Reader, data: bytes, pieces: int | Iterable[int] = MOST_DATA, **state: Any
) -> tuple[list[Point], dict[str, Any]]:
    """All points of a file that grows by so many bytes a call, or to these sizes, and the state, which is written and
    read in between."""
    points: list[Point] = []
    at = 0
    for end in [*(range(pieces, len(data), pieces) if isinstance(pieces, int) else pieces), len(data), None]:
        state["ended"] = end is None
        while True:
            need = max(MOST_DATA, state.get("need", 0))
            found, consumed = function(data[at:end][:need], state)
            points += found
            state = json.loads(json.dumps(state))
            at += consumed
            assert 0 <= consumed <= MOST_WHOLE
            if (not consumed and state.get("need", 0) <= need) or (state["ended"] and len(data) <= at + MOST_DATA):
                break
    return points, state


def values(points: list[Point]) -> Values:
    return [(point.name, point.step, point.value) for point in points]


def in_pieces(function: Reader, data: bytes, **state: Any) -> list[Point]:
    """Its points, however the file grows."""
    points, end = read(function, data, **state)
    for pieces in {1, 2, 3, 7, 100, 1000, max(1, len(data) // 2)} if len(data) < 20000 else {997, 30000}:
        other, other_end = read(function, data, pieces, **state)
        assert repr(other) == repr(points), pieces
        assert [other_end.get(name) for name in ("total", "params")] == [end.get(n) for n in ("total", "params")]
    return points


def measurer(key: str) -> int | None:
    """The pid of the process that measures the run."""
    return next((pid for pid in pids() if {b"measure", key.encode()} <= set(command_line(pid))), None)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3) + varint(value)


def event(step: int, *values: bytes, seconds: float = 1.7e9) -> bytes:
    """A record of an event file; nobody verifies its checksums."""
    body = field(1, seconds) + field(2, step) + field(5, b"".join(field(1, value) for value in values))
    return struct.pack("<Q", len(body)) + b"sums" + body + b"sums"


def simple(name: str, value: float) -> bytes:
    return field(1, name.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)
