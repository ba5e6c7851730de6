"""What AWS's instance metadata service (version 2) says to this host: notices, and temporary credentials of its role.
Its answers make one hop, so that no container of a run gets any."""

from __future__ import annotations

import calendar
import json
import os
import time
import urllib.error
import urllib.request
from typing import Dict, Optional

from ..shared.records import Record

ADDRESS = "http://169.254.169.254"
ELSEWHERE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The variable by which AWS's libraries are given another address."""
SILENCE = 2.0
CREDENTIALS = "iam/security-credentials/"
SOON = 300.0
"""Seconds before their end at which credentials are fetched anew."""


class Credentials(Record):
    key: str
    secret: str
    token: str
    expires: float
    """In seconds since 1970."""


class HostRole:
    """Its credentials, as long as they hold."""

    known: Optional[Credentials] = None

    def credentials(self) -> Credentials:
        """Blocks a few seconds at the most. Raises `OSError`, `HTTPException`; `ValueError` where there are none."""
        known = self.known
        if known is None or time.time() > known.expires - SOON:
            role = get(CREDENTIALS)
            if role is None:
                raise ValueError("this host has no role")
            said = json.loads(get(CREDENTIALS + role) or "{}")
            key, secret, token = (str(said.get(name, "")) for name in ("AccessKeyId", "SecretAccessKey", "Token"))
            known = self.known = Credentials(key, secret, token, moment(said.get("Expiration", "")))
        return known


ROLE = HostRole()


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


def _ask(method: str, url: str, headers: Dict[str, str]) -> str:
    """The answer to a request that goes through no proxy."""
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SILENCE) as answer:
        return str(answer.read(1 << 16), "utf-8", "replace").strip()
