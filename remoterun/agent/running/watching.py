"""A command while it runs: its log's times, a stop, a kill, its time limit, its end, and its loss."""

from __future__ import annotations

import contextlib
import enum
import os
import time
from typing import Callable, Dict, Optional, Tuple

from ..shared.files import remove_tree, size_of
from ..shared.identity import boot_id
from ..shared.machines import CAPABILITIES
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, Reason, RunState
from ..store.home import Home
from ..store.run_folder import RunFolder
from .ending import Ended, not_answering, note_once
from .engines import CommandState, Engine, Presence
from .measurer import Measurer
from .queues import Queue
from .sampling import Peaks
from .supervision import ensure_keeper

POLL_LEAST, POLL_MOST = 0.02, 0.25
WEIGH_EVERY, WEIGH_COST = 0.25, 20
"""Seconds between two looks at the memory of a run that has a limit, and so many times what one took."""
INSPECT_EVERY = 3.0
"""Seconds between questions to the engine while the exit file isn't there."""


SAVING_TIME = 90.0
"""Seconds before the host is taken away in which nothing but the run's outputs counts."""
LEAST_GRACE, GRACE = 2.0, 10.0
_STOPPING: Dict[Optional[Reason], str] = {
    Reason.TIMEOUT: "its time is up: stopping",
    Reason.PREEMPTED: "the machine will be taken away: stopping",
}


class Phase(enum.Enum):
    """How far the end of a command has come."""

    RUNNING = "it shall go on"
    ASKED = "it shall end for a reason; SIGTERM has not reached it yet"
    TERMINATED = "SIGTERM has reached it: it has its grace"
    OVER = "the run has moved on, or the command was started again"


MOVES: Dict[Phase, Tuple[str, ...]] = {
    Phase.RUNNING: ("_kill", "_see_exit", "_weigh", "_ask", "_inspect"),
    Phase.ASKED: ("_kill", "_see_exit", "_weigh", "_terminate", "_inspect"),
    Phase.TERMINATED: ("_kill", "_see_exit", "_weigh", "_force", "_inspect"),
}
"""By phase, the methods of `Watch` that are tried in their order, until one gives the next phase."""


