"""Runs on hosts that Hugging Face's Jobs would give: `tests/rented_jobs.py` stands in for it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoterun import Client as RemoteRun
from remoterun.cli.main import main
from remoterun.client.upkeep.machines import Machines
from remoterun.clouds import front, simple
from remoterun.clouds.base import HostNeverCame, Intent, NoCapacity, ProviderError, ProviderUnreachable, RentedHost
from remoterun.clouds.hf import provider
from remoterun.clouds.hf.front import Settings
from remoterun.clouds.hf.hardware import read
from remoterun.clouds.hf.provider import MOUNT, HuggingFace
from remoterun.config import ArchivePlace, Config, parse
from remoterun.connections import Connections
from remoterun.errors import ConfigError, HostKeyError, NotFound, UsageError
from remoterun.hosts.base import Prompts, UnknownHostKey
from remoterun.model import MachineType, Rental, new_key
from tests import rented_jobs
from tests.cloud.gateway import Gateway
from tests.commands import REMOTERUN
from tests.e2e.conftest import Place, make_place, opened
from tests.rented_jobs import TOKEN, Jobs, find_jobs
from tests.seaweed import KEY, SECRET, Store, mounted
from tests.sshd import make_key, public
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

KILLS = int(os.environ.get("REMOTERUN_KILLS", "0"))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(tmp_path / "hf") as found:
        yield found


@pytest.fixture
def place(jobs: Jobs, tmp_path: Path) -> Place:
    """A machine without anything of AWS, which rents at Hugging Face."""
    found = make_place(tmp_path)
    found = replace(found, env={**found.env, **jobs.variables, "AWS_EC2_METADATA_DISABLED": "true"})
    jobs.trust(Path(found.env["REMOTERUN_HOME"]))
    found.run("machines", "add", "hf-t4", "--provider", "hf", "--types", "t4-small", "--idle", "5s")
    return found


class Client:
    """A laptop with a machine type of these types."""

    def __init__(self, home: Path, *types: str) -> None:
        self.machine = MachineType("hf-t4", engine="process", rental=Rental("hf", types or ("t4-small",)))
        self.config = Config(home, machines={"hf-t4": self.machine})
        self.provider = HuggingFace(self.config)

    def intent(self, seconds: float = 3600.0) -> Intent:
        key = new_key()
        return Intent(f"rr-{key}-1", key, 7, 1, self.machine, time.time() + seconds, 600.0)

    def acquire(self, intent: Intent | None = None) -> RentedHost:
        offers = self.provider.offers(self.machine, True)
        return self.provider.acquire(intent or self.intent(), offers, lambda _: None)


@pytest.fixture
def client(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    find_jobs(jobs, monkeypatch)
    jobs.trust(tmp_path / "home")
    return lambda *types: Client(tmp_path / "home", *types)


def test_a_run_from_its_start_to_its_outputs(place: Place, jobs: Jobs) -> None:
    """By somebody who has never heard of AWS, and has no bucket."""
    assert "lisa" in place.run("doctor", "hf").stdout
    assert "t4-small $0.40 an hour" in place.run("doctor", "hf-t4").stdout
    plan = place.run("run", "-t", "hf-t4", "--no-git", "--dry-run", "true").stdout
    assert "$0.40/h" in plan and "its provider ends it" in plan.lower() and "AWS" not in plan
    ran = place.run("run", "-t", "hf-t4", "-y", "--no-git", "nvidia-smi -L; echo made >result; exit 3", status=3)
    assert ran.stdout.startswith("GPU 0: Tesla T4")
    (host,) = place.json("machines", "rented")
    assert host["type"] == "t4-small" and host["id"] == f"hf/{jobs.jobs[0].id}"
    assert "guard" not in place.run("machines", "rented").stderr
    until(lambda: place.json("machines", "rented") == [], 60)
    (job,) = jobs.jobs
    assert job.stage == "COMPLETED" and not job.cancels, "its own end ends it, and what is paid for"
    assert place.run("logs", "1", status=3).stdout == ran.stdout
    place.run("cp", "runs/1/result", "result")
    assert (place.folder / "result").read_text() == "made\n"
    assert "t4-small" in place.run("bill", "--by", "machine").stdout
    bill = place.json("bill")
    theirs = sum(each["dollars"] for each in bill["billed"]["hf"])
    assert theirs == pytest.approx(job.bill(0.0), abs=1e-5) and bill["total"]["cost"] == pytest.approx(theirs, abs=1e-5)
    assert "Hugging Face's own bill says" in place.run("bill").stderr


def test_what_is_asked_of_a_run_as_it_goes_on(place: Place, jobs: Jobs) -> None:
    go = "until [ -e go ]; do sleep 0.1; done; echo gone >result"
    place.run("run", "-t", "hf-t4", "-y", "--no-git", "-b", "--attempts", "2", go)
    until(lambda: place.newest()["state"] == "running")
    assert place.run("exec", "1", "echo $((6 * 7))").stdout == "42\n"
    place.run("machines", "gc", "hf", "-y")
    assert jobs.alive(), "a run needs it"
    place.run("stop", "1")
    until(lambda: place.newest()["state"] == "stopped", 60)
    place.run("rerun", "1", "-y", "-b")
    until(lambda: place.newest()["number"] == 2 and place.newest()["state"] == "running")
    place.run("kill", "2")
    until(lambda: place.newest()["state"] == "killed", 60)
    until(lambda: "hf/" in place.run("machines", "gc", "hf", "-y").stdout or not jobs.alive(), 60)
    until(lambda: not jobs.alive(), 60)
    assert "No host" in place.run("machines", "rented").stderr


def test_a_run_whose_host_is_lost_goes_on_on_another_one(place: Place, jobs: Jobs) -> None:
    command = "echo begun; [ -e /root/again ] || sleep 1000"
    words = [REMOTERUN, "run", "-t", "hf-t4", "-y", "--no-git", "--attempts", "2", command]
    with subprocess.Popen(words, cwd=place.folder, env=place.env, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert following.stdout.readline() == "begun\n"
            jobs.end(jobs.jobs[0], "ERROR", "node failure")
            until(lambda: len(jobs.jobs) == 2, 120)
            (jobs.jobs[1].folder / "root" / "again").touch()
            assert following.wait(120) == 0
        finally:
            following.kill()
    run = place.newest()
    assert run["state"] == "complete"
    assert {host["id"] for host in place.json("info", "1")["renting"]["hosts"]} == {f"hf/{job.id}" for job in jobs.jobs}


def test_the_page_shows_its_hosts_and_ends_one(place: Place, jobs: Jobs) -> None:
    place.run("machines", "add", "kept", "--provider", "hf", "--types", "cpu-basic", "--idle", "1h")
    place.run("run", "-t", "kept", "-y", "--no-git", "true")
    (host,) = jobs.alive()
    said = place.run("machines", "rm", "kept").stderr
    assert f"remoterun machines rm hf/{host.id}" in " ".join(said.split()) and "$0.01/h" in said
    with opened(["--no-browser"], place.folder, place.env, "ui") as (address, _):
        with urllib.request.urlopen(f"{address}api/machines", timeout=60) as found:
            assert f"hf/{host.id}" in found.read().decode()
        headers = {"X-Remoterun": "1", "Origin": address.partition("/")[0] + "//" + address.split("/")[2]}
        end = urllib.request.Request(f"{address}api/hosts/hf%2F{host.id}/end", b"{}", headers, method="POST")
        urllib.request.urlopen(end, timeout=60).close()
        until(lambda: not jobs.alive(), 30)


def test_with_another_login_nothing_is_gone(place: Place, jobs: Jobs) -> None:
    """A run of lisa goes on, and bob is logged in; SSH says nothing for a while."""
    place.run("run", "-t", "hf-t4", "-y", "--no-git", "-b", "--attempts", "3", "sleep 1000")
    until(lambda: place.newest()["state"] == "running")
    (folder,) = (each.parent for each in Path(place.env["REMOTERUN_HOME"], "hosts").glob("*/intent.json"))
    others, id = "this login is of `bob`: hosts of `lisa` are not listed", jobs.jobs[0].id
    bob = replace(place, env={**place.env, "HF_TOKEN": "hf_bob"})
    jobs._proxy.send_signal(signal.SIGSTOP)
    try:
        assert others in bob.run("machines", "rented").stderr
        listed = bob.run("ps")
        assert "running" in listed.stdout and others in " ".join(f"{listed.stdout} {listed.stderr}".split()), listed
        assert others in bob.run("machines", "gc", "hf", "-y").stderr
        assert others in bob.run("machines", "rm", f"hf/{id}", status=125).stderr
        bob.run("run", "-t", "hf-t4", "--no-git", "--dry-run", "true")
        with opened(["--no-browser"], bob.folder, bob.env, "ui") as (address, _):
            said = urllib.request.urlopen(f"{address}api/machines", timeout=60).read()
            assert others in json.loads(said)["notes"]
    finally:
        jobs._proxy.send_signal(signal.SIGCONT)
    assert folder.exists() and place.newest()["state"] == "running" and len(jobs.jobs) == 1
    place.run("machines", "rm", f"hf/{id}", "-y")


def test_a_host_that_another_login_asked_for_is_not_rented_again(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = client()
    host = laptop.acquire(intent := laptop.intent())
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    monkeypatch.setattr(simple, "HIDDEN", 1.0)
    with pytest.raises(ProviderError, match="hosts of `lisa` are not listed"):
        client().acquire(intent)
    assert len(jobs.jobs) == 1
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert client().acquire(intent).id == host.id


def test_the_image_of_a_run_is_the_one_of_its_host(place: Place, jobs: Jobs) -> None:
    words = ("run", "-t", "hf-t4", "-y", "--no-git", "--image", "pytorch/pytorch:2.6.0", "python3 -V")
    assert place.run(*words).stdout.startswith("Python 3")
    place.run("rerun", "1", "-y")
    assert {job.spec["dockerImage"] for job in jobs.jobs} == {"pytorch/pytorch:2.6.0"}
    refused = place.run(*words[:-1], "--pip", "rich", "true", status=2).stderr
    assert "no packages are added to its image" in refused
    assert "can't have Debian packages" in place.run(*words[:5], "--apt", "jq", "true", status=2).stderr


def test_a_bucket_of_theirs_is_mounted_and_read_by_s3(
    place: Place,
    jobs: Jobs,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its host has no credential. What it has written to the mount, which has it later, is there for whoever comes."""
    find_jobs(jobs, monkeypatch)
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    for name, value in {**place.env, **keys}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(provider.Jobs, "settle", 10.0)
    jobs.drains = 8.0

    def say(*words: str) -> str:
        capfd.readouterr()
        assert main(list(words)) == 0, capfd.readouterr()
        return capfd.readouterr().out

    bucket = store.new_bucket()
    with Gateway(store.url, "lisa") as door, mounted(store, bucket.name, tmp_path / "bucket") as folder:
        jobs.buckets[f"lisa/{bucket.name}"] = folder
        file = next(Path(place.env["REMOTERUN_HOME"]).glob("config.toml"))
        archive = f'[archive]\nbucket = "{bucket.name}"\nregion = "us-east-1"\nendpoint = "{door.url}/lisa"\n'
        file.write_text(f'{file.read_text()}\n{archive}[hf]\nbuckets = "{door.url}"\n')
        assert f"lisa/{bucket.name} will be mounted" in say("doctor", "hf")
        (place.folder / "data.txt").write_text("to be read\n")
        say("upload", "data.txt", "--name", "data", "--to", "archive")
        makes = "cat data/*; echo made >result; sleep 3; echo late"
        say("run", "-t", "hf-t4", "-y", "--no-git", "-b", "-m", "uploads/data", makes)
        until(lambda: not jobs.alive(), 120)  # nobody looks until it is gone
        assert jobs.jobs[0].spec["volumes"] == [{"type": "bucket", "source": f"lisa/{bucket.name}", "mountPath": MOUNT}]
        assert not any(name in str(jobs.jobs[0].spec) for name in (KEY, SECRET))
        (record,) = folder.glob("runs/*/status.json")
        assert '"complete"' in record.read_text()
        assert say("logs", "1") == "to be read\nlate\n"
        say("cp", "runs/1/result", "result")
        assert (place.folder / "result").read_text() == "made\n"
        assert "302" not in " ".join(door.refused)
        say("rm", "1", "-y")
        say("machines", "gc", "hf", "-y")
        say("machines", "gc", "aws", "-y")


