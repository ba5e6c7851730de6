"""The answers of Slurm's commands: the jobs of a user, how one ended, the nodes; and plain words for them.

No flag is newer than Slurm 20.11, and none asks for JSON, which changes from one version to the next. An answer that
does not come, or is empty, is not known: it says nothing of a job.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from typing import Dict, List, Mapping, Optional, Tuple, Union

from ...shared.api import Demand
from ...shared.asked import memory_text
from ...shared.files import locked, read_bytes, write_whole
from ...shared.records import Record, decode, encode
from ...shared.spec import RunSpec, Scheduling
from ...store.home import Home

FRESH = 5.0
"""Seconds for which an answer of squeue is good for all who ask."""
WAITS = ("PENDING", "SUSPENDED")
"""The states of a job that waits."""
GONE = "GONE"
"""The state of a job that Slurm does not know."""
ENDED = (
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "CANCELLED",
    "NODE_FAIL",
    "BOOT_FAIL",
)
"""The states of a job that is over."""
_SQUEUE = "--format=%i|%j|%T|%S|%r"
_HEADER = "JOBID|NAME|"
_UNSURE = re.compile("timed out|Unable to contact|Connection refused|Zero Bytes|not respond", re.IGNORECASE)
"""Words of sbatch after which the job may have been made all the same."""

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
    "DependencyNeverSatisfied": "a run before it did not end as it must",
    "QOSJobLimit": "as many runs as its QOS allows are running",
    "QOSResourceLimit": "its QOS allows no more at once",
    "QOSTimeLimit": "its QOS allows less time",
}
"""Why a job waits, by the word of squeue; see `_limit` for more."""
_LIMIT = re.compile("(QOS|Assoc|)(?:Grp|Max)(Billing|CPU|Cpu|GRES|Jobs?|Mem|Node|Submit|Wall)(.*)")
_LIMITED = {"Billing": "credits", "CPU": "CPUs", "Cpu": "CPUs", "GRES": "GPUs", "Mem": "memory", "Node": "nodes"}


class JobLine(Record):
    """A line of squeue. `start`: when the job is expected to start, or did; as squeue writes it."""

    name: str
    state: str
    start: str
    why: str


class JobList(Record):
    """The answer of squeue at the time `t`: all jobs of this user, by their numbers, also those that have just ended.
    One that is not `good` says nothing."""

    t: float
    good: bool
    jobs: Dict[str, JobLine] = {}

    def of(self, id: str, name: str) -> Optional[JobLine]:
        """None where there is no such job, or another one has its number."""
        row = self.jobs.get(id)
        return row if row is not None and row.name == name else None


class NodeUse(Record):
    """A node of a partition, and how many of its GPUs no job has. `memory`: bytes. `limit`: a time in Slurm's form."""

    partition: str
    idle: bool
    gpus: int
    free: int
    cpus: int
    memory: int
    limit: str
    default: bool


def jobs(home: Home, since: float = 0.0) -> JobList:
    """The jobs of this user, asked within the last `FRESH` seconds by anybody who has this home, and later than
    `since`."""
    path = os.path.join(home.path, "squeue")
    with locked(home.lock("squeue")):
        asked = time.time()
        with contextlib.suppress(OSError, ValueError):
            known: JobList = decode(JobList, read_bytes(path))
            if since < known.t <= asked < known.t + FRESH:
                return known
        lines = said(["squeue", "--user=%d" % os.getuid(), "--states=all", _SQUEUE]).splitlines()
        good = any(line.startswith(_HEADER) for line in lines)
        rows = [line.split("|", 4) for line in lines if line.count("|") >= 4 and not line.startswith(_HEADER)]
        found = {id.strip(): JobLine(name, state, start, why.strip("() ")) for id, name, state, start, why in rows}
        answer = JobList(asked, good, found if good else {})
        write_whole(path, encode(answer), sync=False)
        return answer


