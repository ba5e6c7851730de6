"""Text in files: lines of JSON, tables, Hugging Face's trainer_state.json, and params.json.

A line of JSON: {"step": 10, "loss": 0.3}, or {"step": 10, "name": "loss", "value": 0.3}. Objects in it are joined with
"/", three levels deep: {"val": {"loss": 0.4}} has the metric `val/loss`. A table has a header, and a column for the
step or the epoch, as Keras' CSVLogger and Lightning's write it.
"""

from __future__ import annotations

import csv
import json
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..shared.measured import MOST_SERIES
from . import Point

STEPS = (
    "_step",
    "step",
    "global_step",
    "kimg",
    "num_updates",
    "iteration",
    "iter",
    "timestep",
    "total_timesteps",
    "epoch",
)
"""The first of these that there is gives the step, whatever stands before it, as in `time/total_timesteps`."""
TIMES = ("_timestamp", "timestamp", "wall_time", "time", "total_time")
LONGEST = 1 << 16  # Bytes of a line; a longer one is skipped.
MOST_PARAMS, LONGEST_PARAM = 100, 200
_SAVED = re.compile(r"[-_]([0-9]{1,15})\.(?:pkl|pt|pth|ckpt)$")
"""The name of a checkpoint, which says the step where nothing else does."""
_BLANKS = bytes.maketrans(b"\r\0", b"  ")  # The module csv refuses these within a line.
_DECODER = json.JSONDecoder(parse_int=float)  # No integer is too large, or takes the square of its length.


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    lines, consumed = split(data, state)
    return [point for line in lines for point in points(parse(line))], consumed


def read_table(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    """Raises ValueError where there is no column for the step or the epoch."""
    found: List[Point] = []
    rows, consumed = split(data.translate(_BLANKS), state)
    for text in (row.decode("utf-8", "replace") for row in rows):
        for separator in state.get("separator", ",;\t"):
            cells = [each.strip() for each in next(csv.reader([text], delimiter=separator, skipinitialspace=True))]
            bare = [each.lower().rpartition("/")[2] for each in cells[:MOST_SERIES]]  # As of `time/total_timesteps`.
            names = [last if last in STEPS else each for last, each in zip(bare, cells)]  # noqa: B905 - Python 3.8
            if "header" in state:
                found += points(dict(zip(state["header"], map(number, cells))))  # noqa: B905 - Python 3.8
            elif len(names) > 1 and not set(names).isdisjoint(STEPS):
                state.update(header=names, separator=separator)
                break
        if "header" not in state:
            raise ValueError("It has no column for a step or an epoch.")
    return found, consumed


def read_trainer_state(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    """Each checkpoint has one with all that the one before has, and more: they have one state in common."""
    record = parse(data)
    history = record.get("log_history") if isinstance(record, dict) else None
    if not isinstance(history, list):
        return [], len(data)  # It may be written just now.
    known = state.get("known", 0)
    state.update(total=number(record.get("max_steps")), known=max(known, len(history)))
    return [point for entry in history[known:] for point in points(entry)], len(data)


def read_params(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    state["params"] = params(parse(data))
    return [], len(data)


def params(record: Any) -> Dict[str, str]:
    """The values of an object of JSON as texts."""
    found = {}
    for name, value in list(_flat(record))[:MOST_PARAMS]:
        text = value if isinstance(value, str) else json.dumps(value)
        found[name[:LONGEST_PARAM]] = text[: -2 if text.endswith(".0") else None][:LONGEST_PARAM]
    return found


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
    steps = {step: name for name in values for step in STEPS if name == step or name.endswith(("/" + step, "_" + step))}
    by = next((steps[step] for step in STEPS if step in steps), "")
    saved = next(filter(None, (_SAVED.search(text) for text in every.values() if isinstance(text, str))), None)
    step = values.get(by, float(saved[1]) if saved else None)
    time = next((values[name] for name in TIMES if values.get(name, 0.0) > 1e9), None)  # Not since the run began.
    named = next((every[key] for key in ("name", "tag", "metric") if isinstance(every.get(key), str)), "")
    metrics = {named: values["value"]} if named and "value" in values else values
    for name, value in metrics.items():
        if name not in ("", by) and name not in TIMES and not name.startswith("_"):
            yield Point(name, value, step, time)


def number(text: Any) -> Optional[float]:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _flat(record: Any, depth: int = 3) -> Iterator[Tuple[str, Any]]:
    for name, value in record.items() if isinstance(record, dict) else ():
        if isinstance(value, dict) and "num" in value and "mean" in value:
            value = value["mean"]  # StyleGAN's statistics
        if not isinstance(value, dict):
            yield name, value
        elif depth:
            yield from ((f"{name}/{inner}", each) for inner, each in _flat(value, depth - 1))
