"""The numbers that a run reports of itself, read from its files and its log while they grow.

A reader is a pure function for one format:

    read(data, state) -> (points, consumed)

`data`: the file from the last consumed byte on, at most `MOST_DATA` bytes. What is not consumed, as half a line, is
part of the next call's `data`. `state`: the reader's own, JSON, saved between calls; it begins as {} or with what the
caller gives: `ended`, true once the file grows no more, so that a last line without its end counts, and `patterns`, the
user's regular expressions for a log. A reader may set `total`, the steps of the whole run, and `params`, {name: text}.

A reader trusts nothing. It raises ValueError only, for a file that is not of its format or is damaged: such a file
is read no further.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

MOST_DATA = 1 << 20
"""Bytes of a growing file that a reader gets at once."""
MOST_WHOLE = 8 << 20
"""Bytes of a file that is read as a whole; a larger one is not read."""


class Point(NamedTuple):
    name: str
    value: float
    step: Optional[float] = None
    """None: the caller numbers the points of the series."""
    time: Optional[float] = None
    """Seconds since 1970. None: when the point was read."""


Reader = Callable[[bytes, Dict[str, Any]], Tuple[List[Point], int]]


class Format(NamedTuple):
    name: str
    names: str
    """A regular expression for the whole names of files that may be of this format; case does not count."""
    function: str
    whole: bool = False
    """The file is replaced as a whole: its reader gets all of it whenever it has changed."""

    def matches(self, basename: str) -> bool:
        return re.fullmatch(self.names, basename, re.I | re.S) is not None


LINES = Format("lines", r"(.*[._-])?(metrics|history|scalars|train_log)\.(jsonl|ndjson|json)|log\.jsonl", "lines:read")
"""Also for the file of the module `remoterun_log`."""
LOG = Format("log", r"", "log_lines:read")
FORMATS = (
    LINES,
    Format("lines with steps", r".*\.(jsonl|ndjson)", "lines:read_steps"),
)
"""The first one that matches a file's name is its format."""


def reader(format: Format) -> Reader:
    """Its function; the module is imported on use."""
    module, function = format.function.split(":")
    found: Reader = getattr(importlib.import_module("." + module, __package__), function)
    return found