def test_a_host_ends_by_itself_and_else_by_its_server(client: Callable[..., Client], jobs: Jobs) -> None:
    ours = client()
    host = ours.acquire(ours.intent(70.0))
    assert host.guarded and host.alive and jobs.jobs[0].spec["timeoutSeconds"] <= 70
    until(lambda: jobs.jobs[0].stage == "COMPLETED", 30)
    assert jobs.jobs[0].bill(time.time()) <= 0.4 * 70 / 3600, "it ends before one more minute is billed"
    jobs.hurries = 20.0
    ours.acquire(ours.intent(240.0))
    os.kill(jobs.jobs[1].inside, signal.SIGSTOP)
    until(lambda: jobs.jobs[1].stage == "ERROR", 30)
    assert jobs.jobs[1].message == "Job timeout"


def test_the_first_process_ends_at_once_when_it_is_told_to(client: Callable[..., Client], jobs: Jobs) -> None:
    client().acquire()
    began = time.monotonic()
    os.kill(jobs.jobs[0].inside, signal.SIGTERM)
    until(lambda: jobs.jobs[0].stage == "COMPLETED", 10)
    assert time.monotonic() - began < 5


def test_a_limit_that_is_not_listed_ends_the_host(client: Callable[..., Client], jobs: Jobs) -> None:
    jobs.forgets = True
    with pytest.raises(ProviderError, match="`hf` does not say that it ends the host"):
        client().acquire()
    assert [job.stage for job in jobs.jobs] == ["CANCELED"]


