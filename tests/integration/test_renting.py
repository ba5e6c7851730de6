"""Runs on rented hosts, with a provider whose hosts are homes in folders of this machine, and a real S3 server.

Agents, keepers, grants and the bucket are real; what it costs and how hosts begin is for tests/cloud.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remoterun import Client as Library
from remoterun import archive_store
from remoterun.agent.shared.logs import LOG_PIECE
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.store import host_role
from remoterun.agent.store.home import Home
from remoterun.archive import Archive, grants
from remoterun.archive import runs as archived_runs
from remoterun.archive.objects import BucketPlace
from remoterun.archive_store import place_of
from remoterun.cli.main import main
from remoterun.cli.render.terminal import Talking
from remoterun.client import Client
from remoterun.client.runs import attempts
from remoterun.client.runs.following import LogBytes, Note, StateChange, Wanted
from remoterun.client.runs.preparing import Talk
from remoterun.clouds import PROVIDERS
from remoterun.clouds.base import LATE, HostNeverCame, Intent, NoCapacity
from remoterun.clouds.fronts import NoSettings
from remoterun.clouds.ledger import planning
from remoterun.config import ArchivePlace, Config, Limits
from remoterun.errors import HostError, HostUnreachable, RemoterunError, UsageError
from remoterun.model import HostUse, MachineType, Mount, Rental, Resource, Run, RunRequest
from remoterun.session import Session
from remoterun.source import snapshot
from tests import folder_cloud, folder_provider
from tests.conftest import require
from tests.folder_cloud import Folders, config_of
from tests.metadata_service import Metadata, metadata_service
from tests.recorder import Done, Recorded
from tests.seaweed import KEY, SECRET, Store, asked, credentials, program, seaweed
from tests.webhook_server import webhook_server
from tests.workshop import Files, fill, until, write_files

KILLS = int(os.environ.get("REMOTERUN_KILLS", "3"))
"""How many clients are killed."""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    require(None if program() else "SeaweedFS is not installed")
    with credentials(), seaweed(tmp_path_factory.mktemp("seaweed") / "store") as store:
        yield store


class Laptop:
    def __init__(self, root: Path, folders: Folders, bucket: str, endpoint: str) -> None:
        self.root, self.folders = root, folders
        self.config = config_of(root, bucket, endpoint)
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
        ended: Run = until(lambda: (now := self.client.runs.get(run.number)).final and now, seconds)
        return ended

    @property
    def archive(self) -> Archive:
        return self.client.connections.archive(self.client.connections.bucket())

    def log(self, run: Run, live: bool = False) -> bytes:
        return b"".join(
            item.data for item in self.client.runs.follow(run.number, Wanted(live)) if isinstance(item, LogBytes)
        )


@pytest.fixture
def laptop(tmp_path: Path, environment: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    monkeypatch.setitem(PROVIDERS, "aws", "tests.folder_cloud.FolderFront")
    monkeypatch.setenv(folder_provider.ROOT, str(tmp_path))
    (tmp_path / "environment").write_text(str(environment))
    folders = Folders(tmp_path)
    place = store.new_bucket()
    laptop = Laptop(tmp_path, folders, place.name, store.url)
    try:
        yield laptop
    finally:
        laptop.client.close()
        for rented in folders.hosts():
            folders.take_away(rented.token)


@pytest.fixture
def service(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    with metadata_service() as service:
        monkeypatch.setenv(host_role.ELSEWHERE, service.address)
        service.key, service.secret = KEY, SECRET
        (laptop.root / "role").touch()
        yield service


class TestARun:
    def test_its_outputs_and_its_log_are_found_without_its_host(self, laptop: Laptop) -> None:
        run = laptop.submit("cat data; echo made >out", {"data": b"sent\n"})
        ended = laptop.until_ended(run)
        assert ended.state is RunState.COMPLETE and not ended.archived
        assert ended.cost(time.time()) is not None
        laptop.folders.take_away(run_token(run))
        client = laptop.another()
        assert laptop.log(run) == b"sent\n"
        client.files.copy(f"runs/{run.number}/out", laptop.root / "copied")
        assert (laptop.root / "copied").read_bytes() == b"made\n"
        known, details = client.runs.info(run.number)
        assert known.reachable and known.archived and details["spec"]["command"] == "cat data; echo made >out"

    def test_an_upload_of_the_archive_is_mounted_on_a_machine_of_ones_own(self, laptop: Laptop) -> None:
        folder = write_files(laptop.root / "doom", {"large": os.urandom(6 << 20), "more/a": b"A"})
        laptop.client.uploads.upload(folder, "doom", "aws")
        request = RunRequest("cat doom/more/a; wc -c <doom/large", mounts=(Mount.parse("uploads/doom"),))
        run = laptop.until_ended(laptop.client.runs.submit(request, None, "local"))
        assert laptop.log(run).split() == [b"A%d" % (6 << 20)]

    def test_outputs_of_one_are_mounted_by_the_next_on_the_same_host(self, laptop: Laptop) -> None:
        first = laptop.until_ended(laptop.submit("mkdir models; echo weights >models/w"))
        second = laptop.submit("cat before/w", mounts=(Mount.parse(f"runs/{first.number}/models:before"),))
        assert laptop.until_ended(second).state is RunState.COMPLETE
        assert laptop.log(second) == b"weights\n" and len(laptop.folders.all()) == 1
        folders = laptop.client.connections.provider("aws")
        assert isinstance(folders, Folders) and folders.live_offers == 1

    def test_a_host_that_is_about_to_end_is_not_used_again(self, laptop: Laptop) -> None:
        first = laptop.until_ended(laptop.submit("true"))
        laptop.another()
        Home.open(str(laptop.folders.home(run_token(first)))).rental.leave(time.time(), "idle")
        second = laptop.until_ended(laptop.submit("true"))
        assert second.state is RunState.COMPLETE and len(laptop.folders.all()) == 2

    @pytest.mark.parametrize(("price", "why"), [(3.6, "others cost more"), (36.0, "another one is a new price")])
    def test_what_cost_less_than_others_is_not_replaced_by_one_of_these(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch, price: float, why: str
    ) -> None:
        """The person agreed to the price of the host that was free, and above $5 to no other host."""
        monkeypatch.setattr(folder_cloud, "PRICE", price)
        runs = laptop.client.runs
        first = laptop.until_ended(runs.launch(runs.prepare(RunRequest("true"), None, "gpu"), pay=price))
        client = laptop.another()
        prepared = client.runs.prepare(RunRequest("true", max_cost=5.0), None, "gpu")
        plan = planning.plan(client.connections, prepared.machine)
        assert plan.kept is not None
        laptop.folders.take_away(run_token(first))
        monkeypatch.setattr(folder_cloud, "PRICE", 36.0)
        with pytest.raises(NoCapacity, match=f"the host that was free is gone, and {why}"):
            client.runs.launch(prepared, plan=plan)
        assert laptop.folders.hosts() == []

    def test_its_command_ends_in_time_by_the_clock_of_its_host(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Session, "clock_skew", -240.0)
        run = laptop.submit("true", max_hours=0.2)
        until_then = Home.open(str(laptop.folders.home(run_token(run)))).run(run.key).spec().until
        assert run.renting is not None and until_then is not None
        assert 0 < run.renting.deadline - until_then - 240 < 80

    def test_a_full_disk_here_hides_nothing_of_its_end(self, laptop: Laptop, small_disk: Callable[[str], Path]) -> None:
        disk, go, aws = small_disk("8m"), laptop.root / "go", laptop.config.archive
        config = config_of(laptop.root, str(aws.bucket), str(aws.endpoint), str(disk / "home"))
        with Client(config) as client:
            run = client.runs.submit(RunRequest(f"until [ -e {go} ]; do sleep 0.02; done; exit 3"), None, "gpu")
            until(lambda: client.runs.get(run.number).state is RunState.RUNNING)
            fill(disk)
            go.touch()
            end = [item for item in client.runs.follow(run.number) if isinstance(item, StateChange)][-1].run
            known = client.runs.get(run.number)
        assert (end.state, end.code) == (known.state, known.code) == (RunState.FAILED, 3)
        assert known.renting is not None and known.renting.hosts[-1].ended is not None

    def test_one_that_can_not_be_had_is_a_failed_run(self, laptop: Laptop) -> None:
        (laptop.root / "full").touch()
        with pytest.raises(NoCapacity):
            laptop.submit("true")
        (run,) = laptop.client.runs.list()
        assert (run.state.value, run.reason and run.reason.value) == ("failed", "no_capacity")
        with pytest.raises(UsageError, match=f"run {run.number} never had a host"):
            laptop.client.files.list(Resource.parse(f"runs/{run.number}"))
        laptop.client.runs.remove(run.number)
        assert laptop.client.runs.list() == []

    def test_what_a_host_cost_counts_that_never_came(self, laptop: Laptop) -> None:
        (laptop.root / "broken").touch()
        warned = list[str]()
        laptop.client.connections.warn = warned.append
        with pytest.raises(HostNeverCame):
            laptop.submit("true")
        assert warned == ["i-0 does not answer yet"]
        (run,) = laptop.client.runs.list()
        assert run.renting is not None and [host.id for host in run.renting.hosts] == ["i-0"]
        assert (run.cost(time.time()) or 0.0) > 0 and run.cost(0.0) == run.cost(time.time() + 3600)

    def test_what_a_host_cost_counts_whose_client_was_killed_meanwhile(self, laptop: Laptop) -> None:
        run = laptop.until_ended(laptop.submit("true"))
        registry = laptop.client.connections.registry
        assert run.renting is not None
        registry.save_renting(run, replace(run.renting, hosts=()))  # it did not come to write it down
        for left in laptop.another().hosts.leftovers():
            laptop.client.hosts.clear(left)
        counted = laptop.client.connections.registry.run(run.number)
        assert counted.renting is not None and [host.id for host in counted.renting.hosts] == ["i-0"]
        assert (counted.cost(time.time()) or 0.0) > 0

    def test_what_is_signed_for_its_host_is_signed_again_when_it_expired(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signed: list[float] = []
        downloads = grants.downloads

        def asleep_for_once(*asked: Any) -> Iterator[Any]:
            lines = list(downloads(*asked))
            signed.append(time.time())
            if len(signed) == 1:
                until(lambda: time.time() > signed[0] + 4.5, 10)
            yield from lines

        monkeypatch.setattr(archive_store, "SIGNED", 3.0)
        monkeypatch.setattr(grants, "downloads", asleep_for_once)
        folder = write_files(laptop.root / "doom", {"input.txt": b"T" * 5000, "large": os.urandom(3 << 20)})
        laptop.client.uploads.upload(folder, "doom", "local")
        run = laptop.until_ended(laptop.submit("cat data/* | wc -c", mounts=(Mount.parse("uploads/doom:data"),)))
        assert laptop.log(run).split() == [str(5000 + (3 << 20)).encode()] and len(signed) > 1

    def test_without_a_bucket_nothing_is_rented(self, laptop: Laptop) -> None:
        with Client(replace(laptop.config, archive=replace(laptop.config.archive, bucket=None))) as client:
            with pytest.raises(RemoterunError, match="no bucket is set up"):
                client.runs.submit(RunRequest("true"), None, "gpu")
            (run,) = client.runs.list()
        assert run.state is RunState.FAILED and laptop.folders.all() == []

    def test_a_mount_that_is_not_there_costs_nothing(self, laptop: Laptop) -> None:
        with pytest.raises(RemoterunError, match="no upload"):
            laptop.submit("true", mounts=(Mount.parse("uploads/nothing"),))
        assert laptop.folders.all() == []

    def test_what_fails_on_the_way_ends_the_host(self, laptop: Laptop) -> None:
        with pytest.raises(RemoterunError):
            laptop.submit("true", {"a": b"a"}, image="needs-docker")
        assert laptop.folders.hosts() == []


class TestAnotherLaptop:
    def test_it_has_the_runs_of_the_bucket_under_numbers_of_its_own(self, laptop: Laptop) -> None:
        run = laptop.until_ended(laptop.submit("echo said; echo made >out", description="a try"))
        with Client(replace(laptop.config, home=laptop.root / "another")) as client:
            client.connections.registry.add_run("another-key", MachineType("local"), "true", 1.0)
            place = BucketPlace(laptop.config.archive.bucket or "", "us-east-1", laptop.config.archive.endpoint)
            with asked(place) as s3:  # two runs whose records some host has spoilt
                for key, spec in (("0" * 26, b"{"), ("1" * 26, s3.get(f"runs/{run.key}/spec.json", 1 << 20))):
                    status = s3.get(f"runs/{run.key}/status.json", 1 << 20).replace(run.key.encode(), key.encode())
                    for name, data in (("spec.json", spec), ("status.json", status)):
                        s3.put(f"runs/{key}/{name}", data)
            (adopted,) = client.runs.adopt()
            assert (adopted.number, adopted.key, adopted.state) == (2, run.key, RunState.COMPLETE)
            assert (adopted.command, adopted.description) == (run.command, "a try")
            assert client.runs.adopt() == []
            log = [item.data for item in client.runs.follow(2) if isinstance(item, LogBytes)]
            assert b"".join(log) == b"said\n"
            client.files.copy("runs/2/out", laptop.root / "there")
        assert (laptop.root / "there").read_bytes() == b"made\n"

    def test_it_lists_the_hosts_of_others_and_clears_those_only_that_should_be_gone(self, laptop: Laptop) -> None:
        run = laptop.submit("exec sleep 1000")
        with Client(replace(laptop.config, home=laptop.root / "another")) as client:
            (host,) = client.hosts.list()
            assert (host.run, host.number, host.machine) == (run.key, run.number, None)
            assert client.hosts.leftovers() == [] == laptop.client.hosts.leftovers()
            until(lambda: client.runs.adopt())
            assert client.hosts.leftovers() == []  # of a run that it knows, and did not hand over
            laptop.client.runs.kill(run.number)
            laptop.until_ended(run)
            assert client.hosts.leftovers() == []
            assert [(found.id, found.why) for found in laptop.client.hosts.leftovers()] == [
                (host.id, "no run needs it")
            ]
            laptop.folders.prolong(host.token, time.time() - LATE - 1)
            (late,) = client.hosts.leftovers()
            client.hosts.clear(late)
        assert laptop.folders.hosts() == []

    def test_a_run_that_begins_while_gc_asks_keeps_its_host(self, laptop: Laptop) -> None:
        laptop.until_ended(laptop.submit("true"))
        (left,) = laptop.client.hosts.leftovers()
        run = laptop.submit("exec sleep 1000")
        assert not laptop.client.hosts.clear(left)
        assert [host.id for host in laptop.folders.hosts()] == [left.id]
        laptop.client.runs.kill(run.number)
        laptop.until_ended(run)
        assert laptop.client.hosts.clear(left) and laptop.client.hosts.clear(left)
        assert laptop.folders.hosts() == []

    def test_it_finds_uploads_there(self, laptop: Laptop) -> None:
        laptop.client.uploads.upload(write_files(laptop.root / "doom", {"a": b"A"}), "doom", "aws")
        with Client(replace(laptop.config, home=laptop.root / "another")) as client:
            assert [(upload.name, upload.machine) for upload in client.uploads.list()] == [("doom", "aws")]
            client.files.copy("uploads/doom", laptop.root / "there")
        assert (laptop.root / "there" / "a").read_bytes() == b"A"


class TestAHostWithARole:
    def test_what_two_have_saved_by_it_is_one_run(self, laptop: Laptop, service: Metadata) -> None:
        """It is read, mounted, adopted and removed as any other."""
        command = "cat saved 2>/dev/null && exit; echo from the first >saved; echo first; exec sleep 1000"
        run = laptop.submit(command, {"train.py": b"x"}, attempts=2)
        seen = b""
        for item in laptop.client.runs.follow(run.number):
            seen += item.data if isinstance(item, LogBytes) else b""
            if isinstance(item, LogBytes) and item.data == b"first\n":
                threading.Thread(target=preempt, args=(laptop, run)).start()
        assert seen == b"first\nfrom the first\n"
        ended = laptop.client.connections.registry.run(run.number)
        assert ended.state is RunState.COMPLETE and ended.renting is not None
        assert ended.renting.writers == ("AROAFOLDER:i-0", "AROAFOLDER:i-1")
        keys = [stored.key for stored in laptop.archive.objects.list("")]
        assert f"runs/{run.key}/hosts" in keys and f"runs/{run.key}/status.json" not in keys
        for writer in ended.renting.writers:
            assert {f"hosts/{writer}/{run.key}/{name}" for name in ("status.json", "outputs")} <= set(keys)
        laptop.folders.take_away(f"rr-{run.key}-2")
        client = laptop.another()
        assert laptop.log(run) == seen
        client.files.copy(f"runs/{run.number}", laptop.root / "all")
        assert (laptop.root / "all" / "saved").read_bytes() == b"from the first\n"
        mounts = (Mount.parse(f"runs/{run.number}:before"),)
        third = laptop.until_ended(laptop.submit("cat before/saved", mounts=mounts))
        assert laptop.log(third) == b"from the first\n"
        with Client(replace(laptop.config, home=laptop.root / "another")) as other:
            adopted = {one.key: one for one in other.runs.adopt()}
            assert adopted[run.key].state is RunState.COMPLETE
            other.files.copy(f"runs/{adopted[run.key].number}/saved", laptop.root / "there")
        assert (laptop.root / "there").read_bytes() == b"from the first\n"
        client.runs.remove(run.number)
        left = [stored.key for stored in laptop.archive.objects.list("") if run.key in stored.key]
        assert not left

    def test_it_waits_for_no_login(self, laptop: Laptop, service: Metadata) -> None:
        plan = planning.plan(laptop.client.connections, laptop.config.machines["gpu"])
        assert not plan.needs_login
        laptop.until_ended(laptop.submit("true"))
        (laptop.root / "role").unlink()  # the host that is free has it all the same
        plan = planning.plan(laptop.another().connections, laptop.config.machines["gpu"])
        assert plan.kept is not None and not plan.needs_login

    def test_one_that_is_refused_saves_with_the_form_of_its_client(self, laptop: Laptop, service: Metadata) -> None:
        """As when its role was deleted: in the same folder, and without a wait."""
        service.key = "gone"
        run = laptop.submit("echo said; echo made >out")
        there = Home.open(str(laptop.folders.home(run_token(run)))).run(run.key)
        until(lambda: there.status().state.final)  # nobody is in touch meanwhile
        ended = laptop.until_ended(run)
        assert ended.state is RunState.COMPLETE and there.status().kept and ended.renting is not None
        laptop.folders.take_away(run_token(run))
        laptop.another()
        assert laptop.log(run) == b"said\n"
        (writer,) = ended.renting.writers
        folder = f"hosts/{writer}/{run.key}/"
        assert folder + "outputs" in [stored.key for stored in laptop.archive.objects.list(folder)]


class TestALostHost:
    def test_its_run_is_interrupted_with_the_log_so_far(self, laptop: Laptop) -> None:
        run = laptop.submit("echo begun; yes | head -c 5000000; exec sleep 1000")  # more than waits for the next time
        until(lambda: b"begun" in laptop.log(run))
        until(lambda: posted(laptop, run))
        laptop.folders.take_away(run_token(run), "the hardware failed")
        ended = laptop.another().runs.get(run.number)
        assert (ended.state.value, ended.reason and ended.reason.value) == ("interrupted", "host_lost")
        assert "the hardware failed" in (ended.message or "") and ended.archived
        log = laptop.log(run)
        assert len(log) >= LOG_PIECE and (b"begun\n" + b"y\n" * 2_500_000).startswith(log)
        assert laptop.another().runs.get(run.number).state is RunState.INTERRUPTED

    def test_one_whose_bucket_is_gone_too_has_ended(self, laptop: Laptop, store: Store) -> None:
        """Nobody can say more of it: it does not go on for ever."""
        run = laptop.submit("exec sleep 1000")
        until(lambda: laptop.client.runs.get(run.number).state is RunState.RUNNING)
        laptop.folders.take_away(run_token(run), "the hardware failed")
        store.delete_bucket(laptop.config.archive.bucket or "")
        (ended,) = laptop.another().runs.list()
        assert ended.state is RunState.INTERRUPTED and ended.started is not None
        assert ended.message == (
            f"its host i-0 is gone: the hardware failed; there is no bucket s3://{laptop.config.archive.bucket}"
        )
        assert laptop.another().runs.list()[0].final

    def test_one_whose_host_the_user_ended_gets_no_other(self, laptop: Laptop, recorded: Recorded) -> None:
        run = laptop.submit("exec sleep 1000", attempts=3)
        laptop.client.hosts.end(laptop.client.hosts.list()[0].id)
        ended = laptop.another().runs.get(run.number)
        assert (ended.state.value, ended.reason and ended.reason.value) == ("killed", "killed")
        with recorded.raises(UsageError):
            laptop.client.runs.plan_next(run.number)
        assert laptop.folders.hosts() == []

    @pytest.mark.parametrize("known", [True, False], ids=["described", "forgotten"])
    def test_one_ended_at_its_deadline_or_long_ago_is_said_of_nobody(self, laptop: Laptop, known: bool) -> None:
        """What ends a host at its deadline, from outside, looks like a person at AWS; of a host that AWS has forgotten
        nothing is known. Neither is a proof that it was taken away."""
        run = laptop.submit("echo begun; exec sleep 1000", attempts=3, spot=True)
        until(lambda: b"begun" in laptop.log(run))
        deadline = time.time() + 5
        laptop.folders.prolong(run_token(run), deadline)
        laptop.folders.take_away(run_token(run), "User initiated", was_ended=True, ended=deadline + 120)
        if not known:
            laptop.folders.forget(run_token(run))
        seen = [item for item in laptop.another().runs.follow(run.number) if isinstance(item, StateChange)]
        ended = seen[-1].run
        assert (ended.state.value, ended.words) == ("interrupted", "its host was lost")
        assert ("at its deadline" in (ended.message or "")) == known and ended.continuable
        assert laptop.folders.hosts() == [] and len(laptop.client.runs.list()) == 1

    def test_a_stopped_host_is_lost_and_its_disk_is_said_to_cost(self, laptop: Laptop) -> None:
        run = laptop.submit("echo begun; exec sleep 1000")
        until(lambda: b"begun" in laptop.log(run))
        laptop.folders.take_away(run_token(run), "Server.ScheduledStop", state="stopped")
        ended = laptop.another().runs.get(run.number)
        assert ended.state is RunState.INTERRUPTED and ended.archived
        assert ended.message is not None and ended.message.startswith(
            "its host i-0 was stopped: Server.ScheduledStop; its disk costs until `remoterun machines rm i-0`"
        )

    def test_on_a_host_that_ends_sooner_it_ends_before_that(self, laptop: Laptop) -> None:
        earlier = laptop.submit("exec sleep 1000")
        until(lambda: laptop.client.runs.get(earlier.number).state is RunState.RUNNING)
        run = laptop.submit("exec sleep 1000", attempts=2)
        until(lambda: laptop.client.runs.get(run.number).state is RunState.RUNNING)
        laptop.client.runs.kill(earlier.number)
        laptop.until_ended(earlier)
        ends = time.time() + 13 * 3600
        laptop.folders.prolong(run_token(earlier), ends)
        preempt(laptop, run)
        client = laptop.another()
        assert client.runs.get(run.number).state is RunState.INTERRUPTED
        again = taken(client, run)
        assert again is not None and again.renting is not None and again.renting.hosts[-1].id == "i-0"
        until_then = Home.open(str(laptop.folders.home(run_token(earlier)))).run(run.key).spec().until
        assert until_then is not None and until_then < ends
        client.runs.kill(run.number)

    def test_who_follows_learns_it(self, laptop: Laptop) -> None:
        run = laptop.submit("echo begun; exec sleep 1000")
        states = []
        for item in laptop.client.runs.follow(run.number):
            if isinstance(item, LogBytes) and b"begun" in item.data:
                threading.Thread(target=laptop.folders.take_away, args=(run_token(run),)).start()
            if isinstance(item, StateChange):
                states.append(item.state)
            if isinstance(item, Note) and item.kind == "back":
                assert item.text.startswith("s3://"), "it is not read from its host again"
        assert states[-1] is RunState.INTERRUPTED

    def test_what_goes_to_stderr_stays_apart(self, laptop: Laptop) -> None:
        """Of both attempts, while they go on and when both hosts are gone."""
        second = "[ -e saved ] && { echo second >&2; echo end; exit; }"
        command = f"{second}; echo one; touch saved; echo first >&2; exec sleep 1000"
        run = laptop.submit(command, {"train.py": b"x"}, attempts=2, split=True)
        seen: dict[bool, list[tuple[int, bytes]]] = {False: [], True: []}
        for item in laptop.client.runs.follow(run.number):
            if isinstance(item, LogBytes):
                seen[item.stderr].append((item.offset, item.data))
                if item.data == b"first\n":
                    threading.Thread(target=preempt, args=(laptop, run)).start()
        assert seen == {False: [(0, b"one\n"), (4, b"end\n")], True: [(0, b"first\n"), (6, b"second\n")]}
        laptop.folders.take_away(f"rr-{run.key}-2")
        for lines, whole in ((None, b"first\nsecond\n"), (1, b"second\n")):
            items = laptop.client.runs.follow(run.number, Wanted(live=False, tail=lines))
            assert b"".join(item.data for item in items if isinstance(item, LogBytes) and item.stderr) == whole

    def test_another_client_knows_its_secrets_and_who_gets_word(self, laptop: Laptop) -> None:
        """By their names; word of each attempt comes from its own host, with what the run has cost by then."""
        with webhook_server() as server:
            laptop.client.secrets.set("TOKEN", "s3cr3t")
            laptop.client.secrets.set("HOOK", f"{server.url}/s3cr3t-path")
            command = "echo ${#KEY}; cat saved 2>/dev/null && exit; echo first >saved; echo begun; exec sleep 1000"
            asked = {"secrets": (("KEY", "TOKEN"),), "notify": ("HOOK",), "attempts": 2}
            run = laptop.submit(command, {"train.py": b"x"}, **asked)
            until(lambda: b"begun" in laptop.log(run))
            Home.open(str(laptop.folders.home(run_token(run)))).rental.leave(time.time() + 60, "taken")
            until(lambda: server.posts)
            laptop.folders.take_away(run_token(run), preempted=True)
            client = laptop.another()
            assert client.runs.get(run.number).state is RunState.INTERRUPTED
            assert list(client.runs.follow(run.number)) and laptop.folders.hosts() == []  # reading rents nothing
            client.runs.continue_(run.number, client.runs.plan_next(run.number))
            assert list(client.runs.follow(run.number)) and laptop.log(run) == b"6\nbegun\n6\nfirst\n"
            until(lambda: len(server.posts) == 2)
        assert [(path, body["id"], body["state"]) for path, body in server.posts] == [
            ("/s3cr3t-path", f"{run.key}/1", "interrupted"), ("/s3cr3t-path", f"{run.key}/2", "complete"),
        ]  # fmt: skip
        assert 0 < server.posts[0][1]["cost"] < server.posts[1][1]["cost"]
        assert "s3cr3t" not in str(archived_runs.details(laptop.archive, place_of(run)))

    def test_a_run_is_run_again_from_its_bucket(self, laptop: Laptop) -> None:
        """Its host is gone, its data set has a newer version, and the next host is taken away, too."""
        data = write_files(laptop.root / "doom", {"in": b"first\n"})
        laptop.client.uploads.upload(data, "doom", "local")
        command = "cat doom/in a; cat saved 2>/dev/null && exit; echo kept >saved; echo begun; exec sleep 1000"
        mounts = (Mount.parse("uploads/doom"),)
        run = laptop.submit(command.replace("exec sleep 1000", "exit"), {"a": b"A\n"}, mounts=mounts, attempts=2)
        laptop.until_ended(run)
        laptop.folders.take_away(run_token(run))
        write_files(laptop.root / "doom", {"in": b"second\n"})
        laptop.client.uploads.upload(data, "doom", "local")

        client = laptop.another()
        kept = client.runs.original(run.number)
        request = kept.request._replace(command=command, timeout=3000.0)
        assert (request.attempts, request.mounts[0].path) == (2, "doom")
        again = client.runs.launch(client.runs.prepare_again(kept, request))
        until(lambda: b"begun" in laptop.log(again), 60)
        begun = client.runs.get(again.number).started
        preempt(laptop, again)
        assert taken(client, client.runs.get(again.number)) is not None
        seen = b"".join(item.data for item in client.runs.follow(again.number) if isinstance(item, LogBytes))
        assert seen == b"first\nA\nbegun\nfirst\nA\nkept\n"
        assert client.connections.registry.repeats(again) == (run.number, [])
        ends = client.runs.info(again.number)[1]["spec"]["until"]
        assert begun is not None and abs(ends - begun - 3000.0) < 1, "the time limit is of both attempts together"

        mounts = (Mount.parse(f"runs/{again.number}:r"),)
        alone = laptop.until_ended(laptop.submit("cat b r/saved", {"b": b"B"}, mounts=mounts))
        assert alone.renting is not None
        laptop.folders.take_away(alone.renting.hosts[-1].token)
        kept = laptop.another().runs.original(alone.number)
        here = laptop.client.runs.launch(laptop.client.runs.prepare_again(kept, kept.request, "local"))
        assert laptop.log(laptop.until_ended(here)) == b"Bkept\n"

    def test_a_host_cannot_say_what_a_mount_of_its_run_means(self, laptop: Laptop) -> None:
        """It may write over the spec of its run: the run again has what this client asked for, or is refused."""
        names = ("doom", "private")
        for name in names:
            data = write_files(laptop.root / name, {"in": name.encode()})
            laptop.client.uploads.upload(data, name, "local")
        run = laptop.until_ended(laptop.submit("cat doom/in", mounts=(Mount.parse("uploads/doom"),), files={"a": b"a"}))
        laptop.client.uploads.upload(laptop.root / "private", "private", "aws")
        laptop.folders.take_away(run_token(run))
        s3, key = laptop.archive.objects, f"runs/{run.key}/spec.json"
        spec = RunSpec.decode(s3.get(key, 1 << 20))
        (mount,) = spec.mounts
        private, _ = laptop.client.connections.registry.uploads.versions("private")[0]
        lie = mount.resource._replace(name="private", digest=private.digest)
        s3.put(key, spec._replace(mounts=(mount._replace(resource=lie),)).encode())
        client = laptop.another()
        with pytest.raises(UsageError, match="than you asked for"):
            client.runs.original(run.number)
        s3.put(key, spec.encode())
        kept = client.runs.original(run.number)
        again = client.runs.launch(client.runs.prepare_again(kept, kept.request, "local"))
        assert laptop.log(laptop.until_ended(again)) == b"doom"
        s3.put(key, spec._replace(mounts=(mount._replace(resource=lie, typed="uploads/private@1"),)).encode())
        with pytest.raises(UsageError, match="than you asked for"):
            client.runs.original(run.number)
        client.connections.registry.save_digest(run, "")  # as of a run that another laptop handed over
        with pytest.raises(UsageError, match="uploads/private@1 as run . read it is not known here") as caught:
            client.runs.original(run.number)
        assert caught.value.hint == f"remoterun rerun {run.number} -m uploads/private:doom   mounts what is there now"
        kept = client.runs.original(run.number, {"doom"})
        assert (kept.mounts, [mount.path for mount in kept.request.mounts]) == ({}, ["doom"])


def run_token(run: Run) -> str:
    return f"rr-{run.key}-1"


def posted(laptop: Laptop, run: Run) -> bool:
    """Whether the bucket has some of the log."""
    place = BucketPlace(laptop.config.archive.bucket or "", "us-east-1", laptop.config.archive.endpoint)
    with asked(place) as s3:
        return bool(next(s3.list(f"runs/{run.key}/log/"), None))


def preempt(laptop: Laptop, run: Run) -> None:
    """As a provider does: a notice first, and some time for the run to be saved."""
    home = Home.open(str(laptop.folders.home(run_token(run))))
    home.rental.leave(time.time() + 60, "taken")
    until(lambda: home.run(run.key).state()[0] is RunState.INTERRUPTED)
    laptop.folders.take_away(run_token(run), preempted=True)


def preempted(laptop: Laptop, run: Run) -> Run:
    """A run whose host is taken once its command has begun, as the next client knows it."""
    until(lambda: b"begun" in laptop.log(run))
    preempt(laptop, run)
    return laptop.another().runs.get(run.number)


def test_clients_that_are_killed_leave_one_host_a_run_at_most_and_none_after_gc(laptop: Laptop) -> None:
    """At any moment between the first word of a run and its hand-over."""
    words = [sys.executable, "-m", "tests.folder_cloud", str(laptop.root), str(laptop.config.archive.bucket)]
    words += [str(laptop.config.archive.endpoint), "exec sleep 1000"]
    begun = time.monotonic()
    subprocess.run(words, check=True, timeout=60)
    whole = time.monotonic() - begun
    laptop.client.hosts.end(laptop.client.hosts.list()[0].id)
    chance = random.Random(1)
    for _ in range(KILLS):
        process = subprocess.Popen(words)
        time.sleep(chance.uniform(0.2, 1.0) * whole)
        process.kill()
        process.wait()
        runs = laptop.another().runs.list(None)
        hosts = laptop.folders.hosts()
        assert len({host.token for host in hosts}) <= len(runs) and all(host.attempt == 1 for host in hosts)
        for run in runs:
            if not run.final:
                laptop.client.runs.kill(run.number)
                laptop.until_ended(run)
        for left in laptop.client.hosts.leftovers():
            laptop.client.hosts.clear(left)
        assert laptop.folders.hosts() == []
        assert all(run.final for run in laptop.client.runs.list(None))


@pytest.mark.parametrize("moment", ["renting._with_host", "archiving.access"])
def test_a_client_that_was_killed_leaves_its_host_to_the_next_run(laptop: Laptop, moment: str) -> None:
    """Before anything is recorded of its host, and when that has all but the run itself."""
    aws = laptop.config.archive
    program = (
        "import os; from remoterun.clouds.ledger import archiving, renting; from tests import folder_cloud\n"
        f"{moment} = lambda *_: os._exit(9)\n"
        f"folder_cloud.main({str(laptop.root)!r}, {aws.bucket!r}, {aws.endpoint!r}, 'exec sleep 1000')"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 9
    ended = laptop.until_ended(laptop.submit("true"))
    (host,) = laptop.folders.all()
    lost, _ = laptop.client.runs.list()
    assert (host.alive, host.number, ended.state, ended.host.rented) == (True, 1, RunState.COMPLETE, host.token)
    assert (lost.state, lost.reason) == (RunState.FAILED, Reason.START_FAILED)
    assert lost.renting is not None and [(use.id, use.ended is None) for use in lost.renting.hosts] == [("i-0", False)]


def test_a_run_at_a_provider_that_does_no_more_than_every_one(
    tmp_path: Path, environment: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its plan to its bill."""
    folder_cloud.add_provider(tmp_path, environment, monkeypatch)
    machine = MachineType("gpu", engine="process", rental=Rental("folder", ("folder.small",)))
    place = ArchivePlace(store.new_bucket().name, "us-east-1", store.url)
    config = Config(tmp_path / "laptop", machines={"gpu": machine}, archive=place, providers={"folder": NoSettings()})
    with Client(config) as client:
        run = client.runs.submit(RunRequest("echo made >out; echo said"), None, "gpu")
        until(lambda: client.runs.get(run.number).final, 60)
        assert client.runs.get(run.number).state is RunState.COMPLETE
        (host,) = client.hosts.list()
        assert not host.guarded and client.hosts.uses([host])[host.id].idle_since is not None
        client.hosts.end(host.id)
        client.files.copy(f"runs/{run.number}/out", tmp_path / "copied")
        assert (tmp_path / "copied").read_bytes() == b"made\n"
        assert client.hosts.list() == [] and client.hosts.leftovers() == []
        assert client.hosts.bill(run.created - 60).total.cost > 0


