"""Showing an address in the person's browser, where there is one to open."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping

_OPENERS = ("xdg-open", "x-www-browser", "firefox", "chromium", "google-chrome")


def show(address: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser was started. It gets no terminal: one that would draw in ours can't."""
    words = _words(environ)
    if words is None:
        return False
    words = (
        [word.replace("%s", address) for word in words] if any("%s" in word for word in words) else [*words, address]
    )
    try:
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def far_away(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the person sits at another machine, whose browser does not reach an address of this one."""
    return "SSH_CONNECTION" in environ and not environ.get("BROWSER")


def _words(environ: Mapping[str, str]) -> list[str] | None:
    """The command that opens an address: $BROWSER; the desktop's own; None where there is no desktop."""
    chosen = environ.get("BROWSER", "").split(os.pathsep)[0]
    if chosen:
        try:
            return shlex.split(chosen)
        except ValueError:
            return None
    if far_away(environ):
        return None
    if sys.platform == "darwin":
        return ["open"]
    names = _OPENERS if environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") else ("wslview",)
    found = next((name for name in names if shutil.which(name)), None)
    return [found] if found else None
