"""A queue of tasks that several threads do, over one connection to a host or over several.

One connection carries at most SSH's window of 2 MB a round trip: 25 MB/s at 80 ms, whatever the link could do. So far
hosts get several, each with an agent of its own; the first is the open session itself. One that can't be opened is done
without.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from remoterun.errors import RemoterunError
from remoterun.session import Session

FAR, FARTHER = 0.010, 0.040
"""Seconds of a round trip from which on two connections, or five, pay."""
WORTH = 16 << 20
"""Bytes for which it pays to open them, and to ask whether they fit on the disk there."""
THREADS = 3
"""That work on each connection, so that something is under way while one waits for an answer."""
MOST_HELD = 16 << 20
"""Bytes that tasks hold, at most."""
STOP_SECONDS = 5.0
"""After an error, how long tasks are waited for: a link that stands still may hold them."""

Task = Callable[[Session], None]


def lanes_for(session: Session, size: int) -> int:
    """How many connections to use for so many bytes."""
    if size < WORTH or session.round_trip < FAR:
        return 1
    return 5 if session.round_trip >= FARTHER else 2


class Lanes:
    """A context manager: when it is left without an error, all tasks are done. What the first failing task raised is
    raised by `put`, or there; then no other task is begun.

    A task is called with the session of its lane. It may put more tasks, which are done before those that wait.
    """

    def __init__(self, session: Session, size: int) -> None:
        """`size`: bytes that may have to be moved, as far as it is known."""
        self._session = session
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Task, int]] = deque()
        self._held = self._working = 0
        self._ended = self._closed = False
        self._failure: BaseException | None = None
        self._others: list[Session] = []
        self._count = 0
        self.add_connections(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._end()
        finally:
            self.close()
        if error is None and self._failure is not None:
            raise self._failure

    def add_connections(self, size: int) -> None:
        """Open as many connections as pay for so many bytes. Does not wait for them."""
        with self._changed:
            new = range(self._count, lanes_for(self._session, size))
            self._count += len(new)
        for number in new:
            self._start(self._open, number)

    def put(self, task: Task, size: int) -> None:
        """Have a task done that holds so many bytes. Blocks while too many are held. Raises what a task raised."""
        with self._changed:
            while self._held >= MOST_HELD and self._failure is None:
                self._changed.wait(0.2)  # so that ^C is heard
            if self._failure is not None:
                raise self._failure
            self._waiting.append((task, size))
            self._held += size
            self._changed.notify_all()

    def put_next(self, task: Task) -> None:
        """Have a task done before those that wait, as a part of the one that calls this. Does not block."""
        with self._changed:
            self._waiting.appendleft((task, 0))
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no other task, and close the connections that were opened for them. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            others = list(self._others)
        for session in others:
            session.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._working, STOP_SECONDS)

    def _end(self) -> None:
        """Blocks until all tasks are done, or one has failed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            while self._failure is None and (self._waiting or self._working):
                self._changed.wait(0.2)  # so that ^C is heard

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name="remoterun lane", daemon=True).start()

    def _open(self, number: int) -> None:
        """Open a connection, and work on it."""
        session: Session | None = self._session if number == 0 else self._another()
        if session is not None:
            for _ in range(THREADS - 1):
                self._start(self._work, session)
            self._work(session)

    def _another(self) -> Session | None:
        try:
            session = self._session.another()
        except (RemoterunError, OSError):  # sshd takes no more; the others do it
            return None
        with self._changed:
            self._others.append(session)
            closed = self._closed
        if closed:
            session.close()
        return None if closed else session

    def _work(self, session: Session) -> None:
        while (given := self._next()) is not None:
            task, size = given
            try:
                task(session)
            except BaseException as error:  # noqa: BLE001 - raised by `put`, or where the context is left
                with self._changed:
                    self._failure = self._failure or error
            with self._changed:
                self._held -= size
                self._working -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[Task, int] | None:
        """The next task; None when there will be none. Blocks."""
        with self._changed:
            while not self._closed and self._failure is None and not self._waiting:
                if self._ended and not self._working:
                    return None
                self._changed.wait()
            if self._closed or self._failure is not None:
                return None
            self._working += 1
            return self._waiting.popleft()
