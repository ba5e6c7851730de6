"""A table with a header and a column for the step or the epoch, as Keras' CSVLogger and Lightning's write it."""

from __future__ import annotations

import csv
from typing import Any, Dict, List, Tuple

from ..shared.measured import MOST_SERIES
from . import Point
from .json_text import STEPS, number, points, split


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    """Raises ValueError where there is no such column."""
    found: List[Point] = []
    rows, consumed = split(data, state)
    for row in rows:
        text = row.translate(None, b"\r\0").decode("utf-8", "replace")  # The module csv refuses these.
        for separator in state.get("separator", ",;\t"):
            cells = [
                each.strip()
                for each in next(csv.reader([text], delimiter=separator, skipinitialspace=True))[:MOST_SERIES]
            ]
            names = [each.lower() if each.lower() in STEPS else each for each in cells]
            if "header" in state:
                found += points(dict(zip(state["header"], map(number, cells))))  # noqa: B905 - Python 3.8
            elif len(names) > 1 and not set(names).isdisjoint(STEPS):
                state.update(header=names, separator=separator)
                break
        if "header" not in state:
            raise ValueError("It has no column for a step or an epoch.")
    return found, consumed
