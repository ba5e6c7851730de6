"""The questions to Hugging Face, asked of its stand-in: they work, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud.gateway import Gateway
from tests.rented_jobs import Jobs
from tests.seaweed import KEY, SECRET, Store, mounted
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def start(jobs: Jobs, folder: Path, *options: str, **more: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REMOTERUN_"))}
    with (folder / "talk").open("w") as talk:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.hf_check", "--idle", "5s", "--ssh", f"127.0.0.1:{jobs.port}", *options],
            cwd=ROOT,
            env={**kept, **jobs.variables, "TMPDIR": str(folder), **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
        )


def test_all_questions_and_nothing_is_left(tmp_path: Path, store: Store) -> None:
    bucket = store.new_bucket()
    with (
        Jobs(tmp_path / "hf") as jobs,
        Gateway(store.url, "lisa") as door,
        mounted(store, bucket.name, tmp_path / "bucket") as folder,
    ):
        jobs.buckets[f"lisa/{bucket.name}"] = folder
        jobs.hurries = 4.0
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        words = ("--bucket", f"lisa/{bucket.name}", "--buckets", door.url, "--profile", "", "--size", "30000000")
        asking = start(jobs, tmp_path, *words, "--session", "0.05", "--alone", "3", **keys)
        report, _ = asking.communicate("y\n", timeout=500)
        talk = (tmp_path / "talk").read_text()
        assert asking.returncode == 0, report + talk
        assert "nothing left: yes" in report and "failed:       nothing" in report
        assert "account   lisa" in talk and "at most   $" in talk
        assert report.count("  ok  ") == 16, report
        assert not jobs.alive() and len(jobs.jobs) == 4
    assert [each for each in tmp_path.iterdir() if each.name.startswith("remoterun-hf-check")] == []


def test_it_ends_its_hosts_when_it_is_interrupted(tmp_path: Path) -> None:
    with Jobs(tmp_path / "hf") as jobs:
        jobs.waits = 60.0
        asking = start(jobs, tmp_path, "-y")
        until(lambda: jobs.alive(), 120, "a host is asked for")
        asking.send_signal(signal.SIGINT)
        report, _ = asking.communicate(timeout=300)
        assert asking.returncode == 1 and "failed:       interrupted" in report, report
        assert "nothing left: yes" in report and not jobs.alive()
