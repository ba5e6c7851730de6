"""Runs as their hosts leave them in a bucket: their state, their log, their outputs; and what a host may do there."""

from __future__ import annotations

import json
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import CHUNK, RunRecord
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.states import Reason, RunEvent, RunState, RunStatus
from remoterun.agent.shared.submission import Submission
from remoterun.agent.store.home import Home
from remoterun.agent.store.http_client import HttpClient, HttpError
from remoterun.agent.store.posting import Content, post
from remoterun.buckets import grants, runs
from remoterun.buckets.grants import Signer
from remoterun.buckets.incoming import BlobReceiver
from remoterun.buckets.place import BucketPlace
from remoterun.errors import NotFound, TransferError, UsageError
from remoterun.transfer import Progress, fetch, refuse
from tests.cloud.test_bucket import send
from tests.seaweed import Talk
from tests.workshop import Files, Place, read_files, served, sha256, spec_of, tree_of, until, write_files

KEY = "0" * 26
OTHER = "1" * 26


class Host:
    """What a run's host writes, with the run's grant alone."""

    def __init__(self, talk: Talk, key: str = KEY) -> None:
        self.talk, self.key = talk, key
        self.grant = Signer(talk.bucket).grant(key, 600)
        self.events: list[RunEvent] = []
        self.log_size = 0

    def post(self, key: str, data: bytes) -> None:
        with HttpClient() as web:
            post(web, self.grant, key, Content.of(data))

    def event(self, state: RunState, **fields: Any) -> None:
        self.events.append(RunEvent(t=time.time(), state=state, **fields))
        status = RunStatus(self.key, state, log_size=self.log_size, **fields)
        record = RunRecord(status, self.events, 16, time.time())
        self.post("status.json", json.dumps(to_json(record)).encode())

    def log(self, offset: int, data: bytes) -> None:
        self.post(layout.log_key(offset), data)
        self.log_size = max(self.log_size, offset + len(data))

    def outputs(self, files: Files) -> None:
        manifest, blobs = tree_of(files)
        scope = self.talk.bucket.contents.of_run(self.key)
        arrivals = BlobReceiver(self.talk.bucket.s3, self.talk.bucket.workers, scope)
        for digest, data in blobs.items():
            arrivals.take(Frame({"d": digest, "s": len(data)}, data))
        arrivals.end()
        self.post("outputs", manifest.encode())


@pytest.fixture
def talk(bucket: BucketPlace) -> Any:
    with Talk(bucket) as talk:
        yield talk


def followed(talk: Talk, **asked: Any) -> tuple[list[Any], api.Followed]:
    """What comes of a run: bytes of its log, and states."""
    found: list[Any] = []
    with talk.session.stream(api.follow, api.Follow(KEY, **asked)) as stream:
        stream.end()
        for frame in stream:
            if "log" in frame.header:
                found.append(bytes(frame.body))
            elif "event" in frame.header:
                found.append(frame.header["event"]["state"])
        return found, talk.session.result(api.follow, stream)


def next_second() -> int:
    """Blocks until it begins: the store tells whole seconds."""
    began = int(time.time())
    until(lambda: int(time.time()) > began)
    return began + 1


