"""A client that can ask the person at the terminal, if there is one."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.client import Client
from remoterun.session import Prompts

if TYPE_CHECKING:
    from remoterun.hosts.ssh.known_hosts import UnknownHostKey


def client() -> Client:
    """For one command; use it as a context manager."""
    if not render.person_there():
        return Client()
    return Client(prompts=Prompts(_confirm_host_key, _ask_passphrase, _ask_password))


def _confirm_host_key(key: UnknownHostKey) -> bool:
    render.line(f"The host `{key.known_as}` ({key.address}) has not been seen before.")
    render.line(f"Its {key.key.short_kind} key has the fingerprint {key.fingerprint}")
    return render.ask("Is that the machine you mean? Connect, and remember the key?", default=False)


def _ask_passphrase(prompt: str) -> str | None:
    return _ask_secret(f"{prompt}: ")


def _ask_password(prompt: str) -> str | None:
    """Or whatever else a host asks: the prompt is its own, with its colon."""
    return _ask_secret(f"{render.clean(prompt)} ")


def _ask_secret(prompt: str) -> str | None:
    try:
        return getpass.getpass(prompt) or None
    except EOFError:
        return None
