"""Logging in over a connection whose host key was checked, with keys or with what a person types."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import paramiko

from remoterun.errors import AuthenticationError, HostUnreachable
from remoterun.hosts.ssh.config import SSHSettings, words_of
from remoterun.hosts.ssh.keys import KeyRing
from remoterun.hosts.ssh.wire import Wire

AskPassword = Callable[[str], str | None]
"""A function that asks a person the host's question and returns the answer; None: the person gives up."""

_PROMPT_SECONDS = 120.0
_ATTEMPTS = 3
"""How often a person may type a password, as with ssh."""


class DisconnectReason(logging.Handler):
    """Keeps sshd's reason for a disconnect, which paramiko writes to its log and nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Disconnect ("):
            self.text = text.partition("): ")[2].strip()


def authenticate(
    transport: paramiko.Transport,
    settings: SSHSettings,
    keys: KeyRing,
    ask_password: AskPassword | None,
    wire: Wire,
    address: str,
    reason: DisconnectReason,
) -> None:
    """Tries each key, then what a person types; returns when the host lets the user in.

    Blocks for the transport's `auth_timeout` per key, and while a person is asked. Raises `AuthenticationError`, or
    `HostUnreachable` when the connection ends.
    """
    notes: list[str] = []
    allowed: list[str] = []
    tried, typed = 0, False
    offers = keys.offers(settings, notes)
    try:
        for identity in offers:
            if not transport.is_active():
                break
            tried += 1
            try:
                allowed = transport.auth_publickey(settings.user, identity.key)
            except paramiko.BadAuthenticationType as error:
                allowed = error.allowed_types
                notes.append("the host accepts no keys at all")
                break
            except paramiko.AuthenticationException as error:
                if "timeout" in str(error).lower():
                    raise _hung_up(settings, address, "no answer in time", notes) from error
                notes.append(f"{identity.label}: {_why_refused(error, reason)}")
                continue
            if not allowed:
                return
            notes.append(f"{identity.label}: accepted, but the host wants {' or '.join(allowed)} as well")
            break
        if transport.is_active():
            let_in = _ask_a_person(transport, settings, ask_password, allowed, notes)
            if let_in:
                return
            typed = let_in is not None
    except (paramiko.SSHException, EOFError, OSError) as error:
        notes.append(str(error) or type(error).__name__)
    finally:
        offers.close()
    if not transport.is_active() and not reason.text:
        raise _hung_up(settings, address, wire.lost or "hung up", notes)
    if reason.text:
        notes.append(f"the host hung up: {reason.text}")
    raise _refused(settings, address, notes, tried, typed, "Too many authentication" in reason.text)


def _hung_up(settings: SSHSettings, address: str, why: str, notes: Sequence[str]) -> HostUnreachable:
    return HostUnreachable(
        f"the connection to `{settings.target}` ({address} port {settings.port}) broke while logging in: {why}",
        evidence="\n".join(notes) or None,
        hint=f"ssh -v {words_of(settings.target)}",
    )


def _ask_a_person(
    transport: paramiko.Transport,
    settings: SSHSettings,
    ask: AskPassword | None,
    allowed: Sequence[str],
    notes: list[str],
) -> bool | None:
    """Asks for a password, or the host's own questions, where the host takes answers and a person can be asked.

    True when an answer lets the user in, False when none does, None when nothing was typed.
    """
    methods = list(allowed)
    if not methods:
        try:
            transport.auth_none(settings.user)
            return True
        except paramiko.BadAuthenticationType as error:
            methods = error.allowed_types
    wanted = [name for name in methods if name in ("keyboard-interactive", "password")]
    if not wanted:
        return None
    if ask is None or settings.batch_mode:
        notes.append(f"{' and '.join(wanted)}: there is no terminal to ask on")
        return None
    transport.auth_timeout = _PROMPT_SECONDS
    label = f"{settings.user}@{settings.hostname}"

    typed = 0  # how many answers
    refused = ""

    def asked(question: str) -> str:
        nonlocal typed
        said = ask(f"that was refused; {question}" if refused else question) or ""
        typed += bool(said)
        return said

    def answer(title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        return [asked(f"({label}) {text.strip()}") for text, _ in questions]

    for method in wanted:
        refused = ""
        for _ in range(_ATTEMPTS):
            before = typed
            try:
                if method == "password":
                    password = asked(f"{label}'s password:")
                    if not password:
                        break
                    rest = transport.auth_password(settings.user, password, fallback=False)
                else:
                    rest = transport.auth_interactive(settings.user, answer)
            except paramiko.AuthenticationException as error:
                refused = str(error)
                if typed > before and transport.is_active():
                    continue
                break
            if not rest:
                return True
            refused = ""
            break
        if refused:
            notes.append(f"{method}: {refused}")
    return False if typed else None


def _why_refused(error: Exception, reason: DisconnectReason) -> str:
    text = str(error)
    if reason.text:
        return f"refused ({reason.text})"
    return "refused" if text in ("Authentication failed.", "") else f"refused ({text})"


def _refused(
    settings: SSHSettings, address: str, notes: Sequence[str], tried: int, typed: bool, too_many: bool
) -> AuthenticationError:
    who = f"`{settings.user}` on `{settings.target}` ({address} port {settings.port})"
    if typed:
        message = f"{who} refuses what was typed"
    elif not tried:
        message = f"there is no key to log in with as {who}"
    else:
        message = f"{who} accepts none of the {tried} keys tried" if tried > 1 else f"{who} refuses the key"
    port = f"-p {settings.port} " if settings.port != 22 else ""
    copy = f"ssh-copy-id {port}{settings.user}@{settings.hostname}"
    hint = f"{copy}   takes your key there\nssh -v {words_of(settings.target)}   shows what ssh says"
    if too_many:
        host = settings.target.host
        hint = f"name the key that fits: IdentityFile and `IdentitiesOnly yes` for {host} in ~/.ssh/config"
    elif not tried and not any("passphrase" in note for note in notes):
        hint = f"ssh-keygen -t ed25519   makes a key\n{copy}   takes it there"
    return AuthenticationError(message, evidence="\n".join(notes) or None, hint=hint)
