"""Logins that are more than a key: a role with an MFA device, and a program that gives credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pexpect
import pytest

from remoterun.archive.objects import BucketPlace
from remoterun.archive.s3 import S3
from remoterun.clouds.aws.calls import Calls
from remoterun.clouds.aws.front import Settings

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

pytestmark = pytest.mark.lab

CONFIG = """\
[profile owner]
aws_access_key_id = {key}
aws_secret_access_key = {secret}
[profile boss]
role_arn = {role}
source_profile = owner
mfa_serial = arn:aws:iam::123456789012:mfa/me
[profile program]
credential_process = {program}
"""


@pytest.fixture
def profiles(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose profiles are in a file; its folder."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    trusted = {"Effect": "Allow", "Principal": {"AWS": cloud.arn}, "Action": "sts:AssumeRole"}
    made = boto3.client("iam").create_role(
        RoleName="boss", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    )
    given = {
        "Version": 1,
        "AccessKeyId": cloud.user.key,
        "SecretAccessKey": cloud.user.secret,
    }
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\ncat <<END\n{json.dumps(given)}\nEND\n")
    program.chmod(0o755)
    (tmp_path / "config").write_text(
        CONFIG.format(key=cloud.user.key, secret=cloud.user.secret, role=made["Role"]["Arn"], program=program)
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REMOTERUN_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_program_that_gives_credentials_runs_once_a_process(profiles: Path) -> None:
    calls = Calls(Settings(profile="program"))
    assert calls("sts", "get_caller_identity", calls.region)["Account"] == "123456789012"
    calls("ec2", "describe_instances", "eu-central-1")
    with_bucket = S3(BucketPlace("a-bucket", profile="program"))
    assert with_bucket.presigned_get("key", 60).startswith("http") and with_bucket.credentials_end() is None
    assert (profiles / "asked").read_text() == "asked\n"


def test_a_login_that_is_changed_is_taken_at_once(
    profiles: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Calls(Settings(profile="owner"))("sts", "get_caller_identity", "us-east-1")
    login = cloud.login(3600)
    lines = f"aws_access_key_id = {login.key}\naws_secret_access_key = {login.secret}\n"
    config = profiles / "config"
    config.write_text(f"[profile owner]\n{lines}aws_session_token = {login.session}\n")
    Calls(Settings(profile="owner"))("ec2", "describe_instances", "us-east-1")
    assert cloud.calls[-1].key == login.key


def test_a_role_asks_for_its_code_once_and_keeps_the_login_for_the_next_command(profiles: Path, cloud: Cloud) -> None:
    (profiles / "home").mkdir(mode=0o700)
    (profiles / "home" / "config.toml").write_text('[aws]\nprofile = "boss"\nbucket = "a-bucket"\n')
    doctor = [sys.executable, "-m", "remoterun.cli.main", "doctor", "aws"]
    alone = subprocess.run(doctor, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True)
    assert "asks for an MFA code, and there is no terminal" in alone.stdout and alone.returncode == 1, alone
    asked = []
    for code in ("123456", None):
        terminal = pexpect.spawn(doctor[0], doctor[1:], timeout=120, env=dict(os.environ), dimensions=(40, 200))
        if code is not None:
            terminal.expect("Enter MFA code for arn:aws:iam::123456789012:mfa/me: ")
            terminal.sendline(code)
        terminal.expect(pexpect.EOF)
        terminal.close()
        asked.append(terminal.before)
    assert all(b"MFA" not in said and b"assumed-role/boss" in said for said in asked), asked
    (call,) = cloud.calls_of("AssumeRole")
    assert call.parameters["TokenCode"] == "123456"
    assert len(list((profiles / ".aws" / "cli" / "cache").iterdir())) == 1
