"""Runs on hosts that a program of the user's rents: its hosts are containers of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from remoterun import Client
from remoterun.agent.shared.archive import Grant
from remoterun.agent.store.http_client import HttpClient, HttpError
from remoterun.agent.store.objects import Content, post
from remoterun.clouds import front, simple
from remoterun.clouds.base import Intent, NoCapacity, ProviderError, ProviderUnreachable, RentedHost
from remoterun.clouds.command import conformance, provider
from remoterun.clouds.command.provider import ProgramProvider
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.host_name import name_of
from remoterun.clouds.vendor import Order
from remoterun.config import ArchivePlace, Config
from remoterun.errors import UsageError
from remoterun.model import MachineType, Rental, new_key
from tests.cloud.renters import own_program
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE
from tests.lab.local_docker import LocalDocker
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"
KILLS = int(os.environ.get("REMOTERUN_KILLS", "0"))


class Programs:
    """A laptop with a machine type `pod`, and what its program was asked."""

    def __init__(self, root: Path, *types: str, **more: Any) -> None:
        self.root = root / "cloud"
        self.root.mkdir()
        words = (sys.executable, str(CONTAINERS), str(self.root))
        self.machine = MachineType("pod", rental=Rental("command", types or ("RTX4090",), program=words, **more))
        self.config = Config(root / "home", machines={"pod": self.machine})
        self.provider = ProgramProvider(self.config)

    def acquire(self, intent: Intent | None = None) -> RentedHost:
        offers = self.provider.offers(self.machine, True)
        return self.provider.acquire(intent or self.intent(), offers, lambda _: None)

    def intent(self, seconds: float = 3600.0) -> Intent:
        key = new_key()
        return Intent(f"rr-{key}-1", key, 7, 1, self.machine, time.time() + seconds, 600.0)

    def noted(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.root / "ledger").read_text().splitlines()]
        return [line for line in lines if kind in line]

    def alive(self) -> list[RentedHost]:
        return self.provider.hosts()


@pytest.fixture
def programs(tmp_path: Path) -> Any:
    made: list[Programs] = []

    def make(*types: str, **more: Any) -> Programs:
        made.append(Programs(tmp_path, *types, **more))
        return made[-1]

    yield make
    for each in made:
        (each.root / "stays").unlink(missing_ok=True)
        (each.root / "says").unlink(missing_ok=True)
        (each.root / "hides").unlink(missing_ok=True)
        for host in each.provider.hosts():
            each.provider.release(host)


@pytest.mark.parametrize(("minutes", "kind"), ((-20, "host"), (-10, "server"), (10, "host"), (20, "server")))
def test_a_clock_that_is_wrong_ends_no_host_early_or_late(
    programs: Any, monkeypatch: pytest.MonkeyPatch, kind: str, minutes: int
) -> None:
    """Nor does a program that is busy for the moment."""
    ours, real, said = programs(), time.time, list[str]()
    (ours.root / "ends").write_text(kind)
    (ours.root / "busy").write_text("2")
    monkeypatch.setattr(simple, "ASK", 0.2)
    monkeypatch.setattr(time, "time", lambda: real() + minutes * 60)
    offers = ours.provider.offers(ours.machine, True)
    host = ours.provider.acquire(ours.intent(600.0), offers, lambda _: None, said.append)
    assert abs(host.began - time.time()) < 30 and host.deadline == pytest.approx(host.began + 600, abs=15)
    (warned,) = said
    assert warned.startswith(f"this machine's clock is {abs(minutes)} minutes {'fast' if minutes > 0 else 'slow'}")
    (terms,) = ours.root.glob("hosts/*/root/.remoterun/rented.json")
    (about,) = ours.root.glob("hosts/*/about.json")
    assert json.loads(terms.read_text())["deadline"] == pytest.approx(real() + 600, abs=30)
    if kind == "server":
        assert json.loads(about.read_text())["ends"] == pytest.approx(real() + 600, abs=30)


@pytest.mark.parametrize("kind", ("container", "machine"))
def test_a_run_from_its_start_to_its_outputs(place: Place, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "cloud"
    own_program(place, root)
    (root / kind).touch()
    for name in ("command", "pod"):
        assert "me@containers" in place.run("doctor", name, status=None).stdout
    (root / "says").write_text("Welcome")
    assert "try it by hand:  echo" in place.run("doctor", "pod", status=1).stdout
    (root / "says").unlink()
    ran = place.run("run", "-t", "pod", "-y", "--no-git", "echo hi; echo made >result")
    assert ran.stdout == "hi\n"
    number = str(place.newest()["number"])
    (host,) = place.json("machines", "rented")
    assert host["type"] == "RTX4090" and host["number"] == int(number)
    until(lambda: place.json("machines", "rented") == [], 60)
    (told,) = root.glob("hosts/*/told")
    assert told.read_text() == "ended\n", "the host has asked its provider for its end"
    assert place.run("logs", number).stdout == "hi\n"
    place.run("cp", f"runs/{number}/result", "result")
    assert (place.folder / "result").read_text() == "made\n"
    assert "RTX4090" in place.run("bill", "--by", "machine").stdout


def test_without_a_bucket_this_machine_fetches_what_a_run_makes(tmp_path: Path) -> None:
    """Nobody here has heard of AWS. What a run leaves while this machine is off waits on its host."""
    place = make_place(tmp_path)
    own_program(place, tmp_path / "cloud")
    (place.folder / "data.txt").write_text("to be read\n")
    place.run("upload", "data.txt", "--name", "data", "--to", "pod")
    ran = place.run(
        "run", "-t", "pod", "-y", "--no-git", "-m", "uploads/data", "cat data/*; seq 9 >result; exit 3", status=3
    )
    assert ran.stdout == "to be read\n"
    assert "`remoterun logs` or `ps` fetches what the run makes" in ran.stderr and "AWS" not in ran.stderr
    later = "until [ -e go ]; do sleep 0.1; done; echo later; echo made >result"
    place.run("run", "-t", "pod", "-y", "--no-git", "-b", later)
    until(lambda: place.newest()["state"] == "running")
    (folder,) = (tmp_path / "cloud" / "hosts").glob("*/root/.remoterun/runs/*/work")
    (folder / "go").touch()
    until(lambda: place.newest()["state"] == "complete", 60)
    until(lambda: place.json("machines", "rented") == [], 60)
    for number, log, made in (("1", "to be read\n", "9"), ("2", "later\n", "made")):
        assert place.run("logs", number, status=None).stdout == log
        place.run("cp", f"runs/{number}/result", f"made{number}")
        assert (place.folder / f"made{number}").read_text().split()[-1] == made
    assert "archive" in place.run("ls", "uploads").stdout
    place.run("run", "-t", "pod", "-y", "--no-git", "-b", "--wait-for-login", "1s", "echo lost >result")
    until(lambda: len(list((tmp_path / "cloud" / "hosts").glob("*/told"))) == 2, 60)
    assert "what the run had left there was not fetched before" in place.run("logs", "3", status=None).stderr
    for words in (
        ("machines", "gc", "archive"),
        ("machines", "df", "archive"),
        ("machines", "check", "archive"),
        ("bill",),
    ):
        place.run(*words)


def test_a_client_that_is_killed_as_it_fetches_loses_nothing(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    own_program(place, tmp_path / "cloud")
    makes = "head -c 150000000 /dev/urandom >big; sha256sum big"
    place.run("run", "-t", "pod", "-y", "--no-git", "-b", makes)
    archive = tmp_path / "home" / "archive" / "runs"
    for packs in (1, 2, 3):
        terminal = place.spawn("logs", "1")
        until(lambda packs=packs: len(list(archive.glob("*/packs/*"))) >= packs, 120)  # type: ignore[misc]
        terminal.kill(signal.SIGKILL)
        terminal.wait()
    place.run("wait", "1")
    until(lambda: place.json("machines", "rented") == [], 60)
    place.run("cp", "runs/1/big", "big")
    digest = hashlib.sha256((place.folder / "big").read_bytes()).hexdigest()
    assert place.run("logs", "1").stdout.split() == [digest, "big"]


def test_a_host_that_nobody_ends_is_refused_unless_that_is_typed(programs: Any) -> None:
    ours = programs()
    (ours.root / "ends").write_text("client")
    with pytest.raises(UsageError, match="nothing ends a host of `rented_containers`") as refused:
        ours.acquire()
    assert "--it-may-run-on" in str(refused.value.hint) and not ours.noted("made")
    typed = replace(ours.machine, rental=replace(ours.machine.rental, it_may_run_on=True))
    assert ours.provider.offers(typed, True)


def test_a_host_ends_by_itself_while_no_client_is_there(programs: Any) -> None:
    ours = programs()
    for ends in ("host", "server"):
        (ours.root / "ends").write_text(ends)
        ours.provider = ProgramProvider(Config(ours.provider._home, machines={"pod": ours.machine}))
        deadline = time.time() + 5
        host = ours.acquire(ours.intent(5.0 if ends == "host" else 60.0))
        assert host.guarded == (ends == "server") and host.alive
        if ends == "host":
            until(lambda: not ours.alive(), 30)
            assert time.time() > deadline
        else:
            ours.provider.release(host)


def test_doctor_asks_a_program_all_that_costs_nothing(programs: Any, tmp_path: Path) -> None:
    ours = programs()
    assert [(each.name.partition(": ")[2], each.ok, each.detail) for each in ours.provider.checks(ours.machine)] == [
        ("hello", True, "a program on it asks its provider to end it"),
        ("identity", True, "me@containers"),
        ("offers", True, "RTX4090 here: $0.4 an hour"),
        ("hosts", True, "0 listed"),
        ("unknown type", True, "is not offered"),
        ("unknown host", True, "may be deleted"),
        ("unknown question", True, "`rented_containers`: what is that?"),
        ("create", None, "not tried: it costs"),
    ]
    assert not ours.noted("made")
    careless = tmp_path / "careless.py"
    careless.write_text(CARELESS)
    machine = MachineType("it", rental=Rental("command", ("L4",), program=(sys.executable, str(careless))))
    checks = ProgramProvider(Config(tmp_path / "other", machines={"it": machine, "pod": ours.machine})).checks(machine)
    wrong = {each.name: (each.detail, each.fix) for each in checks if each.ok is False}
    assert wrong == {
        "careless: offers": ("A100: no price", conformance.OFFER),
        "careless: hosts": ("what `careless` answered to `hosts` has no list `hosts`", "answer `hosts`, a list"),
        "careless: unknown type": ("A100: no price", "leave it out: `offers` is []"),
        "careless: unknown host": ("`careless` ended with status 1 at `delete` (KeyError: 'delete')", "answer {}"),
        "careless: unknown question": (
            f"`careless` ended with status 1 at `{conformance.ODD}` (KeyError: '{conformance.ODD}')",
            conformance.MORE,
        ),
    }


CARELESS = """
import json
answers = {"hello": {"version": 1, "ends": "client"}, "offers": {"offers": [{"type": "A100"}]}}
print(json.dumps({**answers, "hosts": {}, "identity": {"name": "me"}}[json.loads(input())["do"]]))
"""


def test_a_limit_that_is_not_kept_ends_the_host(programs: Any) -> None:
    ours = programs()
    (ours.root / "ends").write_text("server")
    (ours.root / "unlimited").write_text("1")
    with pytest.raises(ProviderError, match="does not say that it ends the host"):
        ours.acquire()
    assert len(ours.noted("made")) == 1 and not ours.alive()


def test_a_host_that_is_listed_late_is_still_one(programs: Any) -> None:
    ours = programs()
    (ours.root / "hides").write_text("5")
    intent = ours.intent()
    host = ours.acquire(intent)
    assert ours.acquire(intent).id == host.id and len(ours.noted("made")) == 1


def test_without_capacity_the_next_type_is_tried(programs: Any) -> None:
    ours = programs("A100", "L4")
    (ours.root / "refuses A100").touch()
    assert ours.acquire().offer.type == "L4"
    (ours.root / "refuses L4").touch()
    with pytest.raises(NoCapacity) as refused:
        ours.acquire()
    assert (
        refused.value.evidence
        == "A100: `rented_containers`: 503: no A100 is free\nL4: `rented_containers`: 503: no L4 is free"
    )


def test_a_delete_that_does_nothing_is_repeated_and_then_said(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = programs()
    host = ours.acquire()
    (ours.root / "stays").write_text("2")
    ours.provider.release(host)
    assert not ours.alive()
    again = ours.acquire()
    (ours.root / "stays").write_text("1000")
    monkeypatch.setattr(simple, "RELEASE", 2.0)
    with pytest.raises(ProviderError, match="which is still there"):
        ours.provider.release(again)


def test_what_a_program_does_wrong_is_one_line(programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "SECONDS", 3.0)
    said = []
    for name, body in (
        ("banner", "echo Welcome; echo '{}'"),
        ("hangs", "sleep 100"),
        ("floods", "exec cat /dev/zero"),
        ("fails", "echo no such key >&2; exit 3"),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        with pytest.raises((ProviderError, ProviderUnreachable)) as raised:
            provider.ProviderProgram([str(program)]).hosts()
        said.append(raised.value.message)
        assert "\n" not in raised.value.message and len(raised.value.evidence or "") <= 1000
        if name in ("banner", "fails"):
            with pytest.raises(ProviderUnreachable):  # the host may be made, and is looked for
                provider.ProviderProgram([str(program)]).ask("create")
    assert said == [
        "what `banner` answered to `hosts` is not one JSON object",
        "`hangs` did not answer within 3 s to `hosts`",
        "`floods` wrote more than 1,048,576 bytes to `hosts`",
        "`fails` ended with status 3 at `hosts`",
    ]


def test_a_host_of_which_odd_things_are_said_hides_no_other_and_runs_nothing_here(programs: Any) -> None:
    """Each field that comes to ssh's files, or to a command to copy; and what makes no sense at all."""
    ours, touch = programs(), "touch pwned"
    host, intent = ours.acquire(), ours.intent()
    folder = HostFolder(ours.config.home, intent.token)
    folder.begin(intent)
    name = name_of(intent, ours.config.home)
    ways: tuple[dict[str, Any], ...] = (
        {"address": f"192.0.2.1\n  ProxyCommand {touch}"},
        {"address": "192.0.2.1", "user": f"root\n  ProxyCommand {touch}"},
        {"address": "192.0.2.1", "proxy": f"nc\n  Match exec {touch}"},
        {"address": "192.0.2.1", "host_key": "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"},
        {"address": "192.0.2.1", "host_key": "@cert-authority * ssh-ed25519 AAAA"},
        {"address": "-oProxyCommand=x"},
        {"address": "192.0.2.1", "port": 65536},
        {"address": "192.0.2.1", "port": "abc"},
        {"began": "yesterday"},
        {"price": -3.0},
        {"price": 1e300},
        {"state": "odd"},
    )
    odd = [{"id": f"odd-{number}", "name": name, **each} for number, each in enumerate(ways)]
    nameless = [{"id": 3}, {"id": "x; touch y", "name": name}, {"id": "--all", "name": name}, "odd"]
    (ours.root / "odd").write_text(json.dumps([*odd, *nameless]))
    notes = list[str]()
    listed = ours.provider.hosts(notes.append)
    assert [each.id for each in listed if each.machine is not None] == [host.id]
    assert {each.id.partition("/")[2] for each in listed} == {host.id.partition("/")[2], *(each["id"] for each in odd)}
    assert len(notes) == len(odd) + len(nameless) and not any("\n" in each for each in notes)
    assert not folder.ssh_config.exists() and all(each.offer.price is None for each in listed if each.id != host.id)
    (check,) = (each for each in ours.provider.checks(ours.machine) if each.name.endswith(": hosts"))
    assert check.ok is False
    (ours.root / "odd").unlink()


