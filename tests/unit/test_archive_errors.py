"""What a store answers, and what keeps it from answering, as our errors; no store is asked."""

from __future__ import annotations

import os
from pathlib import Path

import botocore.exceptions
import pytest

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
