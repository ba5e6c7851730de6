"""Where hosts come from. Each provider is a row of `PROVIDERS`; its front is imported on first use, the rest of its
folder by what the front makes."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoterun.clouds.fronts import Front

PROVIDERS = {
    "aws": "remoterun.clouds.aws.front.AWSFront",
    "hf": "remoterun.clouds.hf.front.HuggingFaceFront",
    "command": "remoterun.clouds.command.front.CommandFront",
}
"""Name of a provider (`Rental.provider`) → the class of its front."""
ARCHIVE = "aws"
"""The word after -t for the archive in S3, whose login is the one of this provider."""


def front(name: str) -> Front:
    """What is known of a provider without asking it."""
    return _made(PROVIDERS[name])


@functools.cache
def _made(row: str) -> Front:
    module, _, kind = row.rpartition(".")
    found: Front = getattr(importlib.import_module(module), kind)()
    return found


def all_fronts() -> list[Front]:
    return [front(name) for name in PROVIDERS]


def front_of(id: str) -> Front:
    """Of the provider whose host has that id."""
    return next((each for each in all_fronts() if each.is_host(id)), front(ARCHIVE))


def rented_at(id: str) -> str:
    """The provider of a host as people call it; of a program, its name."""
    of = front_of(id)
    return f"`{id.partition('/')[0]}`" if of.is_program else of.title
