"""Sets of many runs, on a box and on a Slurm cluster: `python -m tests.bench.many`.

The box is a home of this machine, without Docker; the cluster is the lab's, reached over SSH, beside what people use
there. Writes `many.json` beside itself, or where `--out` says.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from remoterun.agent.shared.files import locked
from remoterun.client import Client
from remoterun.client.runs.following import LogBytes
from remoterun.config import load
from remoterun.model import RunRequest
from tests.bench import table
from tests.bench.table import Row, at_least_times, at_most
from tests.lab.cluster import Cluster
from tests.lab.lab import Lab

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
PARTS = ("box", "first", "submit-many", "line")
PER_SECOND = 20
"""Runs of a set that are submitted in a second, at least."""
SUBMITIT = """
import sys, time, submitit
executor = submitit.AutoExecutor(folder="submitit-%j")
executor.update_parameters(timeout_min=5, slurm_additional_parameters={"hold": True})
begun = time.perf_counter()
for _ in range(int(sys.argv[1])):
    executor.submit(time.sleep, 0)
print(time.perf_counter() - begun)
"""
BY_HAND = (
    "cd $(mktemp -d -p ~); touch log; sbatch --parsable --output=log --wrap='echo hi' >/dev/null; exec tail -F log"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("many", arguments, __doc__, PARTS)
    with tempfile.TemporaryDirectory() as folder:
        if "box" in options.only:
            box = Box(Path(folder), 100 if options.quick else 1000)
            table.measure(box, ["box"], ["box"])
            rows = box.rows
        else:
            rows = []
        missing = Cluster.missing()
        if options.only == ["box"] or missing:
            rows += [Row("on a cluster", "s", at_most(0), why=missing)] if missing else []
            return table.finish(options.out, rows)
        with Lab() as lab, locked(str(lab.cache / "cluster.lock")):
            cluster = Cluster(lab).up()
            try:
                bench = Campus(cluster, Path(folder), options.quick)
                table.measure(bench, PARTS[1:], options.only)
            finally:
                cluster.down()
    return table.finish(options.out, rows + bench.rows)


class Side:
    """The rows so far, and a user's home and folder with the machine that is measured."""

    def __init__(self, folder: Path, name: str, config: str, env: dict[str, str]) -> None:
        self.home, self.work = folder / f"{name}-home", folder / name
        self.home.mkdir()
        self.work.mkdir()
        self.home.joinpath("config.toml").write_text(f'default = "{name}"\n[machines.{name}]\n{config}')
        self.env = {**os.environ, **env, "REMOTERUN_HOME": str(self.home)}
        self.rows: list[Row] = []

    def wall(self, *words: str) -> float:
        """Seconds that the installed command takes."""
        begun = time.perf_counter()
        subprocess.run([REMOTERUN, *words], env=self.env, cwd=self.work, check=True, capture_output=True)
        return time.perf_counter() - begun

    def submit(self, count: int, *more: str) -> float:
        """Seconds in which a set of so many runs is handed over."""
        words = ["--framework", "none", "--no-git", "-y", "-b", "--param", f"n=1:{count}:int"]
        return self.wall("run", *words, *more, "echo :n:")

    def row(self, what: str, most: float, figures: Sequence[float], unit: str = "s") -> None:
        self.rows.append(Row(what, unit, at_most(most), statistics.median(figures)))


class Box(Side):
    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, "box", f'engine = "process"\nslots = 1\nhome = "{folder}/box-there"\n', {})
        self.count = count

    def box(self) -> None:
        """A set that waits behind a run which holds the only slot."""
        self.wall("run", "--framework", "none", "--no-git", "-y", "-b", "exec sleep 1000")
        try:
            self.row(f"a set of {self.count:,}, handed over", self.count / PER_SECOND, [self.submit(self.count)])
            self.row("ps with it, of which nothing has ended", 0.3, [self.wall("ps") for _ in range(7)])
            self.row("stop of all of it", 2.0, [self.wall("stop", f"2-{self.count + 1}")])
            self.wall("ps")
            self.row("ps with it, all of which has ended", 0.3, [self.wall("ps") for _ in range(7)])
        finally:
            self.wall("kill", "1")


