"""On an instance: the agent hears the notice of its metadata service, and ends the instance when nobody needs it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.machines import RENTAL_FILE, RentalTerms
from remoterun.agent.shared.records import to_json
from remoterun.hosts.bundle import FLAGS, agent_bundle
from tests.cloud.cloud import Cloud
from tests.cloud.machine import Machine
from tests.cloud.test_harness import Client, wait_for_state
from tests.lab.process import until

pytestmark = pytest.mark.lab


def machine_with_agent(cloud: Cloud, folder: Path, **terms: Any) -> tuple[Machine, str]:
    """(an instance whose agent was there for a moment, its home)."""
    client = Client(cloud, folder / "client")
    machine = client.launch()
    client.reach(machine)
    assert machine.host is not None
    home = f"/home/{machine.host.user}/.remoterun"
    whole = RentalTerms("rr-1", time.time() + 3600, 600.0, ["sudo", "-n", "shutdown", "-P", "now"], "aws")._replace(
        **terms
    )
    machine.host.exec_user(["mkdir", "-p", home])
    machine.host.path(f"{home}/{RENTAL_FILE}").write_text(json.dumps(to_json(whole)))
    bundle = machine.host.path(f"{home}/{agent_bundle().file_name}")
    bundle.write_bytes(agent_bundle().data)
    machine.host.exec_user(["python3", *FLAGS, f"{home}/{agent_bundle().file_name}", "serve", "--home", home], input="")
    return machine, home


def test_a_notice_is_marked_while_two_minutes_are_left(cloud: Cloud, tmp_path: Path) -> None:
    machine, home = machine_with_agent(cloud, tmp_path)
    assert machine.host is not None
    mark = machine.host.path(f"{home}/leaving")
    assert not mark.exists()
    before = time.time()
    log = machine.host.path(f"{home}/keeper.log")
    machine.notice(120)
    until(mark.exists, 60, "the notice is marked", log.read_text)
    told = json.loads(mark.read_text())
    assert told["why"] == "taken" and 115 < told["at"] - before < 125


def test_it_ends_itself_when_nobody_needs_it(cloud: Cloud, tmp_path: Path) -> None:
    machine, _ = machine_with_agent(cloud, tmp_path, idle=3.0)
    wait_for_state(machine, "terminated")
    assert cloud.calls_of("TerminateInstances") == []
