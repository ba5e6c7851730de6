"""What the check prints at its end."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cloud_check.checklist import Settings

NEVER = (
    "that a spot host is interrupted: `remoterun run --spot -t TYPE COMMAND`, and then, in the EC2 console below Spot "
    "Requests, Actions, Initiate interruption; the run should be interrupted, and go on on another host",
    "a lack of capacity, and a quota that is used up",
    "a login that expires in the middle of a run",
    "what the bill says: look at it in a day, the cost above is price × time",
)


@dataclass(frozen=True)
class Row:
    """A step: its verdict is "ok", "FAILED" or "not done"."""

    what: str
    verdict: str
    seconds: float
    remark: str = ""


def text(rows: Sequence[Row], left: Sequence[str], cost: float, interrupted: bool, settings: Settings) -> str:
    width = max((len(row.what) for row in rows), default=0)
    lines = [f"Cloud check, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {settings.type}", ""]
    for row in rows:
        lines.append(f"{row.what:<{width}}  {row.verdict:<8} {row.seconds:7.1f} s  {row.remark}".rstrip())
    lines += [""] + (["It was interrupted: the steps after the last row were not done.", ""] if interrupted else [])
    lines.append(f"nothing left: {'yes' if not left else 'no'}")
    lines += [f"  {each}" for each in left]
    lines.append(f"it cost:      ${cost:.3f} for hosts, without disks and traffic")
    failed = [row.what for row in rows if row.verdict == "FAILED"]
    lines.append(f"failed:       {', '.join(failed) or 'nothing'}")
    lines += ["", "Not verified by this:"]
    lines += [f"- {row.what}: {row.remark}" for row in rows if row.verdict == "not done"]
    lines += [f"- {each}" for each in NEVER]
    return "\n".join(lines)
