"""The plugin by which a session of pytest reports to `gate.py`: a file with a line of JSON for each event."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from tests.gate import VARIABLE

LAST_LINES = 15


def pytest_configure(config: pytest.Config) -> None:
    """For `conftest.py`. What the session starts does not see the variable, nor do the workers of xdist."""
    path = os.environ.pop(VARIABLE, None)
    if path is not None:
        config.pluginmanager.register(Recording(path))


class Recording:
    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)

    def _write(self, **what: Any) -> None:
        self._file.write(json.dumps(what) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:  # with xdist it is the workers that collect
            self._write(tests=[item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._write(tests=list(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(begins=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        failed = report.longreprtext.splitlines()[-LAST_LINES:] if report.failed else None
        self._write(test=report.nodeid, outcome=report.outcome, seconds=report.duration, failed=failed)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(ends=nodeid)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(over=int(exitstatus))

    def pytest_unconfigure(self) -> None:
        self._file.close()
