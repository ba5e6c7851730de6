"""Where contents go out to a host: over the open connection, and over others where that pays.

One thread sends over the open connection, in the order in which it is told. Packs and parts of large files may go over
any connection instead: see lanes.py.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.compression import CompressingStream
from remoterun.agent.shared.packs import Pace
from remoterun.agent.shared.protocol import Stream
from remoterun.session import Session
from remoterun.transfer.codecs import best
from remoterun.transfer.lanes import FAR, Lanes, lanes_for
from remoterun.transfer.progress import Progress

UNDER_WAY = 16 << 20
"""Bytes that are read and not sent yet, at most; as many again wait for the other connections."""
STOP_SECONDS = 5.0
"""After an error, how long the thread that sends is waited for: a link that stands still may hold it."""


class OtherThreadFailed(Exception):
    """Another thread has failed. `Outbox` raises its error instead."""


@dataclass(slots=True)
class Task:
    """Frames that belong together and may go over any connection: a pack, or a part of a large file."""

    frames: list[tuple[bytes, dict[str, Any]]]
    size: int
    blobs: int


class Outbox:
    """A context manager: when it is left without an error, all has been sent and the host has taken it. An error of any
    of its threads is raised there."""

    def __init__(self, session: Session, progress: Progress, size: int) -> None:
        """`size`: bytes that may have to be sent, as far as it is known."""
        self.session = session
        self.pace = Pace()
        """Of large files, on the thread that sends."""
        self.blobs = self.moved = self.already = 0
        """What was sent: blobs and bytes; and bytes that were there already."""
        self._progress = progress
        self._size = size
        self._counting = threading.Lock()
        self._budget = ByteBudget(UNDER_WAY)
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="remoterun sends", daemon=True)
        self._stack = ExitStack()
        self._opening = threading.Lock()
        self._tasks: Tasks | None = None
        self._lanes: Lanes | None = None

    def __enter__(self) -> Outbox:
        self._putting = self._stack.enter_context(self.session.stream(api.put, Nothing()))
        self._compressing = self.compressing(self._putting)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OtherThreadFailed):
            error = self._cause() or error
        if error is None:
            self._jobs.put(None)
            while self._thread.is_alive():
                self._thread.join(0.2)  # so that ^C is heard
            if self._tasks is not None and self._lanes is not None:
                self._tasks.close()
                self._lanes.join()
            error = self._cause()
        else:
            self._putting.cancel()
            self._jobs.put(None)
            if self._tasks is not None and self._lanes is not None:
                self._tasks.close()
                self._lanes.close()
            self._thread.join(STOP_SECONDS)
        if error is None:
            self._stack.close()
        elif not self._stack.__exit__(type(error), error, error.__traceback__):  # turns it into one of ours
            raise error

    def later(self, job: Callable[[], None], size: int) -> None:
        """Have the thread that sends do `job`, which holds `size` bytes until then. Blocks while too many are held."""
        while not self._budget.take(size, 0.2):
            self.raise_failure()
        self.raise_failure()
        self._jobs.put((job, size))

    def share(self, task: Task) -> None:
        """Give something to whichever connection is free. Blocks while too much waits for them."""
        self.open_lanes()
        assert self._tasks is not None
        while not self._tasks.put(task, 0.2):
            self.raise_failure_of_lanes()

    def open_lanes(self) -> None:
        """Open the other connections, if they are not open yet. Does not wait for them."""
        with self._opening:
            if self._tasks is None:
                self._tasks = Tasks()
                self._lanes = Lanes(self.session, lanes_for(self.session, self._size))
                self._lanes.start(self._work)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise OtherThreadFailed

    def raise_failure_of_lanes(self) -> None:
        if self._lanes is not None and self._lanes.failure:
            raise OtherThreadFailed from None

    def is_far(self, size: int) -> bool:
        """Whether several connections pay for so many bytes."""
        return lanes_for(self.session, size) > 1

    def count(self, moved: int, blobs: int, there: int = 0) -> None:
        with self._counting:
            self.moved += moved
            self.blobs += blobs
            self.already += there
            self._progress.add(moved + there, blobs, there)

    def count_there(self, files: int, size: int) -> None:
        """Files that the host has already."""
        with self._counting:
            self.already += size
            self._progress.add(size, files, size)

    def compressing(self, stream: Stream) -> CompressingStream:
        return CompressingStream(stream, self.session.round_trip, lambda: best(self.session.codecs()))

    # -- on the thread that sends

    def send(self, data: bytes, header: dict[str, Any]) -> None:
        """One frame over the open connection."""
        self._compressing.send(data, header)

    def send_blob(self, digest: str, size: int, offset: int, parts: Iterable[bytes], key: str = "") -> None:
        """A blob whose digest is known, in frames; its first `offset` bytes are there, under the name `key`."""
        header: dict[str, Any] = {"d": digest, "s": size, "o": offset, "k": key}
        self.count(0, 0, there=offset)
        for part in parts:
            self.send(part, header)
            header = {}
            self.count(len(part), 0)
        if header:
            self._putting.send(b"", **header)
        self.count(0, 1)

    def _run(self) -> None:
        try:
            if self.session.round_trip > FAR:
                self.session.codecs()  # asks
            while (given := self._jobs.get()) is not None:
                job, size = given
                job()
                self._budget.give(size)
            if self._failure is None:
                self._putting.end()
                self._putting.finish()
        except BaseException as error:  # noqa: BLE001 - raised where the context is left
            self._failure = error

    def _cause(self) -> BaseException | None:
        of_lanes = self._lanes.failure if self._lanes is not None else None
        return of_lanes if isinstance(self._failure, OtherThreadFailed) else self._failure or of_lanes

    def _work(self, session: Session) -> None:
        """What each of the connections does."""
        assert self._tasks is not None
        with session.stream(api.put, Nothing()) as stream:
            compressing = self.compressing(stream)
            while (task := self._tasks.get()) is not None:
                for data, header in task.frames:
                    compressing.send(data, header)
                self.count(task.size, task.blobs)
            stream.end()
            stream.finish()


class Tasks:
    """What waits for the connections, at most `UNDER_WAY` bytes of it."""

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        self._budget = ByteBudget(UNDER_WAY)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, task: Task, timeout: float) -> bool:
        """Whether there was room within `timeout` seconds."""
        if not self._budget.take(task.size, timeout):
            return False
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()
        return True

    def get(self) -> Task | None:
        """Blocks until there is one; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            task = self._waiting.popleft() if self._waiting else None
        if task is not None:
            self._budget.give(task.size)
        return task

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class ByteBudget:
    """So many bytes may be held at once; one taker alone may hold more."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    def take(self, size: int, timeout: float) -> bool:
        """Whether they were free within `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= min(size, self._size), timeout):
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()
