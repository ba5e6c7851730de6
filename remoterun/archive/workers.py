"""Requests to the store that are made at once, on threads that keep no process from ending."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

AT_ONCE = 8


def start(job: Callable[[A], B], argument: A) -> Future[B]:
    """What `job` returns, or raises, for `argument`, in time."""
    future: Future[B] = Future()

    def work() -> None:
        try:
            future.set_result(job(argument))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=work, name="remoterun bucket", daemon=True).start()
    return future


def each(job: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """What `job` returns for each, in their order; some of them are at work, or done and not taken."""
    remaining = iter(arguments)
    under_way = deque(start(job, argument) for argument in islice(remaining, AT_ONCE))
    while under_way:
        result = under_way.popleft().result()
        under_way += [start(job, argument) for argument in islice(remaining, 1)]
        yield result
