"""What a store answers, or keeps it from answering, as our errors; and what is signed for a host. No store is asked."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import botocore.auth
import botocore.exceptions
import botocore.signers
import pytest

from remoterun.agent.shared.archive import MOST_OBJECT, Grant
from remoterun.agent.store.host_role import LASTS, Credentials, signed_form
from remoterun.archive.objects import Absent, BucketPlace
from remoterun.archive.s3 import S3
from remoterun.archive.s3_errors import answered, failed
from remoterun.errors import (
    AuthenticationError,
    ConfigError,
    HostError,
    HostUnreachable,
)
from tests.recorder import Recorded
from tests.seaweed import asked, credentials

PLACE = BucketPlace("bench", "us-east-1", "http://127.0.0.1:1")


def test_what_the_store_answers(recorded: Recorded) -> None:
    def error(case: str) -> Exception:
        code, _, status = case.rpartition(" ")
        answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": int(status)}}
        found = answered(answer, PLACE.name, "PutObject", "packs/x")
        assert isinstance(found, Absent) or "\n" not in str(found)
        return found

    recorded.cases(error)


def test_a_text_of_the_store_controls_no_terminal() -> None:
    answer = {"Error": {"Code": "Whatever", "Message": "\x1b[2Jgone" * 100}}
    assert (
        "\x1b" not in str(answered(answer, PLACE.name, "PutObject", ""))
        and len(str(answered(answer, PLACE.name, "", ""))) < 2000
    )


def test_a_login_that_has_ended() -> None:
    error = failed(botocore.exceptions.LoginRefreshRequired(), PLACE.name, None)
    assert type(error) is AuthenticationError and "login has expired" in str(error)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    s3 = S3(PLACE, patience=0)
    with pytest.raises(HostUnreachable, match="s3://bench can't be reached"):
        s3.get("x", 1)
    assert s3.requests == 1
    s3.close()


def test_a_profile_and_an_endpoint_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(AuthenticationError, match="no AWS profile `nobody`"):
        S3(BucketPlace("bench", profile="nobody"))
    with pytest.raises(HostError, match="can't be asked"):
        S3(BucketPlace("bench", "us-east-1", "not an address"))


def test_addresses_that_are_not_of_a_bucket(recorded: Recorded) -> None:
    for address in ("bench", "s3://", "s3://A", "s3://../x", "s3://x/y", "gs://bench"):
        with recorded.raises(ConfigError, address):
            BucketPlace.of(address)


@pytest.mark.parametrize(
    ("place", "server"),
    [
        (BucketPlace("mine", "eu-west-1"), "https://mine.s3.eu-west-1.amazonaws.com/"),
        (BucketPlace("mine", "us-east-1"), "https://mine.s3.amazonaws.com/"),
        (BucketPlace("mine", "us-east-1", "http://127.0.0.1:9"), "http://127.0.0.1:9/mine"),
    ],
)
def test_it_is_the_one_of_the_region(place: BucketPlace, server: str) -> None:
    """One that sends whoever asks elsewhere is of no use: a host follows no redirect."""
    with credentials(), asked(place) as s3:
        assert s3.presigned_post("runs/a/", 60, 100)[0] == server
        assert s3.presigned_get("a", 60).startswith(server.rstrip("/") + "/a?")


PREFIX = "hosts/AROAEXAMPLE:i-0123456789abcdef0/00000000000000000000000000/"


@pytest.mark.parametrize("token", ["", "a/token+of=a-session"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_it_is_what_botocore_signs(token: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 30, 2, 5, 9, tzinfo=UTC)
    for module in (botocore.auth, botocore.signers):
        monkeypatch.setattr(module, "get_current_datetime", lambda remove_tzinfo=True: now)
    given = {"ACCESS_KEY_ID": "AKIDEXAMPLE", "SECRET_ACCESS_KEY": "a/secret+key", "SESSION_TOKEN": token}
    for name, value in given.items():
        monkeypatch.setenv("AWS_" + name, value)
    if not token:
        monkeypatch.delenv("AWS_SESSION_TOKEN")
    s3 = S3(BucketPlace("mine", region))
    url, fields = s3.presigned_post(PREFIX, LASTS, MOST_OBJECT)
    s3.close()
    grant = Grant(url, {}, PREFIX, 0.0, "mine", region)
    credentials = Credentials("AKIDEXAMPLE", "a/secret+key", token, 0.0)
    assert signed_form(grant, credentials, now.timestamp()) == fields
