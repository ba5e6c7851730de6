"""A second queue, for tests only: a spool folder, and a loop that starts what lies there, one after the other.

    HOME/spool/KEY.job       waits; a loop takes it by renaming it
    HOME/spool/KEY.taken, KEY.until   when its machine is taken away, or ends it
    HOME/spool/KEY.started   {"node", "gpus"}: its job goes on, and is the run's supervisor

The loop plays the scheduler, and the machine on which it starts jobs: a process is on that "node" if it has the
variable `SPOOL_NODE`. Nothing in the product knows of it: it is a row of `QUEUES` in the agents of test_queues.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from remoterun.agent.running.ending import clean_up, finish, note_once
from remoterun.agent.running.queues import Queue
from remoterun.agent.running.supervision import agent_command
from remoterun.agent.shared.api import Claim, Demand, Examine, MachineCheck, Occupancy
from remoterun.agent.shared.files import read_json, write_whole
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.states import FINAL, Reason, RunState
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import SUPERVISOR, RunFolder

GPUS = ["SPOOL-0", "SPOOL-1"]


class Spool(Queue):
    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = os.path.join(home.path, "spool")

    def lacks(self, spec: RunSpec) -> str | None:
        return self._lacks(spec.gpus)

    def _lacks(self, gpus: int) -> str | None:
        return f"the spool has {len(GPUS)} GPUs" if gpus > len(GPUS) else None

    def submit(self, run: RunFolder, spec: RunSpec) -> None:
        os.makedirs(self.folder, exist_ok=True)
        words = ["env", f"{SUPERVISOR}={run.key}", *agent_command()]
        job = {"words": [*words, "supervise", "--home", self.home.path, run.key], "wanted": spec.gpus}
        whole = self._file(run.key, f"new-{os.getpid()}")
        write_whole(whole, json.dumps(job).encode())
        with contextlib.suppress(FileExistsError):
            os.link(whole, self._file(run.key, "job"))
        os.unlink(whole)

    def settle(self, active: set[str], ended: bool = False) -> None:
        for key in active:
            run = self.home.run(key)
            if not run.exists() or run.queue() != "spool" or self.supervised(run):
                continue
            if run.state()[0] in FINAL:
                if ended:
                    clean_up(self.home, run)
            elif not os.path.exists(self._file(key, "job")):
                self.submit(run, run.spec())  # its supervisor is gone, and goes on from what it finds
            elif run.state()[0] is RunState.QUEUED:
                note_once(run, "waiting for the spool")

    def supervised(self, run: RunFolder) -> bool:
        return os.path.exists(self._file(run.key, "started"))

    @contextlib.contextmanager
    def supervising(self, run: RunFolder) -> Iterator[bool]:
        yield os.environ.get("SPOOL_JOB") == run.key

    def wait(self, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> bool:
        report("")
        return True

    def gpus(self, run: RunFolder) -> list[str] | None:
        gpus: list[str] | None = self._started(run).get("gpus")
        return gpus

    def cancel(self, runs: list[RunFolder], reason: Reason, ask: Callable[[RunFolder], None]) -> None:
        for run in runs:
            ask(run)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._file(run.key, "job"), self._file(run.key, "cancelled"))
                finish(run, reason)
                clean_up(self.home, run)

    def release(self, key: str) -> None:
        for kind in ("job", "cancelled", "taken", "until"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(key, kind))

    def occupancy(self, asked: Demand) -> Occupancy:
        waiting = sorted(self._keys(".job"), key=lambda key: os.stat(self._file(key, "job")).st_mtime)
        runs = [Claim(key, 0, "", RunState.RUNNING) for key in self._keys(".started")]
        places = [
            Claim(key, 0, "", RunState.QUEUED, place=place, of=len(waiting)) for place, key in enumerate(waiting, 1)
        ]
        return Occupancy(not runs and not waiting, len(waiting), 1, [], runs + places, self._lacks(asked.gpus))

    def examine(self, asked: Examine) -> list[MachineCheck]:
        return [MachineCheck("spool", asked.gpus <= len(GPUS), self.folder)]

    def is_here(self, run: RunFolder) -> bool:
        return bool(os.environ.get("SPOOL_NODE") == self._started(run).get("node", ""))

    def reach(self, run: RunFolder) -> list[str]:
        node = self._started(run).get("node")
        return [] if node is None or self.is_here(run) else ["env", "SPOOL_NODE=" + node]

    def taken_at(self, run: RunFolder) -> float | None:
        return self._moment(run, "taken")

    def until(self, run: RunFolder) -> float | None:
        return self._moment(run, "until")

    def _moment(self, run: RunFolder, kind: str) -> float | None:
        try:
            return float(read_json(self._file(run.key, kind)))
        except FileNotFoundError:
            return None

    def _started(self, run: RunFolder) -> dict[str, Any]:
        try:
            started: dict[str, Any] = read_json(self._file(run.key, "started"))
            return started
        except (OSError, ValueError):
            return {}

    def _keys(self, kind: str) -> list[str]:
        return [name[: -len(kind)] for name in os.listdir(self.folder) if name.endswith(kind)]

    def _file(self, key: str, kind: str) -> str:
        return os.path.join(self.folder, f"{key}.{kind}")


def loop(folder: str) -> None:
    """Start what comes, one job after the other, until this process is told to end."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # one was cancelled
            waiting = sorted(Path(folder).glob("*.job"), key=lambda path: path.stat().st_mtime_ns)
            for path in waiting[:1]:
                _work(path)
        time.sleep(0.02)


def _work(path: Path) -> None:
    """Start a job, and wait for its end."""
    started = path.with_suffix(".started")
    os.rename(path, started)
    job = json.loads(started.read_bytes())
    variables = {**os.environ, "SPOOL_JOB": path.stem, "SPOOL_NODE": "n1"}
    about = {"node": "n1", "gpus": GPUS[: job["wanted"]]}
    write_whole(str(started), json.dumps(about).encode())
    subprocess.run(job["words"], env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    started.unlink()


if __name__ == "__main__":
    loop(sys.argv[1])
