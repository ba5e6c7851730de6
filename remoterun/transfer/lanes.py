"""Several connections to one host. One carries at most SSH's window of 2 MB a round trip: 25 MB/s at 80 ms, whatever
the link could do.

The first lane is the open session itself; the others are opened as soon as it is known how much there is, each with an
agent of its own, and take part when they are there. One that can't be opened is done without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from remoterun.errors import RemoterunError
from remoterun.session import Session

FAR, FARTHER = 0.010, 0.040
"""Seconds there and back from which on two lanes, or five, pay."""
WORTH = 16 << 20
"""Bytes for which it pays to open them."""


def lanes_for(session: Session, size: int) -> int:
    """How many connections to use for so many bytes."""
    if size < WORTH or session.round_trip < FAR:
        return 1
    return 5 if session.round_trip >= FARTHER else 2


class Lanes:
    """Connections that are opened at once, each on a thread, and work when there is something for them to do.

    `start(work)`: `work(session)` is run on each, until all of them return. It takes its tasks from something that all
    share, and returns when there are none, or when there is a `failure`: the first that one of them raised.
    """

    def __init__(self, session: Session, count: int, each: int = 1) -> None:
        """`each`: on how many threads a lane works, so that there is something on its way while one asks for more."""
        self._session, self._each = session, each
        self._work: Callable[[Session], None] | None = None
        self._started = threading.Event()
        self.failure: BaseException | None = None
        self._opened: list[Session] = []
        self._opening = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"remoterun lane {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, work: Callable[[Session], None]) -> None:
        self._work = work
        self._started.set()

    def join(self) -> None:
        """Blocks until all lanes have ended."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.2)  # so that ^C is heard
        self.close()

    def close(self) -> None:
        """Drop the connections that were opened for this; what works on one of them fails. May be called twice."""
        with self._opening:
            self._closed = True
        self._started.set()
        for session in self._opened:
            session.close()

    def _run(self, number: int) -> None:
        try:
            if number == 0:
                self._work_on(self._session)
                return
            with self._another() as session:
                if session is not None:
                    self._work_on(session)
        except BaseException as error:  # noqa: BLE001 - told by `failure`
            self.failure = self.failure or error

    def _work_on(self, session: Session) -> None:
        self._started.wait()
        if self._work is None:  # nothing was to be done
            return
        with ThreadPoolExecutor(self._each) as pool:
            for done in [pool.submit(self._work, session) for _ in range(self._each)]:
                done.result()

    @contextmanager
    def _another(self) -> Iterator[Session | None]:
        try:
            session = self._session.another()
        except (RemoterunError, OSError):  # sshd takes no more; the others do it
            yield None
            return
        with self._opening:
            self._opened.append(session)
            closed = self._closed
        try:
            yield None if closed else session
        finally:
            session.close()
