"""Requests about what a run reports of itself while it goes on: its points, and any part of its log."""

from __future__ import annotations

import contextlib
import time

from ..running.measurer import measuring
from ..shared import api
from ..shared.facts import RunStatus
from ..shared.files import append_line, read_json, remove_tree, write_whole
from ..shared.log_search import search
from ..shared.logs import NAMES, LogFile, read_part
from ..shared.measured import END
from ..shared.points import PointsFiles
from ..shared.records import encode
from ..shared.states import FINAL
from ..store.errors import HomeError
from . import Call


def measured(call: Call, asked: api.Measured) -> api.MeasuredUntil:
    run = call.home.existing_run(asked.key)
    files = PointsFiles(run.metrics_points, run.usage_points, run.metrics_names)
    until = files.until(run.status())
    for header, points in files.since(asked, until):
        call.stream.send(points, **header)
    return until


def read_again(call: Call, asked: api.ReadAgain) -> RunStatus:
    """The measurer of a run that goes on sees by itself that its log is to be read in another way."""
    run = call.home.existing_run(asked.key)
    if asked.reading is not None:
        write_whole(run.reading_file, encode(asked.reading))
    else:
        remove_tree(run.reading_file)
    if run.state()[0] in FINAL:
        process = measuring(call.home, run)
        process.communicate(END)
        with contextlib.suppress(OSError, ValueError):
            append_line(run.events_file, {"t": round(time.time(), 3), "progress": read_json(run.progress_file)})
    return run.status()


def log_part(call: Call, asked: api.LogPart) -> api.LogRead:
    start, total, data = read_part(_log_of(call, asked.key, asked.name), asked.start, asked.size)
    call.stream.send_all(data)
    return api.LogRead(start, total)


def search_log(call: Call, asked: api.SearchLog) -> api.Hits:
    return search(_log_of(call, asked.key, asked.name), asked.text, asked.start, asked.most)


def _log_of(call: Call, key: str, name: str) -> LogFile:
    if name not in NAMES:
        raise HomeError("bad_request", "a run has a log and err")
    return call.home.existing_run(key).log_file(name)
