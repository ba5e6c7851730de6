"""Showing something again and again, as `ps --watch` does."""

from __future__ import annotations

import time
from collections.abc import Callable

from remoterun.cli import render

EVERY = 2.0
"""Seconds between two looks."""


def until_interrupted(look: Callable[[], Callable[[], None]]) -> int:
    """Look, and show what was seen by calling what `look` returned, every two seconds until ^C. Returns 0."""
    try:
        while True:
            begun = time.monotonic()
            show = look()
            render.new_page()
            show()
            render.finish()
            time.sleep(max(EVERY - (time.monotonic() - begun), 0.1))
    except KeyboardInterrupt:
        render.line("")
        return 0
