"""`agent keep`: supervises a host that is rented, and ends it when its time has come.

One detached process for each home with terms (store/machine.py); agents and supervisors start it, and start it again if
it has died. It learns from its provider that the host is taken away, and marks that for the supervisors. It ends the
host once nothing has run there for as long as the terms say, though never while a client transfers files or hands a run
over; and at their deadline whatever goes on. A timer of the system's own, which is set before any agent comes, does the
latter as well.

Seconds of idleness are counted by the monotonic clock: when the other one jumps, the host neither ends early nor stays.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
import traceback
from typing import Callable, Optional

from ..shared.files import unless_held
from ..shared.machines import RentalTerms
from ..shared.states import FINAL
from ..store.errors import HomeError
from ..store.home import Home
from ..store.host_role import NOTICES
from . import supervision

POLL = 1.0
NOTICES_EVERY = 5.0
ENSURE_EVERY = 10.0
"""Seconds between checks whether each run has its supervisor: no client may come for hours."""
CERTAIN = 30.0
"""Seconds for which the deadline must have passed: a clock that was just set wrong is set again soon."""
TRY_AGAIN = 60.0
"""Seconds between tries to end the host."""
END_TIMEOUT = 30.0
UNCONFIRMED = 3600.0
"""Seconds more for which a host remains where it has outputs that the archive lacks."""
LOCK_PATIENCE = 0.5
"""Seconds: who only checks for a keeper holds its lock for an instant."""


def keep(home: Home) -> int:
    """Supervise the host until it ends. Returns at once where it is not rented, or somebody else does. Exit status of
    the process."""
    if home.rental.terms() is None:
        return 0
    with unless_held(home.lock(supervision.KEEPER), LOCK_PATIENCE) as lock:
        if lock is not None:
            Keeper(home).until_end()
    return 0


class Keeper:
    """`clock` and `wall` in seconds, the former monotonic."""

    def __init__(
        self,
        home: Home,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._clock, self._wall = clock, wall
        self._active_at = clock()
        self._in_time_at = clock()
        self._known_runs = set(home.run_keys())
        self._next = {"notices": 0.0, "ensure": 0.0, "end": 0.0}
        self._problem = ""

    def until_end(self) -> None:
        """Blocks for as long as the host is rented."""
        while True:
            terms = self._home.rental.terms()
            if terms is None:
                return
            try:
                self.step(terms)
            except Exception:  # noqa: BLE001 - a host without a keeper costs money
                traceback.print_exc()
            time.sleep(POLL)

    def step(self, terms: RentalTerms) -> None:
        """Inspect everything, and do what follows from it."""
        if self._is_due("notices", NOTICES_EVERY):
            self._check_for_notice(terms)
        if self._is_due("ensure", ENSURE_EVERY):
            with contextlib.suppress(OSError):  # the sign by which root sees that this does not hang
                os.utime(self._home.lock(supervision.KEEPER))
            supervision.revive(self._home, ended=True)
        why = self._why_end(terms)
        if why is not None and self._is_due("end", TRY_AGAIN):
            self._end_host(terms, why)

    def _is_due(self, what: str, every: float) -> bool:
        now = self._clock()
        if now < self._next[what]:
            return False
        self._next[what] = now + every
        return True

    def _check_for_notice(self, terms: RentalTerms) -> None:
        if terms.notices not in NOTICES:
            return
        try:
            taken_at = NOTICES[terms.notices]()
        except (OSError, http.client.HTTPException) as error:
            if str(error) != self._problem:
                self._say("no notices can be had: %s" % error)
            self._problem = str(error)
            return
        if taken_at is not None:
            self._home.rental.leave(taken_at, "taken")

    def _why_end(self, terms: RentalTerms) -> Optional[str]:
        """Why the host is to end now; None if it is not."""
        now = self._clock()
        if self._wall() < terms.deadline:
            self._in_time_at = now
        if now - self._in_time_at >= CERTAIN:
            return "deadline"
        leaving = self._home.rental.leaving()
        if leaving is not None and leaving.why == "idle":
            return "idle"
        with unless_held(self._home.lock(supervision.SERVING)) as nobody:  # and none comes meanwhile
            runs = set(self._home.run_keys())  # one that is new may have ended already
            if runs - self._known_runs or any(self._goes_on(key) for key in self._home.active_keys()):
                self._active_at = now
            self._known_runs = runs
            idle = now - self._active_at
            if nobody is None or idle < max(terms.idle, terms.settle):
                return None
            if idle < terms.idle + UNCONFIRMED and any(map(self._is_unconfirmed, runs)):
                return None
            self._mark("idle")  # whoever comes after this finds it
        return "idle"

    def _goes_on(self, key: str) -> bool:
        try:
            run = self._home.run(key)
            return run.exists() and run.state()[0] not in FINAL
        except (HomeError, OSError, ValueError):
            return True  # a run that can't be read: better it costs more than that it is lost

    def _is_unconfirmed(self, key: str) -> bool:
        """Whether a run has ended whose outputs should be in the archive, and are on this host alone."""
        try:
            return self._home.run(key).unconfirmed()
        except (HomeError, OSError, ValueError):
            return False

    def _mark(self, why: str) -> None:
        """Where the disk is full the host ends without a mark: nothing could begin there anyway."""
        with contextlib.suppress(OSError):
            self._home.rental.leave(self._wall(), why)

    def _end_host(self, terms: RentalTerms, why: str) -> None:
        self._mark(why)
        self._say("the host ends (%s): %s" % (why, " ".join(terms.end)))
        try:
            subprocess.check_output(terms.end, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=END_TIMEOUT)
        except subprocess.CalledProcessError as error:
            said = error.output[-500:].decode("utf-8", "replace").strip()
            self._say("that failed with status %d: %s" % (error.returncode, said))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._say("that failed: %s" % error)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._wall()))
            print(now, text, file=sys.stderr, flush=True)
