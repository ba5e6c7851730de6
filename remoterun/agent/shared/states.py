"""The states of a run, the reasons for its end, the table of legal moves, and what some facts of a run are made of."""

from __future__ import annotations

import enum
from typing import Dict, FrozenSet, Optional

from .records import Record


class RunState(str, enum.Enum):
    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    UPLOADING = "uploading"
    QUEUED = "queued"
    BUILDING = "building"
    MOUNTING = "mounting"
    RUNNING = "running"
    SAVING = "saving"
    COMPLETE = "complete"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL: FrozenSet[RunState] = frozenset(
    (RunState.COMPLETE, RunState.FAILED, RunState.STOPPED, RunState.KILLED, RunState.INTERRUPTED)
)

HAND_OVER: FrozenSet[RunState] = frozenset((RunState.REQUESTED, RunState.PROVISIONING, RunState.UPLOADING))
"""The states through which a client takes a run; the others are of its host."""

_ORDER = list(RunState)

MOVES: Dict[RunState, FrozenSet[RunState]] = {
    state: frozenset() if state in FINAL else frozenset(_ORDER[_ORDER.index(state) + 1 :]) for state in RunState
}
"""The legal moves: forward, never out of a final state. Steps may be skipped (a reader may have missed one)."""


class Reason(str, enum.Enum):
    """Why a run ended."""

    EXITED = "exited"
    EXIT_NONZERO = "exit_nonzero"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    KILLED = "killed"
    BUILD_FAILED = "build_failed"
    MOUNT_FAILED = "mount_failed"
    START_FAILED = "start_failed"
    NO_CAPACITY = "no_capacity"
    HOST_LOST = "host_lost"
    HOST_REBOOTED = "host_rebooted"
    PREEMPTED = "preempted"
    DISK_FULL = "disk_full"
    AFTER_FAILED = "after_failed"
    MOVED = "moved"  # read in older homes only


class Ending(Record):
    state: RunState
    retry: bool
    words: str


ENDINGS: Dict[Reason, Ending] = {
    Reason.EXITED: Ending(RunState.COMPLETE, False, "the command ended"),
    Reason.EXIT_NONZERO: Ending(RunState.FAILED, False, "the command failed"),
    Reason.OUT_OF_MEMORY: Ending(RunState.FAILED, False, "its memory ran out"),
    Reason.TIMEOUT: Ending(RunState.STOPPED, False, "its time was up; outputs are saved"),
    Reason.STOPPED: Ending(RunState.STOPPED, False, "you stopped it"),
    Reason.KILLED: Ending(RunState.KILLED, False, "you killed it; outputs are not saved"),
    Reason.BUILD_FAILED: Ending(RunState.FAILED, False, "the environment could not be built"),
    Reason.MOUNT_FAILED: Ending(RunState.FAILED, False, "its files could not be put in place"),
    Reason.START_FAILED: Ending(RunState.FAILED, False, "the command could not be started"),
    Reason.NO_CAPACITY: Ending(RunState.FAILED, True, "no machine has what it asks for"),
    Reason.HOST_LOST: Ending(RunState.INTERRUPTED, True, "the engine lost it"),
    Reason.HOST_REBOOTED: Ending(RunState.INTERRUPTED, True, "the machine went down under it"),
    Reason.PREEMPTED: Ending(RunState.INTERRUPTED, True, "the machine was taken away"),
    Reason.DISK_FULL: Ending(RunState.FAILED, True, "the machine's disk has no room"),
    Reason.MOVED: Ending(RunState.INTERRUPTED, False, "it was moved to another machine before it had started"),
    Reason.AFTER_FAILED: Ending(RunState.FAILED, False, "a run that it waited for did not complete"),
}


INCOMPLETE = "not all of it is in the bucket"
"""Words of the end of a run of which the archive lacks something."""


class IllegalMove(Exception):
    pass


def check_move(before: RunState, after: RunState) -> None:
    if after not in MOVES[before]:
        raise IllegalMove("%s -> %s" % (before.value, after.value))


class OutputsSize(Record):
    """How much a run saved; `size` in bytes."""

    files: int
    size: int


class Usage(Record):
    """What a run used: at most `memory` and, on its GPUs, `gpu_memory` (bytes); `cpu_seconds` of all CPUs together,
    which is `cpu` percent of one, on average."""

    memory: int
    cpu_seconds: float
    cpu: float = 0.0
    gpu_memory: Optional[int] = None


class BuiltImage(Record):
    """An environment's image that a run's host has built, as the archive will hold it: the output of `docker save`,
    compressed by gzip, of `size` bytes with the SHA-256 `digest`."""

    image: str
    digest: str
    size: int