@pytest.mark.parametrize("minutes", (-20, -10, 10, 20))
def test_a_clock_that_is_wrong_costs_nothing(
    jobs: Jobs, client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minutes: int
) -> None:
    """Everything of a host goes by the clock of its provider's answers, and is shown by this machine's."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + minutes * 60)
    monkeypatch.chdir(tmp_path)
    ours, warnings = client(), list[str]()
    with RemoteRun(replace(ours.config, archive=ArchivePlace(f"file://{tmp_path}/archive"))) as laptop:
        laptop._nouns.connections.warn = warnings.append
        assert laptop.run("sleep 2", machine="hf-t4", pay=1.0, max_hours=0.2, source=None).wait(120) == 0
        (job,) = jobs.jobs
        assert 660 <= job.spec["timeoutSeconds"] <= 720
        (host,) = ours.provider.hosts()
        assert abs(host.began - time.time()) < 60 and abs(host.deadline - time.time() - 720) < 60
        found = ours.provider.find(host.token)
        assert found is not None and found.deadline == pytest.approx(host.deadline, abs=2)
        renting = laptop._nouns.runs.get(1).renting
        assert renting is not None and (renting.cost(time.time()) or 0.0) <= 0.4 / 30
        (said,) = (each for each in warnings if "clock" in each)
        assert said.startswith(f"this machine's clock is {abs(minutes)} minutes {'fast' if minutes > 0 else 'slow'}")
    (check,) = (each for each in ours.provider.checks() if each.name == "hf: clock")
    assert check.ok is False and "set-ntp" in str(check.fix)


@pytest.mark.parametrize("call", ("GET whoami-v2", "GET jobs/hardware", "POST jobs", "GET jobs", "POST ID/cancel"))
def test_a_server_that_is_busy_is_asked_again(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(simple, "ASK", 0.2)
    jobs.busy, ours = {call: [429, 503]}, client()
    ours.provider.release(ours.acquire())
    assert len(jobs.jobs) == 1 and not jobs.alive() and not jobs.busy[call]


def test_prices_are_asked_anew(place: Place, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that follows a run for days rents its next host by the price of then."""
    words = [REMOTERUN, "run", "-t", "hf-t4", "-y", "--no-git", "--attempts", "2", "echo begun; sleep 1000"]
    with subprocess.Popen(
        words, cwd=place.folder, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:  # noqa: E501
        assert following.stdout is not None
        try:
            assert following.stdout.readline() == "begun\n"
            monkeypatch.setitem(rented_jobs.PRICES, "t4-small", 16.0)
            jobs.end(jobs.jobs[0], "ERROR", "node failure")
            _, said = following.communicate(timeout=120)
        finally:
            following.kill()
    assert len(jobs.jobs) == 1 and "$16.00" in said


def test_what_its_server_ends_for_want_of_credit_says_so(place: Place, jobs: Jobs) -> None:
    place.run("run", "-t", "hf-t4", "-y", "--no-git", "-b", "sleep 1000")
    until(lambda: place.newest()["state"] == "running")
    jobs.end(jobs.jobs[0], "CANCELED", reason="NO_CREDITS")
    until(lambda: place.newest()["state"] == "interrupted", 60)
    said = place.run("info", "1").stdout
    assert "credit is used up" in " ".join(said.split()) and "settings/billing" in said and "by hand" not in said


def test_a_next_page_elsewhere_is_not_asked_for(client: Callable[..., Client], jobs: Jobs) -> None:
    """It would be given the token."""
    ours = client()
    for _ in range(3):
        jobs.create({"flavor": "cpu-basic", "labels": dict([provider.MARK]), "command": ["sleep", "60"]})
    jobs.next_page = "http://127.0.0.1:9/api/jobs/lisa"
    with pytest.raises(ProviderError, match="is not at Hugging Face"):
        ours.provider.hosts()
    jobs.next_page = f"{jobs.variables['HF_ENDPOINT']}/api/jobs/lisa"
    with pytest.raises(ProviderError, match="no list of jobs that comes to an end"):
        ours.provider.hosts()


@pytest.mark.parametrize("now", (-2208988800, 1e9, 253402300000))
def test_a_date_that_can_not_be_one_is_no_answer(
    client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    ours = client()
    monkeypatch.setattr(rented_jobs, "NOW", lambda: now)
    with pytest.raises(ProviderUnreachable, match="the clock of `hf` says"):
        ours.provider.hosts()


def test_what_is_not_published_fails(tmp_path: Path) -> None:
    """The stand-in accepts no field that Hugging Face's description does not have."""
    with pytest.raises(AssertionError, match="hidden"), Jobs(tmp_path / "hf") as jobs:
        headers = {"Authorization": "Bearer hf_test", "Content-Type": "application/json"}
        address = f"{jobs.variables['HF_ENDPOINT']}/api/jobs/lisa"
        order = urllib.request.Request(address, b'{"flavor": "t4-small", "hidden": 1}', headers, method="POST")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(order, timeout=60)
    assert not jobs.jobs


@pytest.mark.parametrize("is_listed", (False, True))
def test_a_host_that_is_listed_after_all_patience_is_ended_or_hinted_at(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    """Also one that is asked for as the user interrupts."""
    monkeypatch.setattr(simple, "HIDDEN", 3.0)
    jobs.hides, ours = 2.0 if is_listed else 5.0, client()
    if is_listed:
        monkeypatch.setattr(provider.Jobs, "create", interrupted(provider.Jobs.create))
    with pytest.raises(KeyboardInterrupt if is_listed else HostNeverCame) as raised:
        ours.acquire()
    if is_listed:
        assert [job.stage for job in jobs.jobs] == ["CANCELED"]
    else:
        assert "it may be there, and cost" in str(raised.value.evidence)  # type: ignore[attr-defined]
        assert "remoterun machines rented" in str(raised.value.hint)  # type: ignore[attr-defined]


def interrupted(do: Callable[..., None]) -> Callable[..., None]:
    """As ^C does just after a call."""

    def call(*words: Any) -> None:
        do(*words)
        raise KeyboardInterrupt

    return call


def test_a_host_that_is_listed_late_is_still_one(client: Callable[..., Client], jobs: Jobs) -> None:
    jobs.hides, ours = 5.0, client()
    intent = ours.intent()
    assert ours.acquire(intent).id == ours.acquire(intent).id and len(jobs.jobs) == 1


def test_without_capacity_the_next_type_is_tried(client: Callable[..., Client], jobs: Jobs) -> None:
    jobs.refuses, ours = {"l4x1"}, client("l4x1", "t4-small")
    assert ours.acquire().offer.type == "t4-small"
    jobs.refuses = {"l4x1", "t4-small"}
    with pytest.raises(NoCapacity) as refused:
        ours.acquire()
    assert refused.value.evidence == "l4x1: no capacity for l4x1\nt4-small: no capacity for t4-small"


def test_a_cancellation_that_does_nothing_is_repeated_and_then_said(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = client()
    monkeypatch.setattr(simple, "AGAIN", 0.1)
    host, jobs.stays = ours.acquire(), 2
    ours.provider.release(host)
    assert jobs.jobs[0].cancels == 3 and not jobs.alive()
    again, jobs.stays = ours.acquire(), 1000
    monkeypatch.setattr(simple, "RELEASE", 2.0)
    with pytest.raises(ProviderError, match="which is still there"):
        ours.provider.release(again)


def test_all_pages_are_read_and_others_jobs_are_not_ours(client: Callable[..., Client], jobs: Jobs) -> None:
    ours = client("cpu-basic")
    found = {ours.acquire().id for _ in range(3)}
    jobs.create(
        {
            "flavor": "cpu-basic",
            "labels": {"name": "training"},
            "command": ["sleep", "60"],
            "arguments": [],
            "environment": {},
        }
    )
    assert {each.id for each in ours.provider.hosts()} == found
    other = Client(ours.config.home.parent / "other", "cpu-basic")
    theirs = other.provider.hosts()
    assert {each.id for each in theirs} == found and not any(each.ours or each.machine for each in theirs)
    assert all(each.offer.price == pytest.approx(0.01) for each in theirs)


def test_an_odd_job_hides_no_other(client: Callable[..., Client], jobs: Jobs) -> None:
    ours = client("cpu-basic")
    host, name = ours.acquire(), jobs.jobs[0].name
    labels, ssh = {"labels": {"name": name}}, "ssh://a@127.0.0.1"
    odd: list[Any] = [
        {"id": "a1", **labels, "startedAt": "yesterday", "timeout": "abc", "status": {"stage": ["x"]}},
        {"id": "a2", **labels, "status": {"stage": "RUNNING", "sshUrl": "ssh://a@[::1"}},
        {"id": "a3", **labels, "status": {"stage": "RUNNING", "sshUrl": f"{ssh}:99999"}, "createdAt": 3},
        {"id": "a4", **labels, "status": {"stage": "RUNNING", "sshUrl": "ssh://a%20b@-h"}},
        {"id": "a5", "labels": [], "status": "RUNNING"},
        {"id": "x; touch y", **labels, "status": {"stage": "RUNNING"}},
        {**labels, "status": {"stage": "RUNNING"}},
        "odd",
        None,
    ]
    jobs.odd = {"/api/jobs/lisa": odd}
    notes = list[str]()
    listed = ours.provider.hosts(notes.append)
    assert [each.id for each in listed if each.machine is not None] == [host.id]
    assert {each.id for each in listed if each.id != host.id} == {"hf/a1", "hf/a2", "hf/a3", "hf/a4"}
    assert len(notes) == 6 and any("its stage is ['x']" in note for note in notes)
    with pytest.raises(ProviderError, match="hosts that were made for one request: hf/"):
        ours.provider.find(host.token)
    jobs.odd = {"/api/jobs/lisa": {"error": "moved"}}
    with pytest.raises(ProviderError, match="no list of jobs"):
        ours.provider.hosts()
    jobs.odd = {"/api/jobs/hardware": odd, "/api/whoami-v2": odd}
    for ask in (lambda: ours.provider.offers(ours.machine, True), ours.provider.identity):
        with pytest.raises(ProviderError, match="can't be read") as raised:
            ask()
        assert "\n" not in raised.value.message


def test_a_key_that_the_account_does_not_know_is_said_soon(
    client: Callable[..., Client], jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simple, "REFUSED", 1.0)
    jobs.allow(public(make_key(tmp_path / "another")))
    with pytest.raises(HostNeverCame, match="runs, and does not let us in") as raised:
        client().acquire()
    assert "https://huggingface.co/settings/keys" in str(raised.value.hint) and not jobs.alive()


def test_the_host_key_of_the_server_is_asked_about_before_anything_is_paid_for(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, asked = client(), list[UnknownHostKey]()
    monkeypatch.setattr(provider, "PROXY", f"127.0.0.1:{jobs.port}")
    monkeypatch.chdir(tmp_path)
    pinned = ours.config.home / "hosts" / "hf.known_hosts"
    pinned.unlink()

    def yes(key: UnknownHostKey) -> bool:
        asked.append(key)
        return True

    config = replace(ours.config, archive=ArchivePlace(f"file://{tmp_path}/archive"))
    with RemoteRun(config) as laptop:
        for left in ("", "hf ssh-ed"):  # by a full disk
            pinned.write_text(left)
            with pytest.raises(HostKeyError, match="is not known here") as unknown:
                laptop.run("true", machine="hf-t4", pay=1.0, source=None)
        pinned.unlink()
        assert str(unknown.value.hint).startswith(f"ssh -F {ours.config.home}/hosts/hf.ssh_config hf ")
        assert not jobs.jobs
        laptop._nouns.connections._prompts = Prompts(yes)
        assert laptop.run("true", machine="hf-t4", pay=1.0, source=None).wait(60) == 0
    assert len(asked) == 1 and asked[0].fingerprint in fingerprint(jobs.folder / "proxy_key")
    assert pinned.read_text().split()[1:3] == public(jobs.folder / "proxy_key").split()[:2]
    pinned.write_text(f"hf {' '.join(public(jobs.key).split()[:2])}\n")
    monkeypatch.setattr(simple, "REFUSED", 1.0)
    with pytest.raises(HostNeverCame) as raised:
        ours.acquire()
    assert "host key" in str(raised.value.evidence) and "ssh-keygen -f" in str(raised.value.hint)


def fingerprint(key: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout


def test_what_its_server_refuses_is_one_line(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = client()
    with pytest.raises(NotFound, match="no type `t5`") as unknown:
        client("t5").acquire()
    assert "t4-small" in str(unknown.value.hint) and not jobs.jobs
    jobs.fails = 502
    with pytest.raises(ProviderUnreachable, match="Hugging Face answers 502: try again later"):
        ours.provider.hosts()
    jobs.fails = 0
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ProviderError, match="answers 401") as refused:
        HuggingFace(ours.config).identity()
    assert "hf auth login" in str(refused.value.hint) and "\n" not in refused.value.message
    monkeypatch.delenv("HF_TOKEN")
    assert not front("hf").can_log_in(ours.config)
    (check,) = (each for each in HuggingFace(ours.config).checks() if each.name == "hf: login")
    assert check.ok is False and "hf auth login" in str(check.fix)


def test_why_a_host_never_came_is_said(client: Callable[..., Client], jobs: Jobs) -> None:
    """Also where that is known before we look; and no other one is made for the same intent."""
    jobs.waits = 3.0
    ours = client()
    intent = ours.intent()
    machine = replace(intent.machine, rental=replace(intent.machine.rental or Rental("", ()), image="pytorch/typo"))
    intent = replace(intent, machine=machine)

    def fail() -> None:
        until(lambda: jobs.jobs)
        jobs.end(jobs.jobs[0], "ERROR", "Failed to pull image")

    ending = threading.Thread(target=fail)
    ending.start()
    for _ in range(2):
        with pytest.raises(HostNeverCame, match="ended while it was waited for") as raised:
            ours.acquire(intent)
        assert raised.value.evidence == "Failed to pull image" and "`pytorch/typo`" in str(raised.value.hint)
    ending.join()
    assert len(jobs.jobs) == 1


def test_when_a_host_ended_is_known_afterwards(client: Callable[..., Client], jobs: Jobs) -> None:
    ours = client()
    first, second = ours.acquire(), ours.acquire()
    jobs.end(jobs.jobs[0], "CANCELED")
    jobs.end(jobs.jobs[1], "COMPLETED")
    for host, job, by_somebody in zip((first, second), jobs.jobs, (True, False), strict=True):
        found = ours.provider.find(host.token)
        assert found is not None and (found.state, found.was_ended, found.preempted) == ("gone", by_somebody, False)
        assert found.ended == pytest.approx(job.ended, abs=0.01) and found.id == host.id


def test_a_cancellation_that_is_refused_is_fine_where_the_host_ends(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = client()
    host = ours.acquire()
    monkeypatch.setattr(simple, "RELEASE", 10.0)
    jobs.refused_cancels = 1
    ending = threading.Timer(2.0, jobs.end, (jobs.jobs[0], "COMPLETED"))
    ending.start()
    ours.provider.release(host)
    ending.join()
    assert jobs.jobs[0].cancels == 1 and not jobs.alive()


def test_a_host_without_the_bucket_of_now_is_not_used_as_if_it_had_it(
    jobs: Jobs, client: Callable[..., Client]
) -> None:
    """It was rented by earlier settings."""
    ours = client()
    host = ours.acquire()
    place = ArchivePlace("runs", endpoint="https://s3.hf.co/lisa")
    now = HuggingFace(replace(ours.config, archive=place))
    assert now.folder_of(ours.machine) == MOUNT and now.folder_of(ours.machine, host.token) == ""
    assert ours.provider.folder_of(ours.machine, host.token) == ""


@pytest.mark.timeout(300 + 20 * KILLS)
def test_clients_that_are_killed_leave_one_host_each_at_the_most(
    client: Callable[..., Client], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at one of its calls. `REMOTERUN_KILLS` adds so many at random calls and moments."""
    monkeypatch.setattr(simple, "HIDDEN", 5.0)
    ours, chance, spawn = client("cpu-basic"), random.Random(KILLS), multiprocessing.get_context("spawn")
    moments = [(3, 0.0), (3, 0.1), (4, 0.1), (5, 0.1)]
    moments += [(chance.randint(1, 8), chance.uniform(0, 0.3)) for _ in range(KILLS)]
    for call, seconds in moments:
        intent = ours.intent(600.0)
        killed = spawn.Process(target=killed_at, args=(ours.config.home, intent, call, seconds))
        killed.start()
        killed.join()
        host = ours.acquire(intent)
        assert [job.name.startswith(intent.token) for job in jobs.alive()] == [True], (call, seconds)
        ours.provider.release(host)
    names = [job.name for job in jobs.jobs]
    assert len(names) == len({*names}) == len(moments)


def killed_at(home: Path, intent: Intent, call: int, seconds: float) -> None:
    """In a process of its own: a client that acquires a host, and is killed `seconds` after its so many-th call began,
    or once it has the host, if there are fewer calls."""
    count, real = itertools.count(1), provider.Jobs._ask

    def ask(self: provider.Jobs, method: str, path: str, **more: Any) -> tuple[Any, str]:
        if next(count) == call:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return real(self, method, path, **more)

    provider.Jobs._ask = ask  # type: ignore[method-assign]
    Client(home, *intent.machine.rental.types if intent.machine.rental else ()).acquire(intent)


def test_a_token_for_models_alone_rents_nothing(tmp_path: Path) -> None:
    """Who has one, and rents nothing there, is not asked about it."""
    config, of = Config(tmp_path), front("hf")
    variables = {"HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path)}
    assert of.can_log_in(config, variables) and not of.is_set_up(config, variables)
    assert of.is_set_up(Config(tmp_path, providers={"hf": Settings()}))
    assert not of.can_log_in(config, {"HF_HOME": str(tmp_path)})
    (tmp_path / "token").write_text("hf_x\n")
    assert of.can_log_in(config, {"HF_HOME": str(tmp_path)})


def test_its_types_have_names_where_somebody_rents_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked; who rents there alone sees nothing of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(tmp_path, machines={"hf-t4": MachineType("hf-t4", rental=Rental("hf", ("t4-small",)))})
    with closing(Connections(config)) as connections:
        of = Machines(connections)
        assert of.get("hf-l4x1").engine == "process" and of.get("hf-l4x1").gpus == 1
        offers = of.rented_types()
        assert offers["hf-t4-medium"].price == 0.6 and {*offers} == {*front("hf").names()}
        assert of.rented_types(spot=True) == {}
    with (
        closing(Connections(Config(tmp_path))) as connections,
        pytest.raises(NotFound, match="no machine is set up as `hf-l4x1`") as raised,
    ):
        connections.machine("hf-l4x1")
    assert "--provider hf" in str(raised.value.hint)


def test_there_are_no_spot_hosts(tmp_path: Path) -> None:
    machine = MachineType("it", rental=Rental("hf", ("t4-small",), spot=True))
    with pytest.raises(UsageError, match="no spot hosts for `it`"):
        HuggingFace(Config(tmp_path)).offers(machine)


def test_a_machine_whose_type_is_unknown_hides_no_other(place: Place) -> None:
    place.run("machines", "add", "it", "--provider", "hf", "--types", "t5")
    assert [each["name"] for each in place.json("machines")][:2] == ["hf-t4", "it"]
    assert "no type `t5`" in place.run("run", "-t", "it", "--no-git", "--dry-run", "true", status=None).stderr


def test_who_rents_at_aws_too_is_asked_about_it(tmp_path: Path) -> None:
    """Also where the archive is somebody else's, whose keys are not those of AWS."""
    machines = {"gpu": MachineType("gpu", rental=Rental("aws", ("g4dn.xlarge",)))}
    place = ArchivePlace("runs", endpoint="https://s3.hf.co/lisa", profile="hf")
    assert front("aws").is_set_up(Config(tmp_path, machines=machines, archive=place), {})
    assert not front("aws").is_set_up(Config(tmp_path, archive=place), {"AWS_CONFIG_FILE": "/dev/null"})


@pytest.mark.parametrize("setting", ['region = "eu"', "disk = 200", "spot = true"])
def test_what_it_has_no_choice_of_is_refused(tmp_path: Path, setting: str) -> None:
    text = f'[machines.it]\nprovider = "hf"\ntypes = "t4-small"\n{setting}\n'
    with pytest.raises(ConfigError, match=f"machines.it.{setting.split()[0]}: Hugging Face has no choice of it"):
        parse(text, Config(tmp_path))


def test_hardware_without_a_price_is_one_without_a_price() -> None:
    found = read([{"name": "new", "accelerator": {"model": None, "quantity": "2"}, "unitLabel": "minute"}])
    assert (found["new"].price, found["new"].gpus, found["new"].gpu) == (None, 2, "")


def test_only_a_bucket_of_theirs_is_mounted(tmp_path: Path) -> None:
    def folder(archive: ArchivePlace) -> str:
        provider = HuggingFace(Config(tmp_path, archive=archive))
        return provider.folder_of(MachineType("it", rental=Rental("hf", ("t4-small",))))

    assert folder(ArchivePlace("runs", endpoint="https://s3.hf.co/lisa")) == MOUNT
    assert folder(ArchivePlace("runs", endpoint="https://x.r2.cloudflarestorage.com")) == ""
    assert folder(ArchivePlace("runs")) == folder(ArchivePlace()) == ""
