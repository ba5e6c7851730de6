"""The checklist for a real account, gone through in this cloud: it works, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cloud.cloud import Cloud
from tests.lab import BASE_IMAGE, LabHost
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]
STEP = 600.0
"""Seconds for one step, which has deadlines of its own, of 420 at the most, for all that it waits for."""

ROOT = Path(__file__).parents[2]


def start(cloud: Cloud, folder: Path, *options: str) -> subprocess.Popen[str]:
    cloud.s3.ready()
    home = folder / "user"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REMOTERUN_"))}
    with (folder / "talk").open("w") as talk, (folder / "report").open("w") as report:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.cloud_check", "--image", BASE_IMAGE, *options],
            cwd=ROOT,
            env={**kept, **cloud.environment(), "HOME": str(home), "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=talk,
            text=True,
        )


def said(checking: subprocess.Popen[str], folder: Path, pattern: str) -> str:
    """What `pattern` has found in its talk. Each step on the way there has its own time."""
    report, talk = folder / "report", folder / "talk"
    while not (found := re.search(pattern, talk.read_text())):
        before = report.read_text() + talk.read_text()
        if checking.poll() is not None:
            pytest.fail(f"it ended before {pattern}: {before}")
        goes_on = lambda text=before: checking.poll() is not None or report.read_text() + talk.read_text() != text  # noqa: E731
        until(goes_on, STEP, f"the next step before {pattern}: {before}")
    return found[1]


def ended(checking: subprocess.Popen[str], folder: Path) -> tuple[str, str]:
    """Its report and its talk."""
    assert checking.stdin is not None
    checking.stdin.close()
    checking.wait(STEP)
    return (folder / "report").read_text(), (folder / "talk").read_text()


def compare(cloud: Cloud, kept: Path) -> tuple[int, str]:
    """The day after."""
    words = [sys.executable, "-m", "tests.cloud_check", "--compare", str(kept)]
    env = {**os.environ, **cloud.environment()}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def bill_of_aws(cloud: Cloud, costs: dict[str, float]) -> None:
    """What Cost Explorer will say."""
    groups = [
        {"Keys": [f"remoterun:token${token}"], "Metrics": {"UnblendedCost": {"Amount": str(cost), "Unit": "USD"}}}
        for token, cost in costs.items()
    ]
    told = {"results": [{"ResultsByTime": [{"Groups": groups}]}]}
    address = f"{cloud.url}/moto-api/static/ce/cost-and-usage-results"
    urllib.request.urlopen(address, json.dumps(told).encode(), timeout=60).close()


def is_stopped(host: LabHost) -> bool:
    for each in host.processes():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if " T " in host.path(f"/proc/{each.pid}/stat").read_text():
                return True
    return False


def test_all_steps_and_nothing_is_left(cloud: Cloud, tmp_path: Path) -> None:
    """With a person who interrupts a spot host; and a host that hangs, in a cloud whose clock is put forward then."""
    kept = tmp_path / "kept.json"
    words = ("--idle", "30s", "--interrupt", "--hang", "0.1", "--save", str(kept))
    checking = start(cloud, tmp_path, *words)
    assert checking.stdin is not None
    checking.stdin.write("y\n")
    checking.stdin.flush()

    cloud.machine(said(checking, tmp_path, r"interrupt (i-\w+)")).notice(20)
    hung = cloud.machine(said(checking, tmp_path, r"(i-\w+) hangs"))
    assert hung.host is not None
    host = hung.host
    until(lambda: is_stopped(host), 60, "all its processes are stopped")
    cloud.clock = 290.0
    until(lambda: hung.state == "terminated", 400, "AWS itself ends it")
    cloud.clock = 0.0
    report, talk = ended(checking, tmp_path)
    assert checking.returncode == 0, report + talk
    assert "nothing left: yes" in report and "failed:       nothing" in report
    assert "account   123456789012" in talk and "login     a key in AWS's variables" in talk and "at most   $" in talk
    assert report.count("  ok  ") == 20, report
    assert cloud.left_behind() == [] and cloud.s3.buckets() == []
    assert [each for each in tmp_path.iterdir() if each.name.startswith("remoterun-cloud-check")] == []

    saved = json.loads(kept.read_text())
    assert len(saved["hosts"]) == 4 and saved["cost"] > 0
    status, compared = compare(cloud, kept)
    assert status == 1 and compared.count("not there yet") == 4 and "Cost allocation tags" in compared
    bill_of_aws(cloud, dict.fromkeys(saved["hosts"], saved["cost"] / 4))
    for times, verdict in ((1.0, "as said"), (0.8, "MORE")):
        kept.write_text(json.dumps({**saved, "cost": times * saved["cost"]}))
        status, compared = compare(cloud, kept)
        assert verdict in compared and status == (verdict != "as said")


def test_it_cleans_up_when_it_is_interrupted(cloud: Cloud, tmp_path: Path) -> None:
    cloud.sshd_seconds = 60
    checking = start(cloud, tmp_path, "-y")
    until(lambda: [each for each in cloud.alive() if each.state == "running"], 120, "a host boots")
    checking.send_signal(signal.SIGINT)
    report, talk = ended(checking, tmp_path)
    assert checking.returncode == 1, talk
    assert "nothing left: yes" in report and "failed:       interrupted" in report, report + talk
    assert cloud.left_behind() == [] and cloud.s3.buckets() == []


def test_a_no_does_nothing(cloud: Cloud, tmp_path: Path) -> None:
    checking = start(cloud, tmp_path)
    assert checking.stdin is not None
    checking.stdin.write("n\n")
    report, talk = ended(checking, tmp_path)
    assert checking.returncode == 1 and report == ""
    assert "Nothing was done" in talk
    assert cloud.machines == {} and cloud.s3.buckets() == []
