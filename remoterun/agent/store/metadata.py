"""What AWS's instance metadata service (version 2) answers this host of itself: notices, and temporary credentials of
the role that the host has.

The service answers the host only: its answers make one hop, so that no container of a run gets any.
"""

from __future__ import annotations

import calendar
import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Dict, NamedTuple, Optional

ADDRESS = "http://169.254.169.254"
ELSEWHERE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The variable by which every library of AWS is given another address."""
SILENCE = 2.0
CREDENTIALS = "iam/security-credentials/"
SOON = 300.0
"""Seconds before their end at which credentials are fetched anew."""


class NoCredentials(Exception):
    """The host has no role, or can't be given credentials of it: why, in a few words."""


class Credentials(NamedTuple):
    """`token`: "" for those of a user. `expires` in seconds since 1970."""

    key: str
    secret: str
    token: str
    expires: float


def get(path: str) -> Optional[str]:
    """What the service says at a path below meta-data/; None where there is nothing. Blocks a few seconds at the most.
    Raises `OSError`, `HTTPException`."""
    address = os.environ.get(ELSEWHERE, ADDRESS).rstrip("/") + "/latest/"
    token = _ask("PUT", address + "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    try:
        return _ask("GET", address + "meta-data/" + path, {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def moment(text: str) -> float:
    """Seconds since 1970. Raises `ValueError`."""
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


class HostRole:
    """The credentials of the host's role. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Optional[Credentials] = None

    def credentials(self) -> Credentials:
        """Those that hold for some time yet. Blocks a few seconds at the most. Raises `NoCredentials`."""
        with self._lock:
            if self._known is None or time.time() > self._known.expires - SOON:
                self._known = _credentials()
            return self._known

    def refused(self, credentials: Credentials) -> None:
        """These were not accepted: others are fetched for the next request."""
        with self._lock:
            if self._known == credentials:
                self._known = None


ROLE = HostRole()


def _credentials() -> Credentials:
    try:
        role = get(CREDENTIALS)
        found = json.loads(get(CREDENTIALS + role) or "{}") if role else {}
        return Credentials(
            str(found["AccessKeyId"]),
            str(found["SecretAccessKey"]),
            str(found.get("Token", "")),
            moment(found["Expiration"]),
        )
    except (OSError, HTTPException) as error:
        raise NoCredentials("the metadata service does not answer: %s" % error)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise NoCredentials("the metadata service has no credentials of a role for this host")


def _ask(method: str, url: str, headers: Dict[str, str]) -> str:
    """The answer to a request that goes through no proxy."""
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SILENCE) as answer:
        return str(answer.read(1 << 16), "utf-8", "replace").strip()
