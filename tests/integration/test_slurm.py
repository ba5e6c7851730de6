"""A machine whose runs wait in Slurm's line, against a real Slurm of three nodes, which is reached by SSH."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from remoterun.agent.shared.files import locked
from remoterun.agent.shared.spec import PortSpec, Scheduling
from remoterun.agent.shared.states import RunState
from remoterun.cli.commands import doctor
from remoterun.client import Client
from remoterun.client.live.ports import PortNews
from remoterun.client.runs.preparing import Talk
from remoterun.client.sets.parameters import parse_parameter
from remoterun.client.sets.sets import SetRequest
from remoterun.config import Config
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import MachineType, Mount, Run, RunRequest
from remoterun.source import snapshot
from tests.commands import REMOTERUN
from tests.conftest import require
from tests.e2e.conftest import make_place
from tests.lab.cluster import NODES, Cluster
from tests.lab.lab import Lab
from tests.lab.process import Process
from tests.readme import CLOUD, CLUSTER, README, follow, section, shown
from tests.workshop import SAVES, own_port, until, write_files

ROOT = Path(__file__).parents[2]
HOLDS = "until [ -e {}/go ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def running_cluster(lab: Lab) -> Iterator[Cluster]:
    """One at a time on this machine: they would share the groups of processes by which Slurm holds jobs."""
    require(Cluster.missing())
    with locked(str(lab.cache / "cluster.lock")):
        cluster = Cluster(lab).up()
        yield cluster
        cluster.down()


class Campus:
    """A student's laptop, and a home of hers on the cluster."""

    def __init__(self, cluster: Cluster, here: Path) -> None:
        self.cluster, self.here = cluster, here
        self.there = f"/home/me/{os.urandom(4).hex()}"
        self.machine = MachineType(
            "cluster", host="login", engine="process", home=self.there, queue="slurm", scheduling=Scheduling()
        )
        self.source = snapshot(write_files(here / "source", {"saves.py": SAVES}), no_git=True)
        self.client = self.new_client()

    def new_client(self, **scheduling: Any) -> Client:
        if hasattr(self, "client"):
            self.client.close()
        machine = replace(self.machine, scheduling=Scheduling(**scheduling))
        ssh = self.cluster.lab.ssh_config()
        self.client = Client(Config(self.here / "laptop", "cluster", {"cluster": machine}, ssh))
        return self.client

    def submit(self, command: str, **asked: Any) -> Run:
        return self.client.runs.submit(RunRequest(command, framework="none", **asked), self.source, "cluster")

    def holds(self, end: str = "", **asked: Any) -> Run:
        """A run that goes on until `go`."""
        return self.submit(f"echo up; {HOLDS.format(self.there)}; {end}", **asked)

    def path(self, name: str) -> Path:
        return self.cluster.login.path(f"{self.there}/{name}")

    def go(self) -> None:
        self.path("go").touch()

    def log(self, run: Run) -> bytes:
        try:
            return self.path(f"runs/{run.key}/io/log").read_bytes()
        except FileNotFoundError:
            return b""

    def says(self, run: Run, text: bytes) -> None:
        until(lambda: text in self.log(run), what=lambda: f"{self.log(run)!r}, {self.now(run)}, {self.jobs()}")

    def now(self, run: Run) -> Run:
        return self.client.runs.get(run.number)

    def ended(self, run: Run, seconds: float = 60) -> Run:
        def final() -> Run | None:
            found = self.now(run)
            return found if found.final else None

        found: Run = until(final, seconds, lambda: f"{self.now(run)}, {self.jobs()}", pause=0.1)
        return found

    def jobs(self) -> list[str]:
        """Name, state and why of all that there are."""
        return self.cluster.ask("squeue", "--noheader", "--format=%j %T %r").splitlines()

    def node(self, run: Run) -> str:
        return str(until(lambda: self.now(run).node))

    def close(self) -> None:
        self.go()
        self.new_client()
        self.cluster.ask("scancel", "--name=other")
        for run in self.client.runs.list(None):
            if not run.final:
                self.client.runs.kill(run.number)
                self.ended(run)
        self.client.close()
        until(lambda: self.jobs() == [], what=lambda: str(self.jobs()))


@pytest.fixture
def campus(running_cluster: Cluster, tmp_path: Path) -> Iterator[Campus]:
    campus = Campus(running_cluster, tmp_path)
    yield campus
    try:
        campus.close()
    finally:
        running_cluster.ask("scancel", "--user=me")
        running_cluster.up()


