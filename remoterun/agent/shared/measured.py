"""What is measured of a run while it goes on: the points of its metrics and of what it uses, and a summary of them.

A run folder has two files of points, which are only appended to: `metrics.points`, what the run reported of itself, and
`usage.points`, what its supervisor measured. A point is `POINT`, four doubles: the number of its series, its step, when
it was read or written (seconds since 1970, by the host's clock), and its value, which may be NaN or infinite. The names
of the metrics' series are the lines of `metrics.names`, each a string in JSON, from number 0 on; of two with the same
name the later one counts. Those of the usage are `USAGE`, whose steps are seconds since the command was started.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Dict, List, Optional, Tuple

from .records import NUMBERS, Record

POINT = struct.Struct("<4d")
USAGE = ("cpu", "memory", "gpu", "gpu memory")
"""Percent of one CPU, bytes, percent of the run's GPUs on average, bytes on all of them."""
MOST_POINTS, MOST_USAGE = 4_000_000, 100_000
"""Of one run, that are stored of its metrics and of its usage."""
MOST_SERIES = 1000
"""Of one run; what comes under further names is left out."""
MOST_NAME = 200
"""Characters of a series' name."""
END = b"."
"""The word on the standard input of the process that measures a run: its command has ended."""
SHOWN = 12
"""Series in a summary, those first by which people judge a run."""
SPARK = 24
"""Values of a series in a summary, evenly over all of its points."""

_FIRST = re.compile(r"(?:^|[/_. -])(loss|perplexity|ppl|bpc|error|mae|mse|rmse|wer|cer)$", re.I)
_MORE_IS_BETTER = re.compile(r"acc|auc|f1|score|reward|return|precision|recall|bleu|rouge|iou|psnr|ssim|map\b", re.I)
_MORE_IS_WORSE = re.compile(r"loss|error|perplexity|ppl|bpc|mae|mse|rmse|wer|cer|fid|latency|time", re.I)


class Series(Record):
    """A metric so far. A value that is not finite, or of 1e18 or more, is None here. `best` is the least or the largest
    one, by the metric's name, or None where the name does not say which is better."""

    name: str
    points: int = 0
    first: Optional[float] = None
    last: Optional[float] = None
    step: Optional[float] = None
    """Of the last one."""
    least: Optional[float] = None
    most: Optional[float] = None
    best: Optional[float] = None
    best_step: Optional[float] = None
    spark: List[float] = []


class LogReading(Record):
    """How the metrics of a run are read from its log, as a spec (spec.py) has it."""

    metrics: Tuple[str, ...] = ()
    metric_step: str = ""
    metric_hide: Tuple[str, ...] = ()


class Progress(Record):
    """How far a run is. `step` of `total`, at `rate` steps a second lately; `at`: when that was known (seconds since
    1970). `params`: what it reported of its parameters. `alerts`: what is wrong now, each in words."""

    step: Optional[float] = None
    total: Optional[float] = None
    rate: Optional[float] = None
    at: float = 0.0
    series: List[Series] = []
    params: Dict[str, str] = {}
    alerts: List[str] = []
    unread: int = 0
    """Numbers of each line that the log has again and again, but in which no metric was found; 0 where there is any."""
    left_out: int = 0
    """Points and names beyond what is stored of one run; with about as many points as were not read at its end."""


def number(value: float) -> Optional[float]:
    """`value` as it may stand in a record."""
    return value if math.isfinite(value) and abs(value) < NUMBERS else None


def direction(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where the name does not say."""
    if _MORE_IS_WORSE.search(name):
        return -1
    return 1 if _MORE_IS_BETTER.search(name) else 0


def rank(name: str) -> Tuple[int, str]:
    """The order in which series are shown: losses, of the validation first, then what has a direction, then others."""
    if _FIRST.search(name):
        return (0 if re.search(r"val|eval|test", name, re.I) else 1), name
    return (2 if direction(name) else 3), name
