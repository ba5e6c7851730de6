"""Threads that do small jobs, several at once, and keep no process from ending."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

from remoterun.errors import LinkLost

A = TypeVar("A")
B = TypeVar("B")


class Workers:
    """`count` threads, which start with the first job."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0

    def submit(self, job: Callable[[A], B], argument: A) -> Future[B]:
        """What `job` returns, or raises, for `argument`, in time."""
        future: Future[B] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job(argument))
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                future.set_exception(error)

        with self._lock:
            if not self.count:
                raise LinkLost("the conversation with the bucket has ended")
            if self._started < self.count:
                self._started += 1
                threading.Thread(target=self._run, name="remoterun bucket", daemon=True).start()
        self._jobs.put(work)
        return future

    def each(self, job: Callable[[A], B], arguments: Iterable[A], ahead: int | None = None) -> Iterator[B]:
        """What `job` returns for each, in their order; at most `ahead` of them are at work, or done and not taken."""
        left = iter(arguments)
        under_way = [self.submit(job, argument) for argument in islice(left, ahead or 2 * self.count)]
        try:
            while under_way:
                result = under_way.pop(0).result()
                under_way += [self.submit(job, argument) for argument in islice(left, 1)]
                yield result
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """The threads end when they have done what they do."""
        with self._lock:
            started, self.count = self._started, 0
        for _ in range(started):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
