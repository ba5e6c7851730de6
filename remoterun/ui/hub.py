"""What this client knows of runs, for pages: brought up to date as long as one is open."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from remoterun.client import Client
from remoterun.client.data.metrics import Curves
from remoterun.errors import HostError
from remoterun.model import MachineType, Run
from remoterun.ui.answers import encoded
from remoterun.ui.rows import row

EVERY, WAIT, LATER = 1.0, 3.0, 10.0
"""Seconds between two questions to the machines; in which they answer, also with a training on all of their processors;
and until one is asked again that did not."""
MOST_CURVES = 12
"""Runs whose points are held."""


class Hub:
    """Any thread may call any method."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.version = int(time.time() * 1000)
        """Grows with each change, and from one server to the next."""
        self._closed = client.connections.event()
        self._changed = threading.Condition()
        self._waiting = 0
        self._runs: dict[int, Run] = {}
        self._rows: dict[int, tuple[int, bytes | None]] = {}
        """With the version from which on each is as it is; None for a run that is gone."""
        self._registry_read: tuple[int, ...] = ()
        self._points = lru_cache(MOST_CURVES)(lambda number: (client.runs.metrics(number), threading.Lock()))
        threading.Thread(target=self._work, name="remoterun page", daemon=True).start()

    def rows(self, limit: int) -> tuple[list[bytes], int, bool]:
        """(the newest rows, newest first, each as JSON; their version; whether there are more). No machine is asked."""
        with self._changed:
            self._read_registry()
            found = [data for _, (_, data) in sorted(self._rows.items(), reverse=True) if data is not None]
            return found[:limit], self.version, len(found) > limit

    def changes(self, since: int, patience: float) -> tuple[list[bytes], list[int], int]:
        """(rows that are newer than a version, numbers of runs that are gone since, the version now); so many seconds
        are waited for any. All machines are asked again and again as long as somebody waits."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self.version != since, patience)
            self._waiting -= 1
            found = {number: data for number, (version, data) in self._rows.items() if version > since}
            gone = [number for number, data in found.items() if data is None]
            return [data for data in found.values() if data is not None], gone, self.version

    def heard(self, run: Run) -> dict[str, Any]:
        """Show a run as it is recorded now, and what its machine says besides. Its row."""
        return self._put(self.client.runs.known(run.number)._replace(fault=run.fault, line=run.line))

    def gone(self, numbers: Iterable[int]) -> None:
        """Show these runs no more."""
        with self._changed:
            for number in numbers:
                self._runs.pop(number, None)
                self._rows[number] = self._next(), None

    def curves(self, number: int, new: bool = True) -> Curves:
        """The points of a run: as they are now, or as they were last if those will do. Raises `RemoterunError`."""
        curves, turn = self._points(number)
        if new or not curves.metrics:
            with turn:
                curves.update()
        return curves

    def _put(self, run: Run) -> dict[str, Any]:
        shown = row(run, time.time())
        data = encoded(shown)
        with self._changed:
            self._runs[run.number] = run
            if self._rows.get(run.number, (0, None))[1] != data:
                self._rows[run.number] = self._next(), data
        return shown

    def _next(self) -> int:
        self.version += 1
        self._changed.notify_all()
        return self.version

    def _work(self) -> None:
        silent: dict[MachineType, float] = {}
        while not self._closed.wait(EVERY):
            if not self._waiting:
                continue
            now = time.monotonic()
            try:
                with self._changed:
                    self._read_registry()
                    moving = [run for run in self._runs.values() if not run.final and silent.get(run.host, 0) < now]
                for run in self.client.runs.again(moving, WAIT):
                    if run.fault is not None:
                        silent[run.host] = now + LATER
                    self.heard(run)
            except Exception as error:  # noqa: BLE001 - such as a disk that is full: it is shown, and tried again
                with contextlib.suppress(Exception):
                    for run in [run for run in self._runs.values() if not run.final]:
                        self._put(run._replace(fault=HostError(f"this page can't ask for its runs: {error}")))

    def _read_registry(self) -> None:
        """What another process has changed; what this one learns is shown as it comes."""
        version = self.client.runs.changes_of_others()
        if version == self._registry_read:
            return
        runs = {run.number: run for run in self.client.runs.all_known()}
        self._registry_read = version
        self.gone(self._runs.keys() - runs.keys())
        for number, run in runs.items():
            before = self._runs.get(number)
            if before != run:
                self._put(run if before is None or run.final else run._replace(fault=before.fault, line=before.line))
