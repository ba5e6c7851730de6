"""Logs that were followed to their ends are kept here, for when their machine can't be reached.

    home/logs/KEY.log    byte for byte; the oldest are deleted once all together take more than the setting allows

A log that can't be kept is only that: on a full disk, following it goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import BinaryIO

ABANDONED = 86400.0
"""Seconds after which a log on its way here is deleted: its client was killed."""


class KeptLogs:
    """The logs in a home; `limit` is how many bytes they may take together."""

    def __init__(self, home: Path, limit: int) -> None:
        self._folder = home / "logs"
        self._limit = limit

    def find(self, key: str) -> Path | None:
        """The whole log of a run, if it is kept."""
        file = self._folder / f"{key}.log"
        return file if file.is_file() else None

    def writer(self, key: str) -> LogWriter:
        """For a log that comes from its first byte on."""
        return LogWriter(self, self._folder, f"{key}.log", self._limit)

    def remove(self, key: str) -> None:
        """Delete the log of a run, if it is kept."""
        with contextlib.suppress(OSError):
            (self._folder / f"{key}.log").unlink()

    def drop_oldest(self) -> None:
        """Delete logs until the rest is within the limit, and what clients left that were killed."""
        with contextlib.suppress(OSError):
            entries = [(entry, entry.stat(follow_symlinks=False)) for entry in os.scandir(self._folder)]
            for entry, status in entries:
                if entry.name.startswith(".") and status.st_mtime < time.time() - ABANDONED:
                    os.unlink(entry.path)
            logs = [
                (status.st_mtime_ns, status.st_size, entry.path) for entry, status in entries if entry.name[0] != "."
            ]
            total = 0
            for _, size, path in sorted(logs, reverse=True):
                total += size
                if total > self._limit:
                    os.unlink(path)


class LogWriter:
    """A log on its way here, under a temporary name. A context manager: what was not finished is deleted."""

    def __init__(self, logs: KeptLogs, folder: Path, name: str, limit: int) -> None:
        self._logs = logs
        self._target = folder / name
        self._temporary = folder / f".{name}.{secrets.token_hex(4)}"
        self._limit = limit
        self._size = 0
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - closed on the way out

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def add(self, offset: int, data: bytes) -> None:
        """The next bytes of the log. A gap, a log over the limit or a full disk ends the keeping of it."""
        if self._file is None:
            return
        self._size += len(data)
        try:
            if offset != self._size - len(data) or self._size > self._limit:
                raise OSError
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            self._give_up()

    def finish(self) -> None:
        """The log is whole, and is kept."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()
            os.replace(self._temporary, self._target)
            self._logs.drop_oldest()
        self._give_up()

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


def content(file: Path, tail: int | None) -> bytes:
    """A kept log, or its last lines. Raises `OSError`."""
    data = file.read_bytes()
    if tail is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-tail:]) if tail else b""
