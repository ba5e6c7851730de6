"""A home in a bucket when something goes wrong on the way, with the credentials, or with the client itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.buckets import s3
from remoterun.buckets.place import BucketPlace
from remoterun.buckets.s3 import NoBucket
from remoterun.errors import AuthenticationError, HostError, HostUnreachable
from tests.cloud.test_bucket import copy, keys, send
from tests.seaweed import READER, READER_SECRET, SECRET, SMALL_CHUNK, Store, Talk, Way, credentials
from tests.workshop import Files, read_files, until, write_files

FILES: Files = {f"{number:03}": os.urandom(100_000) for number in range(100)}
LARGE = 2 * SMALL_CHUNK + 1000

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_a_server_that_is_away_for_a_while_costs_time_only(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    files: Files = {"large": os.urandom(LARGE)}
    source = write_files(tmp_path / "source", files)
    with Way(store) as way, Talk(way.place(bucket), patience=60) as talk:
        way.cut_after = LARGE // 2
        healing = threading.Thread(target=heal, args=(way,))
        healing.start()
        assert send(talk.session, source).created
        healing.join(60)
    with Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == files


def heal(way: Way) -> None:
    """Once it has failed some times."""
    until(lambda: way.failures >= 3, 60, "something goes wrong")
    way.mode = "pass"


def test_a_server_that_stays_away_is_an_error_and_the_next_try_goes_on(
    bucket: BucketPlace, store: Store, tmp_path: Path
) -> None:
    size = 5 * SMALL_CHUNK
    source = write_files(tmp_path / "source", {"large": os.urandom(size)})

    def cut() -> None:
        until(lambda: keys(bucket, store, "blobs/"), 60, "a chunk is written")
        way.cut()

    with Way(store) as way:
        way.hold_after("/blobs/", 2)
        with Talk(way.place(bucket), patience=0.5) as talk:
            cutting = threading.Thread(target=cut)
            cutting.start()
            with pytest.raises(HostUnreachable) as caught:
                send(talk.session, source)
            cutting.join(60)
            assert bucket.address in caught.value.message
        landed = len(keys(bucket, store, "blobs/"))
        way.mode = "pass"
        way.passed = 0
        with Talk(way.place(bucket)) as talk:
            assert send(talk.session, source).created
        assert way.passed < size - landed * SMALL_CHUNK * 0.9


def test_errors_of_the_server_are_waited_out(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with Way(store) as way, Talk(way.place(bucket), patience=60) as talk:
        way.cut("busy")
        healing = threading.Thread(target=heal, args=(way,))
        healing.start()
        assert send(talk.session, source).created
        healing.join(60)
        assert copy(talk.session, tmp_path / "back") == FILES


def test_errors_of_the_server_end_a_request_at_last(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way, Talk(way.place(bucket), patience=0.5) as talk:
        way.cut("busy")
        with pytest.raises(HostUnreachable, match="SlowDown"):
            talk.session.versions("doom")
        assert 1 <= way.failures <= 2, "the pauses between tries are 0.2 and 0.4 s"


def test_a_server_that_refuses_is_told_at_once(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way:
        way.cut("refuse")
        with pytest.raises(HostUnreachable) as caught:
            Talk(way.place(bucket))
        assert caught.value.hint == "check the network"
        assert 1 <= way.failures <= 4, "the pauses between tries are 0.2, 0.4, 0.8, and 1.6 s"


def test_a_server_that_is_silent(bucket: BucketPlace, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ", 0.5)
    with Way(store) as way, Talk(way.place(bucket), patience=1) as talk:
        way.cut("silent")
        before = talk.requests
        with pytest.raises(HostUnreachable, match="can't be reached"):
            talk.session.versions("doom")
        assert 1 <= talk.requests - before <= 2, "each takes half a second"


UPLOAD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from tests.cloud.test_bucket import send
from tests.seaweed import Talk
from remoterun.buckets.place import BucketPlace
with Talk(BucketPlace(sys.argv[1], "us-east-1", sys.argv[2])) as talk:
    send(talk.session, Path(sys.argv[3]))
"""


def test_a_client_that_was_killed_in_the_middle_twice_goes_on(
    bucket: BucketPlace, store: Store, tmp_path: Path
) -> None:
    """Whatever it has written of packs and chunks counts; nothing that it leaves is in the way."""
    files: Files = {f"{number:04}": os.urandom(100_000) for number in range(1000)}
    source = write_files(tmp_path / "source", files)
    words = [sys.executable, "-c", UPLOAD, bucket.name]

    def packs() -> int:
        return len(keys(bucket, store, "index/"))

    def kill_after(number: int) -> None:
        way.hold_after("/index/", 1)
        with subprocess.Popen([*words, way.url, str(source), str(Path(__file__).parents[2])]) as process:
            try:
                until(lambda: packs() >= number)
            finally:
                process.kill()
        way.cut("pass")

    with Way(store) as way:
        kill_after(1)
        kill_after(2)
        with Talk(bucket) as talk:
            assert not talk.session.versions("doom")
        assert packs() == 2
        way.passed = 0
        with Talk(way.place(bucket)) as talk:
            assert send(talk.session, source).created
        assert way.passed < (102 << 20) - 2 * (30 << 20)
    with Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == read_files(source)


@pytest.mark.parametrize(
    ("key", "secret", "words"),
    [("NOBODY", SECRET, "does not accept the AWS credentials"), ("AKTEST", "wrong", "does not accept")],
)
def test_wrong_credentials(bucket: BucketPlace, key: str, secret: str, words: str) -> None:
    with credentials(key, secret), pytest.raises(AuthenticationError, match=words) as caught:
        Talk(bucket)
    assert "aws configure" in str(caught.value.hint)


def test_no_credentials(bucket: BucketPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthenticationError, match="there are no AWS credentials"):
        Talk(bucket)


def test_credentials_that_may_only_read(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with Talk(bucket) as talk:
        send(talk.session, source)
    write_files(source, {"other": b"other"})
    with credentials(READER, READER_SECRET), Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == FILES
        with pytest.raises(AuthenticationError, match="s3:PutObject"):
            send(talk.session, source)


def test_credentials_that_expire_in_the_middle(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    """The upload ends with an error that says so, and goes on once there are new ones."""
    from botocore.exceptions import ClientError

    source = write_files(tmp_path / "source", {"large": os.urandom(LARGE)})
    expired = {"Error": {"Code": "ExpiredToken", "Message": "The provided token has expired."}}
    with Talk(bucket) as talk:
        allowed = [2]

        def sign(**_: object) -> None:
            allowed[0] -= 1
            if allowed[0] < 0:
                raise ClientError(expired, "PutObject")

        talk.bucket.s3._client.meta.events.register("before-sign.s3.PutObject", sign)
        with pytest.raises(AuthenticationError, match="have expired") as caught:
            send(talk.session, source)
        assert "aws sso login" in str(caught.value.hint)
    with Talk(bucket) as talk:
        assert send(talk.session, source).created


def test_there_is_no_such_bucket(store: Store) -> None:
    with pytest.raises(NoBucket, match="there is no bucket s3://nowhere-at-all"):
        Talk(BucketPlace("nowhere-at-all", "us-east-1", store.url))


def test_a_closed_conversation_ends_what_waits(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way:
        talk = Talk(way.place(bucket), patience=60)
        way.cut("refuse")
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                talk.session.ask(api.uploads, api.Nothing())
            except HostError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: talk.requests > 2)
        talk.session.close()
        thread.join(50)
        assert not thread.is_alive() and errors
