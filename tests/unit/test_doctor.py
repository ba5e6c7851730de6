"""What the agent finds out about its machine, where that takes thought."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.agent.upkeep.doctor import kills_user_processes
from tests.workshop import Files, write_files

YES, NO = "[Login]\nKillUserProcesses=yes\n", "[Login]\n# KillUserProcesses=yes\nKillUserProcesses = no\n"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, False),
        ({"etc/systemd/logind.conf": "[Login]\n#KillUserProcesses=yes\n"}, False),
        ({"usr/lib/systemd/logind.conf": YES}, True),
        ({"usr/lib/systemd/logind.conf": YES, "etc/systemd/logind.conf": NO}, False),
        ({"etc/systemd/logind.conf": NO, "run/systemd/logind.conf.d/x.conf": YES}, True),
        ({"usr/lib/systemd/logind.conf.d/20.conf": YES, "etc/systemd/logind.conf.d/10.conf": NO}, True),
        ({"usr/lib/systemd/logind.conf.d/20.conf": YES, "etc/systemd/logind.conf.d/20.conf": NO}, False),
        ({"etc/systemd/logind.conf.d/x": YES}, False),
        ({"etc/systemd/logind.conf.d/x.conf": "\xff\n" + YES}, True),
    ],
)
def test_systemd_that_ends_what_a_user_leaves_behind(tmp_path: Path, files: Files, kills: bool) -> None:
    write_files(tmp_path, files)
    assert kills_user_processes(str(tmp_path)) is kills
