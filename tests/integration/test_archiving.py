"""A run of which the archive gets all before it is final, through its grant alone, whatever dies or fails meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running import archiving
from remoterun.agent.running.archiving import RunArchiving
from remoterun.agent.running.ending import Ended
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import (
    PACK,
    ArchivedTree,
    Grant,
    ImageAccess,
    RunRecord,
    log_key,
    pack_key,
    run_prefix,
)
from remoterun.agent.shared.records import from_json
from remoterun.agent.shared.states import FINAL, Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from remoterun.errors import RemoterunError
from tests.bucket_server import BucketServer, Handler
from tests.workshop import Files, Place, create_run, holding, kill9, running, sha256, spec_of, tree_of, until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")

SECRET = b"f00df00d" * 4
NO_FILES = Manifest([]).encode()
MAKES = """
mkdir -p many; i=0
while [ $i -lt 60 ]; do i=$((i+1)); echo "$i" >many/$i; done
head -c 3000000 /dev/zero >middle; printf x >>middle
echo "#!/bin/sh" >tool; chmod 755 tool; ln -s middle link; mkdir empty
seq 1 2000
"""
MADE: Files = {f"many/{number}": b"%d\n" % number for number in range(1, 61)}
MADE |= {"middle": bytes(3_000_000) + b"x", "tool*": b"#!/bin/sh\n", "link": "-> middle", "empty": None}
LOG = b"".join(b"%d\n" % number for number in range(1, 2001))


@pytest.fixture
def place(kept_place: Place) -> Place:
    return kept_place


@pytest.fixture(autouse=True)
def server() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.close()


def submit(place: Place, server: BucketServer, command: str, seconds: float = 600, **changed: Any) -> str:
    """The key of a new run with a grant that lasts so many seconds."""
    spec = place.spec(command, bucket="s3://mine", **changed)
    grant = server.grant(run_prefix(spec.key), seconds)
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
    return spec.key


def renew(place: Place, server: BucketServer, key: str) -> None:
    place.session.ask(api.renew, api.Renewal(key, server.grant(run_prefix(key))))


class Archived:
    """A run as whoever has the bucket alone finds it."""

    def __init__(self, server: BucketServer, key: str) -> None:
        self.objects = server.below(run_prefix(key))

    @property
    def record(self) -> RunRecord:
        return from_json(RunRecord, json.loads(self.objects["status.json"]))

    @property
    def log(self) -> bytes:
        log = b""
        for key in sorted(key for key in self.objects if key.startswith("log/")):
            offset = int(key.partition("/")[2])
            assert offset <= len(log), "a piece is missing"
            piece = self.objects[key]
            assert log[offset:] == piece[: len(log) - offset]
            log = log[:offset] + piece
        return log

    @property
    def tree(self) -> ArchivedTree:
        return ArchivedTree.decode(self.objects["outputs"])

    def content(self, digest: str) -> bytes:
        packs = {name: self.objects[pack_key(name)] for name in self.tree.packs}
        assert all(sha256(data) == name for name, data in packs.items())
        extents = self.tree.places.get(digest, ())
        data = b"".join(packs[one.pack][one.offset : one.offset + one.length] for one in extents)
        assert sha256(data) == digest
        return data

    @property
    def outputs(self) -> Files:
        made: Files = {}
        for entry in self.tree.manifest:
            if entry.kind == "f":
                made[entry.path + ("*" if entry.executable else "")] = self.content(entry.digest)
            else:
                made[entry.path] = f"-> {entry.target}" if entry.kind == "l" else None
        return made


def assert_whole(place: Place, server: BucketServer, key: str, made: Files = MADE) -> None:
    """All of a run that ran `MAKES` is in the archive, as it is on the host."""
    until(place.unsupervised(key))  # its grant, and that it was refused, goes once its end is recorded
    archived = Archived(server, key)
    status = place.run(key).status()
    assert status.kept and status.state is RunState.COMPLETE
    assert archived.record.status == status
    assert [event.state for event in archived.record.events if event.state] == [
        RunState(event["state"]) for event in place.run(key).events() if "state" in event
    ]
    assert archived.log == place.log(key) == LOG
    assert tree_of(archived.outputs)[0].encode() == tree_of(made)[0].encode()
    assert not {"spec.json", "source"} & archived.objects.keys(), "its client has written them"


class TestAllOfIt:
    def test_outputs_log_and_records(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, MAKES, number=7)
        place.until_final(key)
        assert_whole(place, server, key)
        assert Archived(server, key).record.number == 7
        prefix = run_prefix(key)
        order = [name.removeprefix(prefix) for name in server.written]
        assert order[-1] == "status.json" and order[-2].startswith("log/") and order[-3] == "outputs"
        assert len(order) < 10  # small files are no objects of their own
        assert holding(place.home, server.grant(prefix).fields["policy"].encode()) == set()

    def test_a_large_output_in_several_packs(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, f"head -c {PACK + 1000} /dev/urandom >large; echo a >a; echo z >z")
        place.until_final(key, 60)
        archived = Archived(server, key)
        assert archived.outputs == place.outputs(key)
        assert [len(archived.objects[pack_key(name)]) for name in archived.tree.packs] == [2, PACK, 1002]

    def test_the_log_comes_while_it_runs(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, "seq 1 800000; exec sleep 1000")
        until(lambda: Archived(server, key).log[:2] == b"1\n")
        until(lambda: Archived(server, key).record.status.state is RunState.RUNNING)
        place.end(key, "stop")
        place.until_final(key)
        assert Archived(server, key).log == place.log(key)
        assert Archived(server, key).record.status.reason is Reason.STOPPED

    def test_one_that_is_killed_has_its_log_there_and_no_outputs(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, "echo up; echo x >out; exec sleep 1000")
        place.until_says(key, b"up")
        place.end(key, "kill")
        assert place.until_final(key)["kept"]
        archived = Archived(server, key)
        assert (archived.log, archived.record.status) == (b"up\n", place.run(key).status())
        assert "outputs" not in archived.objects

    def test_what_was_measured_of_it(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, """printf '{"loss": 1}' >metrics.jsonl; until [ -e go ]; do sleep 0.05; done""")
        run = place.run(key)
        until(lambda: os.path.exists(run.usage_points), what="a sample was taken")
        Path(run.work, "go").touch()
        place.until_final(key)
        objects = Archived(server, key).objects
        for path in (run.metrics_names, run.metrics_points, run.usage_points):
            assert objects[os.path.basename(path)] == Path(path).read_bytes() != b""
        progress = Archived(server, key).record.status.progress
        assert progress is not None and progress.series[0].name == "loss"

    def test_one_that_never_started(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, "true", until=time.time() - 1)
        status = place.until_final(key)
        assert (status["state"], status["reason"], status["started"]) == ("stopped", "timeout", None)
        assert "before the command had started" in status["message"] and status["kept"]
        assert Archived(server, key).record.status == place.run(key).status()


class TestItsGrant:
    def test_it_lies_in_one_file_until_the_run_has_ended(self, place: Place, server: BucketServer) -> None:
        spec = place.spec("echo up; exec sleep 1000", bucket="s3://mine")
        grant = Grant(server.url, {"x-amz-signature": SECRET.decode()}, run_prefix(spec.key), time.time() + 60)
        assert "there is no run" in refused(place, api.renew, api.Renewal(spec.key, grant))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        place.until_says(spec.key, b"up")
        assert holding(place.home, SECRET) == {place.run(spec.key).grant_file}
        place.session.ask(api.renew, api.Renewal(spec.key, grant._replace(expires=2e9)))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        assert place.run(spec.key).grant() == grant
        renew(place, server, spec.key)
        place.end(spec.key, "kill")
        place.until_final(spec.key)
        place.session.ask(api.renew, api.Renewal(spec.key, grant))
        assert holding(place.home, SECRET) == set()

    def test_the_one_for_its_images_is_gone_once_they_are_built(self, place: Place, server: BucketServer) -> None:
        """The command might find it, and put other images in the place of those that other hosts load."""
        spec = place.spec("echo up; exec sleep 1000", bucket="s3://mine")
        grant = Grant(server.url, {"x-amz-signature": SECRET.decode()}, "envs/x/", time.time() + 60)
        images = (ImageAccess("remoterun-base:0123456789abcdef", [], grant),)
        run_grant = server.grant(run_prefix(spec.key))
        submission = Submission(spec, {}, NO_FILES, run_grant, images=images)
        place.session.ask(api.submit, api.Nothing(), submission.encode())
        place.until_says(spec.key, b"up")
        assert holding(place.home, SECRET) == set()
        place.end(spec.key, "kill")
        place.until_final(spec.key)

    def test_a_run_without_a_bucket_takes_none(self, place: Place, server: BucketServer) -> None:
        key = place.submit("exec sleep 1000")
        grant = server.grant(run_prefix(key))
        assert "has no bucket" in refused(place, api.renew, api.Renewal(key, grant))

    @pytest.mark.parametrize("seconds", [-1, 2])
    def test_one_that_has_expired_is_waited_for(self, place: Place, server: BucketServer, seconds: float) -> None:
        """Before the run began, and while it ran."""
        key = submit(place, server, "while [ ! -e go ]; do sleep 0.05; done; rm go" + MAKES, seconds)
        grant = place.run(key).grant()
        assert grant is not None
        place.until_state(key, RunState.RUNNING)
        until(lambda: time.time() > grant.expires)
        Path(place.run(key).work, "go").touch()
        until_waits(place, key, "the permission has expired; any `remoterun ps` renews it")
        renew(place, server, key)
        place.until_final(key)
        assert_whole(place, server, key)

    @pytest.mark.parametrize("allows", [None, "runs/another/"], ids=["none has come yet", "one that does not allow it"])
    def test_one_that_is_of_use_is_waited_for(self, place: Place, server: BucketServer, allows: str | None) -> None:
        spec = place.spec(MAKES, bucket="s3://mine")
        grant = None if allows is None else server.grant(allows)._replace(prefix=run_prefix(spec.key))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        until_waits(place, spec.key, "renews it" if allows is None else "Policy Condition failed")
        assert server.below("runs/") == {}
        renew(place, server, spec.key)
        place.until_final(spec.key)
        assert_whole(place, server, spec.key)

    def test_who_is_in_touch_learns_that_one_is_refused(self, place: Place, server: BucketServer) -> None:
        """Until another one comes: whatever its end was said to be, its key may be gone."""
        key = submit(place, server, "while [ ! -e go ]; do sleep 0.05; done; rm go" + MAKES)
        server.expiries.clear()
        place.until_state(key, RunState.RUNNING)
        Path(place.run(key).work, "go").touch()
        until(lambda: "SignatureDoesNotMatch" in place.run(key).status().refused)
        renew(place, server, key)
        place.until_final(key)
        assert_whole(place, server, key)
        assert not place.run(key).status().refused

    def test_it_is_waited_for_in_vain(self, place: Place, server: BucketServer) -> None:
        """The run ends with what the bucket has, and says what that lacks."""
        spec = place.spec(MAKES, bucket="s3://mine", wait_for_login=1.0)
        grant = server.grant(run_prefix(spec.key), -1)
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant).encode())
        status = place.until_final(spec.key)
        assert (status["state"], status["kept"]) == ("complete", False)
        assert status["message"] == (
            "not all of it is in the bucket s3://mine: 0.0167 min of waiting were in vain (127.0.0.1 answers"
            " 403 (AccessDenied: Request has expired)); its outputs (62 files) and the end of its log: on its host"
            " alone, and lost with it"
        )
        assert not place.run(spec.key).unconfirmed() and place.outputs(spec.key) == MADE

    @pytest.mark.parametrize("took", [False, True])
    def test_a_bucket_out_of_reach_is_waited_for_as_long(self, place: Place, server: BucketServer, took: bool) -> None:
        """As where the host has no way there at all, or has lost it, which costs its full price."""
        if not took:
            server.faults.append(Handler.cut)
        key = submit(place, server, f"until [ -e go ]; do sleep 0.1; done; {MAKES}", wait_for_login=1.0)
        if took:
            until(lambda: "status.json" in server.below(run_prefix(key)))
            server.faults.append(Handler.cut)
        place.until_state(key, RunState.RUNNING)
        Path(place.run(key).work, "go").touch()
        assert "0.0167 min of waiting were in vain (127.0.0.1" in place.until_final(key)["message"]
        assert not place.run(key).unconfirmed() and place.outputs(key) == {**MADE, "go": b""}


def refused(place: Place, request: api.Request[Any, Any], arguments: Any) -> str:
    with pytest.raises(RemoterunError) as caught:
        place.session.ask(request, arguments)
    return caught.value.message


def until_waits(place: Place, key: str, text: str) -> None:
    """The run is SAVING, and its note tells why it does not end."""

    def waits() -> bool:
        status = place.run(key).status()
        return status.state is RunState.SAVING and text in (status.note or "")

    until(waits, what=lambda: f"a note {text!r}: {place.run(key).events()}")


class TestFaults:
    def test_a_busy_server_and_cut_connections(self, place: Place, server: BucketServer) -> None:
        turn = itertools.count()
        server.faults.append(lambda handler: next(turn) % 3 == 0 and handler.refuse(503, "SlowDown"))
        server.faults.append(lambda handler: next(turn) % 4 == 0 and handler.cut())
        key = submit(place, server, MAKES)
        place.until_final(key, 120)
        assert_whole(place, server, key)

    def test_nobody_reaches_it_for_a_while_when_it_saves(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, "while [ ! -e go ]; do sleep 0.05; done; rm go" + MAKES)
        place.until_state(key, RunState.RUNNING)
        server.faults.append(Handler.cut)
        Path(place.run(key).work, "go").touch()
        until_waits(place, key, "waiting for the bucket s3://mine: 127.0.0.1")
        server.faults.clear()
        place.until_final(key, 60)
        assert_whole(place, server, key)

    def test_its_supervisor_dies_with_each_object(self, place: Place, server: BucketServer) -> None:
        """Before the server has taken it, or before its answer comes, in turns. What was confirmed does not come again,
        and the end is recorded once."""
        died: list[str] = []
        lock = threading.Lock()
        large = f"head -c {PACK + 1000} /dev/zero >large"
        key = submit(place, server, f"while [ ! -e go ]; do sleep 0.05; done; rm go; {large}{MAKES}")

        def die(handler: Handler) -> bool:
            name, data = handler.posted
            mark = name + (" kept" if b'"kept": true' in data else "")
            with lock:
                if place.state(key) is not RunState.SAVING or mark in died:
                    return False
                died.append(mark)
                kill9(place.supervisor(key))
                return len(died) % 2 == 0 and handler.cut()

        place.until_state(key, RunState.RUNNING)
        server.faults.append(die)
        Path(place.run(key).work, "go").touch()

        def ended() -> bool:
            place.session.ask(api.runs, api.RunKeys([key]))
            return place.state(key) in FINAL

        until(ended, 120, lambda: f"{died}: {place.run(key).events()}", pause=0.2)
        assert_whole(place, server, key, MADE | {"large": bytes(PACK + 1000)})
        sampled = os.path.exists(place.run(key).usage_points)  # not where the command took less than a second
        assert len(died) == 6 + sampled and died[-1].endswith("status.json kept"), died
        assert [event.get("state") for event in place.run(key).events()].count("complete") == 1
        prefix = run_prefix(key)
        for name in (name for name in server.written if not name.endswith("status.json")):
            assert server.written.count(name) <= 3, f"{name.removeprefix(prefix)} came again and again"

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_it_is_ended_while_it_waits(self, place: Place, server: BucketServer, how: str) -> None:
        server.faults.append(Handler.cut)
        key = submit(place, server, MAKES)
        until_waits(place, key, "waiting for the bucket")
        if how == "kill":  # nothing is saved before that
            server.faults[:] = [lambda handler: not place.run(key).kill_asked() and handler.cut()]
        place.end(key, how)
        status = place.until_final(key)
        if how == "stop":
            assert (status["state"], status["kept"]) == ("complete", False)
            assert "not all of it is in the bucket s3://mine" in status["message"]
            assert place.outputs(key) == MADE
        else:
            assert (status["state"], status["kept"]) == ("killed", True)
            assert Archived(server, key).log == LOG

    def test_it_is_killed_while_it_saves(self, place: Place, server: BucketServer) -> None:
        """What is under way does not delay it."""
        killed = threading.Event()
        server.faults.append(lambda handler: "/packs/" in handler.posted[0] and not killed.wait(60))
        key = submit(place, server, MAKES)
        until(lambda: any("/packs/" in key for _, key in server.asked))
        place.end(key, "kill")
        assert place.until_final(key)["state"] == "killed"
        killed.set()

    def test_a_pack_that_is_damaged_on_its_way(self, place: Place, server: BucketServer) -> None:
        """The server refuses what does not have the SHA-256 of its name."""
        server.faults.append(lambda handler: "/packs/" in handler.posted[0] and handler.refuse(400, "BadDigest"))
        key = submit(place, server, MAKES)
        until_waits(place, key, "BadDigest")
        place.end(key, "stop")
        assert not place.until_final(key)["kept"]


class TestItsTime:
    def test_the_command_is_ended_in_time(self, place: Place) -> None:
        key = place.submit("echo x >out; echo up; exec sleep 1000.25", timeout=1000.0, until=time.time() + 1000)
        place.until_says(key, b"up")
        place.lose_supervisor(key)
        spec = place.run(key).spec()  # as if all that time had passed
        Path(place.run(key).spec_file).write_bytes(spec._replace(until=time.time()).encode())
        status = place.until_status(key)
        assert (status["state"], status["reason"], status["code"]) == ("stopped", "timeout", 143)
        assert place.outputs(key) == {"out": b"x\n"} and not running("1000.25")


class TestALaterAttempt:
    def test_what_earlier_ones_left_lies_over_the_source(self, place: Place) -> None:
        source = place.put({"train.py": b"old", "data/a": b"1"})
        left = place.put({"checkpoint": b"epoch 3", "train.py": b"changed", "log/m": b"x"})
        spec = place.spec("cat checkpoint train.py data/a; echo epoch 4 >checkpoint", source, attempt=2, log_before=9)
        place.session.ask(
            api.submit, api.Nothing(), Submission(spec, {}, source.encode(), None, left.encode()).encode()
        )
        assert place.until_final(spec.key)["state"] == "complete"
        assert place.log(spec.key) == b"epoch 3changed1"
        assert place.outputs(spec.key) == {"checkpoint": b"epoch 4\n", "train.py": b"changed", "log/m": b"x"}

    def test_its_log_goes_on_in_the_bucket(self, place: Place, server: BucketServer) -> None:
        spec = place.spec("seq 1 2000", bucket="s3://mine", attempt=2, log_before=6)
        grant = server.grant(run_prefix(spec.key))
        server.objects[run_prefix(spec.key) + log_key(0)] = b"first\n"
        body = Submission(spec, {}, NO_FILES, grant, NO_FILES).encode()
        place.session.ask(api.submit, api.Nothing(), body)
        assert place.until_final(spec.key)["kept"]
        archived = Archived(server, spec.key)
        assert archived.log == b"first\n" + LOG and archived.record.status.log_size == len(archived.log)

    def test_what_it_writes_to_stderr_goes_on_apart(self, place: Place, server: BucketServer) -> None:
        spec = place.spec("echo out; echo err >&2", bucket="s3://mine", split=True, attempt=2, err_before=6)
        grant = server.grant(run_prefix(spec.key))
        place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, NO_FILES, grant, NO_FILES).encode())
        assert place.until_final(spec.key)["kept"]
        archived = Archived(server, spec.key)
        assert (archived.log, archived.objects[log_key(6, "err")]) == (b"out\n", b"err\n")
        assert archived.record.split

    def test_what_was_left_must_be_here(self, place: Place) -> None:
        source, missing = place.put({}), tree_of({"checkpoint": b"not sent"})[0]
        spec = place.spec("true", source, attempt=2)
        body = Submission(spec, {}, source.encode(), None, missing.encode()).encode()
        with pytest.raises(RemoterunError, match="are missing here"):
            place.session.ask(api.submit, api.Nothing(), body)


class TestWhileItRuns:
    """With other times than those of a supervisor, of which a test would wait for half a minute."""

    @pytest.fixture
    def run(self, tmp_path: Path, server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
        for name, value in {"CHECK_EVERY": 0.02, "LOG_EVERY": 0.2, "SHORTEST": 0.01, "LONGEST": 0.05}.items():
            monkeypatch.setattr(archiving, name, value)
        spec = spec_of(bucket="s3://mine")
        self.home = home = Home.open(str(tmp_path / "home"))
        run = create_run(home, spec, grant=server.grant(run_prefix(spec.key)))
        self.archiving = RunArchiving(home, run, spec)
        return run

    def end(self, run: RunFolder) -> dict[str, Any]:
        return self.archiving.complete(Ended(Reason.KILLED, code=137), False)

    def test_a_bucket_that_refuses_for_a_night_is_tried_again(self, run: RunFolder) -> None:
        assert self.archiving._await_grant(5000, lambda: True)

    def test_its_log_comes_piece_by_piece_and_its_state_at_each_change(
        self, run: RunFolder, server: BucketServer
    ) -> None:
        self.archiving.follow()
        until(lambda: Archived(server, run.key).objects)
        run.move(RunState.RUNNING)
        Path(run.log).write_bytes(b"one\n")
        until(lambda: Archived(server, run.key).log == b"one\n")
        with open(run.log, "ab") as log:
            log.write(b"two\n")
        until(lambda: Archived(server, run.key).log == b"one\ntwo\n")
        assert sorted(name for name in Archived(server, run.key).objects if name.startswith("log/")) == [
            log_key(0), log_key(4),
        ]  # fmt: skip
        assert Archived(server, run.key).record.status.state is RunState.RUNNING
        records = server.written.count(run_prefix(run.key) + "status.json")
        fields = self.end(run)
        assert fields["kept"] and Archived(server, run.key).record.events[-1].t == fields["t"]
        assert server.written.count(run_prefix(run.key) + "status.json") == records + 2

    def test_the_user_is_told_that_it_does_not_come(self, run: RunFolder, server: BucketServer) -> None:
        server.expiries = dict.fromkeys(server.expiries, 0.0)
        self.archiving.follow()
        until(lambda: "its log is not in the bucket s3://mine: the permission" in (run.status().note or ""))
        run.renew(server.grant(run_prefix(run.key)))
        until(lambda: Archived(server, run.key).objects)
        assert self.end(run)["kept"]

    def test_no_record_of_a_run_that_goes_on_stands_after_that_of_its_end(
        self, run: RunFolder, server: BucketServer
    ) -> None:
        """Not even one that is under way in a connection that is silent."""

        def slow(handler: Handler) -> bool:
            time.sleep(1.5)  # it has the record by now, and keeps it when its client is gone
            return False

        server.fail(1, slow)
        self.archiving.follow()
        until(lambda: server.asked)
        assert self.end(run)["kept"]
        assert Archived(server, run.key).record.status.state is RunState.KILLED
        assert server.written.count(run_prefix(run.key) + "status.json") == 3

    @pytest.mark.parametrize("size", [1, PACK + 1])
    def test_a_damaged_blob_is_never_named(self, run: RunFolder, server: BucketServer, size: int) -> None:
        manifest = tree_of({"a": bytes(size)})[0]
        Path(run.outputs_file).write_bytes(manifest.encode())
        (entry,) = manifest.files
        blob = Path(self.home.blobs.path(entry.digest))
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"x" * size)
        fields = self.archiving.complete(Ended(Reason.EXITED, code=0), True)
        assert "kept" not in fields and "the content of a is damaged on the host" in fields["message"]
        assert "outputs" not in Archived(server, run.key).objects

    @pytest.mark.parametrize("taken", ["", "log 5\n"])
    def test_another_supervisor_goes_on_with_the_waiting(
        self, run: RunFolder, server: BucketServer, taken: str
    ) -> None:
        """Unless the bucket took something since."""
        began = time.time() - 4000
        Path(run.archived_file).write_text(f"status.json\nwaits since {began:.0f}\n{taken}")
        server.expiries.clear()
        ended: list[dict[str, Any]] = []
        later = RunArchiving(self.home, run, run.spec())
        waiting = threading.Thread(target=lambda: ended.append(later.complete(Ended(Reason.EXITED), True)))
        waiting.start()
        until(lambda: len(server.asked) > 20 or ended)
        run.ask_stop(0)
        waiting.join(60)
        assert ("60 min of waiting were in vain" in ended[0]["message"]) is not bool(taken)

    def test_a_bucket_that_is_gone_is_waited_for_as_any_other(
        self, run: RunFolder, server: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be made again, and what may pass in an hour is worth that."""
        monkeypatch.setattr(archiving, "WAIT_FOR_LOGIN", 1.0)
        server.faults.append(lambda handler: handler.refuse(404, "NoSuchBucket"))
        message = self.archiving.complete(Ended(Reason.EXITED), True)["message"]
        assert "0.0167 min of waiting were in vain" in message and "NoSuchBucket" in message

    def test_a_blob_that_is_gone_ends_the_run_all_the_same(self, run: RunFolder, server: BucketServer) -> None:
        manifest = tree_of({"large": bytes(1000)})[0]
        Path(run.outputs_file).write_bytes(manifest.encode())
        fields = self.archiving.complete(Ended(Reason.EXITED, code=0), True)
        assert "kept" not in fields and "No such file" in fields["message"]
        assert "outputs" not in Archived(server, run.key).objects
        status = Archived(server, run.key).record.status
        assert (status.state, status.code, status.kept) == (RunState.COMPLETE, 0, False)
