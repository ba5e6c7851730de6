"""What pages show, brought up to date as long as one does: rows of runs, and the runs that are looked at.

A machine that does not answer holds up nothing else: each is asked on a thread of its own, one question at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.records import to_json
from remoterun.client.following import Following, Item, LogBytes, Note, Wanted
from remoterun.errors import NoAnswerInTime, RemoterunError
from remoterun.model import MachineType, Run
from remoterun.ui.answers import encoded
from remoterun.ui.rows import row

if TYPE_CHECKING:
    from remoterun.client import Client

EVERY, SLOW, LINGER = 1.0, 5.0, 5.0
"""Seconds between two questions; after which a machine counts as not reached; for which a run is followed after the
last page that showed it has gone: a page may be polling."""
MOST_LOG = 1 << 20
"""Bytes of a log that are held; what a page lacks from before is read again."""
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
        self._registry_read: int | None = None
        self._shown: dict[int, Shown] = {}
        self._busy: dict[object, float] = {}
        self._pages: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._left = 0.0
        self._at_work = False

    def rows(self, limit: int) -> tuple[list[bytes], int, bool]:
        """(the newest rows, newest first, each as JSON; their version; whether there are more)."""
        with self._lock:
            self._read_registry()
            numbers = sorted(self._rows, reverse=True)
            return [self._rows[number][1] for number in numbers[:limit]], self.version, len(numbers) > limit

    def changes(self, since: int) -> tuple[list[bytes], list[int], int]:
        """(rows that are newer than a version, numbers of runs that are gone since, the version now)."""
        with self._lock:
            found = [data for version, data in self._rows.values() if version > since]
            return found, [number for number, version in self._gone.items() if version > since], self.version

    def row(self, number: int) -> str:
        with self._lock:
            return self._rows[number][1].decode()

    def put(self, run: Run) -> bytes:
        """Show a run as it is known now; its row."""
        data = encoded(row(run, time.time()))
        with self._lock:
            self._runs[run.number] = run
            if self._rows.get(run.number, (0, b""))[1] != data:
                self.version += 1
                self._rows[run.number] = self.version, data
                self.wake()
        return data

    def heard(self, run: Run) -> bytes:
        """Show a run as its machine says it is; what a person says of it may be newer here."""
        ours = self.client.registry.run(run.number)
        return self.put(
            replace(run, **{name: getattr(ours, name) for name in ("labels", "pinned", "hidden", "remark")})
        )

    @contextlib.contextmanager
    def page(self, number: int | None, log: int | None) -> Iterator[tuple[asyncio.Event, Shown | None]]:
        """Keep everything up to date for a page that shows a run, whose log it has up to a byte (None: to its end); the
        event is set when there is something new. To be used in an event loop."""
        event, shown = asyncio.Event(), None
        with self._lock:
            self._pages[event] = asyncio.get_running_loop()
            if number is not None:
                shown = self._shown.get(number)
                if shown is None:
                    shown = self._shown[number] = Shown(self, number, log)
                shown.pages += 1
            if not self._at_work:
                self._at_work = True
                threading.Thread(target=self._work, name="remoterun page", daemon=True).start()
        try:
            yield event, shown
        finally:
            with self._lock:
                del self._pages[event]
                self._left = time.monotonic()
                if shown is not None:
                    shown.pages -= 1
                    shown.left = self._left

    def wake(self) -> None:
        with self._lock:
            for event, loop in self._pages.items():
                with contextlib.suppress(RuntimeError):  # it is being closed
                    loop.call_soon_threadsafe(event.set)

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                idle = time.monotonic() - LINGER
                for number, shown in [*self._shown.items()]:
                    if not shown.pages and shown.left < idle:
                        self._shown.pop(number).close()
                if not self._pages and self._left < idle:
                    self._at_work = False
                    return
            with contextlib.suppress(RemoterunError):  # such as a disk that is full: the next time
                with self._lock:
                    self._read_registry()
                self._ask()
            self._closed.wait(EVERY)

    def _read_registry(self) -> None:
        """What another program has changed; what this one learns is shown as it comes."""
        version = self.client.registry.changes_of_others()
        if version == self._registry_read:
            return
        self._registry_read = version
        runs = self.client.registry.runs()
        for number in self._runs.keys() - {run.number for run in runs}:
            self.version += 1
            self._gone[number] = self.version
            del self._runs[number], self._rows[number]
        for run in runs:
            before = self._runs.get(run.number)
            if before != run:
                going_on = None if run.final else before
                self.put(run if going_on is None else replace(run, fault=going_on.fault, line=going_on.line))
        self.wake()

    def _ask(self) -> None:
        moving: dict[MachineType, list[int]] = {}
        with self._lock:
            for run in self._runs.values():
                if not run.final:
                    moving.setdefault(run.host, []).append(run.number)
        for machine, numbers in moving.items():

            def ask(numbers: list[int] = numbers) -> None:
                for run in self.client.runs.again([self.client.registry.run(number) for number in numbers]):
                    self.heard(run)

            def late(machine: MachineType = machine, numbers: list[int] = numbers) -> None:
                for number in numbers:
                    run = self._runs[number]
                    self.put(replace(run, fault=run.fault or NoAnswerInTime(f"{machine.name} does not answer")))

            self._start(machine, ask, late)

    def _start(self, key: object, work: Callable[[], None], late: Callable[[], None] = lambda: None) -> None:
        """Do it on a thread of its own, unless it is still at work on the last time."""
        begun = self._busy.get(key)
        if begun is not None:
            if time.monotonic() - begun > SLOW:
                late()
            return

        def run() -> None:
            try:
                with contextlib.suppress(RemoterunError):
                    work()
            finally:
                del self._busy[key]

        self._busy[key] = time.monotonic()
        threading.Thread(target=run, name="remoterun page", daemon=True).start()


class Shown:
    """A run that pages show: the end of its log, and what happens to it, as they come."""

    def __init__(self, hub: Hub, number: int, log: int | None) -> None:
        self.pages, self.left = 0, 0.0
        self.number = number
        self.log = bytearray()
        self.start = log
        """The byte at which `log` starts; None until that is known."""
        self.events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=100)
        """With the version from which each is known."""
        self.lost: str | None = None
        self.points: tuple[int, int, int] | None = None
        """Bytes of the metrics and of the use that were fetched, and names."""
        self.measured = False
        self._hub = hub
        self._closed = hub.client.connections.event()
        self._following: Following | None = None
        threading.Thread(target=self._follow, name="remoterun page", daemon=True).start()

    @property
    def end(self) -> int | None:
        return None if self.start is None else self.start + len(self.log)

    def close(self) -> None:
        self._closed.set()
        if self._following is not None:
            self._following.close()

    def part(self, start: int, size: int) -> bytes | None:
        """Bytes of the log; None where they are held no more."""
        with self._hub._lock:
            at = start - (self.start or 0)
            return bytes(self.log[at : at + size]) if at >= 0 else None

    def _follow(self) -> None:
        runs = self._hub.client.runs
        final = False
        while not (final or self._closed.is_set()):
            try:
                if self.start is None:
                    self.start = runs.log_part(self.number, 0, 0)[1]
                self._following = runs.follow(self.number, Wanted(offset=self.end or 0))
                for item in self._following:
                    self._take(item)
                    if self._closed.is_set():
                        return
                final = self._hub.client.registry.run(self.number).final
            except RemoterunError as error:
                self._tell("lost", error.message)
            self._closed.wait(EVERY)

    def _take(self, item: Item) -> None:
        if self.lost is not None and not isinstance(item, Note):
            self._tell("back", "")
        if isinstance(item, LogBytes):
            if not item.stderr:
                with self._hub._lock:
                    self.log += item.data
                    excess = len(self.log) - MOST_LOG
                    if excess > 0:
                        del self.log[:excess]
                        self.start = (self.start or 0) + excess
                self._hub.wake()
        elif isinstance(item, Note):
            self._tell(item.kind, item.text)
        elif item.run.number != self.number:  # it was moved, and goes on as another one
            self._closed.set()
        elif not item.past:
            self._hub.heard(item.run)
            self._add({name: value for name, value in to_json(item.event).items() if value is not None})

    def _tell(self, kind: str, text: str) -> None:
        if kind in ("lost", "back"):
            self.lost = text if kind == "lost" else None
            self._hub.wake()
        elif kind != "line":  # that is in the row
            self._add({"t": time.time(), kind: text})

    def _add(self, event: dict[str, Any]) -> None:
        with self._hub._lock:
            self._hub.version += 1
            self.events.append((self._hub.version, event))
            self._hub.wake()
