"""A client that is killed, or asleep, at any moment between its intent and the hand-over: one host at the most, and
nothing after gc but roles.

Its kills are those that can differ: while a call that changes something is under way (it is made, and nobody hears the
answer), and once its answer was heard. `REMOTERUN_KILLS=200` adds so many at random moments.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import remoterun.client
from remoterun.agent.shared.records import to_json
from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.base import Intent
from remoterun.config import Config
from remoterun.model import MachineType, Rental, new_key
from tests.cloud.renters import Stop
from tests.workshop import until

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.gate import Call

pytestmark = pytest.mark.lab

KILLS = int(os.environ.get("REMOTERUN_KILLS", "0"))
MACHINE = MachineType("t4", rental=Rental("aws", ("g4dn.xlarge",)))
LOOKING = ("Describe", "Get", "List")
CLIENT = """
import json, sys
from pathlib import Path
from remoterun.agent.shared.records import from_json
from remoterun.config import Config
from remoterun.clouds.aws.provider import AWS
from remoterun.clouds.base import Intent

record = json.loads(sys.argv[2])
intent = from_json(Intent, record)
aws = AWS(Config(Path(sys.argv[1])))
aws.roles("bucket")
offers = aws.offers(intent.machine, True)
print("ready", flush=True)
aws.acquire(intent, offers, lambda text: None)
print("given", flush=True)
"""


def new_intent() -> Intent:
    key, now = new_key(), time.time()
    return Intent(f"rr-{key}-1", key, 7, 1, MACHINE, now + 3600, 600.0)


@contextmanager
def client(home: Path, intent: Intent) -> Iterator[subprocess.Popen[str]]:
    """One in a process of its own, which makes roles where there are none, and acquires a host."""
    words = [sys.executable, "-c", CLIENT, str(home), json.dumps(to_json(intent))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def changes(call: Call) -> bool:
    return not call.action.startswith(LOOKING)


def whole(cloud: Cloud, home: Path) -> list[Call]:
    """The calls of a client that nobody stops. Its host is left."""
    begun = len(cloud.calls)
    with client(home, new_intent()) as process:
        assert process.communicate()[0] == "ready\ngiven\n"
    return cloud.calls[begun:]


def kills(calls: list[Call]) -> Iterator[tuple[str, bool]]:
    """The calls that change something, each with whether its answer is heard: where the next one changes something,
    too, that is the moment of the next one."""
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        if changes(call):
            yield call.action, False
            if following is not None and not changes(following):
                yield call.action, True


@pytest.mark.timeout(400 + 40 * KILLS)
def test_a_killed_client_leaves_one_host_at_the_most_and_gc_none(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    aws = AWS(Config(home))
    begun = time.monotonic()
    calls = whole(cloud, home)
    took = time.monotonic() - begun
    gc(cloud, home)
    moments = list(kills([call for call in calls if call.service != "iam"]))
    assert {("CreateSecurityGroup", False), ("RunInstances", False), ("CreateSchedule", False)} <= {*moments}
    for action, heard in moments:
        intent = new_intent()
        with client(home, intent) as process, Stop(cloud, process, signal.SIGKILL, action, heard) as stop:
            process.wait(120)
        assert stop.call is not None, action
        if action == "RunInstances":  # somebody comes after it, and gets the one host that there is, or may be
            rented = aws.acquire(intent, aws.offers(MACHINE, True), lambda text: None)
            assert [each.id for each in cloud.alive()] == [rented.id]
        gc(cloud, home)
    chance = random.Random(KILLS)
    for _ in range(KILLS):
        with client(home, new_intent()) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, took))
        gc(cloud, home)
    tokens = collections.Counter(each.tags["remoterun:token"] for each in cloud.machines.values())
    assert set(tokens.values()) <= {1}


@pytest.mark.timeout(300)
def test_a_laptop_that_sleeps_keeps_its_host_while_another_one_clears_up(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of one user, at one address: as soon as the host is asked for, the first one sleeps."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    first, second = tmp_path / "first", tmp_path / "second"
    with client(first, new_intent()) as process:
        with Stop(cloud, process, signal.SIGSTOP, "RunInstances", False):
            until(cloud.alive, 120, "its host is made")
        (asleep,) = cloud.alive()
        whole(cloud, second)
        clear(second)
        assert [each.id for each in cloud.alive()] == [asleep.id]
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=200)[0] == "ready\ngiven\n"
    assert [each.id for each in cloud.alive()] == [asleep.id]
    clear(first)
    until_ended(cloud)
    # what costs nothing: the one that has let itself in last may be about to get a host
    assert [each for each in cloud.left_behind() if not each.startswith(("rule", "security group"))] == []


def gc(cloud: Cloud, home: Path) -> None:
    """One `machines gc aws`, after which nothing is left but roles."""
    until(lambda: not cloud.in_flight(), 60, "AWS has done what the client that is dead asked for")
    until(lambda: not any(each.state == "shutting-down" for each in cloud.machines.values()), 120, "none is ending")
    clear(home)
    assert cloud.left_behind() == []


def until_ended(cloud: Cloud) -> None:
    until(lambda: all(each.state == "terminated" for each in cloud.machines.values()), 120, "all hosts are gone")


def clear(home: Path) -> None:
    """As `machines gc aws`."""
    with remoterun.client.Client(Config(home)) as client:
        for _, cleared in client.hosts.clear_all(client.hosts.leftovers()):
            assert cleared is True
