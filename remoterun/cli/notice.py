"""A bell and a notice on the desktop, when a long run ends that somebody follows, who may look at something else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time

from remoterun.cli import render
from remoterun.model import Run

LONG = 60.0
"""Seconds from which on a run is long."""
JUST_NOW = 10.0
"""Seconds after its end in which that is news."""
PATIENCE = 5.0
_SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")


def notice(run: Run) -> None:
    """Tell of the end of a run, unless it was short, or ended a while ago. Never fails."""
    if run.ended is None or run.ended - run.created < LONG or abs(time.time() - run.ended) > JUST_NOW:
        return
    render.bell()
    words = command(f"run {run.number} {render.state_text(run)}", f"on {run.machine.name}")
    if words:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            nothing = subprocess.DEVNULL
            subprocess.run(words, stdin=nothing, stdout=nothing, stderr=nothing, timeout=PATIENCE, check=False)


def command(title: str, text: str) -> list[str]:
    """The words that show a notice on the desktop in front of us; none where there is no desktop."""
    if sys.platform == "darwin":
        here = "SSH_CONNECTION" not in os.environ and shutil.which("osascript")
        lines = [word for line in _SCRIPT for word in ("-e", line)]
        return ["osascript", *lines, title, text] if here else []
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["notify-send", "--app-name=remoterun", title, text] if shown and shutil.which("notify-send") else []
