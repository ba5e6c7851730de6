"""The form that a host signs by its role: it is the one that AWS's own library would sign."""

from __future__ import annotations

from datetime import UTC, datetime

import botocore.auth
import botocore.signers
import pytest

from remoterun.agent.shared.archive import MOST_OBJECT, Grant
from remoterun.agent.store.host_role import LASTS, Credentials, signed_form
from remoterun.archive.objects import BucketPlace
from remoterun.archive.s3 import S3

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
