"""Runs on hosts that are rented for them, through the installed command, with nothing but AWS's variables set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from typing import Any

import pexpect
import pytest

from remoterun.config import ArchivePlace, load
from tests.cloud.cloud import Cloud
from tests.e2e.conftest import Place
from tests.lab import BASE_IMAGE
from tests.recorder import Recorded
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ON_T4 = ("run", "-t", "t4", "--image", BASE_IMAGE)
WAITS = "until [ -e go ]; do sleep 0.1; done"
TRAIN = f"mkdir -p models; cat data/input.txt >models/model.json; echo epoch 1; {WAITS}; echo epoch 2"


@pytest.fixture
def quick(place: Place) -> Place:
    """With a machine type `quick` whose hosts stay for a few seconds only."""
    place.run("machines", "add", "quick", "--aws", "g4dn.xlarge", "--idle", "5s")
    return place


def test_the_lessons_session(cloud: Cloud, place: Place) -> None:
    place.run("upload", "data/input.txt", "--name", "doom")
    shell = place.spawn("run", "-t", "k80", "--image", BASE_IMAGE, "-m", "uploads/doom:data", TRAIN)
    shell.expect("K80s are gone from AWS; a T4 is the nearest: g4dn.xlarge, \\$0\\.542/h")
    shell.expect("at most +\\$13\\.01: 24 h at \\$0\\.542/h")
    shell.expect("AWS itself ends it tomorrow")
    shell.expect_exact("two are made in your account, once; they cost nothing:")
    shell.expect_exact("Rent it, and make the two roles? [y/N]")
    assert cloud.calls_of("RunInstances") == [] and cloud.roles_made() == []
    shell.sendline("y")
    shell.expect("epoch 1")
    shell.sendintr()
    shell.expect_exact("goes on without this terminal")
    shell.expect(pexpect.EOF)

    run = place.newest()
    number = str(run["number"])
    (machine,) = cloud.alive()
    assert machine.host is not None
    machine.host.path(f"/home/ubuntu/.remoterun/runs/{run['key']}/work/go").touch()
    followed = place.run("logs", number)
    assert followed.stdout == "epoch 1\nepoch 2\n"
    assert re.search(r"it cost <?\$\d", followed.stderr)
    (row,) = place.json("ps")
    assert (row["state"], row["machine"]) == ("complete", "k80") and row["cost"] > 0
    place.run("cp", f"runs/{number}/models", "models")
    assert (place.folder / "models" / "model.json").read_bytes() == (place.folder / "data/input.txt").read_bytes()

    (host,) = place.json("machines", "rented")
    assert (host["type"], host["number"]) == ("g4dn.xlarge", int(number)) and host["cost"] > 0
    place.run("machines", "rm", host["id"])
    until(lambda: place.json("machines", "rented") == [], 60)  # one that is ending is listed
    assert not cloud.alive()
    info = place.json("info", number)
    assert info["spec"]["command"] == TRAIN and info["reachable"]
    assert place.run("logs", number).stdout == "epoch 1\nepoch 2\n"
    assert "models" in place.run("ls", f"runs/{number}").stdout


def test_a_run_needs_few_calls(cloud: Cloud, place: Place) -> None:
    place.run(*ON_T4, "-y", "--no-git", "true")
    named = [call.action for call in cloud.calls if call.action != "DescribeInstances"]  # how often: as the boot lasts
    assert len(named) <= 22, named
    # the bucket is where it is, and the next command goes to another region
    assert load({**place.env}).archive == ArchivePlace(cloud.s3.buckets()[0], "us-east-1")
    place.env["AWS_DEFAULT_REGION"] = "eu-central-1"
    assert "in eu-central-1a" in place.run(*ON_T4, "--max-hours", "1", "--dry-run", "true").stdout
    place.env["AWS_DEFAULT_REGION"] = "us-east-9"
    assert "us-east-9" in place.run(*ON_T4, "--dry-run", "true", status=125).stderr


def test_above_five_dollars_an_hour_the_price_is_typed(cloud: Cloud, place: Place) -> None:
    refused = place.run("run", "-t", "t4x8", "--no-git", "-y", "true", status=2)
    assert "--pay 7.84   agrees to that" in refused.stderr and cloud.calls_of("CreateRole") == [] == cloud.s3.buckets()
    assert "t4x8" in place.run("run", "-t", "t4x8", "--no-git", "--dry-run", "true").stdout and cloud.s3.buckets() == []
    shell = place.spawn("run", "-t", "t4x8", "--no-git", "true")
    shell.expect("at most +\\$20\\.00: 2 h 33 min at \\$7\\.84/h")
    shell.expect_exact("the built-in limit of $20; --max-cost 189 pays for 24 h")
    shell.expect_exact("Type the price of an hour, 7.84, to rent it, and make the two roles:")
    shell.sendline("y")
    shell.expect_exact("Nothing was rented.")
    shell.expect(pexpect.EOF)
    assert cloud.calls_of("RunInstances") == [] and cloud.roles_made() == [] and place.json("ps") == []


def test_a_price_that_the_table_lacks_is_asked_of_aws_and_else_not_agreed_to(
    cloud: Cloud, place: Place, recorded: Recorded
) -> None:
    place.env["AWS_DEFAULT_REGION"] = "eu-central-1"
    run, l4 = recorded.commands(place.run), ("run", "-t", "l4", "--no-git")
    run(*l4, "-y", "true", status=2)
    run(*l4, "--max-hours", "1", "--pay", "0.01", "true", status=2)
    for denied in ("nothing", "pricing:GetProducts"):
        cloud.denied = {denied}
        run(*l4, "--dry-run", "true")
    cloud.denied = set()
    cloud.prices["eu-central-1", "g6.xlarge"] = 1.5  # an example
    for options in ((), (), ("--spot",)):
        run(*l4, *options, "--dry-run", "true")
    *_, last = calls = cloud.calls_of("GetProducts")
    assert len(calls) == 5 and last.region == "us-east-1", "it is known for a month"
    run(*l4, "--pay", "1.4", "true", status=2)
    assert cloud.calls_of("RunInstances") == [] and cloud.roles_made() == [] and place.json("ps") == []


def test_what_the_bill_of_aws_says_and_a_budget(cloud: Cloud, place: Place) -> None:
    def day(name: str, *groups: tuple[str, str]) -> dict[str, Any]:
        costs = [{"Keys": [key], "Metrics": {"UnblendedCost": {"Amount": cost, "Unit": "USD"}}} for key, cost in groups]
        return {"TimePeriod": {"Start": name, "End": name}, "Groups": costs, "Total": {}, "Estimated": True}

    others, ours = ("remoterun:token$", "900.5"), ("remoterun:token$rr-x-1", "1.25")
    said = {"results": [{"ResultsByTime": [day("2026-11-03", others, ours), day("2026-11-04", ours)]}]}
    address = f"{cloud.url}/moto-api/static/ce/cost-and-usage-results"
    urllib.request.urlopen(urllib.request.Request(address, json.dumps(said).encode(), method="POST")).close()
    for _ in range(2):  # the second time it is known
        shown = place.run("bill", "--aws", "--since", "2026-11-01")
        assert "AWS's own bill says $2.50, written up to 2026-11-04" in shown.stderr
    (call,) = cloud.calls_of("GetCostAndUsage")
    assert call.region == "us-east-1" and json.loads(call.parameters["GroupBy"])[0]["Key"] == "remoterun:token"
    cloud.denied.add("ce:GetCostAndUsage")
    assert "ce:GetCostAndUsage" in place.run("bill", "--aws", "--since", "2026-10-01", status=125).stderr

    aws = place.folder / "aws"
    aws.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>called\n')
    aws.chmod(0o755)
    pasted = place.run("doctor", "aws", "--budget").stdout
    env = {**os.environ, "PATH": f"{place.folder}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", pasted], cwd=place.folder, env=env, check=True)
    words = (place.folder / "called").read_text().splitlines()
    assert words[:5] == ["budgets", "create-budget", "--account-id", "123456789012", "--budget"] and len(words) == 8
    assert json.loads(words[5])["BudgetLimit"] == {"Amount": "50", "Unit": "USD"} and len(json.loads(words[7])) == 3


def test_a_quota_that_allows_none_is_said_before_anything_is_asked(cloud: Cloud, place: Place) -> None:
    cloud.quotas["L-DB2E81BA"].vcpus = 0
    (place.folder / "new.py").write_text("print()\n")  # which would be asked about
    for words in ((), ("--dry-run",), ("-y",)):
        refused = place.run(*ON_T4, *words, "python new.py", status=125).stderr
        assert "`Running On-Demand G and VT instances` (L-DB2E81BA) is 0 vCPUs" in refused
        assert "request-service-quota-increase" in refused and "--desired-value 4 " in refused
        assert words or "new.py" not in refused
    assert cloud.calls_of("RunInstances") == [] and place.json("ps") == []


def test_home_and_images_are_on_the_fast_disk_and_there_again_after_a_reboot(cloud: Cloud, quick: Place) -> None:
    """Of the Docker that has its images with containerd. A boot mounts nothing of ours, and nobody asks for anything
    after it: the run is saved, and the host ends."""
    cloud.in_containerd = True
    quick.run("run", "-t", "quick", "-y", "-b", "--image", BASE_IMAGE, f"echo here >made; {WAITS}")
    (machine,), run = cloud.alive(), quick.newest()
    assert machine.host is not None
    place = machine.host.path(f"/home/ubuntu/.remoterun/runs/{run['key']}")
    until(lambda: (place / "work/made").exists() and '"running"' in (place / "events").read_text(), 60)
    folders = machine.host.exec(["docker", "info", "--format", "{{.DockerRootDir}} {{.DriverStatus}}"]).stdout
    assert folders.startswith("/opt/dlami/nvme/docker [[driver-type io.containerd.snapshotter")
    assert int(machine.host.exec(["du", "-sm", "/opt/dlami/nvme/containerd"]).stdout.split()[0]) > 50
    prepared = machine.host.path("/run/remoterun/prepared.json")
    assert json.loads(prepared.read_text())["problems"] == []
    machine.host.reboot()
    places = ("/run/remoterun/prepared.json", "/var/lib/containerd", "/opt/dlami/nvme/containerd")
    prepared, docker, store = map(machine.host.path, places)
    until(prepared.exists, 60)
    assert json.loads(prepared.read_text())["problems"] == [] and docker.samefile(store)
    until(lambda: machine.state == "terminated", 120)
    found = quick.json("info", str(run["number"]))
    assert (found["state"], found["reason"], found["outputs"]["files"]) == ("interrupted", "host_rebooted", 1)


TRAIN_ALONE = "until [ -e go ]; do sleep 0.1; done; echo here >made; echo done"


def test_a_key_that_is_replaced_meanwhile(cloud: Cloud, place: Place) -> None:
    """Without a role a host saves by what was signed with the key that is gone: any contact with another one signs it
    anew."""
    (place.folder / ".." / "home").mkdir(exist_ok=True)
    (place.folder / ".." / "home" / "config.toml").write_text("[aws]\nroles = false\n")
    key = cloud.new_key()
    place.env.update(cloud.environment(key))
    done = place.run(*ON_T4, "-y", "-b", "--no-git", TRAIN_ALONE)
    said = " ".join(done.stderr.split())
    assert "If your login ends before the run does, its host waits up to 1 h for it ($0.542)" in said
    number = done.stdout.strip()
    (machine,) = cloud.alive()
    assert machine.host is not None
    work = machine.host.path(f"/home/ubuntu/.remoterun/runs/{place.json('info', number)['key']}/work")
    until(work.is_dir)
    del cloud.credentials[key.key]
    place.env.update(cloud.environment())
    (work / "go").touch()

    def ended() -> bool:
        found = place.json("info", number)
        seen.append(found["note"] or "")
        return bool(found["state"] == "complete")

    seen: list[str] = []
    until(ended, 60, lambda: str(seen))
    assert any("InvalidAccessKeyId" in note and "any `remoterun ps` renews it" in note for note in seen), seen
    place.run("machines", "rm", machine.id)
    place.run("cp", f"runs/{number}/made", "made")
    assert (place.folder / "made").read_text() == "here\n"


def test_one_that_is_taken_away_goes_on_on_another_host(cloud: Cloud, place: Place) -> None:
    command = "cat checkpoint 2>/dev/null && exit; echo from the first >checkpoint; echo first; exec sleep 1000"
    shell = place.spawn(*ON_T4, "--spot", "-y", "--no-git", command)
    shell.expect("first")
    (machine,) = cloud.alive()
    machine.notice()
    shell.expect("interrupted")
    shell.expect("attempt 2 of 3")
    shell.expect("from the first")
    shell.expect("complete")
    (row,) = place.json("ps")
    assert row["state"] == "complete" and row["renting"]["attempt"] == 2
    assert place.run("logs", str(row["number"])).stdout == "first\nfrom the first\n"
    assert len(cloud.machines) == 2


def test_the_loop_of_everybody_keeps_one_host_about_which_nobody_is_asked(cloud: Cloud, place: Place) -> None:
    """It is wrong, so it is killed, mended, and run again at once. A host that answers is there: no call says more."""
    for number in ("1", "2", "3"):
        place.run(*ON_T4, "-y", "-b", "--no-git", "sleep 1000")
        until(lambda: place.json("info", number)["state"] == "running", 60)  # noqa: B023
        place.run("kill", number)
    made = [call.action for call in cloud.calls]
    assert place.run(*ON_T4, "-y", "--no-git", "echo right").stdout == "right\n"
    assert [call.action for call in cloud.calls] == made and len(cloud.machines) == 1