class Campus(Side):
    """The lab's cluster; its jobs are held in the line, but for those whose first line is waited for."""

    def __init__(self, cluster: Cluster, folder: Path, quick: bool) -> None:
        config = str(cluster.lab.ssh_config())
        here = 'host = "login"\nengine = "process"\nqueue = "slurm"\n'
        machines = f'{here}[machines.held]\n{here}slurm = "--hold"\n'
        super().__init__(folder, "cluster", machines, {"REMOTERUN_SSH_CONFIG": config})
        self.cluster, self.rounds = cluster, 3 if quick else 7
        self.count, self.waiting = (20, 50) if quick else (200, 500)
        self.ssh = ["ssh", "-F", config, "login"]

    def first(self) -> None:
        """Until the first line of a job's output, from an open connection on, and from ssh's start on."""
        with Client(load(self.env)) as client:
            client.machines.session(client.machines.get(None))

            def ours() -> float:
                begun = time.perf_counter()
                news = client.runs.follow(client.runs.submit(RunRequest("echo hi", framework="none")).number)
                next(item for item in news if isinstance(item, LogBytes))
                seconds = time.perf_counter() - begun
                for _ in news:
                    pass
                return seconds

            found = table.in_turns({"ours": ours, "peer": lambda: _first_byte([*self.ssh, BY_HAND])}, self.rounds)
        more = [mine - theirs for mine, theirs in zip(found["ours"], found["peer"], strict=True)]
        peer = statistics.median(found["peer"])
        what = "the first line of a run, beyond the peer's"
        self.rows.append(Row(what, "s", at_most(0.5), statistics.median(more), "sbatch; tail -F", peer))

    def submit_many(self) -> None:
        """Beside submitit, whose program runs on the login node; each of its jobs is held, too."""
        there = self.cluster.login.path("/home/me/submitit")
        shutil.copytree(table.programs(table.HERE / "requirements-many.txt").parent, there, symlinks=True)
        there.joinpath("submit.py").write_text(SUBMITIT)
        words = shlex.join(["submitit/bin/python", "submitit/submit.py", str(self.count)])

        def peer() -> float:
            done = subprocess.run([*self.ssh, words], check=True, capture_output=True, text=True)
            return float(done.stdout.split()[-1])

        sides = {"ours": lambda: self.submit(self.count, "-t", "held"), "peer": peer}
        found = table.in_turns(sides, 1 if self.rounds == 3 else 3)
        what, bound = f"{self.count} runs of a set, handed over", at_least_times(1)
        row = table.beside(what, "s", bound, found["ours"], "submitit", found["peer"], faster=True)
        self.rows.append(row)

    def line(self) -> None:
        """`ps` while runs wait, again and again: how long it takes, and how often the scheduler is asked."""
        self.cluster.ask("scancel", "--user=me")
        self.submit(self.waiting, "-t", "held")
        calls = self.cluster.login.path("/home/me/squeue-calls")
        wrapper = self.cluster.login.path("/usr/local/bin/squeue")
        wrapper.write_text('#!/bin/sh\necho x >>/home/me/squeue-calls\nexec /usr/bin/squeue "$@"\n')
        wrapper.chmod(0o755)
        calls.touch()
        calls.chmod(0o666)
        self.wall("ps")
        before, begun, figures = calls.read_text().count("x"), time.perf_counter(), []
        while time.perf_counter() < begun + 15:
            figures.append(self.wall("ps"))
        asked = (calls.read_text().count("x") - before) / ((time.perf_counter() - begun) / 5)
        self.row(f"ps with {self.waiting} that wait", 0.5, figures)
        self.row("squeue in 5 s, meanwhile", 1.2, [asked], "count")


def _first_byte(words: list[str]) -> float:
    begun = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - begun
        process.kill()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
