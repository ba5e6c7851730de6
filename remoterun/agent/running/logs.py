"""The log of a run, and its stderr apart, from a byte on, with the times of the lines."""

from __future__ import annotations

import bisect
import contextlib
import os
from typing import Iterator, List, Optional, Tuple

from ..shared.files import open_regular, size_of, tail_start
from ..shared.frames import PIECE
from ..shared.records import Record
from ..store.run_folder import RunFolder


class LogPiece(Record):
    """Bytes of the log from `offset` on, and when they were written (seconds since 1970; None if unknown)."""

    offset: int
    data: bytes
    time: Optional[float]


class LogReader:
    """Reads on from where it stopped. A log only grows; reading past its end gives nothing. `name` as for
    `RunFolder.written`, here and below."""

    def __init__(self, run: RunFolder, offset: int, timed: bool, name: str = "log") -> None:
        self.name = name
        self._file, self._times_file = run.written(name)
        self.offset = offset
        self._timed = timed
        self._times: List[Tuple[int, float]] = []
        self._times_end = 0
        """Bytes of the file of times that were read."""

    def pieces(self, ended: bool = False) -> Iterator[LogPiece]:
        """All that is there now, in pieces of at most `PIECE` bytes; with times, no piece spans two of them, and what
        has no time yet waits for it, unless the run has `ended`."""
        try:
            file = open(open_regular(self._file), "rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self.offset)
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
        at = bisect.bisect_right(self._times, (self.offset, float("inf")))
        if at == len(self._times):
            self._times, self._times_end = _times(self._times_file, self._times_end)
            at = bisect.bisect_right(self._times, (self.offset, float("inf")))
        if at == len(self._times):
            return PIECE, None
        size, time = self._times[at]
        return size - self.offset, time


def read_times(run: RunFolder, name: str = "log") -> List[Tuple[int, float]]:
    """(size of the log, when it was seen to have it), growing."""
    return _times(run.written(name)[1], 0)[0]


def _times(times_file: str, start: int) -> Tuple[List[Tuple[int, float]], int]:
    """Those that stand from byte `start` of the file on, and where the next one will stand."""
    found = []
    with contextlib.suppress(FileNotFoundError), open(times_file, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break  # half a line: it is being written
            start += len(line)
            with contextlib.suppress(ValueError):  # of a crash, or a full disk
                size, time = line.split()
                found.append((int(size), float(time)))
    return found, start


def offset_of_tail(run: RunFolder, lines: int, name: str = "log") -> int:
    """Where the last `lines` lines begin; a last line without an end counts."""
    with contextlib.suppress(FileNotFoundError), open(open_regular(run.written(name)[0]), "rb") as file:
        at = file.fileno()
        return tail_start(os.fstat(at).st_size, lines, lambda start, end: (start, os.pread(at, end - start, start)))
    return 0


def offset_since(run: RunFolder, time: float, name: str = "log") -> int:
    """Where the first line that was written at `time` or later begins (to the poll's precision, 0.25 s)."""
    before = 0
    for size, when in read_times(run, name):
        if when >= time:
            return before
        before = size
    return size_of(run.written(name)[0])


def last_lines(path: str, lines: int) -> str:
    """The last lines of a file as text; "" when it isn't there."""
    try:
        with open(open_regular(path), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
