"""Requests about what a run reports of itself while it goes on: its points, and any part of its log."""

from __future__ import annotations

from typing import Tuple

from ..measuring.points import read_names
from ..running import log_search
from ..shared import api
from ..shared.files import size_of
from ..shared.measured import POINT
from ..store.errors import HomeError
from ..store.run_folder import RunFolder
from . import Call

AT_ONCE = 4096
"""Points in a frame."""
NAMES = 100
"""Of series, in a frame."""


def measured(call: Call, asked: api.Measured) -> api.MeasuredUntil:
    run = call.home.existing_run(asked.key)
    files = {"metrics": run.metrics_points, "usage": run.usage_points}
    ends = {kind: size_of(path) // POINT.size for kind, path in files.items()}
    names = read_names(run.metrics_names)  # a name is there before the points of its series
    for first in range(max(asked.names, 0), len(names), NAMES):
        call.stream.send(names=names[first : first + NAMES])
    for kind, begin in (("metrics", asked.metrics), ("usage", asked.usage)):
        for at in range(max(begin, 0) // POINT.size, ends[kind], AT_ONCE):
            with open(files[kind], "rb") as file:
                file.seek(at * POINT.size)
                call.stream.send(file.read(min(AT_ONCE, ends[kind] - at) * POINT.size), **{kind: at * POINT.size})
    return api.MeasuredUntil(ends["metrics"] * POINT.size, ends["usage"] * POINT.size, len(names), run.status())


def log_part(call: Call, asked: api.LogPart) -> api.LogRead:
    run, before = _log_of(call, asked.key, asked.name)
    start, total, data = log_search.read_part(run, asked.name, asked.start, asked.size, before)
    call.stream.send_all(data)
    return api.LogRead(start, total)


def search_log(call: Call, asked: api.SearchLog) -> api.Hits:
    run, before = _log_of(call, asked.key, asked.name)
    hits, until, total = log_search.search(run, asked.name, asked.text, asked.start, asked.most, before)
    return api.Hits([api.Hit(offset, line) for offset, line in hits], until, total)


def _log_of(call: Call, key: str, name: str) -> Tuple[RunFolder, int]:
    """(the run, how many bytes of its log an earlier host wrote)."""
    run = call.home.existing_run(key)
    befores = {"log": run.spec().log_before, "err": run.spec().err_before}
    if name not in befores:
        raise HomeError("bad_request", "a run has a log and err")
    return run, befores[name]
