"""The checklist for a real account, gone through in this cloud: it works, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud.cloud import Cloud
from tests.lab import BASE_IMAGE
from tests.lab.process import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def start(cloud: Cloud, folder: Path, *options: str) -> subprocess.Popen[str]:
    cloud.s3.ready()
    home = folder / "user"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REMOTERUN_"))}
    with (folder / "talk").open("w") as talk:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.cloud_check", "--image", BASE_IMAGE, *options],
            cwd=ROOT,
            env={**kept, **cloud.environment(), "HOME": str(home), "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
        )


def test_all_steps_and_nothing_is_left(cloud: Cloud, tmp_path: Path) -> None:
    checking = start(cloud, tmp_path, "--idle", "60s", "--spot")
    report, _ = checking.communicate("y\n", timeout=580)
    talk = (tmp_path / "talk").read_text()
    assert checking.returncode == 0, report + talk
    assert "nothing left: yes" in report and "failed:       nothing" in report
    assert "account   123456789012" in talk and "at most   $" in talk
    assert report.count("  ok  ") == 17, report
    assert cloud.left_behind() == [] and cloud.s3.buckets() == []
    assert [each for each in tmp_path.iterdir() if each.name.startswith("remoterun-cloud-check")] == []


def test_it_cleans_up_when_it_is_interrupted(cloud: Cloud, tmp_path: Path) -> None:
    cloud.sshd_seconds = 60
    checking = start(cloud, tmp_path, "-y")
    until(lambda: [each for each in cloud.alive() if each.state == "running"], 120, "a host boots")
    checking.send_signal(signal.SIGINT)
    report, _ = checking.communicate(timeout=300)
    talk = (tmp_path / "talk").read_text()
    assert checking.returncode == 1, talk
    assert "nothing left: yes" in report and "failed:       interrupted" in report, report + talk
    assert cloud.left_behind() == [] and cloud.s3.buckets() == []


def test_a_no_does_nothing(cloud: Cloud, tmp_path: Path) -> None:
    checking = start(cloud, tmp_path)
    report, _ = checking.communicate("n\n", timeout=300)
    assert checking.returncode == 1 and report == ""
    assert "Nothing was done" in (tmp_path / "talk").read_text()
    assert cloud.machines == {} and cloud.s3.buckets() == []
