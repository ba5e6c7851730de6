"""Work on threads that keep no process from ending: one thing beside others, or many things at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

AT_ONCE = 8


def start(work: Callable[[], B], name: str = "work of remoterun") -> Future[B]:
    """What `work` returns, or raises, in time. It can't be cancelled."""
    future: Future[B] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def each(job: Callable[[A], B], arguments: Iterable[A], at_once: int = AT_ONCE) -> Iterator[B]:
    """What `job` returns for each, in their order; some of them are at work, or done and not taken. Raises the first
    error."""
    remaining = iter(arguments)
    under_way = deque(start(partial(job, argument)) for argument in islice(remaining, at_once))
    while under_way:
        result = under_way.popleft().result()
        under_way += [start(partial(job, argument)) for argument in islice(remaining, 1)]
        yield result