def end_of(id: str, name: str) -> str:
    """The state in which the job of this number and name has ended; `GONE` for one that Slurm does not know, or whose
    number another one has; "" where it has not ended, or that is not known."""
    done = run(["scontrol", "--oneliner", "show", "job", id])
    if done is None:
        return ""
    if not done.returncode:
        facts = dict(re.findall(r"(?:^| )(JobName|JobState)=(\S*)", done.stdout))
        if facts.get("JobName") != name:
            return GONE if facts else ""
        state = facts.get("JobState", "")
        return state if state in ENDED else ""
    if "Invalid job id" not in done.stderr:
        return ""
    words = ["sacct", "--allocations", "--noheader", "--parsable2", "--jobs=" + id, "--format=JobName,State"]
    for line in said(words).splitlines():
        called, _, state = line.partition("|")
        if called == name and state:
            return state.split()[0].rstrip("+")  # "CANCELLED by 1000"
    return GONE


def submit(words: List[str], script: str, variables: Mapping[str, str], lock: int) -> Tuple[str, str]:
    """The number of the job that sbatch made of a script, or what it said where it refused; neither where it is not
    known whether there is a job."""
    done = run(["sbatch", "--parsable", *words], 60, script, lock, variables)
    if done is None or (done.returncode and _UNSURE.search(done.stderr)):
        return "", ""
    found = re.findall(r"^(\d+)(?:;.*)?$", done.stdout, re.MULTILINE)
    if found and not done.returncode:
        return found[-1], ""
    words_of_it = done.stderr.strip() or done.stdout.strip() or "sbatch said nothing"
    return "", re.sub(r"^sbatch: (error: )?", "", words_of_it, flags=re.MULTILINE)[-1000:]


def requeue(id: str, before: int) -> bool:
    """Put a job that runs back into the line, unless Slurm has done so itself: whether it has been put back more often
    than `before`, or will be."""
    done = run(["scontrol", "requeue", id])
    if done is None or not done.returncode:
        return done is not None
    found = re.search(r" Restarts=(\d+)", said(["scontrol", "--oneliner", "show", "job", id]))
    return found is not None and int(found[1]) > before


def seconds_left(id: str) -> Optional[float]:
    """Until a job is at its time limit; None where it has none, or that is not known."""
    return seconds_of(said(["squeue", "--noheader", "--jobs=" + id, "--format=%L"]).strip())


