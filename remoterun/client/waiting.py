"""Waiting for runs to end, on any number of machines at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from remoterun.client.attempts import may_go_on
from remoterun.client.following import Note, is_moving
from remoterun.errors import NoAnswerInTime

if TYPE_CHECKING:
    from remoterun.model import Run

LOOK_LEAST, LOOK_MOST = 0.1, 2.0
"""Seconds between two looks at runs that go on."""
ANSWER = 2.0
"""Seconds that a machine has to answer: one that is away must not hold up the news of the others."""
LATE = 10.0
"""Seconds after which a machine that does not answer is spoken of: to connect to one that is far takes some."""
BETWEEN_TRIES = 60.0
"""Seconds between two tries to give a run its next rented host."""


def wait(
    numbers: Sequence[int],
    look: Callable[[Iterable[int], float], Sequence[Run]],
    start_next_attempt: Callable[[int], object],
    pause: Callable[[float], object],
    timeout: float | None,
) -> Iterator[Run | Note]:
    """See `Runs.wait`. `look` asks the machines of runs, and gives them some seconds; `start_next_attempt` begins to
    give a run its next rented host; `pause` lets some seconds pass."""
    until = float("inf") if timeout is None else time.monotonic() + timeout
    going_on = list(numbers)
    lost: set[str] = set()
    silent: dict[str, float] = {}  # since when
    taken_up: dict[int, float] = {}  # when to try again
    seconds = LOOK_LEAST
    while True:
        for run in look(tuple(going_on), ANSWER):
            name = run.host.name
            if run.fault is None:
                silent.pop(name, None)
                if name in lost and not run.final:
                    lost.discard(name)
                    yield Note("back", name)
            elif not run.fault.passing:
                going_on.remove(run.number)
                yield run
                continue
            elif name not in lost:
                late = isinstance(run.fault, NoAnswerInTime)
                if not late or time.monotonic() > silent.setdefault(name, time.monotonic()) + LATE:
                    lost.add(name)
                    yield Note("lost", run.fault.message)
            if not run.final or is_moving(run, time.time()):
                continue
            if may_go_on(run, time.time()):
                if time.monotonic() >= taken_up.get(run.number, 0.0):
                    taken_up[run.number] = time.monotonic() + BETWEEN_TRIES
                    start_next_attempt(run.number)
                continue
            going_on.remove(run.number)
            yield run
        left = until - time.monotonic()
        if not going_on or left <= 0:
            return
        pause(min(seconds, left))
        seconds = min(seconds * 1.3, LOOK_MOST)