def test_a_moment_that_is_in_no_calendar_breaks_nothing(programs: Any) -> None:
    ours = programs()
    moments = (-62135596800.0, -1.0, 1e17, 1e300, float("inf"), float("nan"), 10**400)
    names = [name_of(ours.intent(), ours.config.home) for _ in moments]
    odd = [
        {"id": f"odd-{number}", "name": name, "began": moment, "ended": moment, "state": "stopped", "price": 1.0}
        for number, (name, moment) in enumerate(zip(names, moments, strict=True))
    ]
    (ours.root / "odd").write_text(json.dumps(odd))
    listed, now = ours.provider.hosts(), time.time()
    assert len(listed) == len(odd)
    assert all(abs(each.began - now) < 60 and each.ended is None and each.deadline > now for each in listed)
    with Client(ours.config) as laptop:
        assert laptop._nouns.hosts.bill(now - 86400).total.cost < 1
    (ours.root / "odd").unlink()


@pytest.mark.parametrize("now", ("1", "1e12", "Infinity", "NaN", "true", '"x"', f"1{'0' * 400}"))
def test_a_clock_that_can_not_be_one_is_no_answer(programs: Any, now: str) -> None:
    ours = programs()
    (ours.root / "now").write_text(now)
    with pytest.raises(ProviderUnreachable, match="the clock of `rented_containers` says"):
        ours.provider.hosts()
    (ours.root / "now").unlink()


