"""What this client knows of runs, for pages: brought up to date as long as one is open.

A machine that does not answer holds up nothing else: each is asked on a thread of its own, one question at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from remoterun.errors import NoAnswerInTime, RemoterunError
from remoterun.model import MachineType, Run
from remoterun.ui.answers import encoded
from remoterun.ui.rows import row

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.client.metrics import Curves

EVERY, SLOW = 1.0, 5.0
"""Seconds between two questions, and after which a machine counts as not reached."""
MOST_CURVES = 12
"""Runs whose points are held."""


class Hub:
    """Any thread may call any method."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.version = int(time.time() * 1000)
        """Grows with each change, and from one server to the next."""
        self._closed = client.connections.event()
        self._lock = threading.RLock()
        self._runs: dict[int, Run] = {}
        self._rows: dict[int, tuple[int, bytes]] = {}
        self._gone: dict[int, int] = {}
        """The versions of rows, and from which on a run is gone."""
        self._registry_read: int | None = None
        self._asked: dict[MachineType, float] = {}
        self._curves: dict[int, tuple[Curves, threading.Lock]] = {}
        self._pages: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._at_work = False

    def rows(self, limit: int) -> tuple[list[bytes], int, bool]:
        """(the newest rows, newest first, each as JSON; their version; whether there are more). No machine is asked."""
        with self._lock:
            self._read_registry()
            numbers = sorted(self._rows, reverse=True)
            return [self._rows[number][1] for number in numbers[:limit]], self.version, len(numbers) > limit

    def changes(self, since: int) -> tuple[list[bytes], list[int], int]:
        """(rows that are newer than a version, numbers of runs that are gone since, the version now)."""
        with self._lock:
            found = [data for version, data in self._rows.values() if version > since]
            return found, [number for number, version in self._gone.items() if version > since], self.version

    def heard(self, run: Run) -> bytes:
        """Show a run as it is recorded now, and what its machine says besides; its row."""
        known = self.client.registry.run(run.number)
        return self._put(replace(known, fault=run.fault, line=run.line))

    def curves(self, number: int, update: bool = True) -> Curves:
        """The points of a run; with `update`, or where none are known, those that are new are fetched. Raises
        `RemoterunError`."""
        with self._lock:
            known = self._curves.pop(number, None)
            curves, turn = known or (self.client.runs.metrics(number), threading.Lock())
            self._curves[number] = curves, turn  # the last one used is the last to go
            while len(self._curves) > MOST_CURVES:
                del self._curves[next(iter(self._curves))]
        if update or known is None:
            with turn:
                curves.update()
        return curves

    @contextlib.contextmanager
    def watched(self, news: asyncio.Event) -> Iterator[None]:
        """Ask all machines again and again; `news` is set when something has changed. To be used in an event loop."""
        with self._lock:
            self._pages[news] = asyncio.get_running_loop()
            if not self._at_work:
                self._at_work = True
                threading.Thread(target=self._work, name="remoterun page", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                del self._pages[news]

    def _put(self, run: Run) -> bytes:
        data = encoded(row(run, time.time()))
        with self._lock:
            self._runs[run.number] = run
            if self._rows.get(run.number, (0, b""))[1] != data:
                self._rows[run.number] = self._next(), data
        return data

    def _next(self) -> int:
        self.version += 1
        for news, loop in self._pages.items():
            with contextlib.suppress(RuntimeError):  # it is being closed
                loop.call_soon_threadsafe(news.set)
        return self.version

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                if not self._pages:
                    self._at_work = False
                    return
            with contextlib.suppress(RemoterunError):  # such as a disk that is full: the next time
                moving: dict[MachineType, list[Run]] = {}
                with self._lock:
                    self._read_registry()
                    for run in self._runs.values():
                        if not run.final:
                            moving.setdefault(run.host, []).append(run)
                for machine, runs in moving.items():
                    self._ask(machine, runs)
            self._closed.wait(EVERY)

    def _read_registry(self) -> None:
        """What another process has changed; what this one learns is shown as it comes."""
        version = self.client.registry.changes_of_others()
        if version == self._registry_read:
            return
        runs = self.client.registry.runs()
        self._registry_read = version
        for number in self._runs.keys() - {run.number for run in runs}:
            del self._runs[number], self._rows[number]
            self._gone[number] = self._next()
        for run in runs:
            before = self._runs.get(run.number)
            if before is None or run.final:
                self._put(run)
            elif before != run:
                self._put(replace(run, fault=before.fault, line=before.line))

    def _ask(self, machine: MachineType, runs: list[Run]) -> None:
        since = self._asked.get(machine)
        if since is not None:
            if time.monotonic() - since > SLOW:
                for run in runs:
                    self._put(replace(run, fault=run.fault or NoAnswerInTime(f"{machine.name} does not answer")))
            return

        def ask() -> None:
            try:
                with contextlib.suppress(RemoterunError):
                    for run in self.client.runs.again([self.client.registry.run(run.number) for run in runs]):
                        self.heard(run)
            finally:
                del self._asked[machine]

        self._asked[machine] = time.monotonic()
        threading.Thread(target=ask, name="remoterun page", daemon=True).start()
