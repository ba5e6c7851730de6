"""The run folder, which is the truth about a run.

    runs/KEY/
        spec.json       what was asked, frozen (see shared/spec.py)
        values.json     the values of the user's variables, which may be secrets: only until the command has started. On
                        the disk, as a run that waits must still have them after a reboot. Where the command may be
                        started again, those that are not secrets stay until the run has ended
        environ         the variables of the session that handed it over, for its supervisor, which is started later:
                        only until its end, as they may be secrets
        grant.json      what may be done in the run's bucket, a secret: only until the run has ended
        images.json     what may be done in the bucket with images of the environment, a secret: until it is built all
                        of them, then those that were built here and go to the bucket; only until the run has ended
        webhooks.json   who gets word when it ends, each an address that is a secret: until they have it
        mounts.json     what was found for each mount: the tree's digest
        environment.json  what was found for the environment, where the run's GPUs decide it
        source          manifest of the source tree
        left            manifest of what earlier attempts left, which lies over the source in the work tree
        queue           the name of its queue, for one that waits in another than our own line (see running/queues/)
        job, node, waiting  what the scheduler knows of it, in whose line it waits (see running/queues/slurm.py)
        machine         which machine took it, and supervises it (see machine.py)
        events          one JSON object a line: every state passed, with its time
        ask-stop        a request to stop ({"grace": seconds}); ask-kill: to kill
        control/        what the command's wrapper reads, and a container can't write: wrapper.sh, command, stopping;
                        on_node, for several; and the module remoterun_log, which is on the command's PYTHONPATH
        io/             what the wrapper writes: log, err (stderr, where it is apart), exit, pid; and env, which holds
                        the values until it has read it; metrics.jsonl, of remoterun_log. A command can put anything
                        there: see `open_regular`
        archived        what the archive has of it: a line for each object, see running/archiving.py
        usage           what the command has used so far, and usage.points: each sample of it, see running/sampling.py
        metrics.points  what the run reports of itself, with metrics.names, see shared/measured.py; `progress`: its
                        summary; `measuring`: how far each of its files was read; measuring.lock held meanwhile
        log.times       "offset seconds" pairs, for timestamps; err.times for io/err
        build.log       output of the environment's build
        work/           the private work tree, until its outputs are saved
        outputs         manifest of the saved outputs; out/ the files
        supervisor.lock held by the run's supervisor while it lives; supervisor.log what it has to say

Only the supervisor appends events (after the first one, which `create` writes).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Container, Dict, Iterator, List, Mapping, Optional, Tuple

from ..shared import files
from ..shared.archive import Grant, ImageAccess
from ..shared.facts import EventFacts, RunStatus
from ..shared.files import (
    DISK_FULL,
    append_line,
    is_same,
    read_bytes,
    read_json,
    remove_tree,
    size_of,
    text_of,
    unless_held,
    write_whole,
)
from ..shared.follower import FollowedRun
from ..shared.identity import Machine
from ..shared.logs import LogFile
from ..shared.measured import LogReading, Progress
from ..shared.records import decode, encode, from_json, to_json
from ..shared.spec import ResolvedEnvironment, ResolvedMount, RunSpec, SpecError
from ..shared.states import FINAL, RunState, check_move
from ..shared.submission import check_grant
from ..shared.webhooks import NOBODY, Webhooks

GIVEN_UP = "given up"
"""A line of `archived`: what the archive lacks was waited for in vain."""
SUPERVISOR = "REMOTERUN_SUPERVISOR"
"""The variable that names the run of a supervisor; all that descends from it has it, too."""
LOCK_PATIENCE = 0.5
"""Seconds: who only checks for a supervisor holds its lock for an instant."""


class RunFolder(FollowedRun):
    """The paths of one run in a home, its events, and its locks. Making one touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.key = os.path.basename(path)
        self.spec_file = path + "/spec.json"
        self.values_file = path + "/values.json"
        self.environ_file = path + "/environ"
        self.grant_file = path + "/grant.json"
        self.images_file = path + "/images.json"
        self.webhooks_file = path + "/webhooks.json"
        self.mounts_file = path + "/mounts.json"
        self.environment_file = path + "/environment.json"
        self.source_file = path + "/source"
        self.left_file = path + "/left"
        self.queue_file = path + "/queue"
        self.job_file = path + "/job"
        self.node_file = path + "/node"
        self.waiting_file = path + "/waiting"
        self.machine_file = path + "/machine"
        self.events_file = path + "/events"
        self.archived_file = path + "/archived"
        self.refused_file = path + "/refused"
        self.outgoing = path + "/outgoing"
        self.io = path + "/io"
        self.log = self.written("log").path
        self.err = self.written("err").path
        self.env_file = self.io + "/env"
        self.control = path + "/control"
        self.wrapper_file = self.control + "/wrapper.sh"
        self.command_file = self.control + "/command"
        self.stopping_file = self.control + "/stopping"
        self.on_node_file = self.control + "/on_node"
        self.usage_file = path + "/usage"
        self.cpus_file = path + "/cpus"
        self.usage_points = path + "/usage.points"
        self.metrics_points = path + "/metrics.points"
        self.metrics_names = path + "/metrics.names"
        self.progress_file = path + "/progress"
        self.measuring_file = path + "/measuring"
        self.reading_file = path + "/reading.json"
        self.measuring_lock = path + "/measuring.lock"
        self.reported_file = self.io + "/metrics.jsonl"
        self.exit_file = self.io + "/exit"
        self.pid_file = self.io + "/pid"
        self.build_log = path + "/build.log"
        self.work = path + "/work"
        self.outputs_file = path + "/outputs"
        self.out = path + "/out"
        self.stop_file = path + "/ask-stop"
        self.kill_file = path + "/ask-kill"
        self.lock_file = path + "/supervisor.lock"
        self.supervisor_log = path + "/supervisor.log"
        self.engine_file = path + "/engine.json"
        self.supervision: Optional[int] = None
        """The descriptor of its lock, in the supervisor."""

    def written(self, name: str) -> LogFile:
        """The file of what the command writes. `name`: "log", or "err" for its stderr, where the spec has that
        apart."""
        return LogFile("%s/%s" % (self.io, name), "%s/%s.times" % (self.path, name))

    def log_file(self, name: str) -> LogFile:
        """As `written`, with what an earlier host wrote. Raises `SpecError`."""
        spec = self.spec()
        return self.written(name)._replace(before=spec.log_before if name == "log" else spec.err_before)

    def exists(self) -> bool:
        return os.path.exists(self.spec_file)

    def queue(self) -> str:
        """The name of the queue that takes it to its supervisor; "" is our own line. Never changes."""
        try:
            return read_bytes(self.queue_file).decode()
        except FileNotFoundError:
            return ""

    def waiting_for(self) -> str:
        """The words of a scheduler for why it waits; "" where there are none."""
        return text_of(self.waiting_file)

    def spec(self) -> RunSpec:
        """Raises `SpecError` for a damaged one."""
        return RunSpec.decode(read_bytes(self.spec_file))

    def resolved_spec(self) -> RunSpec:
        """The spec with the environment that the run gets, as far as that was found. Raises `SpecError`."""
        spec = self.spec()
        found = self._saved(self.environment_file, ResolvedEnvironment, None)
        return spec._replace(environment=spec.environment._replace(**found._asdict())) if found else spec

    def resolve_environment(self, found: ResolvedEnvironment) -> RunSpec:
        """Record it, and give the spec with it. Supervisor only."""
        write_whole(self.environment_file, encode(found))
        return self.resolved_spec()

    def values(self) -> Dict[str, str]:
        """The user's variables; none once the command has started. Raises `SpecError`."""
        found: Dict[str, str] = self._saved(self.values_file, Dict[str, str], {})
        return found

    def save_values(self, values: Mapping[str, str]) -> None:
        """Only these, which may be none, are still needed. Supervisor only."""
        self.save(self.values_file, dict(values))

    def forget_values(self) -> None:
        """Delete the values of the user's variables, wherever they lie. May be repeated."""
        for path in (self.values_file, self.env_file, self.environ_file):
            remove_tree(path)

    def grant(self) -> Optional[Grant]:
        """None while there is none, and once the run has ended. Raises `SpecError`."""
        found: Optional[Grant] = self._saved(self.grant_file, Grant, None)
        return found._replace(folder=self.outgoing) if found is not None and found.carried else found

    def renew(self, grant: Grant) -> None:
        """Keep a newer grant, unless the run has ended. Raises `SpecError`."""
        if self.state()[0] not in FINAL:
            write_whole(self.grant_file, encode(check_grant(grant)))
            remove_tree(self.refused_file)
        if self.state()[0] in FINAL:
            self.forget_grant()

    def forget_grant(self) -> None:
        """Delete what may be done in the archive. May be repeated."""
        for path in (self.grant_file, self.images_file, self.refused_file, self.outgoing):
            remove_tree(path)

    def refused(self, why: str) -> None:
        """Record why the grant is refused, until another one comes; "": it is not. Supervisor only."""
        with contextlib.suppress(OSError):  # on a full disk it is not known, and a wait ends all the same
            if why:
                write_whole(self.refused_file, why.encode("utf-8", "replace"))
            else:
                remove_tree(self.refused_file)

    def unconfirmed(self) -> bool:
        """Whether it has ended with outputs that should be in the archive, and are on this host alone; not where they
        were waited for until that was given up. Raises `SpecError`, `ValueError`."""
        status = self.status()
        saved = status.outputs is not None and status.outputs.files > 0
        if not saved or status.state not in FINAL or status.kept or not self.spec().bucket:
            return False
        return GIVEN_UP not in text_of(self.archived_file).split("\n")

    def images(self) -> Tuple[ImageAccess, ...]:
        """What may be done with images of the environment in the archive. Raises `SpecError`."""
        found: Tuple[ImageAccess, ...] = self._saved(self.images_file, Tuple[ImageAccess, ...], ())
        return found

    def save_images(self, names: Container[str]) -> None:
        """Only images of these names go to the archive. Supervisor only."""
        self.save(self.images_file, tuple(one for one in self.images() if one.image in names))

    def webhooks(self) -> Webhooks:
        """Who has yet to get word of its end; nobody where that can't be read."""
        try:
            found: Webhooks = self._saved(self.webhooks_file, Webhooks, NOBODY)
            return found
        except SpecError:
            return NOBODY

    def save_webhooks(self, webhooks: Webhooks) -> None:
        """Only these have yet to get word."""
        self.save(self.webhooks_file, webhooks if webhooks.addresses else None)

    def mounts(self) -> Tuple[ResolvedMount, ...]:
        """What is mounted, in the order of the spec. Raises `ValueError`, `FileNotFoundError`."""
        kind: Any = Tuple[ResolvedMount, ...]
        mounts: Tuple[ResolvedMount, ...] = decode(kind, read_bytes(self.mounts_file))
        return mounts

    def _saved(self, path: str, kind: Any, absent: Any) -> Any:
        """The value that `save` wrote; `absent` where there is none. Raises `SpecError`, which names no value: it may
        be a secret."""
        try:
            return decode(kind, read_bytes(path))
        except FileNotFoundError:
            return absent
        except ValueError:
            raise SpecError("%s can't be read" % path) from None

    def reading(self, changed: bool = False) -> Optional[LogReading]:
        """How its log is read; None if it was not `changed` since the run was asked for, if that is what is wanted."""
        with contextlib.suppress(FileNotFoundError):
            return from_json(LogReading, read_json(self.reading_file))
        spec = self.spec()
        return None if changed else LogReading(spec.metrics, spec.metric_step, spec.metric_hide)

    def save(self, path: str, value: Any) -> None:
        """A file with a value, or none for an empty one."""
        if value:
            write_whole(path, encode(value))
        else:
            remove_tree(path)

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

    def attempt(self) -> Tuple[int, Optional[str]]:
        """(how often the command was started, the boot of the machine in which that was last done)."""
        attempt, boot = 1, None  # type: int, Optional[str]
        for event in self.events():
            attempt, boot = event.get("attempt", attempt), event.get("boot", boot)
        return attempt, boot

    def move(self, after: RunState, **fields: Any) -> None:
        """Append a state event, checked against the table. Supervisor only."""
        before, event = self.state()
        if event:
            check_move(before, after)
        append_line(self.events_file, {"t": round(time.time(), 3), "state": after.value, **fields})

    def note(self, text: str, **fields: Any) -> None:
        """Append something a user should read that is not a change of state. Supervisor only."""
        append_line(self.events_file, {"t": round(time.time(), 3), "note": text, **fields})

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
        """The code the wrapper wrote, or None; 255 where a command wrote a number there that is none."""
        try:
            with open(files.open_regular(self.exit_file), "rb") as file:
                code = int(file.read(16))  # it may have no end
                return code if 0 <= code <= 255 else 255
        except (OSError, ValueError):
            return None

    # -- supervisor

    def is_of_this_machine(self) -> bool:
        """False where another one, which shares the home, supervises it: its processes can't be seen from here."""
        try:
            return from_json(Machine, read_json(self.machine_file)).is_same(Machine.this())
        except (OSError, ValueError):
            return True

    def supervised(self) -> bool:
        """Whether a supervisor lives for this run."""
        with contextlib.suppress(OSError), unless_held(self.lock_file) as free:
            return free is None
        return False

    @contextlib.contextmanager
    def supervising(self) -> Iterator[bool]:
        """Whether this process is the run's supervisor from now on, as no other one is. Not where the run was removed
        while it waited for the lock: one that was put back meanwhile has a lock, and a supervisor, of its own."""
        with unless_held(self.lock_file, LOCK_PATIENCE) as lock:
            there = lock is not None and is_same(lock, self.lock_file)
            self.supervision = lock if there else None
            yield there
        self.supervision = None

    def status(self, last: Optional[Dict[str, Any]] = None) -> RunStatus:
        """All that a listing shows, from the files alone, or as it will be once the event `last` is there. Raises
        `ValueError` for files that make no sense."""
        status: Dict[str, Any] = {
            "key": self.key,
            "state": RunState.QUEUED.value,
            "created": read_json(self.spec_file).get("created"),
            "stopping": os.path.exists(self.stop_file) or os.path.exists(self.kill_file),
            "log_size": size_of(self.log),
        }
        for event in self.events() + ([last] if last else []):
            if "state" in event:
                status.update(state=event["state"], note=None)
                if event["state"] == RunState.QUEUED.value:
                    status["queued"] = event["t"]
                if event["state"] == RunState.RUNNING.value:
                    status["started"] = event["t"]
                if RunState(event["state"]) in FINAL:
                    status["ended"] = event["t"]
            elif "note" in event:
                status["note"] = event["note"]
            status.update((field, event[field]) for field in EventFacts._fields if field in event)
        if status["state"] == RunState.QUEUED.value:
            status["note"] = self.waiting_for() or status.get("note")
        if RunState(status["state"]) not in FINAL:
            status["refused"] = text_of(self.refused_file)
            with contextlib.suppress(OSError, ValueError):
                status["progress"] = to_json(from_json(Progress, read_json(self.progress_file)))
        return from_json(RunStatus, status)

    def remove(self) -> None:
        """Delete the folder. Absent is fine."""
        remove_tree(self.path)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
