"""The system's keyring, by the program that comes with it. A value goes through its stdin and stdout, and never stands
among its words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import dataclass

from remoterun.errors import RemoterunError

PATIENCE = 60.0
"""Seconds that the program may take: it may ask a person to unlock the keyring."""
OURS = "remoterun"


@dataclass(frozen=True)
class Keyring:
    """`most`: characters that a value may take as it is stored."""

    name: str
    title: str
    program: str
    most: int

    def put(self, id: str, name: str, value: str) -> bool:
        """Whether it has the value now under `id`; people see the name of the secret. A keyring that is locked, and
        that nobody can be asked to unlock, takes nothing."""
        text = b64encode(value.encode("utf-8", "surrogateescape")).decode()
        if len(text) > self.most:
            return False
        self._call(self._put_words(id, name), self._put_input(id, name, text))
        return self.get(id) == value

    def get(self, id: str) -> str | None:
        """The value that is kept under `id`; None where the keyring does not have it, or does not give it."""
        said = self._call(self._words("find-generic-password", "lookup", id, "-w"))
        try:
            return b64decode(said.strip(), validate=True).decode("utf-8", "surrogateescape") if said else None
        except ValueError:
            return None

    def remove(self, id: str) -> None:
        """Delete the value under `id`, if there is one."""
        self._call(self._words("delete-generic-password", "clear", id))

    # -- commands, as data

    def _put_words(self, id: str, name: str) -> list[str]:
        if self.name == "keychain":
            return [self.program, "-i"]  # it reads its commands from stdin
        return [self.program, "store", f"--label={OURS} {name}", "application", OURS, "id", id]

    def _put_input(self, id: str, name: str, text: str) -> str:
        if self.name == "keychain":
            return f"add-generic-password -U -s {OURS} -a {id} -l {OURS}-{name} -w {text}\n"
        return text

    def _words(self, of_keychain: str, of_libsecret: str, id: str, *more: str) -> list[str]:
        if self.name == "keychain":
            return [self.program, of_keychain, "-s", OURS, "-a", id, *more]
        return [self.program, of_libsecret, "application", OURS, "id", id]

    def _call(self, words: list[str], text: str = "") -> str:
        """What it says on stdout; "" where it fails. Its errors are not shown: they may quote what it was given."""
        try:
            done = subprocess.run(
                words, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("ascii", "replace") if done.returncode == 0 else ""


KEYRINGS = (
    Keyring("keychain", "the keychain of this Mac", "security", 2000),  # it reads lines of up to 4 kB
    Keyring("libsecret", "the keyring of this desktop", "secret-tool", 1 << 20),
)


def usable() -> Keyring | None:
    """The keyring of this system; None where there is none, or where its program can't reach it."""
    for keyring in KEYRINGS:
        right = sys.platform == "darwin" if keyring.name == "keychain" else "DBUS_SESSION_BUS_ADDRESS" in os.environ
        if right and shutil.which(keyring.program) is not None:
            return keyring
    return None


def named(name: str) -> Keyring:
    """Raises `RemoterunError` for one that this version does not know."""
    for keyring in KEYRINGS:
        if keyring.name == name:
            return keyring
    raise RemoterunError(f"a secret is kept in `{name}`, which this remoterun does not know", hint="upgrade it")