def test_a_clock_that_lies_rents_nothing_and_ends_nothing(programs: Any) -> None:
    ours = programs()
    intent, offers, now = ours.intent(), ours.provider.offers(ours.machine, True), ours.root / "now"
    host = ours.provider.acquire(intent, offers, lambda _: None)
    now.write_text(repr(time.time() + 80000))
    (listed,) = ours.provider.hosts()
    assert listed.deadline == pytest.approx(intent.deadline, abs=1) and listed.token == host.token
    fresh = ProgramProvider(ours.config)
    offers = fresh.offers(ours.machine, True)
    with pytest.raises(ProviderError, match="s wrong between two answers"):
        fresh.acquire(ours.intent(), offers, lambda _: None, lambda _: now.unlink(missing_ok=True))
    assert len(ours.noted("made")) == 1


def test_a_second_host_of_one_request_is_named_and_brings_no_key_of_its_own(programs: Any) -> None:
    ours = programs()
    host = ours.acquire()
    known, first = HostFolder(ours.config.home, host.token).path / "known_hosts", ours.root / "odd"
    before = known.read_bytes()
    (about,) = ours.root.glob("hosts/*/about.json")
    name = json.loads(about.read_text())["name"]
    first.write_text(json.dumps([{"id": "b2", "name": name, "address": "192.0.2.1", "host_key": "ssh-ed25519 AAAA"}]))
    with pytest.raises(ProviderError, match="2 hosts that were made for one request: .*b2") as raised:
        ours.provider.find(host.token)
    assert "remoterun machines rm rented_containers/" in str(raised.value.hint) and known.read_bytes() == before
    first.unlink()


