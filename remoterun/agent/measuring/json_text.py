"""Metrics in JSON: lines of it, Hugging Face's trainer_state.json, and params.json.

A line is an object: {"step": 10, "loss": 0.3}, or {"step": 10, "name": "loss", "value": 0.3}. Objects in it are joined
with "/", one level deep: {"step": 10, "val": {"loss": 0.4}} has the metric `val/loss`.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import Point

STEPS = ("_step", "step", "global_step", "iteration", "iter", "timestep", "total_timesteps", "epoch")
"""The first of these that there is gives the step."""
TIMES = ("_timestamp", "timestamp", "wall_time", "time")
LONGEST = 1 << 16
"""Bytes of a line; a longer one is skipped."""
MOST_PARAMS, LONGEST_PARAM = 200, 200
_DECODER = json.JSONDecoder(parse_int=float)  # No integer is too large, or takes the square of its length.


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    lines, consumed = split(data, state)
    return [point for line in lines for point in points(parse(line))], consumed


def read_trainer_state(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    """Each checkpoint has one with all that the one before has, and more: they have one state in common."""
    record = parse(data)
    history = record.get("log_history") if isinstance(record, dict) else None
    if not isinstance(history, list):
        return [], len(data)  # It may be written just now.
    state["total"] = number(record.get("max_steps"))
    known, state["known"] = state.get("known", 0), len(history)
    return [point for entry in history[known:] for point in points(entry)], len(data)


def read_params(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    add_params(parse(data), state)
    return [], len(data)


def split(data: bytes, state: Dict[str, Any], longest: int = LONGEST) -> Tuple[List[bytes], int]:
    """The whole lines that are not too long, and the bytes consumed."""
    end = len(data) if state.get("ended") else data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")
    if end and state.pop("inside", False):
        del lines[0]  # The rest of a line whose begin was skipped.
    if len(data) - end > longest:
        end, state["inside"] = len(data), True
    return [line for line in lines if 0 < len(line) <= longest], end


def parse(text: bytes) -> Any:
    """JSON with all numbers as floats; None where it is not JSON."""
    try:
        return _DECODER.decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def points(record: Any) -> Iterator[Point]:
    """The metrics of an object of JSON, if it is one."""
    every = dict(_flat(record))
    values = {name: value for name, value in every.items() if type(value) is float}
    by = next((name for name in STEPS if math.isfinite(values.get(name, math.inf))), "")
    time = next((values[name] for name in TIMES if moment(values.get(name, 0.0))), None)
    named = next((every[key] for key in ("name", "tag", "metric") if isinstance(every.get(key), str)), "")
    metrics = {named: values["value"]} if named and "value" in values else values
    for name, value in metrics.items():
        if name not in ("", by) and name not in TIMES and not name.startswith("_"):
            yield Point(name, value, values.get(by), time)


def add_params(record: Any, state: Dict[str, Any]) -> None:
    """Put the values of an object of JSON, if it is one, to the parameters of the run."""
    params = state.setdefault("params", {})
    for name, value in _flat(record):
        if len(name) <= LONGEST_PARAM and not name.startswith("_") and (name in params or len(params) < MOST_PARAMS):
            text = value if isinstance(value, str) else json.dumps(value)
            params[name] = text[: -2 if text.endswith(".0") else None][:LONGEST_PARAM]


def number(text: Any) -> Optional[float]:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def moment(seconds: float) -> Optional[float]:
    """A time as of a point; None where it is not one of our days, but perhaps one since the run began."""
    return seconds if 1e9 < seconds < 1e11 else None


def _flat(record: Any) -> Iterator[Tuple[str, Any]]:
    for name, value in record.items() if isinstance(record, dict) else ():
        for inner, each in value.items() if isinstance(value, dict) else (("", value),):
            yield name + ("/" + inner if inner else ""), each
