"""Where a run waits, and what starts its supervisor: the contract of every queue, and the table of those that there
are.

The queue of a run is named by its spec, and noted in its folder. Nothing but the queue knows of slots, tickets, or the
GPUs of this machine, nor whether a run is on this machine. `tests/contract/test_queues.py` holds each queue to `Queue`.
To add one: its file here, its line in `QUEUES`, and the setting of a machine that names it.
"""

from __future__ import annotations

import importlib
from typing import Callable, ContextManager, Dict, List, Optional, Protocol, Set, Tuple

from ...shared.api import Demand, Examine, MachineCheck, Occupancy
from ...shared.spec import RunSpec
from ...shared.states import Reason
from ...store.errors import HomeError
from ...store.home import Home
from ...store.run_folder import RunFolder

QUEUES: Dict[str, str] = {"": ".line:OwnLine", "slurm": ".slurm:Slurm"}
"""By name, the module and its class `(home) -> Queue`; imported on use. The one without a name is our own."""


def queue_named(home: Home, name: str) -> "Queue":
    """The queue `name`. Raises `HomeError("bad_spec")`."""
    if name not in QUEUES:
        raise HomeError("bad_spec", "there is no queue `%s` here" % name)
    module, _, kind = QUEUES[name].partition(":")
    queue: "Queue" = getattr(importlib.import_module(module, __name__), kind)(home)
    return queue


def queue_of_run(home: Home, run: RunFolder) -> "Queue":
    """The queue that a run was given. Raises `HomeError`, `OSError`."""
    return queue_named(home, run.queue())


class Queue(Protocol):
    """A queue of the runs of one home. What it knows is in files, or asked of a scheduler: several processes, also of
    several machines, may each have one of these. Making one touches nothing."""

    home: Home

    def lacks(self, spec: RunSpec) -> Optional[str]:
        """Why a run can never start here, in one line, or None; None also where that is not known."""

    def submit(self, run: RunFolder, spec: RunSpec) -> None:
        """Take a run that was just made; `settle` has it supervised. May be repeated."""

    def settle(self, active: Set[str], ended: bool = False) -> None:
        """Have those of the `active` runs supervised that are its own, need a supervisor, and have none; those of which
        a scheduler has lost all come to their end. With `ended`, also those that have ended and still hold something.
        """

    def asleep(self) -> Set[str]:
        """Runs that wait, and need no supervisor until their turn: nobody changes what is known of them."""
        return set()

    def supervised(self, run: RunFolder) -> bool:
        """Whether a supervisor lives for a run."""
        return run.supervised()

    def supervising(self, run: RunFolder) -> ContextManager[bool]:
        """Whether this process is the supervisor of a run, as no other one is, until the block is left. By a lock,
        unless a queue knows better: a lock counts on one machine only."""
        return run.supervising()

    def wait(self, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> bool:
        """Block until a run has what it asks for; what it has is granted again at once. False where it needs no
        supervisor while it waits. Supervisor only.

        `report` is called now and then, with what it waits for where that is known, else ""; it may raise. Raises
        `Ended` for a run that can never start.
        """

    def gpus(self, run: RunFolder) -> Optional[List[str]]:
        """The GPUs that a run has, by their UUIDs; None while it waits."""

    def command(self, run: RunFolder, spec: RunSpec) -> str:
        """The line for the shell that is started for the command of a run: one that has it on each of several nodes
        where the run asks for those, and the queue has them. Supervisor only."""
        return spec.command

    def terminate_others(self, run: RunFolder) -> bool:
        """Send SIGTERM to what a run has on nodes that are not this one; whether that was done. Supervisor only."""
        return True

    def cancel(self, runs: List[RunFolder], reason: Reason, ask: Callable[[RunFolder], None]) -> None:
        """End those that wait without a supervisor, for `reason`; `ask` any other to end, and let its supervisor know,
        if that does not see it by itself. `runs` are in the order of their keys."""

    def release(self, key: str) -> None:
        """Give back all that a run holds, or its place. Nothing held is fine, and so is a run that is gone."""

    def occupancy(self, asked: Demand) -> Occupancy:
        """Who uses the machine, or the cluster, and where a run that asks for this would stand."""

    def examine(self, asked: Examine) -> List[MachineCheck]:
        """The lines of `doctor` about it. A scheduler that is there is asked also where runs do not wait for it yet."""
        return []

    def is_here(self, run: RunFolder) -> bool:
        """Whether the command of a run is on this machine: else its processes can't be seen from here."""
        return run.is_of_this_machine()

    def reach(self, run: RunFolder) -> List[str]:
        """The words which, before those that start an agent, start it on the machine of a run; none where that is this
        one, or not known yet."""
        return []

    def taken_at(self, run: RunFolder) -> Optional[float]:
        """When the machine is taken away from a run, in seconds since 1970; None where it is not."""
        return self.home.rental.taken_at()

    def lost(self, run: RunFolder) -> Optional[Tuple[Reason, str]]:
        """Why a run can't go on whose supervisor the queue has lost for good: the reason of its end, and a message, ""
        for none. None where it can, or that is not known."""
        return None

    def cancelled(self, run: RunFolder) -> Optional[Tuple[Reason, str]]:
        """Of a run that is taken away: that somebody has ended it in its queue, as reason and message of its end; None
        where the machine itself is taken, and the run may go on elsewhere."""
        return None

    def again(self, run: RunFolder) -> bool:
        """Have a run that is taken away supervised once more, on another machine: whether that is under way, and the
        supervisor that asks ends. Supervisor only."""
        return False

    def until(self, run: RunFolder) -> Optional[float]:
        """By when the queue ends a run, in seconds since 1970; None for never."""
        return None