def seconds_of(text: str) -> Optional[float]:
    """The seconds of a time in Slurm's form, `1-12:00:00`; None for any other text."""
    found = re.match(r"(?:(\d{1,6})-)?(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6})$", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def nodes(asked: Optional[Scheduling] = None) -> List[NodeUse]:
    """The nodes of the partition, or of all partitions; none where that is not known."""
    of_it = ["--partition=" + asked.partition] if asked and asked.partition else []
    taken: Dict[str, int] = {}
    for line in said(["squeue", "--noheader", "--states=RUNNING,COMPLETING", "--format=%N|%b"]).splitlines():
        node, _, gres = line.partition("|")  # of a job on several nodes: none of them
        taken[node] = taken.get(node, 0) + gpus_in(gres)
    found = []
    for line in said(["sinfo", "--noheader", "--Node", "--format=%P|%t|%G|%c|%m|%l|%n", *of_it]).splitlines():
        parsed = re.match(r"(.*?)\|(.*?)\|(.*?)\|(\d{1,9})\+?\|(\d{1,12})\+?\|(.*?)\|(.*)", line)
        if parsed is None:  # such as a line of a site's own
            continue
        name, state, gres, cpus, memory, limit, node = parsed.groups()
        up = state.rstrip("*~#$@+^-!%") in ("idle", "mix", "alloc", "comp")
        gpus = gpus_in(gres)
        free = max(gpus - taken.get(node, 0), 0) if up else 0
        own = name.rstrip("*")
        found.append(NodeUse(own, state == "idle", gpus, free, int(cpus), int(memory) << 20, limit, own != name))
    return found


def too_few(asked: Union[RunSpec, Demand], nodes: List[NodeUse]) -> Optional[str]:
    """Why a run that asks for so much can never start; None also where nothing is known of the nodes."""
    for key, words in (("gpus", "%s GPUs"), ("cpus", "%s CPUs"), ("memory", "%s of memory")):
        wanted, most = getattr(asked, key) or 0, max((getattr(node, key) for node in nodes), default=0)
        if nodes and wanted > most:
            text = memory_text if key == "memory" else str
            return "the run asks for %s, and no node has more than %s" % (words % text(wanted), text(most))
    return None


def gpus_in(gres: str) -> int:
    """`gpu:a100:2(S:0-1)`, `gres/gpu:2`, `gres:gpu:a100:1`: 2, 2, 1."""
    found = re.findall(r"gpu((?::[A-Za-z][^:,(]*)?)(?::(\d+))?", gres)
    return sum(int(number or 1) for _, number in found)


def of_each_partition(nodes: List[NodeUse]) -> List[str]:
    """A line for each."""
    found = []
    for name in sorted({node.partition for node in nodes}):
        own = [node for node in nodes if node.partition == name]
        line = "%s: %d of %d nodes idle" % (name, sum(node.idle for node in own), len(own))
        gpus = sum(node.gpus for node in own)
        line += ", %d of %d GPUs free" % (sum(node.free for node in own), gpus) if gpus else ""
        line += "" if seconds_of(own[0].limit) is None else ", for %s at most" % own[0].limit
        found.append(line + (", the default" if own[0].default else ""))
    return found


def why(row: JobLine) -> str:
    """Why a job waits, and when it is expected to start, in words."""
    word = row.why.split(",")[0]
    words = REASONS.get(word) or _limit(word) or row.why or REASONS["None"]
    with contextlib.suppress(ValueError):
        start = time.mktime(time.strptime(row.start, "%Y-%m-%dT%H:%M:%S"))
        if start > time.time() + 60:
            form = "%H:%M" if start - time.time() < 20 * 3600 else "%a %d %b, %H:%M"
            words += "; it is expected to start at " + time.strftime(form, time.localtime(start))
    return words


def _limit(word: str) -> str:
    """For AssocGrpGRES, QOSMaxCpuPerUserLimit, and all that are made like these: all the GPUs that your account allows
    are taken. "" for any other."""
    found = _LIMIT.match(word)
    if found is None:
        return ""
    whose = "its QOS" if found[1] == "QOS" else "your account"
    what = "time" if found[2] == "Wall" or "Minutes" in found[3] else _LIMITED.get(found[2], "runs")
    if "PerJob" in found[3]:
        return "it asks for more %s than %s allows a run" % (what, whose)
    a_user = " a user" if "PerUser" in found[3] else ""
    now = "are taken" if what.endswith("s") else "is used up"
    return "all the %s that %s allows%s %s" % (what, whose, a_user, now)


def said(words: List[str]) -> str:
    """The standard output of a command of Slurm; "" where it fails."""
    done = run(words)
    return "" if done is None or done.returncode else done.stdout


def run(
    words: List[str],
    seconds: float = 30.0,
    text: str = "",
    lock: Optional[int] = None,
    variables: Mapping[str, str] = os.environ,
) -> Optional["subprocess.CompletedProcess[str]"]:
    """Run a command of Slurm, on the standard input `text`, with none of the variables that change what it does; None
    where it is not there, or does not end in time. It holds `lock` as well."""
    kept = ("SLURM_CONF", "SLURM_SACK_SOCKET")
    of_slurm = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_", "SRUN_")
    clean = {name: value for name, value in variables.items() if name in kept or not name.startswith(of_slurm)}
    try:
        return subprocess.run(
            words,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            errors="replace",
            timeout=seconds,
            env=dict(clean, LC_ALL="C") if variables is os.environ else clean,
            pass_fds=() if lock is None else (lock,),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
