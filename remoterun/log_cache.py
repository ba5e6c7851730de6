"""Logs are kept here: those that were followed to their ends, for when their machine can't be reached, and copies of
runs whose hosts are gone (copied_runs.py).

    home/logs/KEY.log    byte for byte; the oldest are deleted once all together take more than the setting allows
             KEY.err     stderr of the same run, where it is apart; it is there before the former, and goes after it
             KEY.VERSION/  a copy out of the archive
    home/logs.lock       held by who reads copies, shared, and by who deletes the oldest logs

A log that can't be kept is only that: on a full disk, following it goes on.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from remoterun.agent.shared.files import append_whole, locked, own_bytes, remove_tree, unless_held
from remoterun.agent.shared.logs import NAMES, LogFile

ABANDONED = 86400.0
"""Seconds after which a log on its way here is deleted: its client was killed."""


class LogCache:
    """The logs in a home; `limit` is how many bytes they may take together."""

    def __init__(self, home: Path, limit: int) -> None:
        self.folder = home / "logs"
        self.limit = limit
        self._lock = str(home / "logs.lock")

    def has(self, key: str) -> bool:
        """Whether the whole log of a run is kept."""
        return os.path.isfile(self.log_file(key).path)

    def log_file(self, key: str, name: str = "log") -> LogFile:
        """Of a run whose log is kept, or of its "err", which need not be there."""
        return LogFile(str(self.folder / f"{key}.{'err' if name == 'err' else 'log'}"), "")

    def reading(self) -> AbstractContextManager[object]:
        """No copy is deleted meanwhile, unless its run is removed."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return locked(self._lock, shared=True)

    def remove(self, key: str) -> None:
        """Delete the log of a run, and copies of it, if they are kept."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.glob(f"{key}.*"), reverse=True):
                remove_tree(str(path))

    def drop_oldest(self, spared: str = "") -> None:
        """Delete logs until the rest is within the limit, but that of the run `spared`; and what clients left that
        were killed. Does nothing while somebody reads a copy."""
        with contextlib.suppress(OSError), unless_held(self._lock) as lock:
            if lock is None:
                return
            logs: dict[str, tuple[int, int]] = {}
            for path in list(self.folder.iterdir()):
                key = path.name.partition(".")[0]
                with contextlib.suppress(FileNotFoundError):  # of a log on its way here, by now
                    modified = path.lstat().st_mtime_ns
                    if key:
                        newest, size = logs.get(key, (0, 0))
                        logs[key] = (max(newest, modified), size + own_bytes(str(path)))
                    elif _written(path) < time.time() - ABANDONED:
                        remove_tree(str(path))
            total = 0
            for key, (_, size) in sorted(logs.items(), key=lambda log: log[1], reverse=True):
                total += size
                if total > self.limit and key != spared:
                    self.remove(key)


def _written(path: Path) -> float:
    """When something was written there last: a folder is as old as its newest file."""
    return max(each.lstat().st_mtime for each in (path, *path.glob("*")))


class LogWriter:
    """A log on its way here, from its first byte on, in a folder of its own. A context manager: what was not finished
    is deleted."""

    def __init__(self, logs: LogCache, key: str) -> None:
        self._logs, self._key = logs, key
        self._sizes = dict.fromkeys(NAMES, 0)
        self._folder = ""
        """Empty where the log is not kept."""
        with contextlib.suppress(OSError):
            logs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = tempfile.mkdtemp(prefix=".", dir=logs.folder)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def add(self, offset: int, data: bytes, stderr: bool = False) -> None:
        """The next bytes of the log. A gap, a log over the limit or a full disk ends the keeping of it."""
        if not self._folder:
            return
        name = NAMES[stderr]
        try:
            if offset != self._sizes[name] or sum(self._sizes.values()) + len(data) > self._logs.limit:
                raise OSError
            append_whole(f"{self._folder}/{name}", data)
            self._sizes[name] += len(data)
        except OSError:
            self._give_up()

    def finish(self) -> None:
        """The log is whole, and is kept."""
        if self._folder:
            with contextlib.suppress(OSError):
                append_whole(f"{self._folder}/log", b"")
                for name in sorted(os.listdir(self._folder)):
                    os.replace(f"{self._folder}/{name}", self._logs.log_file(self._key, name).path)
                self._logs.drop_oldest()
        self._give_up()

    def _give_up(self) -> None:
        if self._folder:
            with contextlib.suppress(OSError):
                remove_tree(self._folder)
        self._folder = ""
