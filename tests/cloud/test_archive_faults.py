"""The archive when something goes wrong on the way, with the credentials, or with the client itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from remoterun.archive import s3, uploads
from remoterun.archive.objects import BucketPlace
from remoterun.errors import AuthenticationError, HostError, HostUnreachable
from tests.cloud.archives import SMALL_PACK, get, packs, put  # noqa: F401
from tests.seaweed import READER, READER_SECRET, SECRET, Store, Way, credentials, opened, s3_of
from tests.workshop import Files, read_files, until, write_files

FILES: Files = {f"{number:03}": os.urandom(100_000) for number in range(100)}
LARGE = 2 * SMALL_PACK + 1000

pytestmark = pytest.mark.usefixtures("small_packs")


def test_a_server_that_is_away_for_a_while_costs_time_only(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    files: Files = {"large": os.urandom(LARGE)}
    source = write_files(tmp_path / "source", files)
    with Way(store) as way, opened(way.place(bucket), patience=60) as archive:
        way.cut_after = LARGE // 2
        healing = threading.Thread(target=heal, args=(way,))
        healing.start()
        assert put(archive, source)[1]
        healing.join(60)
    with opened(bucket) as archive:
        get(archive, tmp_path / "back")
    assert read_files(tmp_path / "back") == files


def heal(way: Way) -> None:
    """Once it has failed some times."""
    until(lambda: way.failures >= 3, 60, "something goes wrong")
    way.mode = "pass"


def test_a_server_that_stays_away_is_an_error_and_the_next_try_goes_on(
    bucket: BucketPlace, store: Store, tmp_path: Path
) -> None:
    size = 5 * SMALL_PACK
    source = write_files(tmp_path / "source", {"large": os.urandom(size)})
    with Way(store) as way, opened(bucket) as directly:

        def cut() -> None:
            until(lambda: packs(directly), 60, "a pack is written")
            way.cut()

        way.hold_after("/packs/", 2)
        with opened(way.place(bucket), patience=0.5) as archive:
            cutting = threading.Thread(target=cut)
            cutting.start()
            with pytest.raises(HostUnreachable) as caught:
                put(archive, source)
            cutting.join(60)
            assert bucket.address in caught.value.message
        landed = len(packs(directly))
    with Way(store) as another, opened(another.place(bucket)) as archive:
        assert put(archive, source)[1]
    assert another.passed < size - landed * SMALL_PACK * 0.9


def test_errors_of_the_server_end_a_request_at_last(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way, opened(way.place(bucket), patience=0.5) as archive:
        way.cut("busy")
        with pytest.raises(HostUnreachable, match="SlowDown"):
            uploads.versions(archive, "doom")
        assert 1 <= way.failures <= 2, "the pauses between tries are 0.2 and 0.4 s"


def test_a_server_that_refuses_is_an_error_at_once(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way:
        way.cut("refuse")
        with pytest.raises(HostUnreachable) as caught, opened(way.place(bucket)):
            pass
        assert caught.value.hint == "check the network"
        assert 1 <= way.failures <= 4, "the pauses between tries are 0.2, 0.4, 0.8, and 1.6 s"


def test_a_server_that_is_silent(bucket: BucketPlace, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ", 0.5)
    with Way(store) as way, opened(way.place(bucket), patience=1) as archive:
        way.cut("silent")
        before = s3_of(archive).requests
        with pytest.raises(HostUnreachable, match="can't be reached"):
            uploads.versions(archive, "doom")
        assert 1 <= s3_of(archive).requests - before <= 2, "each takes half a second"


UPLOAD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from tests.cloud.archives import SMALL_PACK, put
from tests.seaweed import opened
from remoterun.archive import writing
from remoterun.archive.objects import BucketPlace
writing.PACK = SMALL_PACK
with opened(BucketPlace(sys.argv[1], "us-east-1", sys.argv[2])) as archive:
    put(archive, Path(sys.argv[3]))
"""


def test_a_client_that_was_killed_in_the_middle_twice_goes_on(
    bucket: BucketPlace, store: Store, tmp_path: Path
) -> None:
    """Whatever it has written of packs counts; nothing that it leaves is in the way."""
    files: Files = {f"{number:04}": os.urandom(100_000) for number in range(150)}
    source = write_files(tmp_path / "source", files)
    words = [sys.executable, "-c", UPLOAD, bucket.name]
    with Way(store) as way, opened(bucket) as directly:

        def kill_after(number: int) -> None:
            way.hold_after("/packs/", 1)
            with subprocess.Popen([*words, way.url, str(source), str(Path(__file__).parents[2])]) as process:
                try:
                    until(lambda: len(packs(directly)) >= number)
                finally:
                    process.kill()
            way.cut("pass")

        kill_after(1)
        kill_after(2)
        assert not uploads.versions(directly, "doom") and len(packs(directly)) == 2
        way.passed = 0
        with opened(way.place(bucket)) as archive:
            assert put(archive, source)[1]
        assert way.passed < 15_200_000 - 2 * 0.9 * SMALL_PACK
        get(directly, tmp_path / "back")
    assert read_files(tmp_path / "back") == read_files(source)


@pytest.mark.parametrize(
    ("key", "secret", "words"),
    [("NOBODY", SECRET, "credentials are not accepted"), ("AKTEST", "wrong", "are not accepted")],
)
def test_wrong_credentials(bucket: BucketPlace, key: str, secret: str, words: str) -> None:
    with credentials(key, secret), pytest.raises(AuthenticationError, match=words) as caught, opened(bucket):
        pass
    assert "aws configure" in str(caught.value.hint)


def test_no_credentials(bucket: BucketPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthenticationError, match="there are no AWS credentials"), opened(bucket):
        pass


def test_credentials_that_may_only_read(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with opened(bucket) as archive:
        put(archive, source)
    write_files(source, {"other": b"other"})
    with credentials(READER, READER_SECRET), opened(bucket) as archive:
        get(archive, tmp_path / "back")
        with pytest.raises(AuthenticationError, match="s3:PutObject"):
            put(archive, source)
    assert read_files(tmp_path / "back") == FILES


def test_credentials_that_expire_in_the_middle(bucket: BucketPlace, tmp_path: Path) -> None:
    """The upload ends with an error that says so, and goes on once there are new ones."""
    from botocore.exceptions import ClientError

    source = write_files(tmp_path / "source", {"large": os.urandom(LARGE)})
    expired = {"Error": {"Code": "ExpiredToken", "Message": "The provided token has expired."}}
    with opened(bucket) as archive:
        allowed = [2]

        def sign(**_: object) -> None:
            allowed[0] -= 1
            if allowed[0] < 0:
                raise ClientError(expired, "PutObject")

        s3_of(archive)._client.meta.events.register("before-sign.s3.PutObject", sign)
        with pytest.raises(AuthenticationError, match="login has expired") as caught:
            put(archive, source)
        assert "aws sso login" in str(caught.value.hint)
    with opened(bucket) as archive:
        assert put(archive, source)[1]


def test_a_closed_archive_ends_what_waits(bucket: BucketPlace, store: Store) -> None:
    with Way(store) as way, opened(way.place(bucket), patience=60) as archive:
        way.cut("refuse")
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                uploads.newest(archive)
            except HostError as error:
                errors.append(error)

        before = s3_of(archive).requests
        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: s3_of(archive).requests > before + 1)
        archive.close()
        thread.join(50)
        assert not thread.is_alive() and errors
