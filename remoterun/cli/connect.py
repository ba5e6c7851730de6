"""A client that can ask the person at the terminal, if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.cli import render
from remoterun.client import Client
from remoterun.hosts.base import Prompts

if TYPE_CHECKING:
    from remoterun.hosts.ssh.known_hosts import UnknownHostKey


def client() -> Client:
    """A client for one command, to be used as a context manager."""
    if not render.person_there():
        return Client(warn=render.warning)
    return Client(prompts=Prompts(_confirm_host_key, _ask_passphrase, _ask_password), warn=render.warning)


def _confirm_host_key(key: UnknownHostKey) -> bool:
    render.line(f"The host `{key.known_as}` ({key.address}) has not been seen before.")
    render.line(f"Its {key.key.short_kind} key has the fingerprint {key.fingerprint}")
    return render.ask(f"Is that the machine you mean? Connect, and write the key to `{key.file}`?", default=False)


def _ask_passphrase(key_file: str) -> str | None:
    return render.ask_secret(f"Passphrase of the key {key_file}: ")


def _ask_password(prompt: str) -> str | None:
    """Asks for a password, or for whatever else the host wants; the prompt is the host's own, with its colon."""
    return render.ask_secret(f"{prompt} ")
