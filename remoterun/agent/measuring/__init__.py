"""The numbers that a run reports of itself, read from its files and its log while they grow.

A reader is a pure function for one format: `read(data, state) -> (points, consumed)`. `data`: the file from the last
consumed byte on, `MOST_DATA` at most; half a line or record is left for the next call. `state`: the reader's own, JSON,
saved between calls. The caller sets `ended` once the file grows no more, so that its last line counts without its end,
and, for a log, what a `LogReading` has. A reader may set `total`, the steps of the whole run, `params`, {name: text},
and `need`, the size of a record that is longer than `data`. It raises ValueError only: such a file is read no further.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..shared.records import Record

MOST_DATA = 1 << 20
MOST_WHOLE = 8 << 20  # Bytes of a file that is read as a whole; a larger one is not read.


class Point(Record):
    """Without a step: the caller numbers the points of the series. `time`: since 1970; without: when it was read."""

    name: str
    value: float
    step: Optional[float] = None
    time: Optional[float] = None
    content: bytes = b""
    """A picture, sound or text in place of a value; `name` then has its extension."""


class Format(Record):
    """`names`: a regular expression for the names of its files. `whole`: the reader gets all of a file that changed."""

    name: str
    names: str
    function: str
    whole: bool = False

    def matches(self, basename: str) -> bool:
        return re.fullmatch(self.names, basename, re.I | re.S) is not None


LINES = Format(
    "lines",
    r".*(metrics?|log|history|scalars|progress|stats|results?)\.(jsonl|ndjson)|metric-.*\.jsonl|(metrics|wandb-summary)\.json",
    "lines:read",
)
"""Also for the file of the module `remoterun_log`."""
LOG = Format("log", "", "log_lines:read")
FORMATS = (
    LINES,
    Format("tfevents", r".*tfevents.*", "tfevents:read"),
    Format("wandb", r"run-.*\.wandb", "wandb_file:read"),
    Format("trainer_state", r"trainer_state\.json", "lines:read_trainer_state", whole=True),
    Format("params", r"params\.json", "lines:read_params", whole=True),
    Format("hparams", r"(hparams|config)\.ya?ml", "hparams:read", whole=True),
    Format("csv", r".*\.(csv|tsv)|training\.log", "lines:read_table"),
)


def reader(format: Format) -> Callable[[bytes, Dict[str, Any]], Tuple[List[Point], int]]:
    """Its function; the module is imported on use."""
    module, function = format.function.split(":")
    return getattr(importlib.import_module("." + module, __package__), function)  # type: ignore[no-any-return]
