"""The process that measures a run: `agent measure`, of which each run that goes on has one.

It is apart from the supervisor because it parses whatever a command writes, with regular expressions of the user's:
whatever becomes of it, the run goes on. It ends with its standard input, which its supervisor holds, and the next one
goes on from what is in the run folder.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import os
import re
import resource
import select
import signal
import time
import traceback
from typing import Any, Dict, List, Sequence, Tuple

from ..shared.files import read_json, size_of, unless_held, write_whole
from ..shared.logs import times
from ..shared.measured import END, POINT, USAGE, Progress, number
from ..shared.paths import SafeFolder, TreeError
from ..shared.points import read_names
from ..shared.records import encode, to_json
from ..store import media
from ..store.home import Home
from ..store.outputs import started
from ..store.run_folder import RunFolder
from . import LOG, MOST_DATA, MOST_WHOLE, Format, Point, reader
from .alerts import Alerts
from .finding import MOST_FILES, Found, search
from .points import READ, Points, Stored, cut_name
from .summary import Summary

FAST, SLOW = 1.0, 3.0
"""Seconds between two looks while something changes, and at most otherwise."""
COST = 10
"""After a look comes a pause of so many times its processor time, at the most `LONGEST` seconds; of the search for
files two hundred times."""
LONGEST = 30.0
MOST_READ = 8 << 20
"""Bytes that one look reads, a piece of each file."""
PIECES = 500
"""Of a log that is read once more: the points of each have one time."""
MEMORY = 1 << 30
"""Bytes of this process."""
PATIENCE = 5.0
"""Seconds of processor time that a reader has for a piece of a file."""
LAST = 1.0
"""The same, once the command has ended: then the supervisor waits, as long as `running.measurer.PATIENCE`."""
LAST_OF_ALL = 60.0
"""Seconds for all that is left then, where no supervisor is there any more."""
AHEAD = 60.0
"""Seconds by which a point's time may be ahead of ours."""
PARAMS, LONG = 50, 200
"""Parameters of a run, and characters of each."""
LOGS = ("io/log", "io/err")
COPY = -2


def measure(home: Home, key: str) -> int:
    """Until the end of standard input. Returns at once where another process measures the run."""
    run = home.existing_run(key)
    os.nice(10)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _out_of_time)
    with unless_held(run.measuring_lock, SLOW) as lock:
        if lock is not None:
            _collect(Collector(run))
    return 0


def _collect(collector: "Collector") -> None:
    pause = 0.0
    while not select.select([0], [], [], pause)[0]:
        used = time.process_time()
        pause = FAST if collector.look() else min(pause * 1.3 + 0.1, SLOW)
        pause = max(pause, min(COST * (time.process_time() - used), LONGEST))
    if os.read(0, 1) == END:
        until = time.monotonic() + LAST_OF_ALL
        collector.look(True)
        while collector.look(True) and time.monotonic() < until:  # also what moved from `work` to `out` meanwhile
            pass
    collector.close()


