"""Logging in over a connection whose host key was checked, with keys or with what a person types.

The keys that most likely fit are offered first, because sshd hangs up after six (MaxAuthTries).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.auth_strategy import AuthStrategy

from remoterun.errors import AuthenticationError, HostUnreachable
from remoterun.hosts.base import Prompts
from remoterun.hosts.ssh.config import SSHSettings, words_of
from remoterun.hosts.ssh.host_key import named

_CLASSES = {"ssh-ed25519": paramiko.Ed25519Key, "ssh-rsa": paramiko.RSAKey}
_PROMPT_SECONDS = 120.0
_TRIES = 3
"""How often a person may type a password, or a passphrase, as with ssh."""
_UNUSABLE = (ValueError, paramiko.SSHException, UnsupportedAlgorithm)
_AGENT_SECONDS = 5.0
_agent_variable = threading.Lock()


@dataclass(frozen=True)
class Identity:
    """A key that can sign, and its name for messages."""

    label: str
    key: paramiko.PKey


@dataclass
class KeyRing:
    """The keys that a passphrase has opened, for the life of a host object, so that none is asked for twice."""

    ask: Callable[[str], str | None] | None = None
    """The argument is the file; None: nobody can be asked."""
    opened: dict[Path, paramiko.PKey] = field(default_factory=dict)
    declined: set[Path] = field(default_factory=set)


class Login(AuthStrategy):  # type: ignore[misc]  # paramiko has no types
    """For one connection: tries each key, then what a person types. `place` names the host's address in messages, and
    `disconnect_reason` returns why sshd has hung up, as it says itself, or ""."""

    def __init__(
        self,
        settings: SSHSettings,
        keys: KeyRing,
        prompts: Prompts,
        place: str,
        disconnect_reason: Callable[[], str],
    ) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._settings = settings
        self._keys = keys
        self._ask = None if settings.batch_mode else prompts.ask_password
        self._place = place
        self._reason = disconnect_reason
        self._notes: list[str] = []
        self._tried = 0
        self._typed = 0
        """How many answers a person has given."""

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Returns when the host lets the user in. Blocks for the transport's `auth_timeout` per key, and while a person
        is asked. Raises `AuthenticationError`, or `HostUnreachable` when the connection ends."""
        try:
            methods = self._offer_keys(transport)
            if methods == [] or (transport.is_active() and self._ask_a_person(transport, methods)):
                return
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._notes.append(str(error) or type(error).__name__)
        reason = self._reason()
        if not transport.is_active() and not reason:
            raise self._hung_up("closed by the other end")
        if reason:
            self._notes.append(f"the host hung up: {reason}")
        raise self._refused("Too many authentication" in reason)

    def get_sources(self) -> Generator[Identity, None, None]:
        """The keys, best first, each loaded only when it is reached. What can't be used leaves a note.

        Key files come first; where the agent holds a file's key, the agent signs. Then come the agent's other keys, and
        at last default files that need a passphrase. So the agent's many keys don't use up sshd's limit of tries before
        the configured key is offered.
        """
        agent = _agent(self._settings.agent_socket, self._notes) if self._settings.agent_socket else None
        try:
            held = agent.get_keys() if agent else ()
            yield from self._sources([_AgentIdentity(key.agent, key.blob, key.comment) for key in held])
        finally:
            if agent:
                agent.close()

    def _sources(self, held: Sequence[_AgentIdentity]) -> Iterator[Identity]:
        settings = self._settings
        offered: list[_AgentIdentity] = []
        locked: list[Path] = []
        for path in settings.identity_files:
            public = _public_half(path)
            own = [key for key in held if public and _is_of(key.blob, public)]
            for key in sorted(own, key=lambda key: "-cert-" not in key.get_name()):
                offered.append(key)
                yield from self._certified(f"{path} (from the agent)", path, key)
            if own:
                continue
            if not settings.identities_given and _is_locked(path) and path not in self._keys.opened:
                locked.append(path)
            else:
                yield from self._from_file(path)
        if not settings.identities_only:
            for key in held:
                if key not in offered:
                    yield Identity(_label(f"the agent's {key.comment or 'key'}", key), key)
        for path in locked:
            yield from self._from_file(path)

    def _offer_keys(self, transport: paramiko.Transport) -> list[str] | None:
        """What the host wants beside a key that it accepts, [] when it lets the user in; None where it accepts none."""
        with contextlib.closing(self.get_sources()) as sources:
            for identity in sources:
                if not transport.is_active():
                    break
                self._tried += 1
                try:
                    more: list[str] = transport.auth_publickey(self._settings.user, identity.key)
                except paramiko.BadAuthenticationType as error:
                    self._notes.append("the host accepts no keys at all")
                    return list(error.allowed_types)
                except paramiko.AuthenticationException as error:
                    if "timeout" in str(error).lower():
                        raise self._hung_up("no answer in time") from error
                    self._notes.append(f"{identity.label}: refused{self._why(error)}")
                    continue
                if more:
                    self._notes.append(f"{identity.label}: accepted, but the host wants {' or '.join(more)} as well")
                return more
        return None

    def _ask_a_person(self, transport: paramiko.Transport, methods: list[str] | None) -> bool:
        """Asks for a password, or the host's own questions, where the host takes answers and a person can be asked.
        Whether an answer lets the user in."""
        user = self._settings.user
        if methods is None:
            try:
                transport.auth_none(user)
                return True
            except paramiko.BadAuthenticationType as error:
                methods = error.allowed_types
        wanted = [name for name in methods if name in ("keyboard-interactive", "password")]
        if wanted and self._ask is None:
            self._notes.append(f"{' and '.join(wanted)}: there is no terminal to ask on")
            return False
        transport.auth_timeout = _PROMPT_SECONDS
        return any(self._answer(transport, method) for method in wanted)

    def _answer(self, transport: paramiko.Transport, method: str) -> bool:
        """Asks, up to `_TRIES` times, until the host takes the answer or the person types none."""
        user, label = self._settings.user, f"{self._settings.user}@{self._settings.hostname}"
        refused = ""

        def asked(question: str) -> str:
            assert self._ask is not None
            answer = self._ask(f"that was refused; {question}" if refused else question) or ""
            self._typed += bool(answer)
            return answer

        def answers(title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
            return [asked(f"({label}) {text.strip()}") for text, _ in questions]

        for _ in range(_TRIES):
            before = self._typed
            try:
                if method == "password":
                    password = asked(f"{label}'s password:")
                    if not password:
                        break
                    more = transport.auth_password(user, password, fallback=False)
                else:
                    more = transport.auth_interactive(user, answers)
            except paramiko.AuthenticationException as error:
                refused = str(error)
                if self._typed == before or not transport.is_active():
                    break
                continue
            return not more
        if refused:
            self._notes.append(f"{method}: {refused}")
        return False

    def _from_file(self, path: Path) -> Iterator[Identity]:
        key = self._keys.opened.get(path) or self._open(path)
        if key is not None:
            self._keys.opened[path] = key
            yield from self._certified(str(path), path, key)

    def _open(self, path: Path) -> paramiko.PKey | None:
        """The key of a file; None, with a note, where it can't be used."""
        try:
            data = path.read_bytes()
            if b"PRIVATE KEY-----" not in data:
                raise FileNotFoundError
            return _load(data, None)
        except FileNotFoundError:
            if _public_half(path) is not None:
                self._notes.append(f"{path}: only the public half is here, and no agent has the private one")
            elif path.exists():
                self._notes.append(f"{path}: not a key")
            elif self._settings.identities_given:
                self._notes.append(f"{path}: no such file")
        except OSError as error:
            self._notes.append(f"{path}: {error.strerror}")
        except _UNUSABLE as error:
            self._notes.append(f"{path}: not a key that can be used here ({error})")
        except TypeError:
            return self._unlock(path, data)
        return None

    def _unlock(self, path: Path, data: bytes) -> paramiko.PKey | None:
        """The key of a file that needs a passphrase; None, with a note, where nobody gives the right one."""
        if self._keys.ask is None or self._settings.batch_mode:
            self._notes.append(f"{path}: needs a passphrase, and there is no terminal to ask on")
            return None
        for _ in range(_TRIES if path not in self._keys.declined else 0):
            passphrase = self._keys.ask(str(path))
            if not passphrase:
                self._keys.declined.add(path)
                break
            with contextlib.suppress(TypeError, *_UNUSABLE):
                return _load(data, passphrase.encode())
        declined = path in self._keys.declined
        self._notes.append(f"{path}: {'no passphrase given' if declined else 'the passphrase is wrong'}")
        return None

    def _certified(self, name: str, path: Path, key: paramiko.PKey) -> Iterator[Identity]:
        """`key` with each certificate for it that stands next to its file, or that the configuration names; then the
        key alone."""
        plain = bytes(key.asbytes())
        usual = Path(f"{path}-cert.pub")
        for file in dict.fromkeys((usual, *self._settings.certificate_files)):
            blob = _public_in(file)
            if blob is None:
                if file != usual:
                    self._notes.append(f"{file}: not a certificate")
            elif blob != plain and _is_of(blob, plain):
                key.load_certificate(paramiko.Message(blob))
                yield Identity(_label(str(file), key), key)
        key.public_blob = None
        yield Identity(_label(name, key), key)

    def _why(self, error: Exception) -> str:
        why = self._reason() or str(error)
        return "" if why in ("Authentication failed.", "") else f" ({why})"

    def _hung_up(self, why: str) -> HostUnreachable:
        return HostUnreachable(
            f"the connection to `{self._settings.target}` ({self._place}) broke while logging in: {why}",
            evidence="\n".join(self._notes) or None,
            hint=f"ssh -v {words_of(self._settings.target)}",
        )

    def _refused(self, too_many: bool) -> AuthenticationError:
        settings = self._settings
        who = f"`{settings.user}` on `{settings.target}` ({self._place})"
        if self._typed:
            message = f"{who} refuses what was typed"
        elif not self._tried:
            message = f"there is no key to log in with as {who}"
        else:
            message = (
                f"{who} accepts none of the {self._tried} keys tried" if self._tried > 1 else f"{who} refuses the key"
            )
        port = f"-p {settings.port} " if settings.port != 22 else ""
        copy = f"ssh-copy-id {port}{settings.user}@{settings.hostname}"
        hint = f"{copy}   takes your key there\nssh -v {words_of(settings.target)}   shows what ssh says"
        if too_many:
            host = settings.target.host
            hint = f"name the key that fits: IdentityFile and `IdentitiesOnly yes` for {host} in ~/.ssh/config"
        elif any("no terminal to ask on" in note for note in self._notes):
            hint = f"remoterun login {settings.target}   asks once, in a terminal"
        elif not self._tried and not any("passphrase" in note for note in self._notes):
            hint = f"ssh-keygen -t ed25519   makes a key\n{copy}   takes it there"
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


def new_key(comment: str) -> tuple[str, str]:
    """An ed25519 key that nobody else has, as OpenSSH's files hold it: the private half, a secret, and the line of the
    public half, with `comment` at its end."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"


def _agent(path: str, notes: list[str]) -> paramiko.Agent | None:
    """The agent at a socket; None, with a note, for one that does not answer within `_AGENT_SECONDS`: paramiko waits
    without a deadline, and finds an agent by the environment only."""
    found: list[paramiko.Agent] = []

    def ask() -> None:
        with contextlib.suppress(OSError, paramiko.SSHException), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)  # of an agent that is gone, paramiko says nothing
            with _environment("SSH_AUTH_SOCK", path):
                found.append(paramiko.Agent())

    worker = threading.Thread(target=ask, daemon=True)
    worker.start()
    worker.join(_AGENT_SECONDS)
    if not found:
        notes.append(f"the ssh agent at {path} does not answer")
    return found[0] if found else None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    with _agent_variable:
        before = {name: os.environ[name]} if name in os.environ else {}
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]
            os.environ.update(before)


def _label(name: str, key: paramiko.PKey) -> str:
    return f"{name} ({named(key.get_name(), key.asbytes())})"


def _load(data: bytes, passphrase: bytes | None) -> paramiko.PKey:
    """A private key in any form that OpenSSH or OpenSSL writes. It is converted to OpenSSH's form, the only one that
    paramiko reads for all kinds. Raises `TypeError` where a passphrase is missing, one of `_UNUSABLE`."""
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


def _is_locked(path: Path) -> bool:
    """Whether a file holds a private key that needs a passphrase."""
    try:
        _load(path.read_bytes(), None)
    except TypeError:
        return True
    except (OSError, *_UNUSABLE):
        return False
    return False


def _public_half(path: Path) -> bytes | None:
    """The public half of a key's file: from the file with `.pub`, from the file itself where it holds nothing else, or
    from the head of OpenSSH's form, where it stands in the clear."""
    public = _public_in(Path(f"{path}.pub")) or _public_in(path)
    if public is not None:
        return public
    with contextlib.suppress(OSError, ValueError, binascii.Error):
        data = path.read_bytes()
        body = b"".join(line for line in data.splitlines() if b"-----" not in line)
        message = paramiko.Message(base64.b64decode(body).removeprefix(b"openssh-key-v1\0"))
        if b"BEGIN OPENSSH PRIVATE KEY" in data:
            for _ in ("cipher", "derivation of its key", "options of that"):
                message.get_binary()
            message.get_int()
            return bytes(message.get_binary())
    return None


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
