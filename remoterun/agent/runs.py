"""Runs: their states and reasons, the table of legal moves, and the run folder, which is the truth.

    runs/KEY/
        spec.json       what was asked, frozen
        source          manifest of the source tree
        machine         which machine took it, and looks after it (see here.py)
        events          one JSON object a line: every state passed, with its time
        ask-stop        a request to stop ({"grace": seconds}); ask-kill: to kill
        io/             the only folder that the command's wrapper writes: log, exit, env, wrapper.sh
        log.times       "offset seconds" pairs, for timestamps
        build.log       output of the environment's build
        work/           the private work tree, until its outputs are saved
        outputs         manifest of the saved outputs; out/ the files
        supervisor.lock held by the run's supervisor while it lives; supervisor.log what it has to say

Only the supervisor appends events (after the first one, which `create` writes). Standard library only; Python >= 3.8;
used by both sides (the client needs the states).
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import time
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .files import DISK_FULL, append_line, read_json, remove_tree, write_whole
from .here import Machine

SUPERVISOR = "REMOTERUN_SUPERVISOR"
"""The variable that names the run of a supervisor; all that descends from it has it, too."""


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


class Ending(NamedTuple):
    state: RunState
    retry: bool
    words: str


ENDINGS: Dict[Reason, Ending] = {
    Reason.EXITED: Ending(RunState.COMPLETE, False, "the command ended"),
    Reason.EXIT_NONZERO: Ending(RunState.FAILED, False, "the command failed"),
    Reason.OUT_OF_MEMORY: Ending(RunState.FAILED, False, "the machine's memory ran out"),
    Reason.TIMEOUT: Ending(RunState.STOPPED, False, "its time was up; outputs are saved"),
    Reason.STOPPED: Ending(RunState.STOPPED, False, "you stopped it"),
    Reason.KILLED: Ending(RunState.KILLED, False, "you killed it; outputs are not saved"),
    Reason.BUILD_FAILED: Ending(RunState.FAILED, False, "the environment could not be built"),
    Reason.MOUNT_FAILED: Ending(RunState.FAILED, False, "its files could not be put in place"),
    Reason.START_FAILED: Ending(RunState.FAILED, False, "the command could not be started"),
    Reason.NO_CAPACITY: Ending(RunState.FAILED, True, "no machine could be had"),
    Reason.HOST_LOST: Ending(RunState.INTERRUPTED, True, "the engine lost it"),
    Reason.HOST_REBOOTED: Ending(RunState.INTERRUPTED, True, "the machine went down under it"),
    Reason.PREEMPTED: Ending(RunState.INTERRUPTED, True, "the machine was taken away"),
    Reason.DISK_FULL: Ending(RunState.FAILED, True, "the machine's disk is full"),
}


class IllegalMove(Exception):
    pass


def check_move(before: RunState, after: RunState) -> None:
    if after not in MOVES[before]:
        raise IllegalMove("%s -> %s" % (before.value, after.value))


class RunFolder:
    """The paths of one run in a home, its events, and its locks. Making one touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.key = os.path.basename(path)
        self.spec_file = os.path.join(path, "spec.json")
        self.source_file = os.path.join(path, "source")
        self.machine_file = os.path.join(path, "machine")
        self.events_file = os.path.join(path, "events")
        self.io = os.path.join(path, "io")
        self.log = os.path.join(self.io, "log")
        self.exit_file = os.path.join(self.io, "exit")
        self.pid_file = os.path.join(self.io, "pid")
        self.times_file = os.path.join(path, "log.times")
        self.build_log = os.path.join(path, "build.log")
        self.work = os.path.join(path, "work")
        self.outputs_file = os.path.join(path, "outputs")
        self.out = os.path.join(path, "out")
        self.stop_file = os.path.join(path, "ask-stop")
        self.kill_file = os.path.join(path, "ask-kill")
        self.lock_file = os.path.join(path, "supervisor.lock")
        self.supervisor_log = os.path.join(path, "supervisor.log")
        self.engine_file = os.path.join(path, "engine.json")
        self.supervision: Optional[int] = None

    def exists(self) -> bool:
        return os.path.exists(self.spec_file)

    def spec(self) -> Dict[str, Any]:
        spec: Dict[str, Any] = read_json(self.spec_file)
        return spec

    # -- events

    def events(self, skip: int = 0) -> List[Dict[str, Any]]:
        """Every whole event line from the `skip`-th on; a line cut by a crash is left out."""
        try:
            with open(self.events_file, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found = []
        for line in lines[skip:]:
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"note": "an unreadable event", "t": 0.0})
        return found

    def state(self) -> Tuple[RunState, Dict[str, Any]]:
        """The last state event; a run folder without one is QUEUED."""
        for event in reversed(self.events()):
            if "state" in event:
                return RunState(event["state"]), event
        return RunState.QUEUED, {}

    def move(self, after: RunState, **fields: Any) -> Dict[str, Any]:
        """Append a state event, checked against the table. Supervisor only."""
        before, event = self.state()
        if event:
            check_move(before, after)
        event = {"t": round(time.time(), 3), "state": after.value}
        event.update(fields)
        append_line(self.events_file, event)
        return event

    def note(self, text: str, **fields: Any) -> None:
        """Append something a user should read that is no change of state. Supervisor only."""
        event = {"t": round(time.time(), 3), "note": text}
        event.update(fields)
        append_line(self.events_file, event)

    # -- requests

    def ask_stop(self, grace: float) -> None:
        """On a full disk the grace is the usual one: a file without content still finds its place."""
        if os.path.exists(self.stop_file):
            return
        try:
            write_whole(self.stop_file, json.dumps({"grace": grace}).encode())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            _touch(self.stop_file)

    def ask_kill(self) -> None:
        _touch(self.kill_file)

    def stop_asked(self) -> Optional[float]:
        """The grace in seconds when a stop was asked for, else None."""
        try:
            return float(read_json(self.stop_file)["grace"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return 10.0

    def kill_asked(self) -> bool:
        return os.path.exists(self.kill_file)

    # -- the command's end

    def exit_code(self) -> Optional[int]:
        """The code the wrapper wrote, or None."""
        try:
            with open(self.exit_file) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return None

    # -- supervisor

    def is_of_this_machine(self) -> bool:
        """False where another one, which shares the home, looks after it: its processes can't be seen from here."""
        try:
            return Machine.of(read_json(self.machine_file)).is_same(Machine.this())
        except (OSError, ValueError, AttributeError):
            return True

    def supervised(self) -> bool:
        """Whether a supervisor lives for this run."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(descriptor)

    def take_supervision(self) -> Optional[int]:
        """The lock's descriptor, to be kept for life, or None when another supervisor holds it."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + 0.5  # `supervised` holds the lock for an instant
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.supervision = descriptor
                return descriptor
            except OSError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return None
                time.sleep(0.01)

    def status(self) -> Dict[str, Any]:
        """All that a listing shows, from the files alone."""
        events = self.events()
        spec = self.spec()
        status: Dict[str, Any] = {
            "key": self.key,
            "state": RunState.QUEUED.value,
            "reason": None,
            "code": None,
            "created": spec.get("created"),
            "queued": None,
            "started": None,
            "ended": None,
            "engine": None,
            "message": None,
            "outputs": None,
            "stopping": os.path.exists(self.stop_file) or os.path.exists(self.kill_file),
            "note": None,
        }
        for event in events:
            if "state" in event:
                status["state"] = event["state"]
                status["note"] = None
                if event["state"] == RunState.QUEUED.value:
                    status["queued"] = event["t"]
                if event["state"] == RunState.RUNNING.value:
                    status["started"] = event["t"]
                if RunState(event["state"]) in FINAL:
                    status["ended"] = event["t"]
            elif "note" in event:
                status["note"] = event["note"]
            for field in ("reason", "code", "engine", "message", "outputs"):
                if field in event:
                    status[field] = event[field]
        status["log_size"] = _size(self.log)
        return status

    def remove(self) -> None:
        """Delete the folder. Absent is fine."""
        remove_tree(self.path)


def free_space(path: str) -> int:
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