@pytest.mark.timeout(300 + 20 * KILLS)
def test_clients_that_are_killed_leave_one_host_each_at_the_most_and_none_past_its_deadline(programs: Any) -> None:
    """Each at one of its calls. Of some nobody comes after: the host ends at its deadline, by itself. `REMOTERUN_KILLS`
    adds so many at random calls and moments."""
    ours, chance, found = programs(), random.Random(KILLS), list[RentedHost]()
    moments = [(3, 0.1, False), (5, 0.1, False), (2, 0.1, True), (3, 0.1, True), (4, 0.1, True), (5, 0.1, True)]
    moments += [(chance.randint(1, 6), chance.uniform(0, 0.3), chance.random() < 0.5) for _ in range(KILLS)]
    for call, seconds, is_followed in moments:
        intent = ours.intent(120.0 if is_followed else 10.0)
        killed_at(ours, intent, call, seconds)
        if is_followed:
            host = ours.acquire(intent)
            assert [each.id for each in ours.alive() if each.token == intent.token] == [host.id], (call, seconds)
            found.append(host)
        assert not [each for each in ours.alive() if each.deadline + 10 < time.time()]
    for host in found:
        ours.provider.release(host)

    def are_gone() -> bool:
        alive = ours.alive()
        assert not [each for each in alive if each.deadline + 10 < time.time()]
        return not alive

    until(are_gone, 60)
    names = [line["name"] for line in ours.noted("made")]
    assert len(names) == len({*names}) >= len(found)


