"""The words for what Slurm says. That it is asked right: integration/test_slurm.py."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from remoterun.agent.running.queues.slurm_commands import JobLine, gpus_in, nodes, seconds_of, why


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("Priority", "runs before it have a higher priority"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "a node that it needs is down, or reserved"),
        ("AssocGrpGRES", "all the GPUs that your account allows are taken"),
        ("MaxGRESPerAccount", "all the GPUs that your account allows are taken"),
        ("QOSMaxCpuPerUserLimit", "all the CPUs that its QOS allows a user are taken"),
        ("QOSGrpMemLimit", "all the memory that its QOS allows is used up"),
        ("AssocGrpCPUMinutesLimit", "all the time that your account allows is used up"),
        ("QOSMaxSubmitJobPerUserLimit", "all the runs that its QOS allows a user are taken"),
        ("QOSMaxWallDurationPerJobLimit", "it asks for more time than its QOS allows a run"),
        ("", "it has just come"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_why_a_run_waits(word: str, words: str) -> None:
    assert why(JobLine("rr-x", "PENDING", "N/A", word)) == words


def test_when_it_is_expected_to_start() -> None:
    start = time.localtime(time.time() + 3600)
    said = why(JobLine("rr-x", "PENDING", time.strftime("%Y-%m-%dT%H:%M:%S", start), "Resources"))
    assert said.endswith(time.strftime("it is expected to start at %H:%M", start))


def test_odd_lines_of_sinfo_are_no_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the banner of a site."""
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho Welcome\necho 'main*|idle|gpu:2|64+|1000|infinite|n1'\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (node,) = nodes()
    assert (node.partition, node.cpus, node.gpus, node.memory) == ("main", 64, 2, 1000 << 20)
    assert seconds_of("9" * 300 + "-00:00:00") is None and seconds_of("1-00:00:01") == 86401


@pytest.mark.parametrize(
    ("gres", "count"),
    [("gpu:a100:2(S:0-1)", 2), ("gres/gpu:2", 2), ("gres:gpu:a100:1", 1), ("gpu", 1), ("(null)", 0), ("", 0)],
)
def test_gpus(gres: str, count: int) -> None:
    assert gpus_in(gres) == count
