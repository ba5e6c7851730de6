"""Runs on rented hosts, with a provider whose hosts are homes in folders of this machine, and a real S3 server.

Agents, keepers, grants and the bucket are real; what it costs and how hosts begin is for tests/cloud.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.rented import FILE, Terms
from remoterun.agent.shared.states import RunState
from remoterun.client import Client, LogBytes, Note, StateChange
from remoterun.config import AWS, Config
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Mount, Rental, Run, RunRequest
from remoterun.providers import PROVIDERS
from remoterun.providers.base import Identity, Intent, Leftover, NoCapacity, Offer, ProviderCheck, Rented
from remoterun.providers.folder import HostFolder
from remoterun.source import snapshot
from tests.conftest import require
from tests.seaweed import Store, credentials, program, seaweed
from tests.workshop import Files, Place, kill9, running, until, write_files

PRICE = 3.6


class Folders:
    """A provider: a host is a home in a folder. `lost`: a host is gone when its folder is."""

    name = "aws"

    def __init__(self, root: Path, environment: Path) -> None:
        self.root = root
        self.environment = environment
        self.places: dict[str, Place] = {}
        self.rented: dict[str, Rented] = {}
        self.refusing: Exception | None = None
        self.acquired = 0

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        assert machine.rental is not None
        return [Offer("folder.small", "here", "here-1", price=PRICE, spot=machine.rental.spot)]

    def acquire(self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None]) -> Rented:
        folder = HostFolder(self.root / "laptop", intent.token)
        folder.begin(intent)
        if self.refusing is not None:
            raise self.refusing
        self.acquired += 1
        say("a folder")
        if intent.token not in self.places:
            place = self.root / "hosts" / intent.token
            place.mkdir(parents=True)
            terms = Terms(intent.token, intent.deadline, intent.idle, ["touch", str(place / "ended")])
            (place / FILE).write_text(json.dumps(to_json(terms)))
            self.places[intent.token] = Place(place, self.environment)
            machine = MachineType(intent.machine.name, engine="process", home=str(place), rented=intent.token)
            self.rented[intent.token] = Rented(
                f"i-{len(self.rented)}",
                intent.token,
                "running",
                offers[0],
                time.time(),
                intent.deadline,
                machine,
                intent.run,
                intent.number,
                intent.attempt,
            )
        return self.rented[intent.token]

    def find(self, token: str) -> Rented | None:
        return self.rented.get(token)

    def admit(self, rented: Rented) -> None:
        pass

    def hosts(self) -> list[Rented]:
        return [rented for rented in self.rented.values() if rented.alive]

    def release(self, id: str) -> None:
        for token, rented in self.rented.items():
            if rented.id == id and rented.alive:
                self.take_away(token)

    def leftovers(self) -> list[Leftover]:
        return []

    def clear(self, leftover: Leftover) -> None:
        pass

    def identity(self) -> Identity:
        return Identity("me", "123456789012", "us-east-1")

    def checks(self) -> list[ProviderCheck]:
        return []

    def take_away(self, token: str, why: str = "", preempted: bool = False) -> None:
        """The host is gone, with all that ran there: nobody reaches its home any more."""
        place = self.places.pop(token)
        place.drop_session()
        for pid in running(str(place.folder)):
            kill9(pid)
        shutil.rmtree(place.folder, ignore_errors=True)
        place.folder.write_text("gone")
        self.rented[token] = replace(self.rented[token], state="gone", why=why, preempted=preempted, ended=time.time())


CURRENT: list[Folders] = []


def of_config(config: Config) -> Folders:
    return CURRENT[-1]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    require(None if program() else "SeaweedFS is not installed")
    with credentials(), seaweed(tmp_path_factory.mktemp("seaweed") / "store") as store:
        yield store


class Laptop:
    def __init__(self, root: Path, folders: Folders, bucket: str, endpoint: str) -> None:
        self.root, self.folders = root, folders
        rental = Rental("aws", ("folder.small",), idle=600.0)
        self.config = Config(
            root / "laptop",
            machines={"gpu": MachineType("gpu", engine="process", rental=rental)},
            aws=AWS(bucket=bucket, region="us-east-1", endpoint=endpoint),
        )
        self.client = Client(self.config)

    def another(self) -> Client:
        """Another client, which knows what this one wrote down."""
        self.client.close()
        self.client = Client(self.config)
        return self.client

    def submit(self, command: str, files: Files | None = None, **asked: Any) -> Run:
        source = None
        if files is not None:
            folder = write_files(self.root / f"source{time.monotonic_ns()}", files)
            source = snapshot(folder, no_git=True)
        return self.client.runs.submit(RunRequest(command, **asked), source, "gpu")

    def until_ended(self, run: Run, seconds: float = 60) -> Run:
        return until(lambda: (now := self.client.runs.get(run.number)).final and now, seconds)

    def log(self, run: Run, live: bool = False) -> bytes:
        return b"".join(
            item.data for item in self.client.runs.follow(run.number, live=live) if isinstance(item, LogBytes)
        )


@pytest.fixture
def laptop(tmp_path: Path, environment: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    monkeypatch.setitem(PROVIDERS, "aws", f"{__name__}.of_config")
    folders = Folders(tmp_path, environment)
    CURRENT.append(folders)
    place = store.new_bucket()
    laptop = Laptop(tmp_path, folders, place.name, store.url)
    try:
        yield laptop
    finally:
        laptop.client.close()
        for token in list(folders.places):
            folders.take_away(token)
        CURRENT.pop()


class TestARun:
    def test_its_outputs_and_its_log_are_found_without_its_host(self, laptop: Laptop) -> None:
        run = laptop.submit("cat data; echo made >out", {"data": b"sent\n"})
        ended = laptop.until_ended(run)
        assert ended.state is RunState.COMPLETE and ended.host.bucket == f"s3://{laptop.config.aws.bucket}"
        assert ended.cost(time.time()) is not None
        laptop.folders.take_away(next(iter(laptop.folders.places)))
        client = laptop.another()
        assert laptop.log(run) == b"sent\n"
        client.files.copy(f"runs/{run.number}/out", laptop.root / "copied")
        assert (laptop.root / "copied").read_bytes() == b"made\n"
        known, details = client.runs.info(run.number)
        assert known.reachable and details["spec"]["command"] == "cat data; echo made >out"

    def test_an_upload_goes_through_the_bucket(self, laptop: Laptop) -> None:
        folder = write_files(laptop.root / "doom", {"input.txt": b"T" * 5000, "more/a": b"A"})
        laptop.client.uploads.upload(folder, "doom", "local")
        request = (Mount.parse("uploads/doom:data"),)
        run = laptop.submit("cat data/more/a; wc -c <data/input.txt", mounts=request)
        laptop.until_ended(run)
        assert laptop.log(run).split() == [b"A5000"]
        (version,) = laptop.client.machines.session(laptop.client.connections.bucket()).versions("doom")
        assert version.files == 2

    def test_outputs_of_one_are_mounted_by_the_next_on_the_same_host(self, laptop: Laptop) -> None:
        first = laptop.until_ended(laptop.submit("mkdir models; echo weights >models/w"))
        second = laptop.submit("cat before/w", mounts=(Mount.parse(f"runs/{first.number}/models:before"),))
        assert laptop.until_ended(second).state is RunState.COMPLETE
        assert laptop.log(second) == b"weights\n" and laptop.folders.acquired == 1

    def test_one_that_can_not_be_had_is_a_failed_run(self, laptop: Laptop) -> None:
        laptop.folders.refusing = NoCapacity("nothing is free", ["here-1: none"])
        with pytest.raises(NoCapacity):
            laptop.submit("true")
        (run,) = laptop.client.runs.list()
        assert (run.state.value, run.reason and run.reason.value) == ("failed", "no_capacity")

    def test_a_mount_that_is_not_there_costs_nothing(self, laptop: Laptop) -> None:
        with pytest.raises(RemoterunError, match="no upload"):
            laptop.submit("true", mounts=(Mount.parse("uploads/nothing"),))
        assert laptop.folders.acquired == 0

    def test_what_fails_on_the_way_ends_the_host(self, laptop: Laptop) -> None:
        with pytest.raises(RemoterunError):
            laptop.submit("true", {"a": b"a"}, image="needs-docker")
        assert laptop.folders.hosts() == []


class TestAnotherLaptop:
    def test_it_has_the_runs_of_the_bucket_under_numbers_of_its_own(self, laptop: Laptop) -> None:
        run = laptop.until_ended(laptop.submit("echo said; echo made >out", description="a try"))
        with Client(replace(laptop.config, home=laptop.root / "another")) as client:
            client.registry.add_run("another-key", MachineType("local"), "true", 1.0)
            (adopted,) = client.runs.adopt()
            assert (adopted.number, adopted.key, adopted.state) == (2, run.key, RunState.COMPLETE)
            assert (adopted.command, adopted.description) == (run.command, "a try")
            assert client.runs.adopt() == []
            log = [item.data for item in client.runs.follow(2) if isinstance(item, LogBytes)]
            assert b"".join(log) == b"said\n"
            client.files.copy("runs/2/out", laptop.root / "there")
        assert (laptop.root / "there").read_bytes() == b"made\n"

    def test_it_finds_uploads_there(self, laptop: Laptop) -> None:
        laptop.client.uploads.upload(write_files(laptop.root / "doom", {"a": b"A"}), "doom", "aws")
        with Client(replace(laptop.config, home=laptop.root / "another")) as client:
            assert [(upload.name, upload.machine) for upload in client.uploads.list()] == [("doom", "aws")]
            client.files.copy("uploads/doom", laptop.root / "there")
        assert (laptop.root / "there" / "a").read_bytes() == b"A"


class TestALostHost:
    def test_its_run_is_interrupted_with_the_log_so_far(self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
        run = laptop.submit("echo begun; exec sleep 1000")
        until(lambda: b"begun" in laptop.log(run), 30)
        until(lambda: posted(laptop, run), 60)
        laptop.folders.take_away(run_token(run), "the hardware failed")
        ended = laptop.another().runs.get(run.number)
        assert (ended.state.value, ended.reason and ended.reason.value) == ("interrupted", "host_lost")
        assert "the hardware failed" in (ended.message or "") and ended.host.bucket is not None
        assert laptop.log(run) == b"begun\n"
        assert laptop.another().runs.get(run.number).state is RunState.INTERRUPTED

    def test_who_follows_learns_it(self, laptop: Laptop) -> None:
        run = laptop.submit("echo begun; exec sleep 1000")
        states = []
        for item in laptop.client.runs.follow(run.number):
            if isinstance(item, LogBytes) and b"begun" in item.data:
                threading.Thread(target=laptop.folders.take_away, args=(run_token(run),)).start()
            if isinstance(item, StateChange):
                states.append(item.state)
        assert states[-1] is RunState.INTERRUPTED

    def test_the_run_goes_on_on_another_one(self, laptop: Laptop) -> None:
        command = "cat saved 2>/dev/null && exit; echo first; echo from the first >saved; exec sleep 1000"
        run = laptop.submit(command, {"train.py": b"x"}, attempts=2)
        seen, notes = b"", []
        for item in laptop.client.runs.follow(run.number):
            if isinstance(item, LogBytes):
                seen += item.data
                if item.data == b"first\n":
                    threading.Thread(target=preempt, args=(laptop, run)).start()
            elif isinstance(item, Note):
                notes.append(item)
        assert seen == b"first\nfrom the first\n"
        assert "attempt 2 of 2" in [note.text for note in notes if note.kind == "attempt"]
        ended = laptop.client.registry.run(run.number)
        assert ended.state is RunState.COMPLETE and ended.renting is not None and ended.renting.attempt == 2
        assert [host.ended is not None for host in ended.renting.hosts] == [True, True]
        assert laptop.log(run) == b"first\nfrom the first\n"
        laptop.client.files.copy(f"runs/{run.number}", laptop.root / "all")
        assert (laptop.root / "all" / "saved").read_bytes() == b"from the first\n"


def run_token(run: Run) -> str:
    return f"rr-{run.key}-1"


def posted(laptop: Laptop, run: Run) -> bool:
    """Whether the bucket has some of the log."""
    from remoterun.buckets.place import BucketPlace
    from tests.seaweed import asked

    place = BucketPlace(laptop.config.aws.bucket or "", "us-east-1", laptop.config.aws.endpoint)
    with asked(place) as s3:
        return bool(s3.page(f"runs/{run.key}/log/").objects)


def preempt(laptop: Laptop, run: Run) -> None:
    """As a provider does: a notice first, and some time for the run to be saved."""
    place = laptop.folders.places[run_token(run)]
    place.home.rental.leave(time.time() + 60, "taken")
    until(lambda: place.home.run(run.key).state()[0] is RunState.INTERRUPTED, 30)
    laptop.folders.take_away(run_token(run), preempted=True)
