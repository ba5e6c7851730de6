"""The log of a run, and its stderr apart, from a byte on, with the times of the lines: of a run folder on its host, and
of a copy that a client has of it."""

from __future__ import annotations

import bisect
import contextlib
import os
from typing import Iterator, List, Optional, Tuple

from .files import open_regular, size_of, tail_start
from .frames import PIECE
from .records import Record

MOST_PART, LOG_PIECE = 8 << 20, 4 << 20
"""Bytes of a log that come at once; of a piece of it in the archive, at the most."""

NAMES = ("log", "err")
"""A run's log, and its stderr where it is apart."""


class LogFile(Record):
    """The file of a log, and that of its times: lines of "size seconds", the size that it had by then. `before`: bytes
    of the log that an earlier host wrote, which are not in the file; offsets count them."""

    path: str
    times: str
    before: int = 0


class LogPiece(Record):
    """Bytes of the log from `offset` on, and when they were written (seconds since 1970; None if unknown)."""

    offset: int
    data: bytes
    time: Optional[float]


class LogReader:
    """Reads on from where it stopped. A log only grows; reading past its end gives nothing."""

    def __init__(self, log: LogFile, offset: int, timed: bool) -> None:
        self._log = log
        self.offset = max(offset, log.before)
        self._timed = timed
        self._times: List[Tuple[int, float]] = []
        self._times_end = 0
        """Bytes of the file of times that were read."""

    def pieces(self, ended: bool = False) -> Iterator[LogPiece]:
        """All that is there now, in pieces of at most `PIECE` bytes; with times, no piece spans two of them, and what
        has no time yet waits for it, unless the run has `ended`."""
        try:
            file = open(open_regular(self._log.path), "rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self.offset - self._log.before)
            while True:
                limit, time = self._stretch() if self._timed else (PIECE, None)
                if self._timed and time is None and not ended:
                    return
                data = file.read(min(limit, PIECE))
                if not data:
                    return
                start, self.offset = self.offset, self.offset + len(data)
                yield LogPiece(start, data, time)

    def _stretch(self) -> Tuple[int, Optional[float]]:
        """(bytes from here on that have one time, that time)."""
        here = self.offset - self._log.before
        at = bisect.bisect_right(self._times, (here, float("inf")))
        if at == len(self._times):
            self._times, self._times_end = times(self._log, self._times_end)
            at = bisect.bisect_right(self._times, (here, float("inf")))
        if at == len(self._times):
            return PIECE, None
        size, time = self._times[at]
        return size - here, time


def times(log: LogFile, start: int = 0) -> Tuple[List[Tuple[int, float]], int]:
    """[(size, when it had that)] that stand from byte `start` of the file of times on, and where the next stands."""
    found = []
    with contextlib.suppress(FileNotFoundError), open(log.times, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break  # half a line: it is being written
            start += len(line)
            with contextlib.suppress(ValueError):  # of a crash, or a full disk
                size, time = line.split()
                found.append((int(size), float(time)))
    return found, start


def offset_of_tail(log: LogFile, lines: int) -> int:
    """Where the last `lines` lines begin; a last line without an end counts."""
    with contextlib.suppress(FileNotFoundError), open(open_regular(log.path), "rb") as file:
        at = file.fileno()
        size = os.fstat(at).st_size
        return log.before + tail_start(size, lines, lambda start, end: os.pread(at, end - start, start))
    return log.before


def offset_since(log: LogFile, time: float) -> int:
    """Where the first line that was written at `time` or later begins (to the poll's precision, 0.25 s)."""
    written = 0
    for size, when in times(log)[0]:
        if when >= time:
            return log.before + written
        written = size
    return log.before + size_of(log.path)


def read_part(log: LogFile, start: int, size: int) -> Tuple[int, int, bytes]:
    """(where the bytes begin, how many the log has, the bytes). A `start` below 0 counts from the end; where an earlier
    host has it, what comes begins after what that wrote."""
    try:
        file = open(open_regular(log.path), "rb")
    except FileNotFoundError:
        return log.before, log.before, b""
    with file:
        total = os.fstat(file.fileno()).st_size
        begin = place_of(log, start, total)
        size = min(max(size, 0), MOST_PART, total - begin)
        return log.before + begin, log.before + total, os.pread(file.fileno(), size, begin)


def place_of(log: LogFile, start: int, total: int) -> int:
    """The byte of its file of `total` bytes at which `start` is, as for `read_part`."""
    return min(max(start + total if start < 0 else start - log.before, 0), total)


def last_lines(path: str, lines: int) -> str:
    """The last lines of a file as text; "" when it isn't there."""
    try:
        with open(open_regular(path), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
