"""Slurm, in whose line a run waits: its job is the run's supervisor, on a node that shares the home.

    RUN/job       a `SlurmJob`: its number, and what is known of its end
    RUN/node      a `Node`: where the job is and what it has there; written by the job, which takes it away at its end
    RUN/waiting   why the run waits, in words
    HOME/queue/KEY.set   the runs of a set with `--at-once`, in the order of their arrival
    HOME/squeue   the last answer of squeue, for whoever asks within `FRESH` seconds

Nothing of ours stays on the login node. What goes on there for an instant is asked by a contact: `settle` asks squeue
once for all runs, and then, of a job that is not there, scontrol and sacct. What they do not say is not known, and
changes nothing: an empty answer has no header. A job that is over, and whose run has no end, is ended from the files,
after `LATE` seconds in which they may still come: by a supervisor that is started on the login node for that.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import signal
import subprocess
import time
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from ...shared.api import Claim, Demand, MachineCheck, Occupancy
from ...shared.files import locked, read_bytes, remove_tree, text_of, write_whole
from ...shared.logs import last_lines
from ...shared.records import Record, decode, encode
from ...shared.spec import RunSpec, Scheduling
from ...shared.states import FINAL, Reason, RunState
from ...store.home import Home
from ...store.machine import Machine
from ...store.run_folder import SUPERVISOR, RunFolder
from .. import gpus as gpu_tool
from .. import supervision
from ..awaiting import awaited_runs
from . import Queue

FRESH = 5.0
"""Seconds for which an answer of squeue is good for all who ask."""
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
_SQUEUE = "--format=%i|%j|%T|%S|%r"
_HEADER = "JOBID|NAME|"
_UNSURE = re.compile("timed out|Unable to contact|Connection refused|Zero Bytes|not respond", re.IGNORECASE)
"""Words of sbatch after which the job may have been made all the same."""
_WAITS = ("PENDING", "SUSPENDED")
_GONE = "GONE"

REASONS = {
    "None": "it has just come",
    "Priority": "runs before it have a higher priority",
    "Resources": "the nodes that it needs are busy",
    "Dependency": "a run before it has not ended",
    "BeginTime": "it may start a little later",
    "JobHeldUser": "you hold it: `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "Licenses": "a licence that it needs is in use",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is not active",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "Reservation": "its reservation has not begun",
    "ReqNodeNotAvail": "a node that it needs is down, or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node has what it asks for",
    "Cleaning": "its last attempt is being cleaned up",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "QOSJobLimit": "as many runs as the QOS allows are running",
    "QOSResourceLimit": "the QOS allows no more at once",
    "QOSTimeLimit": "its QOS allows less time",
    "QOSMaxJobsPerUserLimit": "as many of your runs as the QOS allows are running",
    "QOSMaxGRESPerUser": "you have as many GPUs as the QOS allows",
    "QOSMaxCpuPerUserLimit": "you have as many CPUs as the QOS allows",
    "AssocGrpGRES": "your group has as many GPUs as it may",
    "AssocMaxJobsLimit": "as many of your runs as your account allows are running",
    "AssocGrpCPUMinutesLimit": "your group has used up its CPU time",
    "MaxGRESPerAccount": "your account has as many GPUs as it may",
}
"""Why a job waits, by the word of squeue."""

ENDS: Dict[str, Tuple[Reason, str]] = {
    "TIMEOUT": (Reason.TIMEOUT, "Slurm ended its job %s at the time limit"),
    "DEADLINE": (Reason.TIMEOUT, "Slurm ended its job %s at the deadline"),
    "OUT_OF_MEMORY": (Reason.OUT_OF_MEMORY, "Slurm ended its job %s, which used more memory than it had asked for"),
    "PREEMPTED": (Reason.PREEMPTED, "Slurm gave the nodes of its job %s to another one"),
    "CANCELLED": (Reason.HOST_LOST, "somebody cancelled its Slurm job %s: `scancel`, or an administrator"),
    "NODE_FAIL": (Reason.HOST_REBOOTED, "the node of its Slurm job %s went down"),
    "BOOT_FAIL": (Reason.HOST_REBOOTED, "the node of its Slurm job %s did not start"),
    _GONE: (Reason.HOST_LOST, "Slurm knows nothing of its job %s any more"),
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


class JobLine(Record):
    """A line of squeue. `start`: when the job is expected to start, or did; as squeue writes it."""

    name: str
    state: str
    start: str
    why: str


class JobList(Record):
    """The answer of squeue at the time `t`: all jobs of this user, by their numbers. One that is not `good` says
    nothing."""

    t: float
    good: bool
    jobs: Dict[str, JobLine] = {}


class Slurm(Queue):
    def __init__(self, home: Home) -> None:
        self.home = home
        self._answer_file = os.path.join(home.path, "squeue")

    # -- the contract

    def lacks(self, spec: RunSpec) -> Optional[str]:
        return too_few(spec.gpus, self._nodes(spec.scheduling)) if spec.gpus else None

    def submit(self, run: RunFolder, spec: RunSpec) -> None:
        from ..ending import clean_up, finish

        # sbatch holds the lock, too: should we die, the next one waits for it.
        with locked(self.home.lock("sbatch")) as lock:
            job = self._job(run)
            if job.id or in_job():
                return
            if job.asked:
                answer = self._ask(job.asked)
                if not answer.good:
                    return
                made = [id for id, row in answer.jobs.items() if row.name == _name(run.key)]
                if made:
                    self._save(run, job._replace(id=made[0]))
                    return
            job = SlurmJob(asked=time.time())
            self._save(run, job)
            done = tool(self._sbatch(run, spec), 60, self._script(run, spec), lock, supervision.session_variables(run))
            if done is None or (done.returncode and _UNSURE.search(done.stderr)):
                return  # the next contact asks whether there is one
            found = re.findall(r"^(\d+)(?:;.*)?$", done.stdout, re.MULTILINE)
            if found and not done.returncode:
                self._save(run, job._replace(id=found[-1]))
                return
        said = re.sub(r"^sbatch: (error: )?", "", done.stderr.strip() or done.stdout.strip(), flags=re.MULTILINE)
        finish(run, Reason.NO_CAPACITY, message="Slurm refused its job: %s" % said[-1000:])
        clean_up(self.home, run)

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
                elif ended and self._end_of(run, self._job(run)):
                    clean_up(self.home, run)
        for run in going:
            with contextlib.suppress(OSError, ValueError):
                self._settle(run)

    def _settle(self, run: RunFolder) -> None:
        job = self._job(run)
        if not job.id:
            self.submit(run, run.spec())
            return
        answer = self._ask()
        if not answer.good or answer.t <= job.asked:
            return
        row = answer.jobs.get(job.id)
        if row is not None and row.name == _name(run.key):
            self._goes_on(run, job, row)
            return
        over = self._end_of(run, job)
        if not over:
            return
        if not job.over:
            job = job._replace(over=over, since=time.time())
            self._save(run, job)
        if self._is_lost(run, job):
            supervision.spawn(self.home, run.key)

    def _goes_on(self, run: RunFolder, job: SlurmJob, row: JobLine) -> None:
        """Say why a job waits; end one that does so in vain, and one that was killed and does not hear."""
        if job.over:
            self._save(run, job._replace(over="", since=0.0))
        if row.state in _WAITS and run.state()[0] is RunState.QUEUED:
            failed = awaited_runs(self.home, run.spec()).failed
            if failed is not None:
                self._take_back(run, job, Reason.AFTER_FAILED, message=failed)
                return
            words = "Slurm: " + _why(row)
            if text_of(run.waiting_file) != words:
                write_whole(run.waiting_file, words.encode(), sync=False)
        if run.kill_asked() and time.time() - os.stat(run.kill_file).st_mtime > KILL_PATIENCE:
            tool(["scancel", "--signal=KILL", "--full", job.id])

    def supervised(self, run: RunFolder) -> bool:
        return os.path.exists(run.node_file) or run.supervised()

    @contextlib.contextmanager
    def supervising(self, run: RunFolder) -> Iterator[bool]:
        job, here = self._job(run), in_job(run.key)
        if not here:
            with run.supervising() if job.over else contextlib.nullcontext(False) as ours:
                yield ours
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
        id, name = os.environ["SLURM_JOB_ID"], os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        gpus = _gpus() if spec.gpus else []
        write_whole(run.node_file, encode(Node(id, name, Machine.this(), gpus, _until(id))))
        run.note("it is Slurm's job %s, on %s" % (id, name), job=id, node=name)
        return True

    def gpus(self, run: RunFolder) -> Optional[List[str]]:
        node = self._node(run)
        return None if node is None else node.gpus

    def cancel(self, run: RunFolder, reason: Reason) -> None:
        job = self._job(run)
        if not job.id:
            return  # the next contact knows more
        if run.state()[0] is RunState.QUEUED and self._take_back(run, job, reason):
            return
        number = "USR2" if reason is Reason.KILLED else "USR1"
        tool(["scancel", "--batch", "--signal=" + number, job.id])

    def _take_back(self, run: RunFolder, job: SlurmJob, reason: Reason, message: Optional[str] = None) -> bool:
        """End a run whose job has not started; whether that is so."""
        from ..ending import clean_up, finish

        tool(["scancel", "--state=PENDING", "--name=" + _name(run.key), job.id])
        if self._end_of(run, job) in ("", "COMPLETED", "FAILED") or run.state()[0] is not RunState.QUEUED:
            return False
        finish(run, reason, **({"message": message} if message else {}))
        clean_up(self.home, run)
        return True

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
        default = Reason.HOST_LOST, "its supervisor was ended in its Slurm job %s"
        reason, words = ENDS.get(job.over, default)
        if reason is Reason.HOST_LOST and run.stop_asked() is not None:
            return Reason.STOPPED, ""
        return reason, words % job.id

    def again(self, run: RunFolder) -> bool:
        told = [line for line in last_lines(run.supervisor_log, 50).splitlines() if " CANCELLED AT " in line]
        if told and " DUE TO " not in told[-1]:
            return False  # it was no preemption: somebody has typed scancel
        id = in_job(run.key)
        done = tool(["scontrol", "requeue", id]) if id else None
        if done is None or not done.returncode:
            return done is not None
        done = tool(["scontrol", "--oneliner", "show", "job", id])  # Slurm may have done so itself
        found = re.search(r" Restarts=(\d+)", done.stdout if done is not None else "")
        return found is not None and int(found[1]) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))

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
        for where GPUs are, or the whole: of a run without GPUs it is not known whether it starts at once."""
        answer = self._ask()
        runs: List[Claim] = []
        waiting: List[Claim] = []
        rows = {row.name: row for row in answer.jobs.values()}
        for key in sorted(self.home.active_keys()):
            row, run = rows.get(_name(key)), self.home.run(key)
            if row is None or not run.exists():
                continue
            claim = Claim(key, 0, "", RunState.QUEUED if row.state in _WAITS else RunState.RUNNING)
            if asked.whole:
                spec, started = run.spec(), run.status().started
                claim = claim._replace(number=spec.number, command=spec.command[:200], gpus=spec.gpus)
                claim = claim._replace(running=time.time() - started if started else None)
            (waiting if row.state in _WAITS else runs).append(claim)
        nodes = self._nodes(asked.scheduling) if asked.gpus or asked.whole else []
        lacks = too_few(asked.gpus, nodes)
        idle = any(each.idle and each.gpus >= asked.gpus for each in nodes)
        places = [run._replace(place=place, of=len(waiting)) for place, run in enumerate(waiting, 1) if asked.whole]
        return Occupancy(
            free=idle and not waiting and lacks is None,
            before=len(waiting),
            slots=0,
            gpus=[],
            runs=runs + places,
            lacks=lacks,
            cluster=_partitions(nodes) if asked.whole else [],
        )

    def examine(self, gpus: int) -> List[MachineCheck]:
        done = tool(["sinfo", "--version"])
        if done is None or done.returncode:
            return [MachineCheck("slurm", False, "sinfo does not run here", "is this the login node of a cluster?")]
        return [MachineCheck("slurm", True, done.stdout.strip())]

    # -- what Slurm says

    def _ask(self, since: float = 0.0) -> JobList:
        """The answer of squeue about all jobs of this user, of the last `FRESH` seconds, and later than `since`."""
        with locked(self.home.lock("squeue")):
            asked = time.time()
            with contextlib.suppress(OSError, ValueError):
                known: JobList = decode(JobList, read_bytes(self._answer_file))
                if since < known.t <= asked < known.t + FRESH:
                    return known
            done = tool(["squeue", "--user=%d" % os.getuid(), _SQUEUE], 20)
            lines = [] if done is None or done.returncode else done.stdout.splitlines()
            good = any(line.startswith(_HEADER) for line in lines)
            rows = [line.split("|", 4) for line in lines if line.count("|") >= 4 and not line.startswith(_HEADER)]
            jobs = {id.strip(): JobLine(name, state, start, why.strip("() ")) for id, name, state, start, why in rows}
            answer = JobList(asked, good, jobs if good else {})
            write_whole(self._answer_file, encode(answer), sync=False)
            return answer

    def _end_of(self, run: RunFolder, job: SlurmJob) -> str:
        """The state in which a job has ended; "GONE" for one that Slurm does not know; "" where it has not, or that is
        not known."""
        done = tool(["scontrol", "--oneliner", "show", "job", job.id])
        if done is None:
            return ""
        if not done.returncode:
            facts = dict(re.findall(r"(?:^| )(JobName|JobState)=(\S*)", done.stdout))
            if facts.get("JobName") != _name(run.key):
                return _GONE if facts else ""  # another cluster, or its numbers begin anew
            state = facts.get("JobState", "")
            return state if state in ENDS or state in ("COMPLETED", "FAILED") else ""
        if "Invalid job id" not in done.stderr:
            return ""
        words = ["sacct", "--allocations", "--noheader", "--parsable2", "--jobs=" + job.id, "--format=JobName,State"]
        said = tool(words)
        for line in said.stdout.splitlines() if said is not None and not said.returncode else ():
            name, _, state = line.partition("|")
            if name == _name(run.key) and state:
                return state.split()[0].rstrip("+")  # "CANCELLED by 1000"
        return _GONE

    def _nodes(self, scheduling: Optional[Scheduling]) -> List["_NodeUse"]:
        """The nodes of the partition, or of all partitions; none where that is not known."""
        partition = ["--partition=" + scheduling.partition] if scheduling and scheduling.partition else []
        done = tool(["sinfo", "--noheader", "--Node", "--format=%P|%t|%G|%n", *partition])
        used = tool(["squeue", "--noheader", "--states=RUNNING,COMPLETING", "--format=%N|%b"])
        taken: Dict[str, int] = {}
        for line in used.stdout.splitlines() if used is not None and not used.returncode else ():
            node, _, gres = line.partition("|")  # of a job on several nodes: none of them
            taken[node] = taken.get(node, 0) + _gpus_in(gres)
        found = []
        for line in done.stdout.splitlines() if done is not None and not done.returncode else ():
            name, state, gres, node = line.split("|", 3)
            up = state.rstrip("*~#$@+^-!%") in ("idle", "mix", "alloc", "comp")
            gpus = _gpus_in(gres)
            free = max(gpus - taken.get(node, 0), 0) if up else 0
            found.append(_NodeUse(name.rstrip("*"), state == "idle", gpus, free))
        return found

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
        words = ["sbatch", "--parsable", "--open-mode=append", "--nodes=1", "--ntasks=1"]
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