def test_to_its_end(campus: Campus) -> None:
    """The job's own status, log and outputs, on a node; nothing of ours stays on the login node."""
    run = campus.submit("echo on $(hostname); echo made >made; exit 7")
    found = campus.ended(run)
    assert (found.state, found.code) == (RunState.FAILED, 7) and found.node in NODES and found.job
    assert campus.log(run) == f"on {found.node}\n".encode()
    assert campus.path(f"runs/{run.key}/out/made").read_text() == "made\n"
    campus.client.close()
    until(lambda: not [each for each in campus.cluster.login.processes() if campus.there in each.command])


def test_while_it_goes_on(campus: Campus) -> None:
    """Without a client, and while the login node, with slurmctld, goes down and comes back. Two seconds after it was
    handed over, the login node has none of our processes."""
    counts = f"i=0; until [ -e {campus.there}/go ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo last"
    run = campus.submit(counts)
    campus.client.close()
    login = campus.cluster.login
    until(lambda: not [each for each in login.processes() if campus.there in each.command], 2)
    until(lambda: b"1\n" in campus.log(run))
    node = campus.cluster.hosts[json.loads(campus.path(f"runs/{run.key}/node").read_bytes())["name"]]
    login.stop_controller()  # which saves what it knows
    login.down()
    log = node.path(f"{campus.there}/runs/{run.key}/io/log")
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size)
    node.path(f"{campus.there}/go").touch()
    until(lambda: log.read_bytes().endswith(b"last\n"))
    campus.cluster.up()
    campus.new_client()
    assert campus.ended(run).state is RunState.COMPLETE
    *numbers, last = campus.log(run).decode().split()
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)] and last == "last"


def test_one_that_waits_says_why(campus: Campus) -> None:
    """And is ended at once; its job goes, too."""
    holders = [campus.holds(gpus=2) for _ in NODES]
    for run in holders:
        campus.says(run, b"up")
    run = campus.submit("true", gpus=2)
    until(lambda: "Slurm: the nodes that it needs are busy" in (campus.now(run).note or ""))
    began = time.monotonic()
    campus.client.runs.stop(run.number)
    found = campus.ended(run)
    assert found.state is RunState.STOPPED and found.reason == "stopped"
    assert time.monotonic() - began < 10
    assert len(campus.jobs()) == 3
    campus.go()
    for each in holders:
        assert campus.ended(each).state is RunState.COMPLETE


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_that_runs_is_ended(campus: Campus, how: str) -> None:
    run = campus.submit("exec python3 saves.py 3")
    campus.says(run, b"up")
    getattr(campus.client.runs, how)(run.number)
    found = campus.ended(run)
    assert (found.reason, found.code) == {"stop": ("stopped", 3), "kill": ("killed", 137)}[how]
    assert (b"saved" in campus.log(run)) is (how == "stop")


def test_one_that_does_not_hear_is_killed(campus: Campus) -> None:
    run = campus.holds()
    campus.says(run, b"up")
    node = campus.cluster.hosts[campus.node(run)]
    pids = [str(each.pid) for each in node.processes() if "supervise" in each.command and run.key in each.command]
    node.exec(["kill", "-STOP", *pids], check=True)
    campus.client.runs.kill(run.number)
    assert campus.ended(run).reason == "killed"


def test_gpus(campus: Campus) -> None:
    """Those that Slurm has granted; more than any node has are refused before there is a run."""
    run = campus.submit("echo has $CUDA_VISIBLE_DEVICES", gpus=2)
    assert campus.ended(run).state is RunState.COMPLETE and campus.log(run) == b"has 0,1\n"
    for asked, words in (({"gpus": 3}, "3 GPUs"), ({"cpus": 3}, "3 CPUs"), ({"memory": 3 << 30}, "3G of memory")):
        with pytest.raises(UsageError, match=f"asks for {words}, and no node has more than 2"):
            campus.submit("true", **asked)


def test_what_slurm_refuses(campus: Campus) -> None:
    campus.new_client(partition="nowhere")
    run = campus.submit("true")
    found = campus.ended(run)
    assert found.reason == "no_capacity" and "partition" in (found.message or "")
    assert campus.jobs() == []


@pytest.mark.parametrize(
    ("setup", "why"),
    [("echo no such module >&2; exit 1", "no such module"), ("exit 1", "is its home on a disk that the nodes share?")],
)
def test_a_job_in_which_nothing_begins(campus: Campus, setup: str, why: str) -> None:
    """What it said last says why; where its home is not there, it can say nothing."""
    campus.new_client(setup=setup)
    found = campus.ended(campus.submit("true"))
    assert (found.state, found.reason) == (RunState.INTERRUPTED, "host_lost")
    words = rf"its Slurm job \d+ ended before the run began: {re.escape(why)}"
    assert re.fullmatch(words, found.message or ""), found.message


