"""What renting a host adds to what the cloud takes: our own time, the calls that it needs, and a run on a kept host.

In the cloud for tests (`tests/cloud`); part of `python -m tests.bench.cloud`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.base import Intent
from remoterun.config import Config
from remoterun.model import MachineType, Rental
from tests.bench.table import Bound, Row, at_most
from tests.cloud.cloud import Cloud
from tests.cloud.gate import Call
from tests.cloud.machine import SERVICES
from tests.lab import BASE_IMAGE, Lab

REMOTERUN = str(Path(sys.executable).parent / "remoterun")
TYPE = "g4dn.xlarge"
BOOT, SSHD = 2.0, 4.0
"""Seconds, as the cloud is told: an address after the first, sshd so much later. Real ones take some ten times as
long, which would change no figure."""
LOOP = 2.0


def measure(rounds: int) -> tuple[list[Row], dict[str, Any]]:
    """The rows, and what else was found. A row that can't be measured here says why."""
    what = (
        ("acquire, beyond boot, sshd and Docker of the host", "s", at_most(1.5)),
        ("a run on a kept host, to its first line", "s", at_most(1.5)),
        ("calls to AWS of one run, with all before and after", "count", at_most(25)),
        ("the shortest time between equal calls in a loop", "s", Bound("ours", LOOP, most=False)),
    )
    missing = Lab.missing() or Cloud.missing()
    if missing:
        return [Row(*head, why=missing) for head in what], {}
    with Lab() as lab, Cloud(lab) as cloud, tempfile.TemporaryDirectory() as folder:
        cloud.s3.ready()
        cloud.boot_seconds, cloud.sshd_seconds = BOOT, SSHD
        laps = [_acquired(cloud, Path(folder) / f"laptop-{number}", number) for number in range(rounds)]
        calls, kept = User(cloud, Path(folder)).runs(rounds)
    own = statistics.median(lap["before"] + lap["after"] for lap in laps)
    figures = (own, statistics.median(kept), float(len(calls)), shortest_gap(calls))
    told = [f"{call.at - calls[0].at:.2f} {call.service}:{call.action}" for call in calls]
    return [Row(*head, figure) for head, figure in zip(what, figures, strict=True)], {
        "acquire": laps,
        "kept": kept,
        "calls": told,
    }


def _acquired(cloud: Cloud, home: Path, number: int) -> dict[str, float]:
    """Seconds of ours before the call that makes a host, of the host until it is up, and of ours from then on."""
    os.environ.update(cloud.environment())
    provider = AWS(Config(home))
    machine = MachineType("t4", rental=Rental("aws", (TYPE,)))
    offers = provider.offers(machine, live=True)
    now = time.time()
    intent = Intent(f"rr-bench-{number}-1", f"bench-{number}", number, 1, machine, now + 3600, 600.0)
    began = time.monotonic()
    rented = provider.acquire(intent, offers, lambda _: None)
    ended = time.monotonic()
    made = cloud.calls_of("RunInstances")[-1].at
    up = next(event.at for event in cloud.machine(rented.id).events if event.state == SERVICES)
    provider.release(rented)
    return {"before": made - began, "host": up - made, "after": ended - up}


class User:
    """A person with an empty home and nothing but AWS's variables, in a folder that git knows."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self._folder = folder / "work"
        self._folder.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=self._folder, check=True)
        mine = ("AWS_", "PYTHONDONTWRITEBYTECODE")  # an installed command has its modules compiled
        kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        self._env = {**kept, **cloud.environment(), "HOME": str(folder), "REMOTERUN_HOME": str(folder / "home")}

    def runs(self, rounds: int) -> tuple[list[Call], list[float]]:
        """The calls to AWS of one run on a new host, and the seconds to the first line of each run after it."""
        before = len(self._cloud.calls)
        self._first_line("for i in 1 2 3 4 5; do echo $i; sleep 1; done")
        calls = [replace(call) for call in self._cloud.calls[before:]]
        return calls, [self._first_line("echo hi") for _ in range(rounds)]

    def _first_line(self, command: str) -> float:
        words = [REMOTERUN, "run", "-t", "t4", "-y", "--no-git", "--image", BASE_IMAGE, command]
        began = time.perf_counter()
        null = subprocess.DEVNULL
        with subprocess.Popen(
            words, cwd=self._folder, env=self._env, stdin=null, stdout=subprocess.PIPE, stderr=null
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            took = time.perf_counter() - began
            process.stdout.read()
        assert process.returncode == 0, words
        return took


def shortest_gap(calls: list[Call]) -> float:
    """Seconds between calls with the same words that were made three times or more: such ones are a loop."""
    times: dict[str, list[float]] = {}
    for call in calls:
        words = sorted((key, value) for key, value in call.parameters.items() if key != "ClientToken")
        times.setdefault(f"{call.service} {call.action} {call.region} {words}", []).append(call.at)
    loops = [sorted(each) for each in times.values() if len(each) >= 3]
    return min((later - at for each in loops for at, later in zip(each, each[1:], strict=False)), default=LOOP)
