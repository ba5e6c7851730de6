"""Sizes, times, counts and names, as people read them."""

from __future__ import annotations

import datetime
import time

from remoterun.sizes import counted as counted
from remoterun.sizes import size as size


def duration(seconds: float) -> str:
    """A stretch of time for people: 0.4 s, 45 s, 17 min 3 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(then: float | None) -> str:
    """A moment for people: `2 hours ago`, a date after 14 days."""
    if then is None:
        return ""
    seconds = time.time() - then
    if seconds < 5:
        return "now"
    for limit, divisor, unit in (
        (90, 1, "second"),
        (5400, 60, "minute"),
        (129600, 3600, "hour"),
        (1209600, 86400, "day"),
    ):
        if seconds < limit:
            count = round(seconds / divisor)
            return f"{counted(count, unit)} ago"
    return datetime.datetime.fromtimestamp(then).strftime("%Y-%m-%d")


def moment(then: float | None) -> str | None:
    """A moment for people, to the second, in local time and with the name of its zone."""
    if then is None:
        return None
    return datetime.datetime.fromtimestamp(then).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def files(count: int) -> str:
    return counted(count, "file")


def name(path: str) -> str:
    """A path for people: quoted where a terminal would not show it as it is."""
    from remoterun.agent.shared.tree import show

    return show(path)


def word(text: str) -> str:
    """Text as one word of a shell line."""
    import shlex

    return shlex.quote(text)