def test_its_time(campus: Campus) -> None:
    """It is stopped before its job is, so that its outputs are saved."""
    campus.new_client(time=60.0)
    run = campus.submit("echo kept >kept; exec python3 saves.py 0")
    found = campus.ended(run, 90)
    assert (found.state, found.reason) == (RunState.STOPPED, "timeout") and b"saved" in campus.log(run)
    assert campus.path(f"runs/{run.key}/out/kept").exists()


@pytest.mark.parametrize(("partition", "attempts"), [("low", 2), ("cancel", 2), ("cancel", 1)])
def test_it_is_taken_away(campus: Campus, partition: str, attempts: int) -> None:
    campus.new_client(partition=partition, slurm="--exclusive")
    command = "echo begins; [ -e again ] || { touch again; exec python3 saves.py 0; }; echo goes on"
    run = campus.submit(command, attempts=attempts)
    campus.says(run, b"up")
    others = ["sbatch", "--parsable", "--partition=main", "--exclusive", "--nodes=3", "--job-name=other", "--wrap"]
    other = campus.cluster.login.exec_user([*others, "sleep 1"], check=True).stdout.strip()
    if attempts == 1:
        assert campus.ended(run).reason == "preempted" and b"saved" in campus.log(run)
        return
    job = str(campus.now(run).job)
    until(lambda: campus.cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip() == "PENDING")
    campus.cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert campus.ended(run).state is RunState.COMPLETE, other
    assert campus.log(run).count(b"begins") == 2 and campus.log(run).endswith(b"goes on\n")


def test_its_node_goes_down(campus: Campus) -> None:
    run = campus.holds("true", description="cut")
    campus.says(run, b"up")
    node = campus.cluster.hosts[campus.node(run)]
    node.down()
    found = campus.ended(run, 150)
    assert (found.state, found.reason) == (RunState.INTERRUPTED, "host_rebooted") and "went down" in str(found.message)
    node.up()
    campus.cluster.until_idle()


def test_a_job_that_somebody_cancels(campus: Campus) -> None:
    campus.new_client(slurm="--begin=now+1hour")
    run = campus.submit("true")
    until(lambda: "a little later" in (campus.now(run).note or ""))
    campus.cluster.ask("scancel", f"--name=rr-{run.key}")
    found = campus.ended(run)
    assert found.state is RunState.INTERRUPTED and "scancel" in str(found.message)


def test_scancel_of_one_that_runs_is_no_preemption(campus: Campus) -> None:
    """It does not go back into the line, though it has another attempt."""
    run = campus.submit("echo kept >kept; exec python3 saves.py 0", attempts=2)
    campus.says(run, b"up")
    campus.cluster.login.exec_user(["scancel", str(campus.now(run).job)], check=True)
    found = campus.ended(run)
    assert (found.state, found.reason) == (RunState.INTERRUPTED, "host_lost") and "scancel" in str(found.message)
    assert b"saved" in campus.log(run)
    assert campus.path(f"runs/{run.key}/out/kept").exists()
    until(lambda: campus.jobs() == [], what=lambda: str(campus.jobs()))


