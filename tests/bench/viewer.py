"""Who looks at the page of runs: a home with a thousand runs, two machines, a browser."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.measured import SPARK, Progress, Series
from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.config import load
from remoterun.model import MachineType, Run, RunRequest, new_key
from remoterun.registry import Registry
from tests.browser import Browser
from tests.lab import BASE_IMAGE, Lab
from tests.opening import Opening
from tests.workshop import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

WATCH = Path(__file__).parent / "watch.js"
REMOTERUN = str(Path(sys.executable).parent / "remoterun")
PATIENCE = 60.0
MANY, SLOTS = 1000, 20


class Viewer(Opening):
    """A user of this machine, whose page is served by the installed command. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.engine = "process" if Lab.missing() else "docker"
        """Of the machine `live`: a host made on this machine, or else this machine itself."""

    def open(self, stack: contextlib.ExitStack) -> None:
        self.home.mkdir()
        live = f'engine = "{self.engine}"\nslots = {SLOTS}\n'
        env = {**os.environ, "REMOTERUN_HOME": str(self.home)}
        if self.engine == "docker":
            lab = stack.enter_context(Lab())
            lab.host("bench").up()
            env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
            live += f'host = "bench"\nbase_image = "{BASE_IMAGE}"\n'
        text = f'default = "here"\n[machines.here]\nengine = "process"\n[machines.live]\n{live}'
        (self.home / "config.toml").write_text(text)
        with contextlib.closing(Registry(self.home / "registry.db")) as registry:
            for number in range(MANY):
                _add_ended_run(registry, number)
        self.client = stack.enter_context(Client(load(env)))
        self.browser = stack.enter_context(Browser())
        self._serve(env, stack)

    def _serve(self, env: dict[str, str], stack: contextlib.ExitStack) -> None:
        words = [REMOTERUN, "ui", "--no-browser", "--json"]
        nothing = subprocess.DEVNULL
        server = subprocess.Popen(words, env=env, cwd=self.home, stdin=nothing, stdout=nothing, stderr=nothing)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        record = self.home / "ui.json"
        until(record.exists, PATIENCE, "remoterun ui is up")
        self.address = str(json.loads(record.read_text())["address"])

    @contextlib.contextmanager
    def tab(self) -> Iterator[Page]:
        """A page that notes what it shows (watch.js), as those that are made in its context do."""
        page = self.browser.tab().page
        page.context.add_init_script(path=WATCH)
        try:
            yield page
        finally:
            page.context.close()

    def ended(self, command: str) -> Run:
        """A run of this machine that has ended."""
        run = self.client.runs.submit(RunRequest(command, framework="none"), machine="here")
        next(iter(self.client.runs.wait([run.number], PATIENCE)))
        return run

    @contextlib.contextmanager
    def live(self, command: str, count: int = 1, machine: str = "live") -> Iterator[list[Run]]:
        """Runs that go on; they are killed at the end."""
        request = RunRequest(command, framework="none")
        runs = [self.client.runs.submit(request, machine=machine) for _ in range(count)]
        try:
            until(lambda: {self.client.runs.get(run.number).state for run in runs} == {RunState.RUNNING}, PATIENCE)
            yield runs
        finally:
            for run in runs:
                self.client.runs.kill(run.number)


def _add_ended_run(registry: Registry, number: int) -> None:
    """One of yesterday, with two metrics."""
    now = time.time() - 86400 + number
    run = registry.add_run(new_key(now), MachineType("here"), f"python train.py --lr 0.{number}", now, "", ("night",))
    spark = [round(2 + math.exp(-place / 5), 3) for place in range(SPARK)]
    series = [Series(name, 1000, 3.0, 2.1, 1000, 2.0, 3.0, 2.0, 990, spark) for name in ("loss", "val_loss")]
    progress = Progress(1000, 1000, 17.0, now, series)
    status = RunStatus(run.key, RunState.COMPLETE, now, started=now + 2, ended=now + 60, code=0, progress=progress)
    registry.update(run, status, now)
