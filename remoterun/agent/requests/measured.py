"""Requests about what a run reports of itself while it goes on: its points, and any part of its log."""

from __future__ import annotations

from typing import Tuple

from ..running import log_search
from ..shared import api
from ..store.errors import HomeError
from ..store.run_folder import RunFolder
from . import Call


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
