"""The keys to offer to a host, those that most likely fit first: sshd hangs up after six (MaxAuthTries)."""

from __future__ import annotations

import base64
import binascii
import copy
import io
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from paramiko.agent import AgentKey, AgentSSH

from remoterun.hosts.ssh.config import SSHSettings
from remoterun.hosts.ssh.known_hosts import HostKey

AskPassphrase = Callable[[str], str | None]

_CLASSES = {"ssh-ed25519": paramiko.Ed25519Key, "ssh-rsa": paramiko.RSAKey}
_PASSPHRASE_TRIES = 3


@dataclass(frozen=True)
class Identity:
    """A key that can sign, and what to call it."""

    label: str
    key: paramiko.PKey


@dataclass
class KeyRing:
    """Loads and remembers keys for the life of a host object, so that no passphrase is asked for twice."""

    ask: AskPassphrase | None = None
    _opened: dict[Path, paramiko.PKey] = field(default_factory=dict)
    _declined: set[Path] = field(default_factory=set)

    def offers(self, settings: SSHSettings, notes: list[str]) -> Generator[Identity, None, None]:
        """The identities, best first, each loaded only when it is reached. What can't be used leaves a line in `notes`.

        Key files come first; where the agent holds a file's key, the agent signs. Then come the agent's other keys,
        and at last default files that need a passphrase. So the agent's many keys don't use up sshd's limit of tries
        before the configured key is offered.
        """
        agent = _agent(settings, notes)
        try:
            yield from self._offers(agent.get_keys() if agent else (), settings, notes)
        finally:
            if agent:
                agent.close()

    def _offers(self, agent: Sequence[AgentKey], settings: SSHSettings, notes: list[str]) -> Iterator[Identity]:
        offered: set[bytes] = set()
        locked: list[_KeyFile] = []
        for path in settings.identity_files:
            file = _KeyFile.read(path, notes, quiet=not settings.identities_given)
            if file is None:
                continue
            held = [key for key in agent if file.public and _is_of(bytes(key.blob), file.public)]
            for key in sorted(held, key=lambda key: "-cert-" not in key.get_name()):
                offered.add(bytes(key.blob))
                yield from _certified(_AgentIdentity(key), path, settings, notes)
                yield Identity(_label(f"{path} (from the agent)", key), _AgentIdentity(key))
            if not held:
                if file.encrypted and path not in self._opened and not settings.identities_given:
                    locked.append(file)
                else:
                    yield from self._from_file(file, settings, notes)
        if not settings.identities_only:
            for key in agent:
                if bytes(key.blob) not in offered:
                    yield Identity(_label(f"the agent's {key.comment or 'key'}", key), _AgentIdentity(key))
        for file in locked:
            yield from self._from_file(file, settings, notes)

    def _from_file(self, file: _KeyFile, settings: SSHSettings, notes: list[str]) -> Iterator[Identity]:
        key = self._opened.get(file.path) or self._open(file, settings, notes)
        if key is None:
            return
        self._opened[file.path] = key
        yield from _certified(key, file.path, settings, notes)
        yield Identity(_label(str(file.path), key), key)

    def _open(self, file: _KeyFile, settings: SSHSettings, notes: list[str]) -> paramiko.PKey | None:
        if file.private is None:
            notes.append(f"{file.path}: only the public half is here, and no agent has the private one")
            return None
        if not file.encrypted:
            try:
                return _load(file.private, None)
            except (ValueError, paramiko.SSHException, UnsupportedAlgorithm) as error:
                notes.append(f"{file.path}: not a key that can be used here ({error})")
                return None
        if self.ask is None or settings.batch_mode:
            notes.append(f"{file.path}: needs a passphrase, and there is no terminal to ask on")
            return None
        if file.path in self._declined:
            notes.append(f"{file.path}: no passphrase given")
            return None
        for _ in range(_PASSPHRASE_TRIES):
            passphrase = self.ask(str(file.path))
            if not passphrase:
                self._declined.add(file.path)
                notes.append(f"{file.path}: no passphrase given")
                return None
            try:
                return _load(file.private, passphrase.encode())
            except (ValueError, TypeError, paramiko.SSHException, UnsupportedAlgorithm):
                continue
        notes.append(f"{file.path}: the passphrase is wrong")
        return None


@dataclass(frozen=True)
class _KeyFile:
    """A file of the configuration, or of ssh's defaults. `private` is None where only the public half exists."""

    path: Path
    private: bytes | None
    encrypted: bool
    public: bytes | None

    @classmethod
    def read(cls, path: Path, notes: list[str], *, quiet: bool) -> _KeyFile | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            beside = _public_in(Path(f"{path}.pub"))
            if beside is None and not quiet:
                notes.append(f"{path}: no such file")
            return None if beside is None else cls(path, None, False, beside)
        except OSError as error:
            notes.append(f"{path}: {error.strerror}")
            return None
        if b"PRIVATE KEY-----" not in data:
            public = _public_in(path)
            if public is None:
                notes.append(f"{path}: not a key")
            return None if public is None else cls(path, None, False, public)
        encrypted, public = _look_inside(data)
        return cls(path, data, encrypted, public or _public_in(Path(f"{path}.pub")))


