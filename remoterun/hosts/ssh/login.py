"""Logging in with keys over a connection whose host key was checked. What asks a person is a login by ssh (master.py).

The keys that most likely fit are offered first, because sshd hangs up after six (MaxAuthTries).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.auth_strategy import AuthStrategy

from remoterun.agent.shared.records import Record
from remoterun.errors import AuthenticationError, HostUnreachable, RemoterunError
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, words_of
from remoterun.hosts.ssh.host_key import named
from remoterun.hosts.ssh.master import Master, Unanswered

_CLASSES = {"ssh-ed25519": paramiko.Ed25519Key, "ssh-rsa": paramiko.RSAKey}
_UNUSABLE = (ValueError, paramiko.SSHException, UnsupportedAlgorithm)
_VARIABLE = "SSH_AUTH_SOCK"
_agent_variable = threading.Lock()


class SigningKey(Record):
    """A key that can sign, and its name for messages."""

    label: str
    key: paramiko.PKey


class Login(AuthStrategy):  # type: ignore[misc]  # paramiko has no types
    """For one connection: tries each key. `place` names the host's address in messages, and `disconnect_reason` returns
    why sshd has hung up, as it says itself, or ""."""

    def __init__(self, settings: SSHSettings, place: str, disconnect_reason: Callable[[], str]) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._settings = settings
        self._place = place
        self._reason = disconnect_reason
        self._notes: list[str] = []
        self._tried = 0
        self._asks = False
        """Whether the host, or a key, wants an answer of a person."""

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Returns when the host lets the user in. Blocks for the transport's `auth_timeout` per key. Raises
        `AuthenticationError`, or `HostUnreachable` when the connection ends."""
        try:
            if self._offer_keys(transport):
                return
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._notes.append(str(error) or type(error).__name__)
        reason = self._reason()
        if not transport.is_active() and not reason:
            raise self._hung_up("closed by the other end")
        if reason:
            self._notes.append(f"the host hung up: {reason}")
        raise self._refused("Too many authentication" in reason)

    def get_sources(self) -> Generator[SigningKey, None, None]:
        """The keys, best first, each loaded only when it is reached. What can't be used leaves a note.

        Key files come first; where the agent holds a file's key, the agent signs. Then come the agent's other keys. So
        the agent's many keys don't use up sshd's limit of tries before the configured key is offered.
        """
        path = self._settings.agent_socket
        agent = _agent(path) if path and os.path.exists(path) else None
        with contextlib.closing(agent) if agent else contextlib.nullcontext():
            held = [_AgentIdentity(key.agent, key.blob, key.comment) for key in agent.get_keys()] if agent else []
            if path and not held:
                self._notes.append(f"the ssh agent at {path} has no key")
            yield from self._sources(held)

    def _sources(self, held: Sequence[_AgentIdentity]) -> Iterator[SigningKey]:
        offered: list[_AgentIdentity] = []
        for path in self._settings.identity_files:
            public = _public_in(Path(f"{path}.pub")) or _public_in(path)  # a file may hold the public half alone
            own = [key for key in held if public and _is_of(key.blob, public)]
            for key in sorted(own, key=lambda key: "-cert-" not in key.get_name()):
                offered.append(key)
                yield from self._certified(f"{path} (from the agent)", path, key)
            loaded = None if own else self._open(path)
            if loaded is not None:
                yield from self._certified(str(path), path, loaded)
        for key in () if self._settings.identities_only else held:
            if key not in offered:
                yield SigningKey(_label(f"the agent's {key.comment or 'key'}", key), key)

    def _offer_keys(self, transport: paramiko.Transport) -> bool:
        """Whether the host lets the user in with one of the keys, or without any."""
        wanted: list[str] = []
        with contextlib.closing(self.get_sources()) as sources:
            for identity in sources:
                if not transport.is_active():
                    return False
                self._tried += 1
                try:
                    wanted = transport.auth_publickey(self._settings.user, identity.key)
                except paramiko.BadAuthenticationType as error:
                    wanted = error.allowed_types
                    break
                except paramiko.AuthenticationException as error:
                    if "timeout" in str(error).lower():
                        raise self._hung_up("no answer in time") from error
                    self._notes.append(f"{identity.label}: refused")
                    continue
                if not wanted:
                    return True
                self._notes.append(f"{identity.label}: accepted, but the host wants more")
                break
        if not wanted and transport.is_active():
            try:
                transport.auth_none(self._settings.user)
                return True
            except paramiko.BadAuthenticationType as error:
                wanted = error.allowed_types
        asks = [name for name in wanted if name in ("keyboard-interactive", "password")]
        if asks:
            self._asks = True
            self._notes.append(f"{' and '.join(asks)}: only a login by ssh asks for it")
        return False

    def _open(self, path: Path) -> paramiko.PKey | None:
        """The key of a file; None, with a note, where it can't be used."""
        try:
            return _load(path.read_bytes())
        except TypeError:
            self._asks = True
            self._notes.append(f"{path}: needs a passphrase: only a login by ssh asks for it")
        except FileNotFoundError:
            if self._settings.identities_given:
                self._notes.append(f"{path}: no such file")
        except (OSError, *_UNUSABLE) as error:
            self._notes.append(f"{path}: not a private key that can be used here ({error})")
        return None

    def _certified(self, name: str, path: Path, key: paramiko.PKey) -> Iterator[SigningKey]:
        """`key` with each certificate for it that stands next to its file, or that the configuration names; then the
        key alone."""
        plain = bytes(key.asbytes())
        for file in dict.fromkeys((Path(f"{path}-cert.pub"), *self._settings.certificate_files)):
            blob = _public_in(file)
            if blob is not None and blob != plain and _is_of(blob, plain):
                key.load_certificate(paramiko.Message(blob))
                yield SigningKey(_label(str(file), key), key)
        key.public_blob = None
        yield SigningKey(_label(name, key), key)

    def _hung_up(self, why: str) -> HostUnreachable:
        return HostUnreachable(
            f"the connection to `{self._settings.target}` ({self._place}) broke while logging in: {why}",
            evidence="\n".join(self._notes) or None,
            hint=f"ssh -v {words_of(self._settings.target)}",
        )

    def _refused(self, too_many: bool) -> AuthenticationError:
        settings = self._settings
        who = f"`{settings.user}` on `{settings.target}` ({self._place})"
        if not self._tried:
            message = f"there is no key to log in with as {who}"
        else:
            message = (
                f"{who} accepts none of the {self._tried} keys tried" if self._tried > 1 else f"{who} refuses the key"
            )
        port = f"-p {settings.port} " if settings.port != 22 else ""
        there = f"{port}{settings.user}@{settings.hostname}"
        hint = f"ssh-copy-id {there}   takes your key there (`ssh-keygen` makes one)\n"
        hint += f"ssh -v {words_of(settings.target)}   shows what ssh says"
        if too_many:
            host = settings.target.host
            hint = f"name the key that fits: IdentityFile and `IdentitiesOnly yes` for {host} in ~/.ssh/config"
        elif self._asks:
            hint = f"remoterun login {settings.target.typed}   asks once, in a terminal"
            return Unanswered(message, evidence="\n".join(self._notes), hint=hint)
        return AuthenticationError(message, evidence="\n".join(self._notes) or None, hint=hint)


