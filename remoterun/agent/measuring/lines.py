"""Lines of JSON, each an object: {"step": 10, "loss": 0.3}, or {"step": 10, "name": "loss", "value": 0.3}.

Objects in it are joined with "/", one level deep: {"step": 10, "val": {"loss": 0.4}} has the metric `val/loss`.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..shared.records import NUMBERS
from . import Point

STEPS = ("step", "_step", "global_step", "iteration", "iter", "epoch")
"""What tells the step, the first of these that there is."""
TIMES = ("time", "_timestamp", "timestamp", "wall_time")
NAMES = ("name", "tag", "metric")
"""What names the metric whose value is `value`."""
LONGEST = 1 << 16
"""Bytes of a line; a longer one is skipped."""
_DECODER = json.JSONDecoder(parse_int=float)


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    lines, consumed = split(data, state)
    return [point for line in lines for point in points(parse(line))], consumed


def read_steps(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    """Of lines that tell their step only: other files of this kind are texts to train with, or results."""
    found, consumed = read(data, state)
    return [point for point in found if point.step is not None], consumed


def split(data: bytes, state: Dict[str, Any], longest: int = LONGEST) -> Tuple[List[bytes], int]:
    """The lines that are whole, without those that are too long, and the bytes that they take."""
    end = len(data) if state.get("ended") else data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")
    if end and state.pop("inside", False):
        del lines[0]  # the rest of a line whose begin was skipped
    if len(data) - end > longest:
        end, state["inside"] = len(data), True
    return [line for line in lines if 0 < len(line) <= longest], end


def parse(text: bytes) -> Any:
    """JSON whose numbers are all floats, so that no number is too large; None where it is not JSON."""
    try:
        return _DECODER.decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def points(record: Any) -> Iterator[Point]:
    """The metrics of an object of JSON, if it is one."""
    if not isinstance(record, dict):
        return
    values = dict(_flat(record))
    step = first(values, STEPS)
    time = first(values, TIMES)
    time = time if time and 1e9 < time < 1e11 else None
    name = next((record[name] for name in NAMES if isinstance(record.get(name), str)), None)
    if name and "value" in values:
        yield Point(name, values["value"], step, time)
        return
    told = next((name for name in STEPS if name in values), None)
    for name, value in values.items():
        if name != told and name not in TIMES and not name.startswith("_"):
            yield Point(name, value, step, time)


def first(values: Dict[str, float], names: Tuple[str, ...]) -> Optional[float]:
    """The first of these values that there is and that is a step or a time."""
    return next((values[name] for name in names if abs(values.get(name, math.inf)) < NUMBERS), None)


def _flat(record: Dict[str, Any]) -> Iterator[Tuple[str, float]]:
    for name, value in record.items():
        if type(value) is float:
            yield name, value
        elif isinstance(value, dict):
            for inner, number in value.items():
                if type(number) is float:
                    yield name + "/" + inner, number
