"""A command while it runs: its log's times, a stop, a kill, its time limit, its end, and its loss."""

from __future__ import annotations

import contextlib
import time
from typing import Callable, Optional, Tuple

from ..shared.files import size_of
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, Reason, RunState
from ..store.home import Home
from ..store.machine import boot_id
from ..store.run_folder import RunFolder
from .ending import Ended, not_answering, note_once
from .engines import CommandState, Engine, Presence
from .measurer import Measurer
from .sampling import Peaks
from .supervision import ensure_keeper

POLL_LEAST, POLL_MOST = 0.02, 0.25
_NEVER = float("inf")
INSPECT_EVERY = 3.0
"""Seconds between questions to the engine while the exit file isn't there."""


SAVING_TIME = 90.0
"""Seconds before the host is taken away in which nothing but the run's outputs counts."""
LEAST_GRACE, GRACE = 2.0, 10.0
_STOPPING = {
    Reason.TIMEOUT: "its time is up: stopping",
    Reason.PREEMPTED: "the machine will be taken away: stopping",
}


class Watch:
    """Looks after a run that is RUNNING."""

    def __init__(
        self,
        home: Home,
        run: RunFolder,
        spec: RunSpec,
        engine: Engine,
        measurer: Measurer,
        start_again: Callable[[Reason], bool],
    ) -> None:
        """`start_again`: start a command that was lost once more, if it may be; whether that is under way."""
        self._home = home
        self.run = run
        self.spec = spec
        self._engine = engine
        self._measurer = measurer
        self._start_again = start_again

    def until_end(self) -> None:
        """Wait for the command's end, or bring it about; then the run is SAVING. Returns early where the command was
        started again. Raises `Ended` for one that is killed."""
        engine = self._engine
        event = self.run.state()[1]
        deadline = min(self.spec.until or _NEVER, event["t"] + (self.spec.timeout or _NEVER))
        pause, next_inspection = POLL_LEAST, time.monotonic() + INSPECT_EVERY
        times = LogTimes(self.run)
        peaks = Peaks(self._home, self.run, engine, event["t"])
        reason: Optional[Reason] = None
        terminated_at: Optional[float] = None
        grace = 0.0
        while True:
            reached = True
            times.record()
            peaks.sample()
            self._measurer.ensure(event["t"])
            if self.run.kill_asked():
                reached = engine.kill(self.run)
                if reached or self.run.exit_code() is not None:
                    times.record()
                    raise Ended(Reason.KILLED, code=137)
            if self.run.exit_code() is not None:
                times.record()
                patience = 0.0 if terminated_at is None else terminated_at + grace - time.monotonic()
                return self._exited(reason, patience)
            now = time.time()
            asked = self.run.stop_asked()
            taken_at = self._home.rental.taken_at()
            if reason is None and (taken_at is not None or asked is not None or now >= deadline):
                reason, grace = _why_stop(taken_at, asked)
            if taken_at is not None:  # also where somebody has given it more time before
                grace = min(grace, max(LEAST_GRACE, taken_at - SAVING_TIME - now))
            if reason is not None and reached and terminated_at is None:
                reached = engine.terminate(self.run)
                terminated_at = time.monotonic() if reached else None
                pause = POLL_LEAST
                if reached:
                    note_once(self.run, _STOPPING.get(reason, "stopping"))
            if terminated_at is not None and time.monotonic() > terminated_at + grace:
                reached = engine.kill(self.run)
                if reached:
                    return self._exited(reason, 0, 137)
            if not reached:
                note_once(self.run, not_answering(engine.name))
                pause = 1.0
            if time.monotonic() >= next_inspection:
                found = engine.inspect(self.run)
                if found.presence in (Presence.ENDED, Presence.ABSENT) and self.run.exit_code() is None:
                    return self._lost(found, reason, now < deadline)
                ensure_keeper(self._home)
                next_inspection = time.monotonic() + INSPECT_EVERY
            time.sleep(pause)
            pause = min(pause * 1.1, POLL_MOST)

    def _exited(self, reason: Optional[Reason], patience: float, forced: Optional[int] = None) -> None:
        """The command has ended: see that all of it has, and go on to SAVING with the reason.

        `patience`: seconds that what it left behind may take to end by itself.
        """
        deadline = time.monotonic() + patience
        pause = 0.01
        while self._engine.alive(self.run) and time.monotonic() < deadline:
            if self.run.kill_asked():
                return  # `until_end` is called again, and kills
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        self._engine.kill(self.run)
        code = self.run.exit_code()
        if code is None:
            code = forced
        if reason is None:
            reason = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO
            if code != 0 and self._engine.inspect(self.run).out_of_memory:
                reason = Reason.OUT_OF_MEMORY
        self.run.move(RunState.SAVING, reason=reason.value, code=code)

    def _lost(self, found: CommandState, reason: Optional[Reason], in_time: bool) -> None:
        """The command is gone and left no exit code. `in_time`: its time is not up."""
        code, asked, message = found.code, reason is not None, None
        if reason is None:
            if self.run.attempt()[1] != boot_id():
                reason, code = Reason.HOST_REBOOTED, None
            elif found.out_of_memory:
                reason = Reason.OUT_OF_MEMORY
            elif found.presence is Presence.ENDED and code is not None and code not in (137, 143, 255):
                reason = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO
            else:
                reason, code, message = Reason.HOST_LOST, None, "somebody else ended it on that machine"
                if self._engine.name != "process":
                    message += ", as by `%s stop`, or its engine went down" % self._engine.name
        self._engine.kill(self.run)
        if not asked and in_time and ENDINGS[reason].retry and self._start_again(reason):
            return
        self.run.move(RunState.SAVING, reason=reason.value, code=code, message=message)


def _why_stop(taken_at: Optional[float], asked: Optional[float]) -> Tuple[Reason, float]:
    """(why the command is stopped, its grace in seconds)."""
    if taken_at is not None:
        return Reason.PREEMPTED, SAVING_TIME
    if asked is not None:
        return Reason.STOPPED, asked
    return Reason.TIMEOUT, GRACE


class LogTimes:
    """Notes when the log, and stderr apart, had which size, so that their lines can be given times though the command
    writes them itself."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._sizes = {"log": 0, "err": 0}

    def record(self) -> None:
        for name, before in self._sizes.items():
            written, times, _ = self._run.written(name)
            size = size_of(written)
            if size == before:
                continue
            self._sizes[name] = size
            with contextlib.suppress(OSError), open(times, "a") as file:  # a full disk must not end the run
                file.write("%d %.3f\n" % (size, time.time()))
