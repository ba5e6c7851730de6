"""Which files of a run report its metrics."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from typing import Dict, Optional

from ..shared.records import Record
from ..store.outputs import started, written
from ..store.run_folder import RunFolder
from . import FORMATS, LINES, Format

MOST_FILES = 64
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+/")


class Found(Record):
    root: str
    path: str
    """Below the root."""
    format: Format
    changed: int
    """Nanoseconds since 1970."""


def search(run: RunFolder, ended: bool = False) -> Dict[str, Found]:
    """The files by their names in the run. What was not written since the run's start is none of its own, such as an
    old log under git. `ended`: what was saved by now counts, too, as the work tree may be gone; it may be as old
    as a file of an earlier run with the same content."""
    found: Dict[str, Found] = {}
    with contextlib.suppress(OSError):
        name = os.path.basename(run.reported_file)
        found["io/" + name] = Found(run.io, name, LINES, os.lstat(run.reported_file).st_mtime_ns)
    roots = {run.out: 0, run.work: started(run)} if ended else {run.work: started(run)}
    for root, since in roots.items():
        for path, changed in written(root, since, lambda name: format_of(name) is not None):
            format = format_of(path.rpartition("/")[2]) or LINES
            name = _CHECKPOINT.sub("", path) if format.whole else path
            known = found.get(name)
            if known.changed < changed if known is not None else len(found) < MOST_FILES:
                found[name] = Found(root, path, format, changed)
    return found


@functools.lru_cache(maxsize=1 << 13)
def format_of(name: str) -> Optional[Format]:
    return next((format for format in FORMATS if format.matches(name)), None)