def day() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"


Say, Hear = Callable[..., tuple[int, str, str]], Callable[..., None]


class TestTheCommandLine:
    @pytest.fixture
    def say(self, laptop: Laptop, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
        """(status, stdout, stderr) of a command without a terminal."""
        monkeypatch.setattr(Talking, "quiet", False)  # -q holds for a process, and this one has several commands
        home = laptop.config.home
        home.mkdir(exist_ok=True)
        aws = laptop.config.archive
        (home / "config.toml").write_text(
            f'[aws]\nbucket = "{aws.bucket}"\nregion = "{aws.region}"\nendpoint = "{aws.endpoint}"\n'
            '[machines.gpu]\naws = "folder.small"\nengine = "process"\nidle = "10m"\n'
        )
        monkeypatch.setenv("REMOTERUN_HOME", str(home))
        monkeypatch.chdir(write_files(laptop.root / "work", {"train.py": b""}))

        def run(*words: str) -> tuple[int, str, str]:
            capfd.readouterr()
            status = main(list(words))
            return (status, *capfd.readouterr())

        return run

    @pytest.fixture
    def hear(self, laptop: Laptop, say: Say, recorded: Recorded) -> Hear:
        """As `say`, for a command whose words are recorded, and that ends with this status."""
        recorded.mark(laptop.config.archive.bucket, "bucket")

        def run(*words: str, status: int = 0) -> None:
            found, *said = say(*words)
            assert found == status, said
            recorded.done(words, Done(words, found, *said))

        return run

    def test_nothing_is_rented_unless_somebody_agrees(self, laptop: Laptop, say: Say, hear: Hear) -> None:
        hear("run", "-t", "gpu", "--no-git", "--max-hours", "2", "true", status=2)
        hear("run", "-t", "gpu", "--no-git", "--max-cost", "1.8", "--dry-run", "true")
        assert laptop.folders.all() == [] and say("ps", "--json")[1] == "[]\n"

    def test_a_high_price_is_agreed_to_by_its_figure(
        self, laptop: Laptop, say: Say, hear: Hear, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_cloud, "PRICE", 36.0)
        run = ("run", "-t", "gpu", "--no-git", "--max-hours", "1")
        for words in (("-y",), ("--pay", "35"), ()):
            hear(*run, *words, "true", status=2)
        assert laptop.folders.all() == []
        with monkeypatch.context() as unknown:
            unknown.setattr(folder_cloud, "PRICE", None)
            for words in (("-y",), ("--pay", "36"), ()):
                hear(*run, *words, "true", status=2)
            hear("run", "-t", "gpu", "--no-git", "--pay", "unknown", "true", status=2)
            hear("run", "-t", "gpu", "--no-git", "--dry-run", "true")
            assert laptop.folders.all() == []
            assert say(*run, "--pay", "unknown", "true")[0] == 0
            assert say("machines", "rm", "i-0")[0] == 0 and laptop.folders.hosts() == []
        assert say(*run, "--pay", "36", "true")[0] == 0 and len(laptop.folders.hosts()) == 1
        status, _, err = say(*run, "--pay", "35", "true")
        assert status == 2 and "what is agreed to is $35.00 an hour" in err
        status, _, err = say(*run, "-y", "true")
        assert status == 0 and len(laptop.folders.hosts()) == 1, err  # the host is there, and paid for

    def test_two_shells_at_once_do_not_both_pass_the_limit_of_a_month(self, laptop: Laptop, recorded: Recorded) -> None:
        laptop.config = replace(laptop.config, limits=Limits(max_cost_month=30.0))
        first = laptop.another()
        prepared = first.runs.prepare(RunRequest("true"), None, "gpu")
        with Client(laptop.config) as second:
            plans = [planning.plan(each.connections, prepared.machine) for each in (first, second)]
            assert [plan.most for plan in plans] == [20.0, 20.0]
            first.runs.launch(prepared, plan=plans[0])
            with recorded.raises(UsageError):
                second.runs.launch(prepared, plan=plans[1])
        assert len(laptop.folders.all()) == 1
        found = first.connections.registry.runs()
        assert [run.renting and run.renting.most for run in found] == [0.0, 20.0] and found[1].final

    def test_the_library_rents_by_the_same_rule(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
    ) -> None:
        monkeypatch.setattr(folder_cloud, "PRICE", 36.0)
        with Library(laptop.config) as library:
            for pay in (None, 35.0, "unknown"):
                with recorded.raises(UsageError, f"pay={pay}"):
                    library.run("true", "gpu", source=None, pay=pay)  # type: ignore[arg-type]
            with recorded.raises(UsageError, "pay=lots"):
                library.run("true", "gpu", source=None, pay="lots")  # type: ignore[arg-type]
            assert library.jobs() == [] and laptop.folders.all() == []
            assert library.run("true", "gpu", source=None, pay=36.0, max_hours=1.0).wait() == 0
            assert library.run("true", "gpu", source=None, max_hours=1.0).wait() == 0  # the host is there
            assert len(laptop.folders.all()) == 1

    def test_the_bill_is_what_was_said_and_a_month_has_a_limit(self, laptop: Laptop, say: Say, hear: Hear) -> None:
        hear("bill")
        hear("bill", "--since", "tomorrow", status=2)
        assert say("run", "-t", "gpu", "-y", "--no-git", "true")[0] == 0
        assert say("machines", "rm", "i-0")[0] == 0
        (run,) = json.loads(say("ps", "--json")[1])
        found = json.loads(say("bill", "--by", "run", "--json")[1])
        assert found["bucket"]["bytes"] > 100
        ((name, idle), total) = found["rows"], found["total"]
        assert (name["name"], idle["name"], found["by"]) == ("1", "idle", "run")
        assert name["cost"] == pytest.approx(run["cost"], abs=0.001) and idle["idle"] == idle["cost"] > 0
        assert total["cost"] == pytest.approx(max(name["cost"] + idle["cost"], 3.6 / 60))
        assert say("rm", "-y", "1")[0] == 0
        (laptop.root / "spent").write_text(json.dumps([[day(), 2.5, "rr-x-1"], [day(), 1.5, "rr-y-1"]]))
        status, out, err = say("bill", "--aws", "--since", "1d")
        assert status == 0 and re.search(rf"^{day()} +[\d.]+ +\$[\d.]+ +\$[\d.]+ +\$4\.00$", out, re.MULTILINE)
        assert f"AWS's own bill says $4.00, written up to {day()}\n" in err
        settings = (laptop.config.home / "config.toml").read_text().replace("[aws]\n", "[aws]\nmax_cost_month = 6\n")
        (laptop.config.home / "config.toml").write_text(settings)
        hear("run", "-t", "gpu", "-y", "--no-git", "true", status=2)
        assert len(laptop.folders.all()) == 1
        assert say("run", "-t", "gpu", "-y", "--no-git", "--max-cost", "2", "true")[0] == 0

    def test_what_only_a_repository_names_is_not_rented_with_y(self, laptop: Laptop, say: Say, hear: Hear) -> None:
        """Whoever typed -y may never have read that file."""
        Path("remoterun.toml").write_text('machine = "gpu"\n')
        hear("run", "-y", "--no-git", "true", status=2)
        assert laptop.folders.all() == []
        settings = laptop.config.file.read_text()
        laptop.config.file.write_text(f'trusted = ["{laptop.root}/another"]\n{settings}')
        assert say("run", "-y", "-t", "local", "--no-git", "true")[0] == 2, "that is another folder"
        laptop.config.file.write_text(f'trusted = ["{laptop.root}/work"]\n{settings}')
        assert say("run", "-y", "-t", "local", "--no-git", "true")[0] == 0
        assert say("run", "-y", "--no-git", "--dry-run", "true")[0] == 0

    def test_what_it_costs_is_said_and_what_is_rented_is_listed(self, laptop: Laptop, say: Say, hear: Hear) -> None:
        hear("run", "-t", "gpu", "--no-git", "--dry-run", "--wait-for-login", "30m", "true")
        hear("run", "-t", "gpu", "-y", "--no-git", "echo said")
        (run,) = json.loads(say("ps", "--json")[1])
        assert run["cost"] > 0 and run["renting"]["hosts"][0]["type"] == "folder.small"
        assert "COST" in say("ps")[1] and "folder.small in here-1" in say("info", "1")[1]
        (host,) = json.loads(say("machines", "rented", "--json")[1])
        assert (host["id"], host["number"], host["type"], host["price"]) == ("i-0", 1, "folder.small", 3.6)
        assert host["idle_since"] == run["ended"] and "IDLE" in say("machines", "rented")[1]
        assert "i-0" in say("machines", "gc", "aws", "--dry-run")[1] and len(laptop.folders.hosts()) == 1
        assert say("machines", "rm", "i-0")[0] == 0 and laptop.folders.hosts() == []
        assert say("machines", "rm", "i-9")[0] == 2
        assert say("logs", "1")[1] == "said\n"

    def test_what_is_said_of_a_host_is_true(self, laptop: Laptop, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which run it serves now, when it ends, and who ended it."""

        def rented() -> dict[str, Any]:
            (host,) = json.loads(say("machines", "rented", "--json")[1])
            return dict(host)

        run = ("run", "-t", "gpu", "-y", "-b", "--no-git")
        say(*run, "until [ -e go ]; do sleep 0.1; done")
        until(lambda: json.loads(say("ps", "--json")[1])[0]["state"] == "running")
        assert (rented()["serves"], rented()["ends_idle"]) == (1, None)
        assert re.search(r"\bi-0 .* 1 .* 5 h 3\d min\n", say("machines", "rented")[1])
        key = laptop.client.connections.registry.run(1).key
        (laptop.folders.home(f"rr-{key}-1") / "runs" / key / "work" / "go").touch()
        until(lambda: rented()["serves"] is None)  # though nobody has asked about the run
        (ended,) = json.loads(say("ps", "--json")[1])
        assert ended["state"] == "complete" and rented()["idle_since"] == ended["ended"]
        assert re.search(r"\bi-0 .* (9|10) min \d+ s\n", say("machines", "rented")[1])
        say(*run, "exec sleep 1000")
        assert rented()["serves"] == 2  # and not the one for which it was rented
        with monkeypatch.context() as terminal:
            terminal.setattr("remoterun.cli.render.is_interactive", lambda: True)
            terminal.setattr("sys.stdin", io.StringIO("n\n"))
            status, _, err = say("machines", "rm", "i-0")
            assert (status, rented()["serves"]) == (0, 2) and "What run 2 has not saved will be lost." in err
        status, _, err = say("machines", "rm", "i-0")
        assert status == 0 and "host i-0 is ending; it cost " in err
        assert [each["state"] for each in json.loads(say("ps", "--json")[1])] == ["complete", "killed"]
        for number in ("1", "2"):
            shown = say("info", number)[1]
            assert re.search(r"ended today .* ago, by `machines rm` here\n", shown), shown
        assert "killed: its host was ended" in say("info", "2")[1]
        assert say("machines", "rented")[2] == "No host is rented\n"

    def test_a_shell_without_a_login_works_as_before_and_says_what_aws_is_needed_for(
        self, laptop: Laptop, say: Say, hear: Hear, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert say("upload", "train.py", "--name", "doom", "--to", "aws")[0] == 0
        assert say("run", "-t", "gpu", "-y", "--no-git", "echo rented")[0] == 0
        assert say("run", "-t", "local", "--no-git", "echo local")[0] == 0
        assert say("machines", "rm", "i-0")[0] == 0
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(laptop.root / "nothing"))
        laptop.another()
        quiet = [("whoami",), ("ls",), ("machines",), ("machines", "--all"), ("ps",), ("rerun", "2")]
        for words in (*quiet, ("run", "-t", "local", "--no-git", "true"), ("ls", "runs/2")):
            status, out, err = say(*words)
            assert status == 0 and not re.search("AWS (here|creden)|error|warning|bucket", err), (words, err)
        assert "aws (seen" in say("ls")[1]
        hear("ls", "uploads/doom", status=125)
        hear("run", "-t", "local", "--no-git", "-m", "uploads/doom", "true", status=125)
        hear("cp", "runs/1", "copied", status=125)
        assert "the copy of run 1 is in the bucket s3://" in say("info", "1")[2]
        hear("run", "-t", "gpu", "-y", "true", status=125)
        assert say("logs", "1")[1] == "rented\n"  # as it was kept here

    def test_what_is_lost_is_said(
        self, laptop: Laptop, service: Metadata, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nobody came to a host whose role was refused, and whose form had expired."""
        service.key = "gone"
        monkeypatch.setattr(grants, "LONGEST", -1.0)
        assert say("run", "-t", "gpu", "-y", "-b", "--no-git", "--wait-for-login", "1s", "echo made >out")[0] == 0
        run = laptop.client.connections.registry.run(1)
        there = Home.open(str(laptop.folders.home(run_token(run)))).run(run.key)
        until(lambda: there.status().state.final)
        lost = "its outputs (1 files): on its host alone, and lost with it"
        assert lost in " ".join(say("ps")[2].split())
        laptop.folders.take_away(run_token(run))
        for words in (("ps",), ("info", "1")):
            said = " ".join("".join(say(*words)[1:]).split())
            assert "not all of it is in the bucket" in said and "of waiting were in vain" in said and lost in said, said

    def test_what_is_lost_of_one_that_could_not_save_is_said(self, laptop: Laptop, say: Say) -> None:
        """Its login was revoked, or there was no way to its bucket: whatever ended its host, nobody knows more."""
        run = laptop.submit("exec sleep 1000")
        place, key = laptop.archive.objects, f"runs/{run.key}/status.json"
        until(lambda: any(place.list(key)) and b'"running"' in place.get(key, 1 << 20))
        laptop.folders.take_away(run_token(run))
        for words, status in ((("info", "1"), 0), (("ps",), 0), (("cp", "runs/1"), 2)):
            done, *said = say(*words)
            assert re.search(
                r"its host i-0 is gone; not all of it is in the bucket: what it made after 20\d\d-\S+ \d\d:\d\d \S+ is"
                r" lost with its host",
                " ".join("".join(said).split()),
            ), (words, said)
            assert done == status
        assert "remoterun logs 1" in said[1]

    def test_gc_ends_what_it_may_where_one_host_can_not_be_ended(self, laptop: Laptop, say: Say) -> None:
        for number in (1, 2):
            machine = MachineType("gpu", rental=Rental("aws", ("folder.small",)))
            intent = Intent(f"rr-{number}-1", "k", number, 1, machine, time.time() - 1, 600.0)
            laptop.folders.acquire(intent, laptop.folders.offers(machine), lambda _: None)
        (laptop.root / "i-0 stays").touch()
        status, out, err = say("machines", "gc", "aws", "-y")
        assert status != 0 and "i-0 can't be ended" in err and "1 ended or removed" in out + err
        assert [host.id for host in laptop.folders.hosts()] == ["i-0"]

    def test_gc_frees_the_bucket_as_well_once_somebody_agrees(
        self, laptop: Laptop, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("data").write_bytes(os.urandom(3 << 20))
        assert say("upload", "data", "--name", "doom", "--to", "aws")[0] == 0
        assert say("rm", "-y", "uploads/doom")[0] == 0
        assert "Nothing is left over" in say("machines", "gc", "aws")[2]  # another client may be about to need it
        week = 8 * 86400
        monkeypatch.setattr("remoterun.archive.time", SimpleNamespace(time=lambda: time.time() + week))
        laptop.another()
        (left,) = json.loads(say("machines", "gc", "aws", "--dry-run", "--json")[1])
        assert (left["kind"], left["id"]) == ("objects", f"s3://{laptop.config.archive.bucket}")
        assert left["bytes"] >= 3 << 20 and left["saves"] is None  # no Amazon's store
        status, out, err = say("machines", "gc", "aws")
        assert status == 2 and "3.1 MB: no upload and no run needs them" in out and "nobody is here to agree" in err
        assert "1 ended or removed" in say("machines", "gc", "aws", "-y")[2]
        assert "Nothing is left over" in say("machines", "gc", "aws")[2]

    def test_gc_ends_hosts_also_where_the_bucket_does_not_answer(
        self, laptop: Laptop, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        laptop.until_ended(laptop.submit("true"))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        laptop.another()
        status, _, err = say("machines", "gc", "aws", "-y")
        assert status == 0 and "the bucket could not be looked at" in err and laptop.folders.hosts() == []

    def test_the_bucket_is_a_machine_that_keeps_files(self, laptop: Laptop, say: Say) -> None:
        Path("data").write_text("x")
        assert say("upload", "data", "--name", "doom", "--to", "aws")[0] == 0
        assert "uploads/doom" in say("ls")[1] and "data" in say("ls", "uploads/doom")[1]
        assert say("machines", "df", "aws")[0] == 0 and say("machines", "gc", "aws", "--dry-run")[0] == 0
        assert say("whoami", "--json")[1].count(str(laptop.config.archive.bucket)) == 1
        assert "bucket" in say("doctor", "aws")[1]

    def test_who_looks_rents_nothing_and_continue_asks(
        self, laptop: Laptop, say: Say, hear: Hear, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = "cat saved 2>/dev/null && exit; echo $WORD >saved; echo begun; exec sleep 1000"
        words = ("run", "-t", "gpu", "-y", "-b", "--no-git", "--attempts", "2", "-e", "WORD=secret", command)
        assert say(*words)[:2] == (0, "1\n")
        preempted(laptop, laptop.client.connections.registry.run(1))
        for look in (("ps",), ("info", "1"), ("logs", "1"), ("wait", "1"), ("machines", "rented"), ("ls", "runs/1")):
            shown = "".join(map(str, say(*look)))
            assert laptop.folders.hosts() == [] and ("remoterun continue 1" in shown) == (
                look[0] in ("ps", "info", "logs")
            )
        hear("continue", "1", status=2)
        hear("continue", "1", "-y", status=2)
        assert laptop.folders.hosts() == []
        monkeypatch.setenv("WORD", "again")
        status, out, err = say("continue", "1", "-y")
        assert (status, out) == (0, "begun\nsecret\n") and re.search(r" on top of <?\$0\.\d+\n", err)
        (row,) = json.loads(say("ps", "--json")[1])
        assert (row["state"], row["renting"]["attempt"], len(row["renting"]["hosts"])) == ("complete", 2, 2)
        assert say("continue", "1", "-y")[0] == 2 and len(laptop.folders.hosts()) == 1

    def test_without_attempts_left_it_goes_on_by_a_free_host(self, laptop: Laptop, say: Say) -> None:
        """Also a run on a spot host, by one on demand: a person saw its price, and agreed."""
        words = ("run", "-t", "gpu", "-y", "-b", "--no-git", "--attempts", "1", "--spot")
        say(*words, "cat saved 2>/dev/null && exit; echo saved >saved; echo begun; exec sleep 1000")
        preempted(laptop, laptop.client.connections.registry.run(1))
        assert say("run", "-t", "gpu", "-y", "--no-git", "true")[0] == 0
        assert len(laptop.folders.all()) == 2
        status, out, err = say("continue", "1", "-y")
        assert (status, out) == (0, "begun\nsaved\n") and "Using i-1: folder.small in here" in err
        assert len(laptop.folders.all()) == 2 and "attempt       2 of 2" in say("info", "1")[1]

    def test_the_loop_of_everybody_keeps_one_host(self, laptop: Laptop, say: Say) -> None:
        """It is wrong, so it is stopped, mended, and run again at once."""
        for number in (1, 2):
            command = "trap 'sleep 1; exit 1' TERM; echo up; sleep 1000 & wait"
            status, out, err = say("run", "-t", "gpu", "-y", "-b", "--no-git", command)
            assert (status, out) == (0, f"{number}\n"), err
            until(lambda: b"up" in laptop.log(laptop.client.connections.registry.run(number)))  # noqa: B023
            assert say("stop", str(number))[0] == 0
        status, out, err = say("run", "-t", "gpu", "-y", "--no-git", "echo right")
        assert (status, out) == (0, "right\n"), err
        assert [host.id for host in laptop.folders.all()] == ["i-0"]

    def test_of_hosts_that_are_busy_the_first_whose_run_ends_is_used(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One after the other, the first two would be waited for in vain."""
        monkeypatch.setattr(planning, "ENDING", 1000.0)
        command = "trap 'until [ -e {go} ]; do sleep 0.05; done; exit 1' TERM; echo up; sleep 1000 & wait"
        runs = [laptop.submit(command.format(go=laptop.root / f"go{number}")) for number in range(3)]
        until(lambda: all(laptop.log(run) == b"up\n" for run in runs))
        machine, waited = laptop.client.connections.machine("gpu"), list[str]()
        assert planning.plan(laptop.client.connections, machine, waiting=waited.append).kept is None

        texts = {f"the end of run {run.number}, whose host is used again" for run in runs}

        def end_the_last(text: str) -> None:
            """Once all three are waited for."""
            waited.append(text)
            if texts <= set(waited):
                (laptop.root / "go2").touch()

        for run in runs:
            laptop.client.runs.stop(run.number, 1000.0)
        kept = planning.plan(laptop.client.connections, machine, waiting=end_the_last).kept
        assert kept is not None and kept.id == "i-2"
        assert (waited[0], set(waited[1:-1]), waited[-1]) == ("", texts, "")

    def test_two_clients_do_not_give_a_run_two_hosts(self, laptop: Laptop) -> None:
        command = "cat saved 2>/dev/null && exit; echo x >saved; echo begun; exec sleep 1000"
        run = preempted(laptop, laptop.submit(command, attempts=3))
        with ThreadPoolExecutor(4) as pool:
            clients = [Client(laptop.config) for _ in range(4)]
            took = list(pool.map(lambda client: taken(client, run), clients))
            for client in clients:
                client.close()
        assert len([each for each in took if each is not None]) == 1
        assert len(laptop.folders.all()) == 2

    def test_one_whose_outputs_can_not_be_read_stays_interrupted(self, laptop: Laptop) -> None:
        run = preempted(laptop, laptop.submit("echo begun; exec sleep 1000", attempts=3))
        laptop.archive.objects.put(f"{place_of(run).folders[0]}outputs", b"no tree")
        with pytest.raises(HostError):
            taken(laptop.client, run)
        after = laptop.client.connections.registry.run(run.number)
        assert (after.state, after.attempt) == (RunState.INTERRUPTED, 1) and len(laptop.folders.all()) == 1

    def test_a_host_in_other_hands_gets_no_values_that_were_not_asked_for(self, laptop: Laptop) -> None:
        run = preempted(laptop, laptop.submit("echo begun; exec sleep 1000", {"a": b"a"}, attempts=3))
        place = BucketPlace(laptop.config.archive.bucket or "", "us-east-1", laptop.config.archive.endpoint)
        with asked(place) as s3:
            key = f"runs/{run.key}/spec.json"
            spec = RunSpec.decode(s3.get(key, 1 << 20))
            for other in (
                spec._replace(asked_env=("AWS_SECRET_ACCESS_KEY",)),
                spec._replace(command="env"),
                spec._replace(source="0" * 64),
            ):
                data = other.encode()
                s3.put(key, data)
                with pytest.raises(UsageError, match="another command, source or mounts for run"):
                    taken(laptop.client, run)
        assert len(laptop.folders.all()) == 1

    def test_what_a_host_cost_counts_also_if_it_was_never_reached(self, laptop: Laptop) -> None:
        run = preempted(laptop, laptop.submit("echo begun; exec sleep 1000", attempts=3))
        before, registry = run.renting, laptop.client.connections.registry
        assert before is not None
        second = HostUse(f"rr-{run.key}-2", "i-9", "folder.small", "here-1", 3.6, time.time() - 3600)
        tried = registry.next_attempt(run, replace(before, attempt=2, hosts=(*before.hosts, second)), time.time())
        assert tried is not None
        attempts._give_up(laptop.client.connections, run, HostUnreachable("it does not answer"))
        after = registry.run(run.number)
        assert after.renting is not None and after.renting.attempt == 1 and after.state is RunState.INTERRUPTED
        assert (after.cost(time.time()) or 0.0) >= 3.6


def taken(client: Client, run: Run) -> Run | None:
    return attempts.start_next_attempt(client.connections, run, {}, Talk())
