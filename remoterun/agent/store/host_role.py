"""What AWS knows of a host, and lets it do: the one module of the agent that says so. Its instance metadata service
(version 2) has notices, and temporary credentials of the host's role; its answers make one hop, so that no container of
a run gets any. With these the host signs a form by which it posts objects, as AWS's Signature Version 4 has it for
POST, with the fields that a client would sign (`S3.presigned_post`).
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, List, Optional

from ..shared.archive import MOST_OBJECT, Grant
from ..shared.records import Record

ADDRESS = "http://169.254.169.254"
ELSEWHERE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The variable by which AWS's libraries are given another address."""
SILENCE = 2.0
CREDENTIALS = "iam/security-credentials/"
SOON = 300.0
"""Seconds before their end at which credentials are fetched anew."""
ALGORITHM = "AWS4-HMAC-SHA256"
LASTS = 3600.0
"""Seconds for which a form may be posted: one is signed for each object."""


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


NOTICE = 120.0
"""Seconds that a notice gives, where it does not say in words that we know."""


def notice() -> Optional[float]:
    """When a spot host is taken away (seconds since 1970); None as long as nothing is known of it. Blocks a few seconds
    at the most. Raises `OSError`, `HTTPException`."""
    said = get("spot/instance-action")
    if said is None:
        return None
    try:
        return moment(json.loads(said)["time"])
    except (ValueError, KeyError, TypeError):  # one that can't be read is one all the same
        return time.time() + NOTICE


NOTICES: Dict[str, Callable[[], Optional[float]]] = {"aws": notice}
"""`RentalTerms.notices` → how the host asks its provider whether it is taken away."""


def signed_form(grant: Grant, credentials: Credentials, now: float) -> Dict[str, str]:
    """The fields of a form, but for the key and the content. `now` in seconds since 1970."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = [moment[:8], grant.region, "s3", "aws4_request"]
    fields = {
        "x-amz-algorithm": ALGORITHM,
        "x-amz-credential": "/".join([credentials.key, *scope]),
        "x-amz-date": moment,
    }
    if credentials.token:
        fields["x-amz-security-token"] = credentials.token
    conditions: List[Any] = [
        ["starts-with", "$x-amz-checksum-sha256", ""],
        ["content-length-range", 0, MOST_OBJECT],
        {"bucket": grant.bucket},
        ["starts-with", "$key", grant.prefix],
        *({name: value} for name, value in fields.items()),
    ]
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + LASTS))
    policy = json.dumps({"expiration": until, "conditions": conditions})
    fields["policy"] = base64.b64encode(policy.encode()).decode()
    key = ("AWS4" + credentials.secret).encode()
    for part in scope:
        key = _hmac(key, part)
    fields["x-amz-signature"] = _hmac(key, fields["policy"]).hex()
    return fields


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


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