class _AgentIdentity(paramiko.AgentKey):  # type: ignore[misc]
    """An agent's key. When the agent refuses to sign, an empty signature is sent, which costs one try: an exception
    would end the connection, because paramiko signs in the thread that reads."""

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


def opened(master: Master, idle: float, deadlines: Deadlines) -> bool:
    """Open a master without a question, as `Master.open` does; whether it is open. It is not where ssh can't have one
    though the host refused no login. Raises `Unanswered`, without a word to the host where no key can be used without
    an answer; `AuthenticationError`, `HostUnreachable`."""
    login = Login(master.settings, f"{master.settings.hostname} port {master.settings.port}", str)
    login._tried = len(list(login.get_sources()))
    if login._asks and not login._tried:
        raise login._refused(False)
    try:
        master.open(idle, True, deadlines)
    except HostUnreachable:
        raise
    except (RemoterunError, OSError) as error:
        said = getattr(error, "evidence", None) or ""
        too_many = "Too many authentication" in said
        if not too_many and "Permission denied (" not in said:
            return False
        on_the_way = master.settings.proxy_command is not None  # the keys of a jump host may want an answer, too
        login._asks = login._asks or on_the_way or "keyboard-interactive" in said or "password" in said
        login._notes.append(said)
        raise login._refused(too_many) from error
    return True


def new_key(comment: str) -> tuple[str, str]:
    """An ed25519 key that nobody else has, as OpenSSH's files hold it: the private half, a secret, and the line of the
    public half, with `comment` at its end."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"


def _agent(path: str) -> paramiko.Agent | None:
    """The agent at a socket, which paramiko finds by the environment only; None for one that speaks otherwise."""
    with _agent_variable:
        before = {_VARIABLE: os.environ[_VARIABLE]} if _VARIABLE in os.environ else {}
        os.environ[_VARIABLE] = path
        try:
            return paramiko.Agent()
        except paramiko.SSHException:
            return None
        finally:
            del os.environ[_VARIABLE]
            os.environ.update(before)


def _label(name: str, key: paramiko.PKey) -> str:
    return f"{name} ({named(key.get_name(), key.asbytes())})"


def _load(data: bytes) -> paramiko.PKey:
    """A private key in any form that OpenSSH or OpenSSL writes. It is converted to OpenSSH's form, the only one that
    paramiko reads for all kinds. Raises `TypeError` where it needs a passphrase, one of `_UNUSABLE`."""
    if b"BEGIN OPENSSH PRIVATE KEY" in data:
        loaded = serialization.load_ssh_private_key(data, None)
    else:
        loaded = serialization.load_pem_private_key(data, None)  # type: ignore[assignment]
    text = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    kind = public.split()[0].decode()
    return _CLASSES.get(kind, paramiko.ECDSAKey).from_private_key(io.StringIO(text))


def _public_in(path: Path) -> bytes | None:
    """The public key, or the certificate, of a file such as `id_ed25519.pub`."""
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
