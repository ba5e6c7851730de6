"""Money is one thing: what several providers cost together, where each may be one that can't be asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.cli.main import main
from remoterun.cli.render.terminal import Talking
from remoterun.client import Client
from remoterun.clouds import PROVIDERS
from remoterun.clouds.base import Offer, RentedHost
from remoterun.clouds.ledger import planning
from remoterun.config import load
from remoterun.model import HostUse, MachineType, Rental, Renting, RunRequest
from remoterun.ui.page import RunsPage
from tests import folder_provider
from tests.folder_cloud import Folders
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"
OFFER = Offer("folder.small", "here", "here-1", price=1.0, limit=1.0)
MACHINES = """[machines.pod]
command = "RTX4090"
program = ["{0}/pod"]
[machines.gpu]
aws = "folder.small"
[archive]
bucket = "file://{0}/archive"
"""
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folders]:
    """A stand-in of AWS, beside a program."""
    monkeypatch.setitem(PROVIDERS, "aws", "tests.folder_cloud.FolderFront")
    monkeypatch.setenv(folder_provider.ROOT, str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a login")
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Talking, "quiet", False)
    (tmp_path / "home").mkdir()
    (tmp_path / "cloud").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    works(tmp_path, True)
    (tmp_path / "home" / "config.toml").write_text(MACHINES.format(tmp_path) + "[limits]\nmax_cost_month = 50\n")
    yield Folders(tmp_path)
    works(tmp_path, True)
    with Client(load()) as client:
        for host in client.hosts.list():
            if "/" in host.id:
                client.hosts.end(host.id)


def works(root: Path, does: bool) -> None:
    words = f"exec {sys.executable} {CONTAINERS} {root}/cloud" if does else "echo no such key >&2; exit 3"
    (root / "pod").write_text(f"#!/bin/sh\n{words}\n")
    (root / "pod").chmod(0o755)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(list(words))
        return (status, *capfd.readouterr())

    return run


def test_what_one_provider_has_cost_is_missing_at_another(folders: Folders, say: Say) -> None:
    config = folders.root / "home" / "config.toml"
    run = ("run", "-t", "pod", "-y", "--no-git", "--dry-run", "true")
    spent = [[f"{datetime.now(UTC):%Y-%m-%d}", 48.0, "rr-old-1"]]
    (folders.root / "spent").write_text(json.dumps(spent))
    for text in (
        MACHINES.format(folders.root) + "[limits]\nmax_cost_month = 50\n",
        "[aws]\nmax_cost_month = 50\n" + MACHINES.format(folders.root),
    ):
        config.write_text(text)
        status, _, err = say(*run)
        assert status == 2 and "this month has cost $48.00 at AWS, and this run may cost" in err
        assert "--max-cost 2.00" in err and "remoterun bill" in err and "max_cost_month = 50 below [" in err
        assert say(*run[:-1], "--max-cost", "2", "true")[0] == 0
    config.write_text("[aws]\nmax_cost = 1\n" + MACHINES.format(folders.root))
    status, out, _ = say(*run)
    assert status == 0 and "$1.00: 2.5 h" in out and "`max_cost` of [aws]" in out


def test_hosts_of_all_providers_are_shown_and_one_that_can_not_be_asked_hides_no_other(
    folders: Folders, say: Say
) -> None:
    now = time.time()
    folders._keep(RentedHost("i-9", "rr-x-1", "running", OFFER, now - 3600, now + 7200, owner="bob@box"))
    with Client(load()) as client:
        client.runs.submit(RunRequest("sleep 600"), None, "pod")
    found = json.loads(say("machines", "rented", "--json")[1])
    (pod,) = (each["id"] for each in found if each["id"].startswith("pod/"))
    assert {each["id"] for each in found} == {"i-9", pod} and all(each["cost"] > 0 for each in found)
    rows = json.loads(say("bill", "--by", "machine", "--json")[1])["rows"]
    assert {each["name"] for each in rows} == {"folder.small", "RTX4090"} and all(each["cost"] > 0 for each in rows)
    assert json.loads(say("ps", "--json")[1])[0]["cost"] > 0
    assert {each["id"]: each["cost"] > 0 for each in on_page()["hosts"]} == {"i-9": True, pod: True}
    assert "Hosts of AWS and `pod`\n" in say("machines", "rented")[2]
    folders._keep(RentedHost("i-8", "rr-y-1", "running", OFFER, now - 3600, now - 1800))
    for name, ids in (("command", []), ("aws", ["i-8"])):  # one is late: at that provider alone it is left over
        assert [each["id"] for each in json.loads(say("machines", "gc", name, "--dry-run", "--json")[1])] == ids
    folders.forget("rr-y-1")
    works(folders.root, False)
    status, out, err = say("machines", "rented", "--json")
    assert status == 0 and [each["id"] for each in json.loads(out)] == ["i-9"] and "`pod` ended with status 3" in err
    shown = on_page()
    assert [each["id"] for each in shown["hosts"]] == ["i-9"] and "`pod` ended with status 3" in shown["notes"][0]
    status, out, err = say("bill", "--by", "machine", "--json")
    assert status == 0 and len(json.loads(out)["rows"]) == 2 and "`pod` ended with status 3" in err
    assert say("ps")[0] == 0
    status, _, err = say("run", "-t", "gpu", "-y", "--no-git", "true")  # there may be hosts that nobody counts
    assert status == 125 and "so `max_cost_month` of [limits] can't be kept" in err, err


def test_a_profile_that_is_gone_hides_no_run_and_no_host_of_another_provider(folders: Folders, say: Say) -> None:
    with Client(load()) as client:
        client.runs.submit(RunRequest("sleep 600"), None, "pod")
        registry, now = client.connections.registry, time.time()
        run = registry.add_run("k" * 26, MachineType("gpu", rental=Rental("aws", ("folder.small",))), "true", now)
        use = HostUse("rr-x-1", "i-7", "folder.small", "here", 3.6, now - 60, deadline=now + 600)
        run = registry.save_renting(run, Renting(now + 600, hosts=(use,)))
        away = MachineType("gpu", host="rr-x-1", rented="rr-x-1", ssh_config=str(folders.root / "gone"))
        registry.change_state(registry.set_host(run, away, "home"), RunState.RUNNING, now)
    (folders.root / "no profile").touch()
    status, out, err = say("ps")
    assert status == 0 and "no profile `work`" in out + err, out
    assert [line.split()[0] for line in out.splitlines()] == ["RUN", "1", "2"], out
    for command in (("machines", "rented"), ("bill", "--by", "machine")):
        status, out, err = say(*command)
        assert status == 0 and "RTX4090" in out and "no profile `work`" in err
    shown = on_page()
    assert len(shown["hosts"]) == 1 and "no profile `work`" in shown["notes"][0]


def on_page() -> Any:
    with Client(load()) as client:
        page = RunsPage(client, 0)
        try:
            return page._machines(None, None)  # type: ignore[arg-type]
        finally:
            page.close()


def ended(client: Client, number: int) -> bool:
    return client.runs.get(number).final


def test_three_lives_cost_no_more_than_was_said(folders: Folders, say: Say) -> None:
    """A host that stays for another run, one that is ended by hand, and one that its provider takes away."""
    ledger, most = folders.root / "cloud" / "ledger", list[float]()
    for life in ("idle", "ended", "taken"):
        with Client(load()) as client:
            prepared = client.runs.prepare(RunRequest("true" if life == "idle" else "sleep 600"), None, "pod")
            plan = planning.agreed(planning.plan(client.connections, prepared.machine))
            assert plan.most is not None and plan.kept is None
            most.append(plan.most)
            number = client.runs.launch(prepared, plan=plan).number
            (host,) = (each for each in client.hosts.list() if "/" in each.id)
            if life == "idle":
                until(partial(ended, client, number), 60)
            if life != "taken":
                client.hosts.end(host.id)
        if life == "taken":
            asked = json.dumps({"do": "delete", "id": host.id.partition("/")[2]})
            subprocess.run([folders.root / "pod"], input=asked, text=True, check=True, stdout=subprocess.PIPE)
    noted = [json.loads(line) for line in ledger.read_text().splitlines()]
    made = {each["made"]: each["t"] for each in noted if "made" in each}
    ends = {each["deleted"]: each["t"] for each in reversed(noted) if "deleted" in each}
    bills = [(ends[id] - began) / 3600 * 0.4 for id, began in made.items()]
    assert len(bills) == 3 and all(0 < bill <= said for bill, said in zip(bills, most, strict=True))
