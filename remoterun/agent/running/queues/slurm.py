"""Slurm, in whose line a run waits: its job is the run's supervisor, on a node that shares the home.

    RUN/job       a `SlurmJob`: its number, and what is known of its end
    RUN/node      a `Node`: where the job is and what it has there; written by the job, which takes it away at its end
    RUN/waiting   why the run waits, in words
    HOME/queue/KEY.set   the runs of a set with `--at-once`, in the order of their arrival
    HOME/squeue   the last answer of squeue, for whoever asks within some seconds

Nothing of ours stays on the login node. What goes on there for an instant is asked by a contact: `settle` asks squeue
once for all runs, and then, of a job that is not there, scontrol and sacct (see slurm_commands.py). What they do not
say is not known, and changes nothing. A job that is over, and whose run has no end, is ended from the files, after
`LATE` seconds in which they may still come: by a supervisor that is started on the login node for that.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import time
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from ...shared.api import Claim, Demand, Examine, MachineCheck, Occupancy
from ...shared.files import locked, read_bytes, remove_tree, text_of, write_whole
from ...shared.identity import Machine
from ...shared.logs import last_lines
from ...shared.records import Record, decode, encode
from ...shared.spec import RunSpec, Scheduling
from ...shared.states import FINAL, Reason, RunState
from ...store.home import Home
from ...store.run_folder import SUPERVISOR, RunFolder
from .. import gpus as gpu_tool
from .. import supervision
from ..awaiting import awaited_runs
from . import Queue
from . import slurm_commands as slurm
from .slurm_nodes import on_each, terminate_others

LATE = 60.0
"""Seconds by which a file that a node has written may be seen late on the login node."""
SAVING = 90.0
"""Seconds before the end of its job at which a run is stopped, or two fifths of its time where that is less."""
KILL_WAIT = 30.0
"""Seconds between SIGTERM and SIGKILL, unless a site has set others."""
KILL_PATIENCE = 10.0
"""Seconds that a job may take to end its command when it was told to kill it."""
_JOB = "REMOTERUN_JOB"
"""The variable that tells a supervisor that it is the job of this run."""

ENDS: Dict[str, Tuple[Reason, str]] = {
    "TIMEOUT": (Reason.TIMEOUT, "Slurm ended its job %s at the time limit"),
    "DEADLINE": (Reason.TIMEOUT, "Slurm ended its job %s at the deadline"),
    "OUT_OF_MEMORY": (Reason.OUT_OF_MEMORY, "Slurm ended its job %s, which used more memory than it had asked for"),
    "PREEMPTED": (Reason.PREEMPTED, "Slurm gave the nodes of its job %s to another one"),
    "CANCELLED": (Reason.HOST_LOST, "somebody cancelled its Slurm job %s: `scancel`, or an administrator"),
    "NODE_FAIL": (Reason.HOST_REBOOTED, "the node of its Slurm job %s went down"),
    "BOOT_FAIL": (Reason.HOST_REBOOTED, "the node of its Slurm job %s did not start"),
    slurm.GONE: (Reason.HOST_LOST, "Slurm knows nothing of its job %s any more"),
}
"""Why a run ended whose job did, by the state of that."""


class SlurmJob(Record):
    """The job of a run. `asked`: when sbatch was called for it, in seconds since 1970."""

    id: str = ""
    """"" where it is not known whether sbatch has made one."""
    asked: float = 0.0
    over: str = ""
    """The state in which it ended, or "GONE"."""
    since: float = 0.0
    """When that was first seen, in seconds since 1970."""


class Node(Record):
    """Where a job is, and what it has there: its GPUs by their UUIDs, and until when, in seconds since 1970."""

    job: str
    name: str
    machine: Machine
    gpus: List[str] = []
    until: Optional[float] = None


class Slurm(Queue):
    def __init__(self, home: Home) -> None:
        self.home = home

    # -- the contract

    def lacks(self, spec: RunSpec) -> Optional[str]:
        return slurm.too_few(spec, slurm.nodes(spec.scheduling) if spec.gpus or spec.cpus or spec.memory else [])

    def submit(self, run: RunFolder, spec: RunSpec) -> None:
        # sbatch holds the lock, too: should we die, the next one waits for it.
        with locked(self.home.lock("sbatch")) as lock:
            job = self._job(run)
            if job.id or in_job():
                return
            if job.asked:
                answer = slurm.jobs(self.home, job.asked)
                if not answer.good:
                    return
                made = [id for id, row in answer.jobs.items() if row.name == _name(run.key)]
                if made:
                    self._save(run, job._replace(id=made[0]))
                    return
            if spec.scheduling is not None and spec.scheduling.build:
                from .slurm_login import awaits_environment

                if awaits_environment(self.home, run, spec):
                    return
            job = SlurmJob(asked=time.time())
            self._save(run, job)
            variables = supervision.session_variables(run)
            id, refused = slurm.submit(self._sbatch(run, spec), self._script(run, spec), variables, lock)
            if id:
                self._save(run, job._replace(id=id))
        if refused:  # with neither, the next contact asks whether there is a job
            self._end(run, Reason.NO_CAPACITY, message="Slurm refused its job: " + refused)

    def settle(self, active: Set[str], ended: bool = False) -> None:
        if in_job():
            return  # a node asks the scheduler nothing, and some sites forbid it
        from ..ending import clean_up

        going = []
        for key in sorted(active):
            with contextlib.suppress(OSError, ValueError):
                run = self.home.run(key)
                if not run.exists() or run.queue() != "slurm":
                    continue
                if run.state()[0] not in FINAL:
                    going.append(run)
                elif ended and slurm.end_of(self._job(run).id, _name(key)):
                    clean_up(self.home, run)
        for run in going:
            with contextlib.suppress(OSError, ValueError):
                self._settle(run)

    def _settle(self, run: RunFolder) -> None:
        job = self._job(run)
        if not job.id:
            self.submit(run, run.spec())
            return
        answer = slurm.jobs(self.home)
        if not answer.good or answer.t <= job.asked:
            return
        row = answer.of(job.id, _name(run.key))
        if row is not None and row.state not in slurm.ENDED:
            self._goes_on(run, job, row)
            return
        if not job.over:
            over = row.state if row is not None else slurm.end_of(job.id, _name(run.key))
            job = job._replace(over=over, since=time.time())
            if job.over:
                self._save(run, job)
        if self._is_lost(run, job):
            supervision.spawn(self.home, run.key)

    def _goes_on(self, run: RunFolder, job: SlurmJob, row: slurm.JobLine) -> None:
        """Say why a job waits; end one that does so in vain, and one that was killed and does not hear."""
        if job.over:
            self._save(run, job._replace(over="", since=0.0))
        if row.state in slurm.WAITS and run.state()[0] is RunState.QUEUED:
            failed = awaited_runs(self.home, run.spec()).failed
            if failed is not None:
                self._take_back({job.id: run}, Reason.AFTER_FAILED, message=failed)
                return
            words = "Slurm: " + slurm.why(row)
            if text_of(run.waiting_file) != words:
                write_whole(run.waiting_file, words.encode(), sync=False)
        if run.kill_asked() and time.time() - os.stat(run.kill_file).st_mtime > KILL_PATIENCE:
            slurm.run(["scancel", "--signal=KILL", "--full", job.id])

    def supervised(self, run: RunFolder) -> bool:
        return os.path.exists(run.node_file) or run.supervised()

    @contextlib.contextmanager
    def supervising(self, run: RunFolder) -> Iterator[bool]:
        job, here = self._job(run), in_job(run.key)
        if not here:
            with contextlib.nullcontext(False) if job.id and not job.over else run.supervising() as ours:
                yield ours
            with open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)  # the lock of who builds, perhaps: others may do so now
            return
        if job.id not in ("", here):
            yield False  # of two jobs of a run, the one that is noted counts
            return
        self._save(run, SlurmJob(here, job.asked or time.time()))
        signal.signal(signal.SIGTERM, _be_taken)
        signal.signal(signal.SIGUSR1, lambda *_: _hear(run, run.stop_file, lambda: run.ask_stop(10.0)))
        signal.signal(signal.SIGUSR2, lambda *_: _hear(run, run.kill_file, run.ask_kill))
        yield True

    def wait(self, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> bool:
        from ..ending import Ended

        report("")
        failed = awaited_runs(self.home, spec).failed
        if failed is not None:
            raise Ended(Reason.AFTER_FAILED, failed)
        if not in_job(run.key):
            from .slurm_login import build

            build(self.home, run, spec, report)
            self.submit(run, spec)
            return False
        remove_tree(run.waiting_file)
        id, name = os.environ["SLURM_JOB_ID"], os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        gpus = _gpus() if spec.gpus else []
        write_whole(run.node_file, encode(Node(id, name, Machine.this(), gpus, _until(id))))
        run.note("it is Slurm's job %s, on %s" % (id, name), job=id, node=name)
        return True

    def gpus(self, run: RunFolder) -> Optional[List[str]]:
        node = self._node(run)
        return None if node is None else node.gpus

    def command(self, run: RunFolder, spec: RunSpec) -> str:
        return on_each(run, spec, in_job(run.key))

    def terminate_others(self, run: RunFolder) -> bool:
        return terminate_others(run, in_job(run.key))

    def cancel(self, runs: List[RunFolder], reason: Reason, ask: Callable[[RunFolder], None]) -> None:
        for run in runs:
            ask(run)
            if not self._job(run).id:
                with locked(self.home.lock("sbatch")), run.supervising() as ours:
                    if ours and not self._job(run).asked and run.state()[0] not in FINAL:
                        self._end(run, reason)
        jobs = {self._job(run).id: run for run in runs}
        jobs.pop("", None)  # its supervisor ends it, or the next contact knows more
        waiting = {id: run for id, run in jobs.items() if run.state()[0] is RunState.QUEUED}
        others = jobs.keys() - (self._take_back(waiting, reason) if waiting else set())
        number = "USR2" if reason is Reason.KILLED else "USR1"
        if others:
            slurm.run(["scancel", "--batch", "--signal=" + number, *others])

    def _end(self, run: RunFolder, reason: Reason, **fields: str) -> None:
        from ..ending import clean_up, finish

        finish(run, reason, **fields)
        clean_up(self.home, run)

    def _take_back(self, jobs: Dict[str, RunFolder], reason: Reason, message: Optional[str] = None) -> Set[str]:
        """End runs whose jobs, which are named by their numbers, have not started; the numbers of those."""
        there = slurm.jobs(self.home, time.time())
        rows = {id: there.of(id, _name(run.key)) for id, run in jobs.items()}
        waiting = [id for id, row in rows.items() if row is not None and row.state in slurm.WAITS]
        if not waiting:
            return set()
        slurm.run(["scancel", "--state=PENDING", *waiting])
        left = slurm.jobs(self.home, time.time())
        rows = {id: left.of(id, _name(jobs[id].key)) for id in waiting if left.good}
        ended = {id for id, row in rows.items() if row is None or row.state == "CANCELLED"}
        for run in (jobs[id] for id in ended):
            if run.state()[0] is RunState.QUEUED:
                self._end(run, reason, **({"message": message} if message else {}))
        return ended

    def release(self, key: str) -> None:
        run = self.home.run(key)
        for path in (run.node_file, run.waiting_file):
            remove_tree(path)
        with contextlib.suppress(OSError, ValueError):
            of = run.spec().of
            came = map(self.home.run, reversed(text_of(self._set_file(of)).split()))
            if of and all(not other.exists() or other.state()[0] in FINAL for other in came):
                remove_tree(self._set_file(of))

    def lost(self, run: RunFolder) -> Optional[Tuple[Reason, str]]:
        job = self._job(run)
        if in_job() or not self._is_lost(run, job):
            return None
        if run.kill_asked():
            return Reason.KILLED, ""
        if job.over not in ENDS and run.state()[0] is RunState.QUEUED:
            said = last_lines(run.supervisor_log, 1).strip() or "is its home on a disk that the nodes share?"
            return Reason.HOST_LOST, "its Slurm job %s ended before the run began: %s" % (job.id, said)
        default = Reason.HOST_LOST, "its supervisor was ended in its Slurm job %s"
        reason, words = ENDS.get(job.over, default)
        if reason is Reason.HOST_LOST and run.stop_asked() is not None:
            return Reason.STOPPED, ""
        return reason, words % job.id

    def cancelled(self, run: RunFolder) -> Optional[Tuple[Reason, str]]:
        told = [line for line in last_lines(run.supervisor_log, 50).splitlines() if " CANCELLED AT " in line]
        reason, words = ENDS["CANCELLED"]
        return (reason, words % in_job(run.key)) if told and " DUE TO " not in told[-1] else None

    def again(self, run: RunFolder) -> bool:
        id = in_job(run.key)
        return bool(id) and slurm.requeue(id, int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    def is_here(self, run: RunFolder) -> bool:
        node = self._node(run)
        return node is not None and node.machine.is_same(Machine.this())

    def reach(self, run: RunFolder) -> List[str]:
        node = self._node(run)
        if node is None or self.is_here(run):
            return []
        step = ["--jobid=" + node.job, "--overlap", "--nodes=1", "--ntasks=1", "--quiet"]
        return ["srun", *step, "--unbuffered"]  # else it keeps what is no whole line

    def taken_at(self, run: RunFolder) -> Optional[float]:
        return _taken_at

    def until(self, run: RunFolder) -> Optional[float]:
        node = self._node(run)
        return None if node is None else node.until

    def occupancy(self, asked: Demand) -> Occupancy:
        """One's own runs; places among them, and the partitions, come with the whole only. The nodes are asked
        for where something of them is: of any other run it is not known whether it starts at once."""
        answer = slurm.jobs(self.home)
        runs: List[Claim] = []
        waiting: List[Claim] = []
        rows = {row.name: row for row in answer.jobs.values()}
        for key in sorted(self.home.active_keys()):
            row, run = rows.get(_name(key)), self.home.run(key)
            if row is None or row.state in slurm.ENDED or not run.exists():
                continue
            claim = Claim(key, 0, "", RunState.QUEUED if row.state in slurm.WAITS else RunState.RUNNING)
            if asked.whole:
                spec, started = run.spec(), run.status().started
                claim = claim._replace(number=spec.number, command=spec.command[:200], gpus=spec.gpus)
                claim = claim._replace(running=time.time() - started if started else None)
            (waiting if row.state in slurm.WAITS else runs).append(claim)
        nodes = slurm.nodes(asked.scheduling) if asked.whole or asked.gpus or asked.cpus or asked.memory else []
        lacks = slurm.too_few(asked, nodes)
        idle = any(each.idle and each.gpus >= asked.gpus for each in nodes)
        places = [run._replace(place=place, of=len(waiting)) for place, run in enumerate(waiting, 1) if asked.whole]
        return Occupancy(
            free=idle and not waiting and lacks is None,
            before=len(waiting),
            slots=0,
            gpus=[],
            runs=runs + places,
            lacks=lacks,
            cluster=slurm.of_each_partition(nodes) if asked.whole else [],
        )

    def examine(self, asked: Examine) -> List[MachineCheck]:
        from .slurm_doctor import examine

        return examine(self.home, asked)

    # -- a job

    def _sbatch(self, run: RunFolder, spec: RunSpec) -> List[str]:
        asked = spec.scheduling or Scheduling()
        others = self._awaited(run, spec)
        seconds = spec.timeout + SAVING if spec.timeout else asked.time
        options = {
            "job-name": _name(run.key),
            "comment": "remoterun run %d" % spec.number,
            "output": run.supervisor_log.replace("%", "%%"),
            "chdir": self.home.path,
            "time": "%d" % math.ceil(seconds / 60) if seconds else "",
            "gres": "gpu:%d" % spec.gpus if spec.gpus else "",
            "cpus-per-task": "%d" % spec.cpus if spec.cpus else "",
            "mem": "%dM" % math.ceil(spec.memory / (1 << 20)) if spec.memory else "",
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "dependency": ":".join(["afterany", *others]) if others else "",
        }
        words = ["--open-mode=append", "--nodes=%d" % (spec.nodes or 1), "--ntasks-per-node=1"]
        words.append("--requeue" if spec.attempts > 1 else "--no-requeue")
        words += ["--%s=%s" % option for option in options.items() if option[1]]
        return words + shlex.split(asked.slurm)

    def _awaited(self, run: RunFolder, spec: RunSpec) -> List[str]:
        """The jobs whose ends that of a run awaits: of the runs that it comes after, and, where so many of its set may
        be at work at once, of the one that came that many places before it."""
        keys = [other.key for other in spec.after]
        if spec.at_once:
            came = text_of(self._set_file(spec.of)).split()
            if run.key not in came:
                came.append(run.key)
                write_whole(self._set_file(spec.of), "\n".join(came).encode(), sync=False)
            place = came.index(run.key) - spec.at_once
            keys += came[place : place + 1] if place >= 0 else []
        others = [other for other in map(self.home.run, keys) if other.exists() and other.state()[0] not in FINAL]
        return [id for id in (self._job(other).id for other in others) if id]

    def _set_file(self, of: str) -> str:
        """The keys of the runs of a set, in the order in which they came."""
        return os.path.join(self.home.queue, of + ".set")

    def _script(self, run: RunFolder, spec: RunSpec) -> str:
        """A login shell where the user has something to set up: it has `module`."""
        python, *rest = [shlex.quote(word) for word in supervision.agent_command()]
        setup = spec.scheduling.setup if spec.scheduling else ""
        return "\n".join(
            [
                "#!/bin/bash -l" if setup else "#!/bin/sh",
                setup,
                "export %s=%s %s=%s" % (_JOB, run.key, SUPERVISOR, run.key),
                "p=%s; [ -x $p ] || p=python3" % python,
                "exec $p %s supervise --home %s %s\n" % (" ".join(rest), shlex.quote(self.home.path), run.key),
            ]
        )

    def _is_lost(self, run: RunFolder, job: SlurmJob) -> bool:
        """Whether a run whose job is over can get its end here: files of a node may still come, where it had begun."""
        if not job.over or run.state()[0] in FINAL:
            return False
        waited = time.time() - job.since >= LATE
        return waited or run.state()[0] is RunState.QUEUED or run.kill_asked()

    def _job(self, run: RunFolder) -> SlurmJob:
        try:
            job: SlurmJob = decode(SlurmJob, read_bytes(run.job_file))
            return job
        except (OSError, ValueError):
            return SlurmJob()

    def _save(self, run: RunFolder, job: SlurmJob) -> None:
        write_whole(run.job_file, encode(job))

    def _node(self, run: RunFolder) -> Optional[Node]:
        try:
            node: Node = decode(Node, read_bytes(run.node_file))
            return node
        except (OSError, ValueError):
            return None


_PREFIX = "rr-"
_taken_at: Optional[float] = None
"""When the nodes of this job are taken away, in seconds since 1970."""


def _name(key: str) -> str:
    return _PREFIX + key


def in_job(key: str = "") -> str:
    """The number of the Slurm job whose supervisor this process is, of the run `key`, or of any; else ""."""
    mine = os.environ.get(_JOB, "")
    return os.environ.get("SLURM_JOB_ID", "") if mine and key in ("", mine) else ""


def _be_taken(*_: object) -> None:
    global _taken_at
    _taken_at = _taken_at or time.time() + KILL_WAIT


def _hear(run: RunFolder, path: str, ask: Callable[[], None]) -> None:
    """Be told that a file is there which another machine has written; this one may see it late."""
    os.listdir(run.path)  # asks the file server whether the folder has changed
    if not os.path.exists(path):
        ask()


def _gpus() -> List[str]:
    """The GPUs of this job, by their UUIDs, or as Slurm calls them where the driver does not answer."""
    named = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    with contextlib.suppress(gpu_tool.GpuError):
        uuids = {str(card.number): card.uuid for card in gpu_tool.list_gpus()}
        return [uuids.get(each, each) for each in named]
    return named


def _until(id: str) -> Optional[float]:
    """When a run has to be stopped, so that its outputs are saved before its job ends; None for never."""
    left = slurm.seconds_left(id)
    return None if left is None else time.time() + left - min(SAVING, 0.4 * left)