def test_silence_is_no_end(campus: Campus) -> None:
    """squeue prints nothing and says that all is well; later it does not answer at all."""
    run = campus.holds()
    campus.says(run, b"up")
    for text in ("exit 0", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1"):
        tools = campus.cluster.login.path("/usr/local/bin/squeue")
        tools.write_text(f"#!/bin/sh\n{text}\n")
        tools.chmod(0o755)
        campus.path("squeue").unlink()
        try:
            until(lambda: campus.now(run).state is RunState.RUNNING and campus.path("squeue").exists(), pause=0.5)
            assert b'"good":false' in campus.path("squeue").read_bytes().replace(b" ", b"")
        finally:
            tools.unlink()
    campus.go()
    assert campus.ended(run).state is RunState.COMPLETE


def test_inside(campus: Campus) -> None:
    """`exec`, ports and counters, on a node without sshd."""
    serves = "import http.server as h; h.HTTPServer(('127.0.0.1', {}), h.SimpleHTTPRequestHandler).serve_forever()"
    with own_port() as port:
        run = campus.submit(f'echo up; exec python3 -c "{serves.format(port)}"')
        campus.says(run, b"up")
        with campus.client.runs.exec(run.number, "hostname; exit 9") as program:
            said = b"".join(data for data, error in program.output() if not error)
            assert (program.code, said.decode().strip()) == (9, campus.node(run))
        news: Queue[PortNews] = Queue()
        with campus.client.runs.forward(run.number, [PortSpec(port)], news.put):
            while (found := news.get(timeout=60)).kind != "up":
                assert found.kind == "waiting"
            with urllib.request.urlopen(f"http://127.0.0.1:{found.local}/saves.py") as answer:
                assert answer.read().decode() == SAVES
        ((use,),) = campus.client.runs.top([run.number], once=True)
        assert use.sample is not None and use.sample.memory
    campus.client.runs.kill(run.number)
    campus.ended(run)


def test_after_another(campus: Campus) -> None:
    first = campus.holds("exit 3")
    second, third = (campus.submit("true", after=(first.number,)), campus.submit("true", after_any=(first.number,)))
    until(lambda: "a run before it has not ended" in (campus.now(second).note or ""))
    campus.go()
    assert campus.ended(third).state is RunState.COMPLETE
    assert campus.ended(second).reason == "after_failed"


def test_out_of_memory(campus: Campus) -> None:
    """It has its name, where Slurm holds jobs to what they asked for, or we do. Where the kernel ends the supervisor in
    place of the command, a contact ends the run a minute later."""
    hungry = "x = []\nwhile True: x.append(bytearray(b'x' * (8 << 20)))"
    campus.source = snapshot(write_files(campus.here / "hungry", {"eat.py": hungry}), no_git=True)
    run = campus.submit("echo kept >kept; exec python3 eat.py", memory=200 << 20)
    found = campus.ended(run, 150)
    assert (found.state, found.reason) == (RunState.FAILED, "out_of_memory")
    assert campus.path(f"runs/{found.key}/out/kept").exists()


def test_two_submits_are_one_job(campus: Campus) -> None:
    """Whoever dies, wherever between sbatch and its note; and a job that is not the noted one ends at once."""
    sbatch = campus.cluster.login.path("/usr/local/bin/sbatch")
    sbatch.write_text('#!/bin/sh\n/usr/bin/sbatch "$@" >"$HOME/said" || exit\nkill -9 $PPID\ncat "$HOME/said"\n')
    sbatch.chmod(0o755)
    try:
        with contextlib.suppress(RemoterunError):
            campus.submit("echo once >>../../../once; exec sleep 2")
    finally:
        sbatch.unlink()
    (run,) = campus.client.runs.list(None)
    campus.ended(run)
    assert campus.path("once").read_text() == "once\n"
    assert campus.cluster.ask("squeue", "--noheader", "--states=all", f"--name=rr-{run.key}").count("\n") == 1


def test_killed_again_and_again(campus: Campus) -> None:
    """Each contact that hands runs to Slurm is killed: before there is a job, while it is made, or after that. Each run
    gets one job."""
    sbatch = campus.cluster.login.path("/usr/local/bin/sbatch")
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Unable to contact slurm controller' >&2; exit 1\n")
    sbatch.chmod(0o755)
    campus.new_client(slurm="--hold")
    runs = [campus.submit("true") for _ in range(16)]
    said = """until kill -9 $PPID; do :; done; exec /usr/bin/sbatch "$@"
/usr/bin/sbatch "$@" >"$said"; kill -9 $PPID; cat "$said"
(kill -9 $PPID) & exec /usr/bin/sbatch "$@"
kill -9 $PPID""".splitlines()
    cases = "".join(f"{number}) {words};;\n" for number, words in enumerate(said))
    turn = f'echo >>"$HOME/turns"; case $(($(wc -l <"$HOME/turns") % {len(said)})) in'
    sbatch.write_text(f"#!/bin/sh\nsaid=$(mktemp)\n{turn}\n{cases}esac\n")
    (agent,) = campus.path("agent").glob("*.pyz")
    code = """import sys
home, sys.argv[0] = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
from agent.running.supervision import revive
from agent.store.home import Home
revive(Home.open(home))
"""
    contact = ["python3", "-I", "-S", "-c", code, campus.there, f"{campus.there}/agent/{agent.name}"]
    kills, deadline = 0, time.monotonic() + 60
    try:
        while not all(json.loads(campus.path(f"runs/{run.key}/job").read_bytes())["id"] for run in runs):
            kills += campus.cluster.login.exec_user(contact).returncode == -9
            assert time.monotonic() < deadline, campus.jobs()
    finally:
        sbatch.unlink()
    names = campus.cluster.ask("squeue", "--noheader", "--states=all", "--format=%j").split()
    assert [names.count(f"rr-{run.key}") for run in runs] == [1] * len(runs)
    assert kills >= len(runs)


def test_slurm_forgets_its_jobs(campus: Campus) -> None:
    """And without accounting nobody knows how they ended. A site's `sacct`, a stand-in here, does."""
    campus.new_client(slurm="--begin=now+1hour")
    gone, known = campus.submit("true"), campus.submit("true")
    jobs = [json.loads(campus.path(f"runs/{run.key}/job").read_bytes())["id"] for run in (gone, known)]
    campus.client.close()
    login = campus.cluster.login
    login.stop_controller()
    login.exec(["sh", "-c", "rm -r /var/tmp/slurmctld/*job*"], check=True)
    login.start_controller()
    campus.cluster.until_idle()
    assert campus.jobs() == []
    sacct = login.path("/usr/local/bin/sacct")
    sacct.write_text(f"#!/bin/sh\ncase $* in *--jobs={jobs[1]}*) echo 'rr-{known.key}|DEADLINE';; *) exit 1;; esac\n")
    sacct.chmod(0o755)
    try:
        campus.new_client()
        found = campus.ended(gone)
        assert (found.state, found.reason) == (RunState.INTERRUPTED, "host_lost")
        assert "knows nothing" in str(found.message)
        found = campus.ended(known)
        assert found.reason == "timeout" and "deadline" in str(found.message)
    finally:
        sacct.unlink()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_file_that_a_node_sees_late(campus: Campus, how: str) -> None:
    """What was asked of a run arrives by a signal, too."""
    run = campus.submit("exec python3 saves.py 3")
    campus.says(run, b"up")
    folder = f"{campus.there}/runs/{run.key}"
    scancel = campus.cluster.login.path("/usr/local/bin/scancel")
    hides = f"cd {folder} && rm -f stop kill"
    scancel.write_text(f'#!/bin/sh\n{hides}\necho "$@" >>{folder}/told\nexec /usr/bin/scancel "$@"\n')
    scancel.chmod(0o755)
    try:
        getattr(campus.client.runs, how)(run.number)
        assert campus.ended(run).reason == {"stop": "stopped", "kill": "killed"}[how]
        assert "--signal=USR" in campus.path(f"runs/{run.key}/told").read_text()
    finally:
        scancel.unlink()


def test_environments_of_the_login_node(campus: Campus) -> None:
    """Where nodes have no network: built before the run has a job, once for all that want it; a build may be stopped,
    and may fail. Nothing of it stays."""
    campus.new_client(build="login")
    login = campus.cluster.login

    def submit(**asked: Any) -> Run:
        request = RunRequest("command -v python", framework="python", **asked)
        return campus.client.runs.submit(request, campus.source, "cluster")

    first, second = submit(), submit()
    until(lambda: "building the environment" in (campus.now(first).note or ""))
    assert campus.jobs() == []
    for run in (second, first):
        campus.client.runs.stop(run.number)
        found = campus.ended(run)
        assert found.reason == "stopped" and found.job is None, found
    runs = [submit() for _ in range(3)]
    campus.client.close()
    until(lambda: all(b"/venv/bin/python" in campus.log(run) for run in runs))
    logs = [run for run in runs if campus.path(f"runs/{run.key}/build.log").exists()]
    assert len(logs) == 1 and b"ensurepip" in campus.path(f"runs/{logs[0].key}/build.log").read_bytes()
    until(lambda: not [each for each in login.processes() if campus.there in each.command])
    campus.new_client(build="login")
    assert [campus.ended(run).state for run in runs] == [RunState.COMPLETE] * 3
    found = campus.ended(submit(pip=("nothing @ file:///nowhere",)))
    assert found.reason == "build_failed" and found.job is None and "nowhere" in str(found.message)


def test_a_number_that_another_job_has(campus: Campus) -> None:
    """And one that Slurm has forgotten."""
    other = campus.cluster.login.exec_user(["sbatch", "--parsable", "--hold", "--wrap=true"], check=True).stdout.strip()
    run = campus.submit("echo up; exec sleep 100", description="lost")
    campus.says(run, b"up")
    job = campus.path(f"runs/{run.key}/job")
    mine = str(campus.now(run).job)
    job.write_text(job.read_text().replace(f'"{mine}"', f'"{other}"'))
    campus.client.runs.kill(run.number)  # nobody hears it: that job is another one
    assert campus.ended(run).reason == "killed"
    campus.cluster.ask("scancel", other, mine)


def test_what_it_costs_to_ask(campus: Campus) -> None:
    """One squeue in five seconds, for all runs; and no word or flag that Slurm 20.11 does not know."""
    counted = campus.cluster.login.path("/usr/local/bin/squeue")
    counted.write_text('#!/bin/sh\necho "$@" >>"$HOME/asked"\nexec /usr/bin/squeue "$@"\n')
    counted.chmod(0o755)
    try:
        runs = [campus.holds() for _ in range(3)]
        for run in runs:
            campus.says(run, b"up")
        began = time.monotonic()
        for _ in range(20):
            assert len(campus.client.runs.list(None)) == 3
        took = time.monotonic() - began
        asked = campus.cluster.login.path("/home/me/asked").read_text().splitlines()
        listed = [line for line in asked if "--user=" in line]
        assert 1 <= len(listed) <= 5 + took / 5 and "json" not in "".join(asked)
    finally:
        counted.unlink()


def test_a_login_node_that_knows_nothing_of_us(running_cluster: Cluster, tmp_path: Path) -> None:
    """`doctor` prints the line that makes a machine of it, and a run proves that it works. `sacctmgr` is a stand-in for
    that of a site with slurmdbd, which needs a database."""
    variables = {**os.environ, "REMOTERUN_HOME": str(tmp_path / "home")}
    variables["REMOTERUN_SSH_CONFIG"] = str(running_cluster.lab.ssh_config())

    def call(*words: str, status: int = 0) -> str:
        done = subprocess.run([REMOTERUN, *words], env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done
        return done.stdout

    def checks(*words: str, status: int = 0) -> dict[str, tuple[bool | None, str]]:
        return {row["name"]: (row["ok"], row["detail"]) for row in json.loads(call(*words, "--json", status=status))}

    tools = running_cluster.login.path("/usr/local/bin/sacctmgr")
    tools.write_text('#!/bin/sh\n[ "$5" = me ] && printf "physics|bio|long,normal\\nphysics|physics|normal\\n"\n')
    tools.chmod(0o755)
    try:
        found = checks("doctor", "login", "--job")
    finally:
        tools.unlink()
    assert found["accounts"] == (True, "physics, bio") and found["qos"] == (True, "long, normal")
    assert found["partition"] == (True, "main: 3 of 3 nodes idle, 6 of 6 GPUs free, the default")
    assert found["max array"] == (True, "1001") and found["sacct"] == (None, "off")
    assert (
        found["node"][1].startswith(NODES)
        and found["node home"][0]
        and found["node network"][1].startswith("pip finds ")
    )
    line = "remoterun machines add cluster login --queue slurm --partition main --account physics --time 4h"
    assert found["to type"] == (None, line)
    call(*shlex.split(line)[1:], "--gpus", "1")
    found = checks("doctor", "cluster", "--job", status=1)
    assert found["node gpu"] == (False, "no GPU"), "its GPUs are stand-ins, and it has no driver"
    assert found["accounts"] == (None, "not known") and "to type" not in found
    assert json.loads(call("ps", "--json")) == []
    assert not list(running_cluster.login.path("/home/me/.remoterun/runs").iterdir())


def test_doctor_where_no_node_comes_and_where_the_home_is_not_shared(
    campus: Campus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for, or what is wrong; nothing stays."""
    monkeypatch.setattr(doctor, "PATIENCE", 3.0)
    campus.new_client(slurm="--begin=now+1hour")
    late = doctor.examine(campus.client, campus.client.machines.get("cluster"), job=True)
    (node,) = (check for check in late.checks if check.name == "node")
    assert node.ok is None and "it may start a little later" in node.detail and campus.jobs() == []
    monkeypatch.undo()
    alone = replace(campus.machine, home=f"/var/tmp/{os.path.basename(campus.there)}")
    (node,) = (check for check in doctor.examine(campus.client, alone, job=True).checks if check.name == "node")
    assert node.ok is False and "--home" in str(node.fix), node
    assert campus.client.runs.list(None) == [] and campus.jobs() == []


@pytest.mark.tensorflow
@pytest.mark.timeout(900)
def test_the_guide(running_cluster: Cluster, tmp_path: Path) -> None:
    """As it stands, with the cluster in place of the box and of this machine. Its nodes have a driver for no GPU."""
    place = make_place(tmp_path, running_cluster.lab.ssh_config())
    place.run("machines", "add", "cluster", "login", "--queue", "slurm", "--slurm=--mem=1900M", "--default")
    commands = shown(README.replace(section(CLOUD), "").replace(section(CLUSTER), ""))
    commands = [re.sub(r"\bbox\b", "cluster", command) for command in commands if "machines add" not in command]
    commands = [command.replace("me@gpu.example.org", "login") for command in commands]
    assert len([command for command in commands if "cluster" in command]) >= 5

    def supervisors() -> list[Process]:
        return [each for name in NODES for each in running_cluster.hosts[name].processes() if ".pyz" in each.command]

    follow(place, commands, running_cluster.lab.ssh_config(), supervisors)
    assert (place.folder / "first" / "manifest.json").exists()
    assert (place.folder / "results" / "answer.txt").read_text() == "42\n"
    assert {run["machine"] for run in place.json("ps", "-a")} == {"cluster"}


def test_what_the_readme_shows(running_cluster: Cluster, tmp_path: Path) -> None:
    """Each command of its section, one after the other."""
    variables = {
        **os.environ,
        "REMOTERUN_HOME": str(tmp_path / "home"),
        "REMOTERUN_SSH_CONFIG": str(running_cluster.lab.ssh_config()),
    }
    folder = write_files(tmp_path / "work", {"train.py": ""})
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    commands, said = shown(section(CLUSTER)), {}
    assert len(commands) >= 7
    for command in commands:
        words = [REMOTERUN, *shlex.split(command)[1:]]
        done = subprocess.run(
            words,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        said[words[1]] = done.stdout
    assert said["logs"].strip() in NODES and "n2: node 1 of 2: n1\n" in said["run"]


def test_a_set_of_which_two_may_be_at_work(campus: Campus) -> None:
    """With no client there: each waits for the one that came two places before it."""
    marks = "touch ../../../at-:n:; ls ../../.. | grep -c ^at- >seen; sleep 1; cat seen; rm ../../../at-:n:"
    request = RunRequest(marks, framework="none")
    asked = SetRequest((parse_parameter("n=1:5:int"),), at_once=2)
    prepared = campus.client.runs.prepare(request, campus.source, "cluster")
    runs = campus.client.runs.launch_set(prepared, asked, Talk())
    campus.client.close()
    until(lambda: all(campus.log(run) for run in runs), 90)
    campus.new_client()
    assert [campus.ended(run).state for run in runs] == [RunState.COMPLETE] * 5
    assert max(int(campus.log(run)) for run in runs) == 2
    assert os.listdir(campus.path("queue")) == []


def test_several_nodes(campus: Campus) -> None:
    """One log, whose lines name their nodes; what PyTorch and TensorFlow find each other by; the first status that is
    not 0 is the run's, and ends the command everywhere."""
    names = "$PET_NODE_RANK/$PET_NNODES $RANK/$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $PET_RDZV_BACKEND"
    command = f'echo "{names} $TF_CONFIG $MINE"; [ $NODE_RANK = 1 ] || sleep 100; sleep 1; exit 7'
    run = campus.submit(command, nodes=2, env=(("MINE", "secret words"), ("MASTER_PORT", "29500")))
    found = campus.ended(run)
    assert (found.state, found.code) == (RunState.FAILED, 7), campus.log(run)
    said = dict(line.split(": ", 1) for line in campus.log(run).decode().splitlines() if " static " in line)
    assert len(said) == 2 and set(said) < set(NODES), campus.log(run)
    first, second = sorted(said, key=said.__getitem__)
    for rank, name in enumerate((first, second)):
        words, config = said[name].split(" {", 1)
        assert words == f"{rank}/2 {rank}/2 {first}:29500 static"
        config, mine = ("{" + config).rsplit("}", 1)
        port = 15000 + int(str(found.job)) % 16384
        assert json.loads(config + "}") == {
            "cluster": {"worker": [f"{first}:{port}", f"{second}:{port}"]},
            "task": {"type": "worker", "index": rank},
        }
        assert mine == " secret words"
        assert not [each for each in campus.cluster.hosts[name].processes() if "sleep 100" in each.command]


@pytest.mark.parametrize("how", ["stop", "kill", "timeout"])
def test_several_nodes_are_ended(campus: Campus, how: str) -> None:
    """Each has its grace, also where another one needs none; no process is left once the run has ended."""
    saves = "import signal, sys, time\nsignal.signal(15, lambda *_: (time.sleep(2), print('saved'), sys.exit(3)))\n"
    saves += "print('up', flush=True)\nwhile True: time.sleep(0.1)\n"
    campus.source = snapshot(write_files(campus.here / "saves", {"saves.py": saves}), no_git=True)
    command = "[ $NODE_RANK = 0 ] || { echo up; exec sleep 1000; }; exec python3 saves.py"
    run = campus.submit(command, nodes=2, timeout=5 if how == "timeout" else None)
    until(lambda: campus.log(run).count(b": up\n") == 2, what=lambda: f"{campus.log(run)!r} {campus.jobs()}")
    if how == "stop":
        with campus.client.runs.exec(run.number, "hostname") as program:
            assert b"".join(data for data, _ in program.output()).decode().strip() == campus.node(run)
    if how != "timeout":
        getattr(campus.client.runs, how)(run.number)
    found = campus.ended(run)
    assert found.reason == {"stop": "stopped", "kill": "killed", "timeout": "timeout"}[how], campus.log(run)
    assert (b": saved\n" in campus.log(run)) is (how != "kill"), campus.log(run)
    for node in NODES:
        left = [each.command for each in campus.cluster.hosts[node].processes()]
        assert not [each for each in left if "sleep 1000" in each or "saves.py" in each]


def test_memory_of_one_of_several_nodes(campus: Campus) -> None:
    """Its end has its name, as on one. What the command writes to stderr has the node's name, too."""
    hungry = "x = []\nwhile True: x.append(bytearray(b'x' * (8 << 20)))"
    campus.source = snapshot(write_files(campus.here / "hungry", {"eat.py": hungry}), no_git=True)
    command = "echo up; nproc >&2; [ $NODE_RANK = 1 ] || exec sleep 1000; exec python3 eat.py"
    run = campus.submit(command, nodes=2, cpus=2, memory=200 << 20, split=True)
    found = campus.ended(run, 150)
    err = campus.path(f"runs/{run.key}/io/err").read_text()
    assert (found.state, found.reason, found.code) == (RunState.FAILED, "out_of_memory", 137), err
    assert sorted(campus.log(run).splitlines()) == [b"n1: up", b"n2: up"] and {"n1: 2", "n2: 2"} < set(err.splitlines())


def test_several_nodes_are_taken_away(campus: Campus) -> None:
    campus.new_client(partition="low", slurm="--exclusive")
    again = "echo begins; mark=again$NODE_RANK; [ -e $mark ] || { touch $mark; exec sleep 1000; }; echo goes on"
    run = campus.submit(again, nodes=2, attempts=2)
    until(lambda: campus.log(run).count(b"begins") == 2)
    others = ["sbatch", "--parsable", "--partition=main", "--exclusive", "--nodes=3", "--job-name=other", "--wrap"]
    campus.cluster.login.exec_user([*others, "sleep 1"], check=True)
    job = str(campus.now(run).job)
    until(lambda: campus.cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip() == "PENDING")
    campus.cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert campus.ended(run).state is RunState.COMPLETE, campus.log(run)
    assert campus.log(run).count(b"begins") == 4 and campus.log(run).count(b"goes on\n") == 2


@pytest.mark.tensorflow
def test_the_trainer_on_two_nodes(campus: Campus) -> None:
    """The losses of one node with the same batches, and one set of files; a stop saves, and the next run goes on."""
    tensorflow = importlib.util.find_spec("tensorflow")
    require(None if tensorflow is not None else "TensorFlow is not installed")
    assert tensorflow is not None and tensorflow.origin is not None
    packages = Path(tensorflow.origin).parents[1]
    if campus.cluster.login.exec_user(["test", "-r", str(packages)]).returncode:  # below /root: a host has its own
        shutil.copytree(packages, campus.cluster.login.path(f"{campus.there}-packages"), symlinks=True)
        packages = Path(f"{campus.there}-packages")
    files = {f"trainer/{path.name}": path.read_text() for path in (ROOT / "trainer").glob("*.py")}
    files["data/input.txt"] = "".join(
        f"{n} green bottles on the wall,\nand if one falls: {n - 1}!\n" for n in range(99)
    )
    campus.source = snapshot(write_files(campus.here / "training", files), no_git=True)
    words = f"PYTHONPATH={packages} {os.path.realpath(sys.executable)} -m trainer.train --data_dir data --no-auto"
    words += " --rnn_size 8 --batch_size 4 --seq_length 8 --val_fraction 0.1 --print_every 1 --save_every"

    def losses(run: Run) -> dict[tuple[int, str], float]:
        lines = campus.path(f"runs/{run.key}/out/logs/metrics.jsonl").read_text().splitlines()
        found = {
            (each["step"], each["name"]): each["value"] for each in map(json.loads, lines) if "loss" in each["name"]
        }
        assert len(lines) == len({(each["step"], each["name"]) for each in map(json.loads, lines)})
        return found

    one, two = (campus.submit(f"{words} 5 --steps 10", nodes=nodes, memory=1500 << 20) for nodes in (1, 2))
    assert [campus.ended(run, 200).code for run in (one, two)] == [0, 0], campus.log(two)
    assert losses(two).keys() == losses(one).keys() and losses(two) == pytest.approx(losses(one), rel=1e-4)
    names = [sorted(os.listdir(campus.path(f"runs/{run.key}/out/checkpoints"))) for run in (one, two)]
    assert names[0] == names[1] and campus.log(two).count(b"done: ") == 1
    long = campus.submit(f"{words} 100000 --steps 100000", nodes=2, memory=1500 << 20)
    until(lambda: b" 9/100000" in campus.log(long), 100, lambda: campus.log(long).decode())
    campus.client.runs.stop(long.number)
    assert campus.ended(long, 100).code == 143 and b"stopped by SIGTERM" in campus.log(long), campus.log(long)
    (saved,) = os.listdir(campus.path(f"runs/{long.key}/out/checkpoints"))
    again = f"runs/{long.number}/checkpoints:before"
    step = int(saved.split("-")[1])
    more = f"{words} 5 --steps {step + 2} --resume before"
    after = campus.submit(more, nodes=2, memory=1500 << 20, mounts=(Mount.parse(again),))
    assert campus.ended(after, 200).code == 0, campus.log(after)
    # Its validation may be due at once
    trained = [at for at, name in losses(after) if not name.startswith("val")]
    assert min(trained) == step + 1, campus.log(after)
