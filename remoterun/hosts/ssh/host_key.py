"""Whether the machine that answers is the one that was meant: the user's known_hosts files decide, or a person.

`ssh-keygen -F` reads these files, so that hashed names, patterns and markers mean what they mean to ssh. Only the
certificates that a `@cert-authority` signs are for ssh itself: such a host is reached after `remoterun login`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import paramiko

from remoterun.agent.shared.records import Record
from remoterun.errors import HostKeyError
from remoterun.hosts.base import UnknownHostKey
from remoterun.hosts.ssh.config import HostKeyCheck, SSHSettings, local_environment, program, words_of

_SECONDS = 10.0


class KnownHost(Record):
    """A line of a known_hosts file about the host `name`. `marker` is "", `@revoked` or `@cert-authority`."""

    name: str
    file: Path
    number: int
    marker: str
    kind: str
    blob: bytes

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"

    @property
    def key(self) -> str:
        """The key as a message names it."""
        return named(self.kind, self.blob)


def lines_about(settings: SSHSettings) -> list[KnownHost]:
    """What the user's and the system's files say of a host, and of the same host without its port: as in ssh, a key
    that is known without it means the same machine. Blocks for some milliseconds. Raises `HostKeyError`."""
    files = [file for file in (*settings.user_known_hosts, *settings.global_known_hosts) if file.exists()]
    name = settings.known_as
    found = [line for file in files for line in _found(file, name)]
    plain = re.fullmatch(r"\[(.+)\]:\d+", name)
    if plain and not any(line.marker == "" for line in found):
        found += [line for file in files for line in _found(file, plain[1])]
    return found


def kinds(known: Sequence[KnownHost]) -> list[str]:
    """The kinds of key that are known, so that the host is asked for one of these."""
    return list(dict.fromkeys(line.kind for line in known if line.marker == ""))


def named(kind: str, blob: bytes) -> str:
    """A public key as OpenSSH's messages name it: `ED25519 SHA256:…`."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"{_short(kind)} SHA256:{digest}"