class _Agent(AgentSSH):  # type: ignore[misc]  # paramiko has no types
    """The agent at a given socket; paramiko's own class takes only the socket in the environment."""

    def __init__(self, path: str) -> None:
        super().__init__()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(5)
            sock.connect(path)
            self._connect(sock)
            sock.settimeout(60)  # a key may want a touch or a yes
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._close()


class _AgentIdentity(AgentKey):  # type: ignore[misc]
    """An agent's key. When the agent refuses to sign, an empty signature is sent, which costs one try.

    An exception would end the connection, because paramiko signs in the thread that reads.
    """

    public_blob: paramiko.pkey.PublicBlob | None = None  # before 5.1, paramiko asks for it and doesn't set it

    def __init__(self, key: AgentKey) -> None:
        super().__init__(key.agent, key.blob, key.comment)

    def asbytes(self) -> bytes:
        return bytes(self.blob)

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> bytes:
        try:
            return bytes(super().sign_ssh_data(data, algorithm))
        except (paramiko.SSHException, OSError):
            message = paramiko.Message()
            message.add_string(algorithm or self.get_name())
            message.add_string(b"")
            return bytes(message.asbytes())


def _agent(settings: SSHSettings, notes: list[str]) -> _Agent | None:
    if settings.agent_socket is None:
        return None
    try:
        return _Agent(settings.agent_socket)
    except (OSError, paramiko.SSHException, ValueError) as error:
        notes.append(f"the ssh agent at {settings.agent_socket} does not answer ({error})")
        return None


def _label(name: str, key: paramiko.PKey) -> str:
    public = HostKey(key.get_name(), key.asbytes())
    return f"{name} ({public.short_kind} {public.fingerprint})"


def _load(data: bytes, passphrase: bytes | None) -> paramiko.PKey:
    """A private key in any form that OpenSSH or OpenSSL writes. It is converted to OpenSSH's form, the only one that
    paramiko reads for all kinds."""
    if b"BEGIN OPENSSH PRIVATE KEY" in data:
        loaded = serialization.load_ssh_private_key(data, passphrase)
    else:
        loaded = serialization.load_pem_private_key(data, passphrase)  # type: ignore[assignment]
    text = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    kind = public.split()[0].decode()
    return _CLASSES.get(kind, paramiko.ECDSAKey).from_private_key(io.StringIO(text))


def _look_inside(data: bytes) -> tuple[bool, bytes | None]:
    """(whether a private key's file is encrypted, the public half where the file holds it in the clear)."""
    if b"BEGIN OPENSSH PRIVATE KEY" not in data:
        return b"ENCRYPTED" in data, None
    body = b"".join(line for line in data.splitlines() if b"-----" not in line)
    try:
        blob = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False, None
    message = paramiko.Message(blob.removeprefix(b"openssh-key-v1\x00"))
    cipher = message.get_binary()
    message.get_binary()
    message.get_binary()
    message.get_int()
    return cipher != b"none", bytes(message.get_binary())


def _public_in(path: Path) -> bytes | None:
    try:
        words = path.read_bytes().split()
        return base64.b64decode(words[1], validate=True) if len(words) > 1 else None
    except (OSError, binascii.Error, ValueError):
        return None


def _is_of(blob: bytes, public: bytes) -> bool:
    """Whether `blob` is this public key, or a certificate for it: its kind, a nonce, then the fields of the key."""
    if blob == public:
        return True
    message, plain = paramiko.Message(blob), paramiko.Message(public)
    kind = plain.get_text()
    if not message.get_text().startswith(f"{kind}-cert-"):
        return False
    message.get_binary()
    return bytes(message.get_remainder()).startswith(bytes(plain.get_remainder()))


def _certified(key: paramiko.PKey, path: Path, settings: SSHSettings, notes: list[str]) -> Iterator[Identity]:
    """`key` with each certificate for it that lies beside its file, or that the configuration names."""
    beside = Path(f"{path}-cert.pub")
    for file in dict.fromkeys((beside, *settings.certificate_files)):
        blob = _public_in(file)
        if blob is None:
            if file != beside:
                notes.append(f"{file}: not a certificate")
            continue
        if blob == key.asbytes() or not _is_of(blob, bytes(key.asbytes())):
            continue
        certified = _AgentIdentity(key) if isinstance(key, _AgentIdentity) else copy.copy(key)
        certified.load_certificate(paramiko.Message(blob))
        yield Identity(_label(str(file), key), certified)
