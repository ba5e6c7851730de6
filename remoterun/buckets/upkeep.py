"""Requests about the upkeep of a home in a bucket."""

from __future__ import annotations

from remoterun.buckets.serving import Handler

HANDLERS: dict[str, Handler] = {}