class _NodeUse(Record):
    """A node of a partition, how many GPUs it has, and how many of them no job has."""

    partition: str
    idle: bool
    gpus: int
    free: int


def too_few(gpus: int, nodes: List[_NodeUse]) -> Optional[str]:
    """Why a run that asks for so many GPUs can never start; None also where nothing is known of the nodes."""
    most = max((node.gpus for node in nodes), default=gpus)
    return None if most >= gpus else "the run asks for %d GPUs, and no node has more than %d" % (gpus, most)


def _gpus_in(gres: str) -> int:
    """`gpu:a100:2(S:0-1)`, `gres/gpu:2`, `gres:gpu:a100:1`: 2, 2, 1."""
    found = re.findall(r"gpu((?::[A-Za-z][^:,(]*)?)(?::(\d+))?", gres)
    return sum(int(number or 1) for _, number in found)


def _partitions(nodes: List[_NodeUse]) -> List[str]:
    """A line for each."""
    found = []
    for name in sorted({node.partition for node in nodes}):
        own = [node for node in nodes if node.partition == name]
        line = "%s: %d of %d nodes idle" % (name, sum(node.idle for node in own), len(own))
        gpus = sum(node.gpus for node in own)
        found.append(line + (", %d of %d GPUs free" % (sum(node.free for node in own), gpus) if gpus else ""))
    return found


