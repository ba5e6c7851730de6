"""`bill`: what rented hosts have cost."""

from __future__ import annotations

import datetime
import time
from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, Json, app, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import machine_views
from remoterun.clouds import ARCHIVE, front
from remoterun.errors import UsageError
from remoterun.parsing import known_words, parse_duration

TITLE, PRICE = front(ARCHIVE).title, front(ARCHIVE).bill
BY = ("day", "run", "machine")


@app.command(cls=Command, epilog=example("remoterun bill --since 2026-11-01 --by run\nremoterun bill"))
def bill(
    since: Annotated[
        str | None, option("--since DAY", "From this day on: 2026-11-01, or 7d for a week. Default: this month.")
    ] = None,
    by: Annotated[
        str,
        option(
            "--by WHAT",
            "A line for each day, run or machine. Default: day.",
            lambda incomplete: list(BY),
            show_default=False,
        ),
    ] = "day",
    own: Annotated[bool, option(f"--{ARCHIVE}", f"Also what {TITLE}'s own bill says; {PRICE}.")] = False,
    json: Json = False,
) -> None:
    """Show what rented hosts have cost, by day, run or machine.

    It is counted from this machine's records, of removed runs, too, and from the tags of the hosts that there are now:
    with disk and address, without traffic and bucket. IDLE is the part of it in which hosts had no run. Days are those
    of UTC, as on a provider's own bill. The last line says what the bucket holds now, and what that costs a month.
    """
    if by not in BY:
        raise UsageError(f"`--by {by}` is not known", hint=known_words(by, BY))
    start = _moment(since)
    with connect() as client:
        found = client.hosts.bill(start, render.warning, ARCHIVE if own else "")
    machine_views.bill(found, by, json)


def _moment(since: str | None) -> float:
    """Seconds since 1970 at the begin of a day in UTC. Raises `UsageError`."""
    now = datetime.datetime.now(datetime.UTC)
    if since is None:
        day = now.replace(day=1)
    else:
        try:
            day = datetime.datetime.fromisoformat(f"{since}T00:00:00+00:00")
        except ValueError:
            day = datetime.datetime.fromtimestamp(time.time() - _ago(since), datetime.UTC)
    start = day.replace(hour=0, minute=0, second=0, microsecond=0)
    if start > now:
        raise UsageError(f"--since {since} is to come", hint=f"remoterun bill --since {now:%Y-%m-%d}")
    return start.timestamp()


def _ago(since: str) -> float:
    """Seconds that were given in place of a day. Raises `UsageError`."""
    try:
        return parse_duration(since)
    except UsageError:
        raise UsageError(
            f"`--since {since}` is not a day", hint="--since 2026-11-01, or --since 7d for a week"
        ) from None
