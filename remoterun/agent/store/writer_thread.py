"""Writes on a thread of its own what is put together of parts, while another thread looks for the next ones and hashes
them.
"""

from __future__ import annotations

import queue
import threading
from typing import Callable, Optional

Job = Callable[[], None]


class WriterThread:
    """What `write` does is the thread's alone until it is closed."""

    MOST_WAITING = 16
    """Jobs that may wait."""

    def __init__(self, write: Callable[[memoryview], None]) -> None:
        self._write = write
        self._jobs: "queue.Queue[Optional[Job]]" = queue.Queue(self.MOST_WAITING)
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="remoterun assembles", daemon=True)
        self._thread.start()

    def add(self, data: memoryview, write: bool = True, done: Optional[Job] = None) -> None:
        """Write `data`, which must stay as it is, then call `done`. Raises what a write before it raised."""

        def job() -> None:
            if write:
                self._write(data)
            if done is not None:
                done()

        self.do(job)

    def do(self, job: Job) -> None:
        """Have something done between what was added before and after. Raises what an earlier write raised."""
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            self._jobs.put(job)
        else:
            job()

    def finish(self) -> None:
        """Blocks until all is done. Raises what a write raised. What is added later is done at once."""
        self.close()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Blocks until all is done. May be called twice."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            if self._failure is None:
                try:
                    job()
                except BaseException as error:  # noqa: BLE001 - raised by `do` and `finish`
                    self._failure = error
            del job
