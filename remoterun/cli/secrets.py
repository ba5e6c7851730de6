"""A hint for those who type a secret into a command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from remoterun.cli import render

if TYPE_CHECKING:
    from remoterun.client import Client

LOOKS_SECRET = re.compile(r"(.*_)?(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)|.*PASSWORD", re.IGNORECASE)


def hint_at_secrets(client: Client, typed: Iterable[str]) -> None:
    """Say once of each name that its value need not be typed. `typed`: the words after `-e`."""
    if not render.person_there():
        return
    for name, _, value in (text.partition("=") for text in typed):
        if value and LOOKS_SECRET.fullmatch(name) and client.secrets.hint_once(name):
            render.hint(f"`remoterun secret set {name}`, then `--secret {name}`, keeps it out of your shell's history")
