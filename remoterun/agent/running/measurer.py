"""The process that measures a run (measuring/collecting.py), as its supervisor starts it and lets it end."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from typing import Any, Dict, Optional

from ..shared.files import open_regular, read_json, size_of
from ..shared.measured import END, Progress
from ..shared.records import from_json, to_json
from ..shared.spec import RunSpec
from ..store.home import Home
from ..store.outputs import started, written
from ..store.run_folder import SUPERVISOR, RunFolder
from .supervision import detached

FIRST = 0.5
"""Seconds after which it is started: most shorter runs report nothing, and need no process for that."""
AGAIN = 10.0
"""Seconds until one that died is started again; twice as many each time."""
PATIENCE = 30.0
"""Seconds that it has, once the command has ended, for what is left. What it did not read then is counted."""
SMALL = 64 << 10
"""Bytes at either end of a log that the supervisor itself looks into."""
REPORT = re.compile(r"\.(jsonl?|ndjson|csv|tsv|wandb|log)\Z|tfevents", re.I)
"""What the name of each file has that may report metrics."""
_METRIC = re.compile(rb"[:=]\s*['\"]?[-+.\d]|\d ?/ ?\d|step|iter|epoch|loss|acc", re.I)
"""What a log has that reports metrics, and many another one."""


def measuring(home: Home, run: RunFolder) -> "subprocess.Popen[bytes]":
    """The process, until the end of its standard input; `END` there says that the command has ended."""
    words = ("measure", "--home", home.path, run.key)
    variables = dict(os.environ, **{SUPERVISOR: run.key})
    return detached(home, run.supervisor_log, variables, *words, stdin=subprocess.PIPE)


class Measurer:
    """Of one run, for one supervisor. Whatever becomes of the process, the run goes on."""

    def __init__(self, home: Home, run: RunFolder, spec: RunSpec) -> None:
        self._home, self._run, self._spec = home, run, spec
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        self._next, self._pause = 0.0, AGAIN
        self._deadline: Optional[float] = None

    def ensure(self, began: float) -> None:
        """Start it if it is time for that. `began`: when the command was started, in seconds since 1970."""
        now = time.time()
        if now < max(began + FIRST, self._next) or self._lives():
            return
        self._start()
        self._next, self._pause = now + self._pause, 2 * self._pause

    def end(self) -> None:
        """The command has ended: let the process take in what is left. Returns at once, but where there are event
        files: what it takes out of these must be there before outputs are saved. May be repeated."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + PATIENCE
        if not self._lives() and (os.path.exists(self._run.measuring_file) or self._may_report()):
            self._start()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError), self._process.stdin as pipe:
                pipe.write(END)
        if self._lives() and next(written(self._run.work, started(self._run), lambda name: "tfevents" in name), None):
            self._await_end()

    def progress(self) -> Dict[str, Any]:
        """How far the run came, as a field of its last event, once the process has ended; none where it reported
        nothing."""
        self.end()
        self._await_end()
        with contextlib.suppress(OSError, ValueError):
            progress = from_json(Progress, read_json(self._run.progress_file))
            if progress.series or progress.unread:
                return {"progress": to_json(progress)}
        return {}

    def _start(self) -> None:
        with contextlib.suppress(OSError):
            self._process = measuring(self._home, self._run)

    def _await_end(self) -> None:
        if self._process is not None and self._deadline is not None:
            try:
                self._process.wait(max(self._deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _may_report(self) -> bool:
        """Whether a run that was short may have reported anything."""
        if self._spec.metrics or self._spec.alerts:
            return True
        for path in (self._run.log, self._run.err):
            with contextlib.suppress(OSError), open(open_regular(path), "rb") as log:
                begins = log.read(SMALL)
                log.seek(max(size_of(path) - SMALL, len(begins)))
                if _METRIC.search(begins) or _METRIC.search(log.read(SMALL)):
                    return True
        reported = written(self._run.work, started(self._run), lambda name: REPORT.search(name) is not None)
        return size_of(self._run.reported_file) > 0 or next(reported, None) is not None