class Collector:
    """Reads what is new of a run's files, and writes what is known of its metrics."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._spec = run, run.spec()
        saved: Dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            saved = read_json(run.measuring_file)
        known = len(read_names(run.metrics_names))
        if saved.get("points", 0) > size_of(run.metrics_points) or saved.get("names", 0) > known:
            saved = {}  # as after a power loss: all is read once more
        self._files = {name: _File(**fields) for name, fields in saved.get("files", {}).items()}
        self._owners: Dict[str, List[str]] = saved.get("owners", {})
        """By the name of a series the folder, the format and the name of the file that it is of."""
        self._left_out: int = saved.get("left_out", 0)
        self._usage: int = saved.get("usage", 0)
        self._room: int = saved.get("room", media.ROOM)
        """Bytes that media may still take."""
        self._points, self._summary = Points(run, saved.get("points", 0)), Summary()
        for series, step, moment, value in self._points.stored():
            self._summary.add(int(series), self._points.names[int(series)], step, moment, value)
        self._numbers: Dict[Tuple[str, str], int] = {}
        """By the file and the metric, as far as these have a series."""
        self._new: List[Stored] = []
        self._found: Dict[str, Found] = {}
        self._next_search = 0.0
        self._reading: Any = saved.get("reading")
        self._alert_state: Dict[str, Any] = saved.get("alerts", {})
        self._alerts = Alerts(run, self._spec, self._alert_state)
        self._written: Dict[str, bytes] = {}
        self._taken: Dict[str, float] = {}
        """By the file, when its last points were read."""
        self._times: Dict[str, List[Tuple[int, float]]] = {}
        """Of a log that is read once more, when it had which size."""

    def look(self, ended: bool = False) -> bool:
        """Take in what is new; whether there was anything. `ended`: the command has ended."""
        self._look_how()
        self._search(ended)
        left, changed = MOST_READ, False
        for name, found in self._found.items():
            with contextlib.suppress(OSError, TreeError):
                count = self._read(name, found, ended) if left > 0 else 0
                left, changed = left - count, changed or count > 0
        progress = self._progress(ended)
        self._points.flush()
        self._save()
        self._write(self._run.progress_file, encode(progress))
        return changed

    def close(self) -> None:
        self._alerts.close()
        self._save()

    def _look_how(self) -> None:
        """How the log is to be read: when that has changed, what it said is withdrawn, and it is read once more."""
        reading = to_json(self._run.reading())
        if reading != self._reading and self._reading is not None:
            for name, owner in list(self._owners.items()):
                if owner[1] == LOG.name:
                    self._points.number(name, anew=True)
                    del self._owners[name]
            for name in LOGS:
                self._files.pop(name, None)
                self._taken.pop(name, None)
                self._times[name] = times(self._run.log_file(name[3:]))[0]
            self._next_search = 0.0
            self._summary.unmark()
        self._reading = reading

    def _search(self, ended: bool) -> None:
        if time.monotonic() < self._next_search and not ended:
            return
        used = time.process_time()
        found = search(self._run, ended)
        for name in LOGS:  # last: where there are files, of the log only the number of all steps counts
            found[name] = Found(self._run.io, name[3:], LOG, 0)
        for name in found:
            if name not in self._files and (len(self._files) < MOST_FILES or name in LOGS):
                self._files[name] = _File(dict(self._reading) if name in LOGS else {})
        self._found = {name: each for name, each in found.items() if name in self._files}
        self._next_search = time.monotonic() + max(FAST, 200 * (time.process_time() - used))

    def _read(self, name: str, found: Found, ended: bool) -> int:
        """Read what is new of a file, or a piece of it; how many bytes, at least 1. Raises `OSError`, `TreeError`."""
        file = self._files[name]
        with SafeFolder(found.root, make=False) as folder, open(folder.open(found.path), "rb", buffering=0) as opened:
            status = os.fstat(opened.fileno())
            seen = [status.st_size, status.st_mtime_ns, ended]
            if file.given_up or file.seen == seen:
                return 0
            most = MOST_WHOLE + 1 if found.format.whole else max(MOST_DATA, file.state.get("need", 0))
            if found.format.whole:
                file.offset = 0
            elif status.st_size < file.offset:  # another file of this name: from its start on
                file.offset = file.points = 0
                file.state = {key: file.state[key] for key in file.state if key in self._reading}
            opened.seek(file.offset)
            data = opened.read(most)
        at_end = len(data) < most
        if name in self._times:
            piece = max(self._until(name, file.offset)[0] - file.offset, status.st_size // PIECES)
            end = data.find(b"\n", piece - 1) + 1
            at_end, data = at_end and end in (0, len(data)), data[: end or None]
        if at_end or not found.format.whole:
            file.state["ended"] = ended and at_end
            consumed = self._take(name, found, file, data)
            file.offset += consumed or (0 if at_end or file.state.get("need") else len(data))
        if at_end or found.format.whole:
            file.seen = seen
        file.unread = 0 if file.seen == seen else (status.st_size - file.offset) * file.points // (file.offset or 1)
        return max(len(data), 1)

    def _take(self, name: str, found: Found, file: "_File", data: bytes) -> int:
        """Let a reader have bytes of a file; how many it consumed. A file that it can't read is given up."""
        format = found.format
        signal.setitimer(signal.ITIMER_PROF, LAST if file.state.get("ended") else PATIENCE)
        try:
            points, consumed = reader(format)(data, file.state)
        except Exception as error:  # noqa: BLE001 - whatever is in a file, the others are read
            file.given_up = True
            if not isinstance(error, ValueError):
                traceback.print_exc()
            return 0
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        now = self._until(name, file.offset)[1]
        if format is LOG and self._structured:
            for step in (number(point.step) for point in points if point.step is not None):
                if step is not None:
                    self._summary.mark(step, now)
            return consumed
        alone = format.name == "tfevents" and len({point.name for point in points}) == 1
        since = min(self._taken.get(name) or started(self._run) / 1e9, now)
        for place, point in enumerate(points, 1):
            if point.content:
                self._save_media(found, point)
                continue
            file.curve = file.curve or point.name == file.first
            file.first = file.first or point.name
            series = self._series(name, format, point.name, alone)
            if series == COPY:
                continue
            file.points += 1
            if series < 0:
                self._left_out += 1
                continue
            step = math.nan if format is LOG else self._summary.count(series)  # The points of a file follow each other.
            step = step if point.step is None or number(point.step) is None else point.step
            moment = since + (now - since) * place / len(points)  # They came one after the other.
            if point.time is not None and 0 < point.time < now + AHEAD:
                moment = point.time
            if not self._points.add(series, step, moment, point.value):
                self._left_out += 1
            self._summary.add(series, self._points.names[series], step, moment, point.value)
            if name not in self._times:
                self._new.append(Stored(self._points.names[series], step, moment, point.value))
        self._taken[name] = now
        return consumed

    def _until(self, name: str, size: int) -> Tuple[int, float]:
        """How long a log that is read once more was when it was longer than that, and when; of others, now."""
        times = self._times.get(name, [])
        at = bisect.bisect_right(times, (size, math.inf))
        if at < len(times):
            return times[at]
        self._times.pop(name, None)
        return size, time.time()

    def _save_media(self, found: Found, point: Point) -> None:
        self._room -= max(len(point.content), media.LEAST)
        with contextlib.suppress(OSError, TreeError):
            if found.root == self._run.work and self._room >= 0:
                media.save(found.root, found.path, point.name, point.step or 0, point.content)
                return
        self._left_out += 1

    @property
    def _structured(self) -> bool:
        """Whether a file has curves: then the log, which mostly says the same, tells the steps only."""
        return any(file.curve for name, file in self._files.items() if name not in LOGS)

    def _series(self, file: str, format: Format, metric: str, alone: bool) -> int:
        """The number of a file's series, `COPY` where another file beside it reports the same, -1 for one too many.
        `alone`: an event file has no other; then `add_scalars` may have put a part of its name into the folder's."""
        key = file, metric
        if key in self._numbers:
            return self._numbers[key]
        folder, _, base = file.rpartition("/")
        part = re.search(r"(?:^|/)%s[/_]([^/]+)$" % re.escape(metric).replace("/", "[/_]"), folder) if alone else None
        metric = metric + "/" + part[1] if part else metric
        owner = [folder, format.name, base if format.name != "tfevents" else ""]  # there, a folder is a run
        first = self._owners.get(cut_name(metric), ["", LOG.name, ""])
        beside = first[0] == folder
        if first[1] not in (LOG.name, format.name) and (beside or format is LOG):
            return COPY
        prefixes = ["", "" if beside else folder.rpartition("/")[2], base.partition(".")[0], folder, file]
        for prefix in prefixes:
            series = cut_name(prefix + "/" + metric if prefix else metric)
            known = self._owners.get(series)
            if known is None or known == owner or known[1] == LOG.name:
                found = self._points.number(series, known is not None and known[1] != format.name)
                if found >= 0:
                    self._owners[series] = owner
                if format is not LOG:  # which gives it up to the first file that has it
                    self._numbers[key] = found
                return found
        return COPY

    def _progress(self, ended: bool) -> Progress:
        files = sorted(self._files.items(), key=lambda item: item[0] in LOGS)
        total = next((file.state["total"] for _, file in files if file.state.get("total")), None)
        params: Dict[str, str] = {}
        for _, file in files:
            for name, text in (file.state.get("params") or {}).items():
                if len(params) < PARAMS:
                    params.setdefault(cut_name(name), str(text)[:LONG])
        of_log = {name for name, owner in self._owners.items() if owner[1] == LOG.name} if self._structured else ()
        names = list(enumerate(self._points.names))
        hidden = {at for at, name in names if name in of_log or self._points.number(name) != at}
        left_out = self._left_out + (sum(file.unread for _, file in files) if ended else 0)
        progress = self._summary.progress(total, hidden)._replace(params=params, left_out=left_out)
        if not progress.series:
            progress = progress._replace(unread=max([file.state.get("unread", 0) for _, file in files], default=0))
        new, self._new = self._new, []
        try:
            return progress._replace(alerts=self._alerts.check(new, self._new_usage(), time.time(), ended))
        except Exception:  # noqa: BLE001 - what is known is written, whatever becomes of the alerts
            traceback.print_exc()
            return progress

    def _new_usage(self) -> List[Stored]:
        with contextlib.suppress(OSError), open(self._run.usage_points, "rb") as file:
            file.seek(self._usage)
            data = file.read(READ * POINT.size)
            data = data[: len(data) // POINT.size * POINT.size]
            self._usage += len(data)
            return [Stored(USAGE[int(point[0])], *point[1:]) for point in POINT.iter_unpack(data)]
        return []

    def _save(self) -> None:
        saved = {
            "files": {name: file.__dict__ for name, file in self._files.items()},
            "owners": self._owners,
            "points": self._points.size,
            "names": len(self._points.names),
            "left_out": self._left_out,
            "usage": self._usage,
            "room": self._room,
            "alerts": self._alert_state,
            "reading": self._reading,
        }
        self._write(self._run.measuring_file, json.dumps(saved).encode())

    def _write(self, path: str, data: bytes) -> None:
        if self._written.get(path) != data:
            write_whole(path, data, sync=False)
            self._written[path] = data


class _File:
    """How far a file was read. `seen`: its size, its time and whether the command had ended, when all of it was.
    `first`: its first metric; `curve`: that has several. `points` were read, and about `unread` were not."""

    def __init__(self, state: Dict[str, Any], **saved: Any) -> None:
        self.state, self.offset, self.points, self.unread = state, 0, 0, 0
        self.seen: Sequence[int] = ()
        self.given_up, self.first, self.curve = False, "", False
        self.__dict__.update(saved)


def _out_of_time(*_: object) -> None:
    raise TimeoutError("it takes too long to read")
