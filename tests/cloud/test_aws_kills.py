"""A client that is killed at any moment between its intent and the hand-over: one host at the most, and none after gc.

`REMOTERUN_KILLS=200` kills so often.
"""

from __future__ import annotations

import collections
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remoterun.agent.shared.records import to_json
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from remoterun.providers.aws.provider import AWS
from remoterun.providers.base import Intent
from remoterun.providers.folder import HostFolder
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab

KILLS = int(os.environ.get("REMOTERUN_KILLS", "6"))
MACHINE = MachineType("t4", rental=Rental("aws", ("g4dn.xlarge",)))
CLIENT = """
import json, sys
from pathlib import Path
from remoterun.agent.shared.records import from_json
from remoterun.config import Config
from remoterun.providers.aws.provider import AWS
from remoterun.providers.base import Intent

record = json.loads(sys.argv[2])
intent = from_json(Intent, record)
aws = AWS(Config(Path(sys.argv[1])))
offers = aws.offers(intent.machine, True)
print("ready", flush=True)
aws.acquire(intent, offers, lambda text: None)
print("given", flush=True)
"""


class Killed:
    """A client in a process of its own, which acquires a host."""

    def __init__(self, home: Path, intent: Intent) -> None:
        record = json.dumps(to_json(intent))
        words = [sys.executable, "-c", CLIENT, str(home), record]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def after(self, seconds: float) -> None:
        """Kill it, unless it is done before that."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.communicate()

    def done(self) -> float:
        """How long it takes to be done."""
        began = time.monotonic()
        assert self.process.stdout is not None and self.process.stdout.readline() == b"given\n"
        self.process.communicate()
        return time.monotonic() - began


def new_intent() -> Intent:
    key, now = new_key(), time.time()
    return Intent(f"rr-{key}-1", key, 7, 1, MACHINE, now + 3600, 600.0)


@pytest.mark.timeout(120 + 40 * KILLS)
def test_a_killed_client_leaves_one_host_at_the_most_and_gc_none(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    aws = AWS(Config(home))
    seed = random.randrange(1 << 30)
    print(f"random.seed({seed})")
    chance = random.Random(seed)

    whole = Killed(home, new_intent()).done()
    aws.release(aws.hosts()[0])
    for number in range(KILLS):
        intent = new_intent()
        Killed(home, intent).after(chance.uniform(0.0, whole))
        if number % 2 or HostFolder(home, intent.token).read("host.json") is not None:
            rented = aws.acquire(intent, aws.offers(MACHINE, True), lambda text: None)
            assert [each.id for each in cloud.alive()] == [rented.id]
            aws.release(rented)
        else:
            # AWS may still work on the call of the client that is dead
            until(lambda: not (clear(aws) or cloud.in_flight() or cloud.alive()), 60, "gc leaves no host")
    tokens = collections.Counter(each.tags["remoterun:token"] for each in cloud.machines.values())
    assert set(tokens.values()) <= {1}
    until(lambda: all(each.state == "terminated" for each in cloud.machines.values()), 120, "all hosts are gone")
    clear(aws)
    assert cloud.left_behind() == []


def clear(aws: AWS) -> list[object]:
    """As `machines gc aws` does it, for whom no run needs a host."""
    hosts, others = [host for host in aws.hosts() if host.ours and host.alive], aws.leftovers()
    for host in hosts:
        aws.release(host)
    for leftover in others:
        aws.clear(leftover)
    return [*hosts, *others]