class TestStatus:
    def test_what_a_host_told_is_listed(self, talk: Talk) -> None:
        Host(talk).event(RunState.RUNNING)
        Host(talk, OTHER).event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        listed = talk.session.ask(api.runs, api.RunKeys()).runs
        assert {one.key: one.state for one in listed} == {KEY: RunState.RUNNING, OTHER: RunState.COMPLETE}
        assert [one.key for one in talk.session.ask(api.runs, api.RunKeys([OTHER, "2" * 26])).runs] == [OTHER]
        details = talk.session.ask(api.run, api.RunKey(OTHER))
        assert details.status.code == 0 and details.spec == {} and [one.state for one in details.events]

    def test_its_spec(self, talk: Talk) -> None:
        host, spec = Host(talk), spec_of("python train.py", key=KEY)
        host.event(RunState.RUNNING)
        host.post("spec.json", spec.encode())
        assert talk.session.ask(api.run, api.RunKey(KEY)).spec["command"] == "python train.py"

    def test_one_that_has_ended_can_be_stopped_no_more(self, talk: Talk) -> None:
        Host(talk).event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert not talk.session.ask(api.stop, api.EndRun(KEY)).asked
        Host(talk, OTHER).event(RunState.RUNNING)
        with pytest.raises(UsageError, match="is not reached"):
            talk.session.ask(api.kill, api.RunKey(OTHER))

    def test_a_run_is_removed_with_all_that_it_left(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        with pytest.raises(UsageError, match="the run is running"):
            talk.session.ask(api.remove_run, api.RunKey(KEY))
        host.outputs({"a": b"A"})
        host.log(0, b"log")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert talk.session.ask(api.remove_run, api.RunKey(KEY)).removed
        assert not talk.session.ask(api.remove_run, api.RunKey(KEY)).removed
        assert not list(talk.bucket.s3.list("runs/"))

    def test_the_end_of_one_whose_host_is_gone(self, talk: Talk) -> None:
        Host(talk).event(RunState.RUNNING)
        end = RunEvent(t=time.time(), state=RunState.INTERRUPTED, reason=Reason.PREEMPTED)
        runs.settle(talk.bucket.s3, KEY, end)
        found, done = followed(talk)
        assert found == ["running", "interrupted"] and done.status.reason is Reason.PREEMPTED
        other = end._replace(reason=Reason.HOST_LOST)
        assert runs.settle(talk.bucket.s3, KEY, other).status.reason is Reason.PREEMPTED  # it has an end


class TestLog:
    def test_pieces_that_overlap_come_whole_and_once(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        host.log(0, b"one\ntwo\n")
        host.log(4, b"two\nthree\n")
        host.log(4, b"two\nthree\nfour\n")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        found, done = followed(talk)
        assert found[0] == "running" and found[-1] == "complete"
        assert b"".join(found[1:-1]) == b"one\ntwo\nthree\nfour\n" and done.offset == 19 and done.events == 2
        assert b"".join(followed(talk, offset=14)[0][1:-1]) == b"four\n"

    def test_it_is_followed_until_the_run_ends(self, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "POLL", 0.05)
        host = Host(talk)
        host.event(RunState.RUNNING)
        pieces = [b"%d\n" % number for number in range(20)]

        def write() -> None:
            for piece in pieces:
                host.log(host.log_size, piece)
            host.event(RunState.SAVING)
            host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)

        writing = threading.Thread(target=write)
        writing.start()
        found, _ = followed(talk)
        writing.join(30)
        texts = [one for one in found if isinstance(one, bytes)]
        assert b"".join(texts) == b"".join(pieces)
        assert [one for one in found if isinstance(one, str)] == ["running", "saving", "complete"]
        assert found.index("running") == 0 and found[-2:] == ["saving", "complete"]

    def test_a_piece_that_is_missing_is_passed_over_at_the_end_only(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        host.log(0, b"one\n")
        host.log(8, b"three\n")
        assert followed(talk, follow=False)[0] == ["running", b"one\n"]
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert b"".join(one for one in followed(talk)[0] if isinstance(one, bytes)) == b"one\nthree\n"

    @pytest.mark.parametrize(("lines", "tail"), [(0, b""), (1, b"4\n"), (3, b"2\n3\n4\n"), (9, b"0\n1\n2\n3\n4\n")])
    def test_its_last_lines(self, talk: Talk, lines: int, tail: bytes) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        for number in range(5):
            host.log(2 * number, b"%d\n" % number)
        found, _ = followed(talk, tail=lines, follow=False)
        assert b"".join(one for one in found if isinstance(one, bytes)) == tail

    def test_what_was_written_since(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        host.log(0, b"old\n")
        moment = next_second()
        host.log(4, b"new\n")
        found, _ = followed(talk, since=moment, follow=False)
        assert found[-1] == b"new\n"
        with talk.session.stream(api.follow, api.Follow(KEY, follow=False, timed=True)) as stream:
            stream.end()
            times = [frame.header["t"] for frame in stream if "log" in frame.header]
        assert len(times) == 2 and times[0] < times[1] <= time.time() + 2

    def test_a_name_that_is_not_a_place_in_a_log(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.RUNNING)
        host.post("log/first", b"x")
        with pytest.raises(Exception, match="log/first"):
            followed(talk)


OUTPUTS: Files = {"model/weights": b"w" * 2_000_000, "small": b"s", "tool*": b"#!/bin/sh\n", "empty": b""}


class TestOutputs:
    def test_they_are_listed_and_copied(self, talk: Talk, bucket: BucketPlace, tmp_path: Path) -> None:
        host = Host(talk)
        host.event(RunState.SAVING)
        with pytest.raises(UsageError, match="are not in the bucket"):
            fetch(talk.session, ResourceRef("run", key=KEY, number=16), tmp_path / "early", refuse, Progress())
        host.outputs(OUTPUTS)
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0, kept=True)
        with Talk(bucket) as other:
            fetch(other.session, ResourceRef("run", key=KEY, number=16), tmp_path / "all", refuse, Progress())
            resource = ResourceRef("run", key=KEY, number=16, sub="model")
            fetch(other.session, resource, tmp_path / "part", refuse, Progress())
        assert read_files(tmp_path / "all") == OUTPUTS
        assert read_files(tmp_path / "part") == {"weights": OUTPUTS["model/weights"]}

    def test_a_run_that_is_not_there(self, talk: Talk, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            fetch(talk.session, ResourceRef("run", key=KEY), tmp_path / "all", refuse, Progress())


class TestGrants:
    def test_a_host_writes_below_its_run_and_nowhere_else(self, talk: Talk) -> None:
        host = Host(talk)
        host.post("log/0000000000000000", b"mine")
        for prefix in ("runs/" + OTHER + "/", "uploads/doom/", ""):
            with HttpClient() as web, pytest.raises(HttpError) as caught:
                post(web, host.grant._replace(prefix=prefix), "x", Content.of(b"x"))
            assert caught.value.status in (400, 403)
        assert [stored.key for stored in talk.bucket.s3.list("runs/")] == [f"runs/{KEY}/log/0000000000000000"]

    def test_what_did_not_arrive_as_it_was_sent_is_refused(self, talk: Talk) -> None:
        host = Host(talk)
        with HttpClient() as web, pytest.raises(HttpError):
            post(web, host.grant, "x", Content.of(b"sent")._replace(digest=sha256(b"meant")))
        assert not list(talk.bucket.s3.list("runs/"))

    def test_it_expires(self, talk: Talk) -> None:
        grant = Signer(talk.bucket).grant(KEY, 1)

        def expired() -> bool:
            with HttpClient() as web:
                try:
                    post(web, grant, "x", Content.of(b"x"))
                except HttpError as error:
                    return error.expired
            return False

        until(expired, 20, pause=0.2)

    def test_it_says_when(self, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the keys of a user a week holds; what ends with a session ends with that."""
        signer = Signer(talk.bucket, clock=lambda: 1000.0)
        assert signer.expires(60) == 1060.0
        assert signer.expires(1e9) == 1000.0 + grants.LONGEST == signer.grant(KEY, 1e9).expires
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-some-session")
        with_token = type(talk.bucket.s3)(talk.bucket.s3.place)
        monkeypatch.setattr(talk.bucket, "s3", with_token)
        assert Signer(talk.bucket, clock=lambda: 1000.0).expires(1e9) == 1000.0 + grants.UNKNOWN
        with_token.close()

    def test_the_key_of_a_run_only(self, talk: Talk) -> None:
        for key in ("", "x", "../../uploads", "A" * 26):
            with pytest.raises(Exception, match="is not the key of a run"):
                Signer(talk.bucket).grant(key, 60)


class TestParcels:
    def test_a_host_fetches_an_upload_by_itself(self, talk: Talk, tmp_path: Path) -> None:
        """Packs, objects of their own, chunks, and what is empty; each object is signed once."""
        chunk = b"c" * CHUNK
        files: Files = {f"{number}": b"%d" % number * 100 for number in range(500)}
        files |= {"empty": b"", "blob": b"b" * 2_000_000, "large": chunk + b"end"}
        send(talk.session, write_files(tmp_path / "source", files))
        manifest, _ = tree_of(files)
        lines = list(Signer(talk.bucket).parcels([entry.digest for entry in manifest.files], 600))
        urls = [parcel.url for line in lines for parcel in line.parcel]
        assert len(urls) == len(set(urls)) == 2 and len([one for line in lines for one in line.large]) == 2
        home = Home.open(str(tmp_path / "home"))
        with served(home) as link:
            stream = link.open("bring")
            for line in lines:
                stream.send(json.dumps(to_json(line)).encode() + b"\n")
            stream.end()
            assert from_json(api.Count, stream.finish(60)).blobs >= 503 - 1
        for entry in manifest.files:
            assert home.blobs.size(entry.digest) == entry.size

    def test_of_a_run_and_what_is_not_there(self, talk: Talk) -> None:
        host = Host(talk)
        host.event(RunState.SAVING)
        host.outputs(OUTPUTS)
        digests = [entry.digest for entry in tree_of(OUTPUTS)[0].files]
        assert len(list(Signer(talk.bucket).parcels(digests, 600, run=KEY))) == 3
        with pytest.raises(TransferError, match="is not in s3://"):
            list(Signer(talk.bucket).parcels([sha256(b"nowhere")], 600))

    def test_addresses_expire(self, talk: Talk, tmp_path: Path) -> None:
        send(talk.session, write_files(tmp_path / "source", {"a": b"A" * 1000}))
        (line,) = Signer(talk.bucket).parcels([sha256(b"A" * 1000)], 1)
        numbers = count()

        def expired() -> bool:
            with served(Home.open(str(tmp_path / f"home{next(numbers)}"))) as link:
                stream = link.open("bring")
                stream.send(json.dumps(to_json(line)).encode() + b"\n")
                stream.end()
                try:
                    stream.finish(60)
                except RemoteError as error:
                    return error.code == "expired"
            return False

        until(expired, 20, pause=0.2)


MAKES = (
    "mkdir model && seq 1 200 > model/weights && head -c 2000000 /dev/zero > zeros && printf '' > empty && seq 1 500"
)


def test_what_a_real_run_left_is_there_without_its_host(
    talk: Talk, bucket: BucketPlace, place: Place, tmp_path: Path
) -> None:
    """A supervisor puts it there with the run's grant alone; then its home is gone, and another client asks."""
    source = tree_of({})[0].encode()
    spec = place.spec(MAKES, bucket=bucket.address)
    grant = Signer(talk.bucket).grant(spec.key, 600)
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, source, grant).encode())
    status = place.until_final(spec.key, 60)
    assert status["state"] == "complete" and status["kept"]
    with Talk(bucket) as other:
        details = other.session.ask(api.run, api.RunKey(spec.key))
        assert details.spec["command"] == MAKES and details.status.kept and details.status.code == 0
        log = b""
        with other.session.stream(api.follow, api.Follow(spec.key)) as stream:
            stream.end()
            for frame in stream:
                log += frame.body
        assert log == place.log(spec.key) == b"".join(b"%d\n" % number for number in range(1, 501))
        fetch(other.session, ResourceRef("run", key=spec.key), tmp_path / "outputs", refuse, Progress())
        assert read_files(tmp_path / "outputs") == place.outputs(spec.key)
        assert other.session.ask(api.remove_run, api.RunKey(spec.key)).removed
