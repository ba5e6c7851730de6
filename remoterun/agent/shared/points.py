"""The points of a run from any byte on (see measured.py): of a run folder on its host, and of a copy of a client's."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Tuple

from .api import Measured, MeasuredUntil
from .facts import RunStatus
from .files import size_of
from .measured import MOST_NAME, MOST_SERIES, POINT
from .records import Record

AT_ONCE = 4096 * POINT.size
"""Bytes of points in a frame."""
NAMES = 100
"""Of series, in a frame."""
MOST_NAMES = MOST_SERIES * (6 * MOST_NAME + 3)
"""Bytes of the names of a run's series."""


class PointsFiles(Record):
    """Where the points of a run lie, and the names of its metrics' series."""

    metrics: str
    usage: str
    names: str

    def until(self, status: RunStatus) -> MeasuredUntil:
        """Where they end for now."""
        metrics, usage = (size_of(path) // POINT.size * POINT.size for path in (self.metrics, self.usage))
        return MeasuredUntil(metrics, usage, len(read_names(self.names)), status)

    def since(self, asked: Measured, until: MeasuredUntil) -> Iterator[Tuple[Dict[str, Any], bytes]]:
        """The frames of an answer to `measured`, header and body."""
        names = read_names(self.names)[: until.names]  # a name is there before the points of its series
        for first in range(max(asked.names, 0), len(names), NAMES):
            yield {"names": names[first : first + NAMES]}, b""
        for kind in ("metrics", "usage"):
            begin, end = max(getattr(asked, kind), 0) // POINT.size * POINT.size, getattr(until, kind)
            for at in range(begin, end, AT_ONCE):
                with open(getattr(self, kind), "rb") as file:
                    file.seek(at)
                    yield {kind: at}, file.read(min(AT_ONCE, end - at))


def read_names(path: str) -> List[str]:
    """The whole names in the file."""
    return [str(json.loads(line)) for line in name_lines(path)]


def name_lines(path: str) -> List[bytes]:
    """The whole lines in the file."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_NAMES).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
