"""The form by which a host posts objects with the credentials of its own role: signed as AWS's Signature Version 4 has
it for POST, with the fields that a client would sign (`S3.presigned_post`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any, Dict, List

from ..shared.archive import MOST_OBJECT, Grant
from .metadata import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"
LASTS = 3600.0
"""Seconds for which a form may be posted: one is signed for each object."""


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


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