_PREFIX = "rr-"
_taken_at: Optional[float] = None
"""When the nodes of this job are taken away, in seconds since 1970."""


def _name(key: str) -> str:
    return _PREFIX + key


def _why(row: JobLine) -> str:
    """Why a job waits, and when it is expected to start, in words."""
    word = row.why.split(",")[0]
    words = REASONS.get(word, row.why or "it has just come")
    with contextlib.suppress(ValueError):
        start = time.mktime(time.strptime(row.start, "%Y-%m-%dT%H:%M:%S"))
        if start > time.time() + 60:
            form = "%H:%M" if start - time.time() < 20 * 3600 else "%a %d %b, %H:%M"
            words += "; it is expected to start at " + time.strftime(form, time.localtime(start))
    return words


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
    done = tool(["squeue", "--noheader", "--jobs=" + id, "--format=%L"])
    found = re.match(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$", done.stdout.strip()) if done is not None else None
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    left = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return time.time() + left - min(SAVING, 0.4 * left)


def tool(
    words: List[str],
    seconds: float = 30.0,
    text: str = "",
    lock: Optional[int] = None,
    variables: Optional[Dict[str, str]] = None,
) -> Optional["subprocess.CompletedProcess[str]"]:
    """Run a command of Slurm, on the standard input `text`, with none of the variables that change what it does; None
    where it is not there, or does not end in time. It holds `lock` as well."""
    kept = ("SLURM_CONF", "SLURM_SACK_SOCKET")
    of_slurm = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_", "SRUN_")
    known = os.environ if variables is None else variables
    clean = {name: value for name, value in known.items() if name in kept or not name.startswith(of_slurm)}
    try:
        return subprocess.run(
            words,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            errors="replace",
            timeout=seconds,
            env=dict(clean, LC_ALL="C") if variables is None else clean,
            pass_fds=() if lock is None else (lock,),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