class Watch:
    """Looks after a run that is RUNNING."""

    def __init__(
        self,
        home: Home,
        run: RunFolder,
        spec: RunSpec,
        engine: Engine,
        queue: Queue,
        measurer: Measurer,
        start_again: Callable[[Reason], bool],
    ) -> None:
        """`start_again`: start a command that was lost once more, if it may be; whether that is under way."""
        self._home = home
        self.run = run
        self.spec = spec
        self._engine = engine
        self._queue = queue
        self._measurer = measurer
        self._start_again = start_again
        self._began: float = run.state()[1]["t"]
        limits = (spec.until, queue.until(run), self._began + spec.timeout if spec.timeout else None)
        self._deadline = min((limit for limit in limits if limit), default=float("inf"))
        self._times = LogTimes(run)
        self._reason: Optional[Reason] = None
        self._grace = 0.0
        self._terminated_at = 0.0
        self._silent = False
        self._next_inspection = time.monotonic() + INSPECT_EVERY
        self._next_weighing = 0.0
        self.goes_on_elsewhere = False
        """The machine was taken away, and the queue has the run supervised on another one."""

    def until_end(self) -> None:
        """Wait for the command's end, or bring it about; then the run is SAVING. Returns early where the command was
        started again. Raises `Ended` for one that is killed."""
        peaks = Peaks(self._home, self.run, self._engine, self._began)
        phase, pause = Phase.RUNNING, POLL_LEAST
        while phase is not Phase.OVER:
            self._times.record()
            peaks.sample()
            self._measurer.ensure(self._began)
            self._silent = False
            moves = (getattr(self, move)() for move in MOVES[phase])
            after = next((found for found in moves if found is not None), None)
            if after is not None:
                phase, pause = after, POLL_LEAST
                continue
            if self._silent:
                note_once(self.run, not_answering(self._engine.name))
                pause = 1.0
            time.sleep(pause)
            pause = min(pause * 1.1, POLL_MOST)

    # -- the moves

    def _kill(self) -> Optional[Phase]:
        if self.run.kill_asked():
            self._silent = not self._engine.kill(self.run)
            if not self._silent or self.run.exit_code() is not None:
                self._times.record()
                raise Ended(Reason.KILLED, code=137)
        return None

    def _see_exit(self) -> Optional[Phase]:
        return None if self.run.exit_code() is None else self._exited(self._patience())

    def _weigh(self) -> Optional[Phase]:
        """End a command that has more memory than it may, where no container sees to that."""
        now = time.monotonic()
        if self.spec.memory is None or CAPABILITIES[self._engine.name].containers or now < self._next_weighing:
            return None
        used = self._engine.counters(self.run)
        self._next_weighing = time.monotonic() + max(WEIGH_EVERY, WEIGH_COST * (time.monotonic() - now))
        if used is None or used.memory <= self.spec.memory or not self._engine.kill(self.run):
            return None
        self._reason = Reason.OUT_OF_MEMORY
        return self._exited(0, 137)

    def _ask(self) -> Optional[Phase]:
        self._reason, self._grace = self._asked()
        return None if self._reason is None else Phase.ASKED

    def _terminate(self) -> Optional[Phase]:
        if self._silent or not (self._queue.terminate_others(self.run) and self._engine.terminate(self.run)):
            self._silent = True
            return None
        self._terminated_at = time.monotonic()
        note_once(self.run, _STOPPING.get(self._reason, "stopping"))
        return Phase.TERMINATED

    def _force(self) -> Optional[Phase]:
        taken_at = self._queue.taken_at(self.run)
        if taken_at is not None:  # also where somebody has given it more time before
            self._grace = min(self._grace, max(LEAST_GRACE, taken_at - SAVING_TIME - time.time()))
        if self._patience() >= 0:
            return None
        if self._engine.kill(self.run):
            return self._exited(0, 137)
        self._silent = True
        return None

    def _inspect(self) -> Optional[Phase]:
        if time.monotonic() < self._next_inspection:
            return None
        found = self._engine.inspect(self.run)
        if found.presence in (Presence.ENDED, Presence.ABSENT) and self.run.exit_code() is None:
            self._lost(found)
            return Phase.OVER
        ensure_keeper(self._home)
        self._next_inspection = time.monotonic() + INSPECT_EVERY
        return None

    # -- their parts

    def _asked(self) -> Tuple[Optional[Reason], float]:
        """(why the command shall end, or None while it shall go on; its grace in seconds)."""
        asked = self.run.stop_asked()
        if self._queue.taken_at(self.run) is not None:
            return Reason.PREEMPTED, SAVING_TIME
        if asked is not None:
            return Reason.STOPPED, asked
        return (Reason.TIMEOUT, GRACE) if time.time() >= self._deadline else (None, 0.0)

    def _patience(self) -> float:
        """Seconds that are left of the grace of a command that was terminated."""
        return self._terminated_at + self._grace - time.monotonic() if self._terminated_at else 0.0

    def _exited(self, patience: float, forced: Optional[int] = None) -> Phase:
        """The command has ended: see that all of it has, and go on to SAVING with the reason.

        `patience`: seconds that what it left behind may take to end by itself.
        """
        self._times.record()
        deadline, pause = time.monotonic() + patience, 0.01
        while self._engine.alive(self.run) and time.monotonic() < deadline:
            if self.run.kill_asked():
                return Phase.OVER  # `until_end` is called again, and kills
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        self._engine.kill(self.run)
        code = self.run.exit_code()
        if code is None:
            code = forced
        reason, message = self._reason, None
        cancelled = self._queue.cancelled(self.run) if reason is Reason.PREEMPTED else None
        if cancelled is not None:
            reason, message = cancelled
        elif reason is Reason.PREEMPTED and self.run.attempt()[0] < self.spec.attempts:
            remove_tree(self.run.exit_file)  # the next supervisor finds a command that is gone, and starts it again
            self.goes_on_elsewhere = self._queue.again(self.run)
            if self.goes_on_elsewhere:
                return Phase.OVER
        if reason is None and os.path.exists(self.run.stopping_file):  # a supervisor has told it to end, and died
            reason = self._asked()[0]
        if reason is None:
            reason = Reason.EXITED if code == 0 else Reason.EXIT_NONZERO
            if code != 0 and self._engine.inspect(self.run).out_of_memory:
                reason = Reason.OUT_OF_MEMORY
        self.run.move(RunState.SAVING, reason=reason.value, code=code, message=message)
        return Phase.OVER

    def _lost(self, found: CommandState) -> None:
        """The command is gone and left no exit code."""
        code, reason, message = found.code, self._reason, None
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
        if (
            self._reason is None
            and time.time() < self._deadline
            and ENDINGS[reason].retry
            and self._start_again(reason)
        ):
            return
        self.run.move(RunState.SAVING, reason=reason.value, code=code, message=message)


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