class KnownHostsPolicy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Judges every key that a host shows. One that a person accepts (`confirm`; None: nobody can be asked), or that the
    configuration does, is written to the first of the user's known_hosts files."""

    def __init__(
        self,
        settings: SSHSettings,
        known: Sequence[KnownHost],
        address: str,
        confirm: Callable[[UnknownHostKey], bool] | None,
    ) -> None:
        self._settings = settings
        self._known = known
        self._keys = [line for line in known if line.marker == "" and line.name == settings.known_as]
        self._address = address
        self._confirm = confirm

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Returns when this is the machine that was meant. Blocks while a person is asked. Raises `HostKeyError`."""
        kind, blob = key.get_name(), key.asbytes()
        same = [line for line in self._known if line.blob == blob]
        for line in same:
            if line.marker == "@revoked":
                raise HostKeyError(
                    f"`{self._settings.target}` shows a host key that is revoked at {line.place}",
                    evidence=f"it shows {named(kind, blob)}",
                    hint="do not connect; ask the administrator of that machine",
                )
        if any(line.marker == "" for line in same):
            return
        other = [line for line in self._keys if line.kind == kind]
        if other:
            raise self._changed(other, kind, blob)
        authority = next((line for line in self._known if line.marker == "@cert-authority"), None)
        if authority is not None:
            raise self._certified(authority, kind, blob)
        self._ask(key)

    def _ask(self, key: paramiko.PKey) -> None:
        settings = self._settings
        file = settings.user_known_hosts[0]
        name, blob = key.get_name(), key.asbytes()
        if settings.host_key_check is not HostKeyCheck.ACCEPT_NEW or self._keys:
            if settings.host_key_check is HostKeyCheck.REFUSE or self._confirm is None or settings.batch_mode:
                raise self._unknown(name, blob, "is not known here")
            kind, fingerprint = named(name, blob).split()
            question = UnknownHostKey(str(settings.target), settings.known_as, self._address, kind, fingerprint, file)
            if not self._confirm(question):
                raise self._unknown(name, blob, "was not accepted")
        try:
            remember(file, settings.known_as, key, hashed=settings.hash_known_hosts)
        except OSError as error:
            raise HostKeyError(
                f"the host key of `{settings.target}` can't be written to `{file}`",
                evidence=error.strerror,
                hint=f"ls -l {file}",
            ) from error

    def _changed(self, lines: Sequence[KnownHost], kind: str, blob: bytes) -> HostKeyError:
        was = "\n".join(f"{line.place} holds {line.key}" for line in lines)
        return HostKeyError(
            f"the host key of `{self._settings.target}` is not the one at {lines[0].place}",
            evidence=f"{was}\nit shows {named(kind, blob)}\n"
            "either the machine was installed anew, or another machine answers in its place",
            hint=f"ssh-keygen -f {lines[0].file} -R '{self._settings.known_as}'   if you know that it has changed",
        )

    def _certified(self, authority: KnownHost, kind: str, blob: bytes) -> HostKeyError:
        target = self._settings.target
        return HostKeyError(
            f"`{target}` is known by the certificates of {authority.place}, which only ssh itself can check",
            evidence=f"it shows {named(kind, blob)}, which is not known here",
            hint=f"remoterun login {target.typed}   opens a connection with ssh, which is then used",
        )

    def _unknown(self, kind: str, blob: bytes, what: str) -> HostKeyError:
        settings = self._settings
        file = settings.user_known_hosts[0]
        evidence = [f"it shows {named(kind, blob)}"]
        evidence += [f"another kind of key is known at {line.place} ({_short(line.kind)})" for line in self._keys]
        if settings.host_key_check is HostKeyCheck.NO:
            evidence.append("`StrictHostKeyChecking no` is not followed: any machine could then answer in its place")
        options = ""
        if settings.host_key_check in (HostKeyCheck.REFUSE, HostKeyCheck.NO) or settings.writes_no_known_hosts:
            options = f"-o StrictHostKeyChecking=ask -o UserKnownHostsFile={file} "
        return HostKeyError(
            f"the host key of `{settings.target}` ({self._address}) {what}",
            evidence="\n".join(evidence),
            hint=f"ssh {options}{words_of(settings.target)} true   compare the fingerprint with the machine's own"
            " before you say yes",
        )


def remember(file: Path, name: str, key: paramiko.PKey, *, hashed: bool) -> None:
    """Append the key to `file`, which is made (0600, in a folder 0700) where absent. Raises `OSError`."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shown = paramiko.HostKeys.hash_host(name) if hashed else name
    entry = f"{shown} {key.get_name()} {key.get_base64()}\n".encode()
    before = file.read_bytes() if file.exists() else b""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as stream:
        stream.write(b"\n" * (before != b"" and not before.endswith(b"\n")) + entry)


def _found(file: Path, name: str) -> list[KnownHost]:
    """The lines of a file about `name`. A line that ssh can't read says nothing."""
    words = [program("ssh-keygen"), "-F", name, "-f", str(file)]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, env=local_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostKeyError(f"`{file}` can't be read", evidence=str(error), hint=f"ls -l {file}") from error
    found: list[KnownHost] = []
    number = 0
    for line in done.stdout.decode("utf-8", "replace").split("\n"):
        place = re.match(r"# Host .* found: line (\d+)", line)
        if place:
            number = int(place[1])
            continue
        words = line.split()
        marker = words.pop(0).lower() if line.startswith("@") else ""
        if len(words) < 3:
            continue
        try:
            found.append(KnownHost(name, file, number, marker, words[1], base64.b64decode(words[2], validate=True)))
        except (binascii.Error, ValueError):
            continue
    return found


def _short(kind: str) -> str:
    """A kind of key as OpenSSH calls it in messages: ED25519, RSA, ECDSA."""
    return kind.removeprefix("ssh-").removeprefix("sk-ssh-").split("@")[0].split("-")[0].upper()
