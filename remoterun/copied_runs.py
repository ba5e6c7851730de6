"""Runs whose hosts are gone: what the archive has of them is copied once into the cache of logs, and read there by what
reads a run folder on its host.

    home/logs/KEY.VERSION/    `VERSION` is of its record: a run that went on on another host is copied anew
        log, err              the log, without what is missing of it; log.times, err.times: when its pieces were stored
        metrics.points, metrics.names, usage.points    as in a run folder
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from remoterun.agent.shared.archive import RunRecord
from remoterun.agent.shared.files import temporary_folder
from remoterun.agent.shared.follower import FollowedRun
from remoterun.agent.shared.logs import NAMES, LogFile
from remoterun.agent.shared.points import PointsFiles
from remoterun.agent.shared.records import encode, to_json
from remoterun.agent.shared.states import FINAL
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive.runs import RunPlace, log_pieces, read_log, read_points, read_record
from remoterun.errors import HostError, NotFound
from remoterun.log_cache import LogCache

ROOM = 1 << 24
"""Bytes that remain free on the disk."""


class CopiedRun(FollowedRun):
    """A run as the archive has it, with the files of its copy in a folder."""

    def __init__(self, folder: str, record: RunRecord) -> None:
        self.record = record
        self.points = PointsFiles(*(f"{folder}/{name}" for name in ("metrics.points", "usage.points", "metrics.names")))
        self._folder = folder
        self._ends = dict.fromkeys(NAMES, 0)
        """Up to where each was copied, or is missing."""

    @property
    def ended(self) -> bool:
        return self.record.status.state in FINAL

    def log_file(self, name: str) -> LogFile:
        if name not in NAMES:
            raise NotFound(f"a run has no {show(name)}")
        return LogFile(f"{self._folder}/{name}", f"{self._folder}/{name}.times")

    def events(self, skip: int = 0) -> list[dict[str, Any]]:
        events = [to_json(event) for event in self.record.events[skip:]]
        return [{name: value for name, value in event.items() if value not in (None, False)} for event in events]

    def copy_log(self, archive: Archive, place: RunPlace) -> None:
        """Copy what is new of it. A piece that is missing is waited for until the run has ended. Raises `HostError`,
        `OSError`."""
        for name, end in self._ends.items():
            pieces, log = log_pieces(archive, place, name, end), self.log_file(name)
            if sum(piece.length for piece in pieces) > shutil.disk_usage(self._folder).free - ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open(log.path, "ab") as file, open(log.times, "ab") as times:
                for piece, data in read_log(archive, pieces):
                    if not self.ended and (piece.start > self._ends[name] or len(data) < piece.length):
                        break
                    file.write(data)
                    times.write(b"%d %.3f\n" % (file.tell(), piece.written))
                    self._ends[name] = piece.start + piece.length

    def refresh(self, archive: Archive, place: RunPlace) -> None:
        """Learn what is new of a run that goes on. Raises `HostError`."""
        self.record = read_record(archive, place)
        with _room(archive, place):
            self.copy_log(archive, place)


@contextmanager
def copied(archive: Archive, place: RunPlace, cache: LogCache) -> Iterator[CopiedRun]:
    """A run with its copy, which is made where it is absent; that of a run that may go on is deleted at the end. Raises
    `NotFound`, `HostError`."""
    record = read_record(archive, place)
    saved = f"{cache.folder}/{place.key}.{hashlib.sha256(encode(record)).hexdigest()[:16]}"
    with cache.reading():
        if os.path.isdir(saved):
            yield CopiedRun(saved, record)
            return
        with temporary_folder(str(cache.folder), ".copy") as folder:
            run = CopiedRun(folder, record)
            with _room(archive, place):
                run.copy_log(archive, place)
                for name, data in read_points(archive, place):
                    with open(f"{folder}/{name}", "ab") as file:
                        file.write(data)
                if run.ended:
                    _rename(folder, saved)
                    run = CopiedRun(saved, record)
            yield run
    cache.drop_oldest(place.key)


@contextmanager
def _room(archive: Archive, place: RunPlace) -> Iterator[None]:
    """Raises `HostError` for what goes wrong on the disk of this machine."""
    try:
        yield
    except OSError as error:
        hint = "make room on the disk of this machine, and type it again" if error.errno == errno.ENOSPC else ""
        raise HostError(f"run {place.key} can't be copied from {archive.address}: {error.strerror}", hint=hint)


def _rename(folder: str, saved: str) -> None:
    """Another client may have copied the same run meanwhile."""
    try:
        os.rename(folder, saved)
    except OSError:
        if not os.path.isdir(saved):
            raise
