"""Which kind of login AWS's library finds, and how long it lasts; nothing of its secrets."""

from __future__ import annotations

import datetime

import boto3

KINDS = {
    "assume-role": "a role of a profile",
    "config-file": "a key in ~/.aws/config",
    "custom-process": "a program that a profile names",
    "env": "a key in AWS's variables",
    "login": "`aws login`",
    "shared-credentials-file": "a long-lived key in ~/.aws/credentials",
    "sso": "single sign-on",
}


def login() -> str:
    found = boto3.Session().get_credentials()
    if found is None:
        return "none"
    found.get_frozen_credentials()  # asks for those that are made anew
    kind = KINDS.get(found.method, found.method)
    ends = getattr(found, "_expiry_time", None)
    if ends is None:
        return f"{kind}, {'which ends some time' if found.token else 'without an end'}"
    left = ends - datetime.datetime.now(datetime.UTC)
    return f"{kind}, which ends in {left.total_seconds() / 60:.0f} minutes"
