"""OpenSSH's known_hosts files: is this the machine that answered last time?

They are read line by line, so that a broken line spoils no other. Host certificates (`@cert-authority`) are not
understood: such a line is skipped with a note.
"""

from __future__ import annotations

import base64
import binascii
import enum
import fnmatch
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostKey:
    """A public key: `kind` such as `ssh-ed25519`, `blob` as sent on the wire."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: `SHA256:…`."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + digest.rstrip("=")

    @property
    def short_kind(self) -> str:
        """As OpenSSH calls it in messages: ED25519, RSA, ECDSA."""
        return self.kind.removeprefix("ssh-").removeprefix("sk-ssh-").split("@")[0].split("-")[0].upper()


@dataclass(frozen=True)
class KnownHost:
    """One line of a file."""

    file: Path
    number: int
    marker: str
    names: str
    key: HostKey

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"

    def matches(self, name: str) -> bool:
        """`name` in lower case, with its port as `[name]:port` where that isn't 22."""
        if self.names.startswith("|"):
            return _hash_matches(self.names, name)
        hit = False
        for pattern in self.names.lower().split(","):
            if _pattern_matches(pattern.removeprefix("!"), name):
                if pattern.startswith("!"):
                    return False
                hit = True
        return hit


class Standing(enum.Enum):
    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Verdict:
    """`lines` say why: those that disagree with the key, or, for UNKNOWN, those with a key of another kind."""

    standing: Standing
    lines: tuple[KnownHost, ...] = ()


@dataclass(frozen=True)
class UnknownHostKey:
    """What a person is asked about. After a yes the key is written to `file`."""

    host: str
    known_as: str
    address: str
    key: HostKey
    file: Path
    others: tuple[str, ...] = ()  # places where a key of another kind is known for this host

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint


@dataclass(frozen=True)
class KnownHosts:
    """The lines of several files, and notes on lines and files that could not be read."""

    lines: tuple[KnownHost, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, files: Iterable[Path]) -> KnownHosts:
        """A file that doesn't exist counts as empty. A file that can't be read leaves a note, and so does each line
        that is not understood."""
        lines: list[KnownHost] = []
        notes: list[str] = []
        for file in files:
            try:
                text = file.read_bytes().decode("utf-8", "replace")
            except FileNotFoundError:
                continue
            except OSError as error:
                notes.append(f"{file}: {error.strerror}")
                continue
            for number, line in enumerate(text.split("\n"), 1):
                found = _parse(file, number, line)
                if isinstance(found, KnownHost):
                    lines.append(found)
                elif found:
                    notes.append(found)
        return cls(tuple(lines), tuple(notes))

    def kinds(self, name: str) -> tuple[str, ...]:
        """The kinds of key known for this host, so that the host is asked for one of these."""
        plain = _without_port(name)
        hits = self._about(name) or ([] if plain is None else self._about(plain))
        return tuple(dict.fromkeys(line.key.kind for line in hits))

    def judge(self, name: str, key: HostKey) -> Verdict:
        """What the files say of the host `name` (`SSHSettings.known_as`) when it shows `key`."""
        revoked = [line for line in self.lines if line.marker == "@revoked" and line.key == key]
        if revoked:
            return Verdict(Standing.REVOKED, tuple(revoked))
        about = self._about(name)
        if any(line.key == key for line in about):
            return Verdict(Standing.KNOWN)
        same_kind = [line for line in about if line.key.kind == key.kind]
        if same_kind:
            return Verdict(Standing.CHANGED, tuple(same_kind))
        plain = _without_port(name)
        if plain is not None and any(line.key == key for line in self._about(plain)):
            return Verdict(Standing.KNOWN)  # as in ssh: the same key, known without the port, means the same machine
        return Verdict(Standing.UNKNOWN, tuple(about))

    def _about(self, name: str) -> list[KnownHost]:
        return [line for line in self.lines if not line.marker and line.matches(name)]


def remember(file: Path, name: str, key: HostKey, *, hashed: bool) -> None:
    """Append the key to `file`, which is made (0600, in a folder 0700) where absent. Raises `OSError`."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shown = _hashed(name) if hashed else name
    entry = f"{shown} {key.kind} {base64.b64encode(key.blob).decode()}\n".encode()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        if end:
            stream.seek(end - 1)
            if stream.read(1) != b"\n":
                entry = b"\n" + entry
        stream.write(entry)


def _parse(file: Path, number: int, line: str) -> KnownHost | str | None:
    """A line's meaning; or, as text, why it is skipped; or None where the line is empty or a comment."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0).lower() if words[0].startswith("@") else ""
    if marker == "@cert-authority":
        return f"{file}:{number}: host certificates (@cert-authority) are not understood: line skipped"
    if marker not in ("", "@revoked") or len(words) < 3:
        return f"{file}:{number}: not a known_hosts line: line skipped"
    names, kind, encoded = words[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return f"{file}:{number}: not base64: line skipped"
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length] != kind.encode("utf-8", "replace"):
        return f"{file}:{number}: the key is not of kind {kind}: line skipped"
    return KnownHost(file, number, marker, names, HostKey(kind, blob))


def _pattern_matches(pattern: str, name: str) -> bool:
    """`*` and `?` only; brackets are part of a name."""
    literal = re.sub(r"\[", "[[]", pattern)
    return fnmatch.fnmatchcase(name, literal)


def _hash_matches(names: str, name: str) -> bool:
    parts = names.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def _hashed(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), "sha1").digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _without_port(name: str) -> str | None:
    found = re.fullmatch(r"\[(.+)\]:\d+", name)
    return found[1] if found else None
