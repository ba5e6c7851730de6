"""Addresses that get word when a run ends, and what kind of service each is: both sides use it.

An address is a secret, since whoever knows it may post there: no error holds more of it than its host.
"""

from __future__ import annotations

import re
from typing import Dict, Optional
from urllib.parse import SplitResult, urlsplit

from .records import Record

MOST_ADDRESS = 2000
"""Characters of an address."""
MOST_ADDRESSES = 20
"""Addresses of one run."""
_NTFY = re.compile(r"/[A-Za-z0-9_-]{1,64}/?\Z")


class Webhooks(Record):
    """Who gets word of a run's end: `addresses` by what may be shown of each (the name of a secret, or the host). Of a
    rented host `price` in US dollars an hour, `began` when the run got it (seconds since 1970), and `spent` what the
    run had cost before, so that what it cost can be told."""

    addresses: Dict[str, str] = {}
    price: Optional[float] = None
    began: float = 0.0
    spent: float = 0.0


NOBODY = Webhooks()


class BadAddress(ValueError):
    """Not the address of a webhook. The message is one line, without the address."""


def check_address(url: str) -> str:
    """`url` if it can be the address of a webhook: of HTTP, or ntfy://SERVER/TOPIC. Raises `BadAddress`."""
    if len(url) > MOST_ADDRESS or re.search(r"[^!-~]", url):
        raise BadAddress("an address has %d characters at the most, and no spaces" % MOST_ADDRESS)
    parts = _parts(url)
    if parts.scheme not in ("http", "https", "ntfy"):
        raise BadAddress("it begins with neither https:// nor ntfy://")
    if not parts.hostname:
        raise BadAddress("an address has a host")
    if kind_of(url) == "ntfy" and not _NTFY.match(parts.path):
        raise BadAddress("an address of ntfy is ntfy://SERVER/TOPIC")
    return url


def kind_of(url: str) -> str:
    """The service that an address is of: "slack", "discord", "ntfy", or "json" for any other."""
    parts = _parts(url)
    host = parts.hostname or ""
    if parts.scheme == "ntfy" or host == "ntfy.sh":
        return "ntfy"
    if host in ("hooks.slack.com", "hooks.slack-gov.com"):
        return "slack"
    if host in ("discord.com", "discordapp.com") and parts.path.startswith("/api/webhooks/"):
        return "discord"
    return "json"


def place_of(url: str) -> str:
    """What may be shown of an address: its host, and its port if it names one."""
    parts = _parts(url)
    host = parts.hostname or ""
    shown = "[%s]" % host if ":" in host else host
    return shown + (":%d" % parts.port if parts.port is not None else "")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
        return parts
    except ValueError:
        raise BadAddress("an address that can't be read")