def killed_at(ours: Programs, intent: Intent, call: int, seconds: float) -> None:
    """A client in a process of its own, which acquires a host, and is killed `seconds` after its so many-th call began,
    or as it has the host, if there are fewer calls."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    count, real = 0, provider.ProviderProgram.ask

    def ask(self: provider.ProviderProgram, do: str, **more: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == call:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return real(self, do, **more)

    provider.ProviderProgram.ask = ask  # type: ignore[method-assign]
    ours.provider = ProgramProvider(ours.config)
    with contextlib.suppress(BaseException):
        ours.acquire(intent)
    os._exit(0)


def test_the_example_rents_from_docker(local_docker: LocalDocker, tmp_path: Path) -> None:
    """Its containers get their sshd as they start, and are gone at their deadline."""
    program = str(CONTAINERS.parents[1] / "examples" / "providers" / "example.py")
    rental = Rental("command", ("large", "small"), program=(program,), image=BASE_IMAGE)
    machine = MachineType("here", rental=rental)
    docker = ProgramProvider(Config(tmp_path / "home", machines={"here": machine}))
    assert all(check.ok is not False for check in docker.checks())
    key, offers, began = new_key(), docker.offers(machine, True), time.time()
    assert [(each.type, each.price) for each in offers] == [("small", 0.0)]
    host = docker.acquire(Intent(f"rr-{key}-1", key, 7, 1, machine, began + 45, 600.0), offers, lambda _: None)
    assert host.alive and host.machine is not None and [each.id for each in docker.hosts()] == [host.id]
    until(lambda: not docker.hosts(), 90)
    assert time.time() >= began + 44


def test_the_example_answers(tmp_path: Path) -> None:
    example = provider.ProviderProgram([str(CONTAINERS.parents[1] / "examples" / "providers" / "example.py")])
    assert example.ends() == ("host", "") and example.key == "example"
    offers = example.offers(Rental("command", ("large", "small")))
    assert [(each.type, each.price) for each in offers] == [("small", 0.0)]
    text = Path(example.words[0]).read_text()
    sent = {each.name for each in fields(Order)} - {"name", "offer"}
    assert all(f" {name}" in text.partition("import json")[0] for name in sent | {"offer"}), "it says what is asked"


def test_a_host_that_has_the_bucket_as_a_folder_needs_no_permission(
    programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = programs(idle=5.0)
    bucket = ours.root / "bucket"
    bucket.mkdir()
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    archive = ArchivePlace(f"file://{bucket}")
    (tmp_path / "data.txt").write_text("to be read")
    config = Config(tmp_path / "home", machines={"pod": ours.machine}, archive=archive)
    with Client(config) as client:
        data = client.upload(tmp_path / "data.txt", name="data", machine="pod")
        job = client.run("cat data/*; echo made >result", machine="pod", mounts={"data": data}, source=None)
        assert [*job.logs()] == ["to be read"] and job.wait() == 0
    until(lambda: not ours.alive(), 60)
    with Client(config) as client:
        job = client.job("last")
        assert job.files == ["result"]
        job.copy("result", tmp_path / "result")
        assert (tmp_path / "result").read_text() == "made\n"
        assert [path.name for path in bucket.rglob("*.tmp")] == []


def test_hosts_of_a_machine_type_that_is_gone_are_still_known(programs: Any) -> None:
    ours = programs()
    host = ours.acquire()
    config = Config(ours.provider._home)
    assert front("command").is_set_up(config) and [each.id for each in ProgramProvider(config).hosts()] == [host.id]


def test_a_folder_that_is_not_the_bucket_is_not_written_to(tmp_path: Path) -> None:
    grant, content = Grant("", {}, "runs/x/", 0.0, folder=str(tmp_path)), Content.of(b"data")
    with HttpClient() as http:
        for problem in ("not mounted", "has changed"):
            with pytest.raises(HttpError, match=problem):
                post(http, grant, "log/0", content)
            assert not list(tmp_path.rglob("log/*"))
            (tmp_path / "remoterun.json").touch()
            content = content._replace(pieces=lambda: [b"other"])
        post(http, grant, "log/0", Content.of(b"data"))
        assert (tmp_path / "runs" / "x" / "log" / "0").read_bytes() == b"data"
        (tmp_path / "away").mkdir()
        (tmp_path / "runs" / "x" / "packs").symlink_to(tmp_path / "away")
        with pytest.raises(HttpError, match="packs is not a folder"):  # another of the bucket has put it there
            post(http, grant, "packs/0", Content.of(b"data"))
    assert not list((tmp_path / "away").iterdir())
