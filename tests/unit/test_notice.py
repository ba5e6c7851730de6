"""The bell and the notice on the desktop when a run ends that somebody follows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.cli.follow import LONG, command, notice
from remoterun.model import MachineType, Run
from tests.workshop import write_files


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], tuple[bytes, list[str]]]:
    """(what a terminal got, the words that the desktop got) when a run ends."""
    write_files(tmp_path, {"notify-send*": '#!/bin/sh\nprintf "%s\\n" "$@" >"${0%/*}/words"\n'})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")

    def tell(run: Run) -> tuple[bytes, list[str]]:
        here, there = os.openpty()
        try:
            with open(there, "w", closefd=False) as terminal, monkeypatch.context() as patch:
                patch.setattr(sys, "stderr", terminal)
                notice(run)
                terminal.write("|")
            words = (tmp_path / "words").read_text().splitlines() if (tmp_path / "words").exists() else []
            said = b""
            while not said.endswith(b"|"):
                said += os.read(here, 100)
            return said, words
        finally:
            os.close(here)
            os.close(there)

    return tell


def ended(lasted: float, ago: float = 0.0) -> Run:
    now = time.time() - ago
    return Run(16, "k", RunState.FAILED, MachineType("box"), "true", now - lasted, code=3, ended=now)


def test_a_long_run(told: Callable[[Run], tuple[bytes, list[str]]]) -> None:
    assert told(ended(LONG + 1)) == (b"\a|", ["--app-name=remoterun", "run 16 failed (3)", "on box"])


@pytest.mark.parametrize("run", [ended(LONG - 10), ended(1000, ago=100), ended(1000)._replace(ended=None)])
def test_what_is_no_news(told: Callable[[Run], tuple[bytes, list[str]]], run: Run) -> None:
    assert told(run) == (b"|", [])


def test_no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert command("a", "b") == []
