"""Sizes, counts and moments as people read them, in tables, in messages and in files; moments as programs read them."""

from __future__ import annotations

import datetime
from typing import overload

from remoterun.agent.shared.asked import duration as duration

LAST_MOMENT = 253402300799
"""The end of the year 9999."""


def size(count: float) -> str:
    """Bytes for people: 308 KB, 1.2 GB (powers of 1000)."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    if unit == "bytes":
        return counted(int(count), "byte")
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def dollars(amount: float | None) -> str:
    """An amount for people: $12.62, $0.526, $0.0042, <$0.001; "" for one that is not known."""
    if amount is None:
        return ""
    if 0 < amount < 0.001:
        return "<$0.001"
    if amount >= 1 or not amount:
        return f"${amount:,.2f}"
    whole, _, part = (f"{amount:.3f}" if amount >= 0.1 else f"{amount:.2g}").partition(".")
    return f"${whole}.{part[:2]:0<2}{part[2:].rstrip('0')}"


def hourly(price: float | None) -> str:
    """A price for people, with all of its digits: $0.526/h, $63.30/h."""
    if price is None:
        return "price not known"
    if 0 < price < 0.001:
        return "<$0.001/h"
    whole, _, part = f"{price:.4f}".rstrip("0").partition(".")
    return f"${whole}.{part:0<2}/h"


def clock(moment: float) -> str:
    """A moment in a file for others, by the clock of this place, whose zone is named: 2026-11-26 23:01 CET."""
    found = datetime.datetime.fromtimestamp(min(max(moment, 0), LAST_MOMENT - 2 * 86400))  # some zones are ahead
    return f"{found.astimezone():%Y-%m-%d %H:%M %Z}"


@overload
def iso(moment: float) -> str: ...
@overload
def iso(moment: float | None) -> str | None: ...
def iso(moment: float | None) -> str | None:
    """`2026-11-26T22:01:37.250Z`, for seconds since 1970; of what is in no calendar, the nearest that is."""
    if moment is None:
        return None
    found = datetime.datetime.fromtimestamp(min(max(moment, 0), LAST_MOMENT), datetime.UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
