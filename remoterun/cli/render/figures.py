"""Sizes, times, counts, amounts and names, as people read them."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING

from remoterun.sizes import counted as counted
from remoterun.sizes import size as size

if TYPE_CHECKING:
    pass


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


def brief(seconds: float) -> str:
    """A stretch of time in a table: 0.4s, 45s, 1m11s, 2h5m, 3d4h."""
    return duration(seconds).replace(" min", "m").replace(" ", "")


def brief_ago(then: float) -> str:
    """A moment in a table: `5m ago`; a date after 14 days."""
    return re.sub(r"(\d+) (minute|[shd])\S*", lambda found: found[1] + found[2][0], ago(then))


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


def dollars(amount: float | None) -> str:
    """An amount for people: $12.62, $0.004, <$0.001; "" for one that is not known."""
    if amount is None:
        return ""
    if 0 < amount < 0.001:
        return "<$0.001"
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.2g}"


def hourly(price: float | None) -> str:
    """A price for people, with all of its digits: $0.526/h, $63.30/h."""
    if price is None:
        return "price not known"
    if 0 < price < 0.001:
        return "<$0.001/h"
    whole, _, part = f"{price:.4f}".rstrip("0").partition(".")
    return f"${whole}.{part:0<2}/h"


def hours(count: float) -> str:
    """`24 h`, `1 h 30 min`, `10 min`."""
    if count == round(count, 1) and count >= 1:
        return f"{count:g} h"
    return duration(count * 3600).removesuffix(" 0 s").removesuffix(" 0 min")
