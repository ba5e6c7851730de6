"""Logs that were followed to their ends are kept here, for when their machine can't be reached.

    home/logs/KEY.log    byte for byte; the oldest are deleted once all together take more than the setting allows
             KEY.err     stderr of the same run, where it is apart; it is there before the former, and goes after it

A log that can't be kept is only that: on a full disk, following it goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

ABANDONED = 86400.0
"""Seconds after which a log on its way here is deleted: its client was killed."""


class LogCache:
    """The logs in a home; `limit` is how many bytes they may take together."""

    def __init__(self, home: Path, limit: int) -> None:
        self.folder = home / "logs"
        self.limit = limit

    def find(self, key: str) -> Path | None:
        """The whole log of a run, if it is kept, to be read with `content`."""
        file = self.folder / f"{key}.log"
        return file if file.is_file() else None

    def part(self, key: str, name: str, start: int, size: int) -> tuple[int, int, bytes] | None:
        """What `Runs.log_part` returns, of a log that is kept."""
        try:
            with open(self.folder / _name(key, name == "err"), "rb") as file:
                total = file.seek(0, os.SEEK_END)
                begin = file.seek(max(start + total, 0) if start < 0 else min(start, total))
                return begin, total, file.read(max(size, 0))
        except OSError:
            return None

    def remove(self, key: str) -> None:
        """Delete the log of a run, if it is kept."""
        with contextlib.suppress(OSError):
            _delete(self.folder, key)

    def drop_oldest(self) -> None:
        """Delete logs until the rest is within the limit, and what clients left that were killed."""
        with contextlib.suppress(OSError):
            entries = [(entry, entry.stat(follow_symlinks=False)) for entry in os.scandir(self.folder)]
            for entry, status in entries:
                if entry.name.startswith(".") and status.st_mtime < time.time() - ABANDONED:
                    os.unlink(entry.path)
            logs: dict[str, tuple[int, int]] = {}
            for entry, status in entries:
                key = entry.name.partition(".")[0]
                if key:
                    newest, size = logs.get(key, (0, 0))
                    logs[key] = (max(newest, status.st_mtime_ns), size + status.st_size)
            total = 0
            for key, (_, size) in sorted(logs.items(), key=lambda log: log[1], reverse=True):
                total += size
                if total > self.limit:
                    _delete(self.folder, key)


class LogWriter:
    """A log on its way here, from its first byte on, under a temporary name. A context manager: what was not finished
    is deleted."""

    def __init__(self, logs: LogCache, key: str) -> None:
        self._logs = logs
        self._key = key
        self._mark = secrets.token_hex(4)
        self._sizes = {False: 0, True: 0}
        """Bytes of the log, and of stderr apart."""
        self._files: dict[bool, BinaryIO] = {}
        with contextlib.suppress(OSError):
            logs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(False)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def add(self, offset: int, data: bytes, stderr: bool = False) -> None:
        """The next bytes of the log. A gap, a log over the limit or a full disk ends the keeping of it."""
        if False not in self._files:
            return
        try:
            if offset != self._sizes[stderr] or sum(self._sizes.values()) + len(data) > self._logs.limit:
                raise OSError
            self._sizes[stderr] += len(data)
            if stderr not in self._files:
                self._open(stderr)
            rest = memoryview(data)
            while rest:
                rest = rest[self._files[stderr].write(rest) or 0 :]
        except OSError:
            self._give_up()

    def finish(self) -> None:
        """The log is whole, and is kept."""
        if False not in self._files:
            return
        with contextlib.suppress(OSError):
            for stderr, file in sorted(self._files.items(), reverse=True):
                file.close()
                os.replace(self._temporary(stderr), self._logs.folder / _name(self._key, stderr))
            self._logs.drop_oldest()
        self._give_up()

    def _open(self, stderr: bool) -> None:
        descriptor = os.open(self._temporary(stderr), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._files[stderr] = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - closed on the way out

    def _temporary(self, stderr: bool) -> Path:
        return self._logs.folder / f".{_name(self._key, stderr)}.{self._mark}"

    def _give_up(self) -> None:
        while self._files:
            stderr, file = self._files.popitem()
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary(stderr))


def content(file: Path, tail: int | None) -> Iterator[tuple[bytes, bool]]:
    """(what is kept of a log, or its last lines, whether that is stderr, which is apart). Raises `OSError`."""
    for stderr, path in ((False, file), (True, file.with_suffix(".err"))):
        if not stderr or path.exists():
            data = path.read_bytes()
            if tail is not None:
                data = b"".join(data.splitlines(keepends=True)[-tail:]) if tail else b""
            if data:
                yield data, stderr


def _name(key: str, stderr: bool) -> str:
    return f"{key}.{'err' if stderr else 'log'}"


def _delete(folder: Path, key: str) -> None:
    """Raises `OSError`."""
    for stderr in (False, True):
        (folder / _name(key, stderr)).unlink(missing_ok=True)
