"""One authenticated SSH connection: dialled, its host key checked, logged in, perhaps through other hosts.

paramiko's transport without its client: the client knows neither our socket nor a known_hosts file with
markers.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

from remoterun.errors import HostError, HostKeyError, HostUnreachable, UsageError
from remoterun.hosts.ssh.config import HostKeyCheck, SSHSettings, SSHTarget, resolve, words_of
from remoterun.hosts.ssh.inbox import Inbox
from remoterun.hosts.ssh.keys import AskPassphrase, KeyRing
from remoterun.hosts.ssh.known_hosts import HostKey, KnownHosts, Standing, UnknownHostKey, Verdict, remember
from remoterun.hosts.ssh.login import AskPassword, Journal, authenticate
from remoterun.hosts.ssh.packets import Packetizer
from remoterun.hosts.ssh.wire import Deadlines, Wire, dial, dial_by_command

_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_JUMPS_AT_MOST = 8

_paramiko_log = logging.getLogger("paramiko")
if not _paramiko_log.handlers:  # paramiko tells of every lost connection on stderr; we raise instead
    _paramiko_log.addHandler(logging.NullHandler())
    _paramiko_log.propagate = False


@dataclass
class Access:
    """How connections are made and whom to ask; shared by a host and the hosts on the way to it."""

    deadlines: Deadlines = field(default_factory=Deadlines)
    config_file: Path | None = None
    confirm: Callable[[UnknownHostKey], bool] | None = None
    ask_password: AskPassword | None = None
    ask_passphrase: AskPassphrase | None = None
    keys: KeyRing = field(init=False)
    accepted: set[tuple[str, HostKey]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.keys = KeyRing(self.ask_passphrase)


class SessionRefused(Exception):
    """sshd opens no further session on this connection (MaxSessions), or none at all."""


class SSHConnection:
    """Made by `connect`. `sessions` may be opened from any thread."""

    def __init__(
        self,
        settings: SSHSettings,
        transport: paramiko.Transport,
        wire: Wire,
        address: str,
        via: SSHConnection | None,
        deadlines: Deadlines,
    ) -> None:
        self.settings = settings
        self.address = address
        self._transport = transport
        self._wire = wire
        self._via = via
        self._deadlines = deadlines
        self.round_trip = 0.0
        """Seconds that sshd's quickest answer took; 0 before the first."""

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active()) and not self._wire.closed

    @property
    def transport(self) -> paramiko.Transport:
        """For libraries that bring their own channels; closed with the connection."""
        return self._transport

    @property
    def lost(self) -> str:
        """Why the link is gone, in words; "" while it isn't."""
        if self._via is not None and self._via.lost:
            return f"{self._via.lost} (at `{self._via.settings.target}`, on the way)"
        return self._wire.lost

    def session(self, command: str) -> paramiko.Channel:
        """Start `command` in a new channel. Raises `SessionRefused`, or `HostUnreachable` when the link is
        gone."""
        begun = time.monotonic()
        try:
            channel = self._transport.open_session(timeout=self._deadlines.channel)
            self.round_trip = min(self.round_trip or float("inf"), time.monotonic() - begun)
        except paramiko.ChannelException as error:
            raise SessionRefused(str(error)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._gone(error) from error
        channel.in_buffer = Inbox()  # nothing comes before there is a command
        deadline = threading.Timer(self._deadlines.channel, close_quietly, (channel,))  # paramiko waits without one
        deadline.daemon = True
        deadline.start()
        try:
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not self.alive:
                raise self._gone(error) from error
            close_quietly(channel)
            raise SessionRefused("the host executes no command for this user") from error
        finally:
            deadline.cancel()
        return channel

    def close(self) -> None:
        """May be called twice, from any thread. Wakes every reader; drops the hosts on the way too."""
        self._wire.close()
        self._transport.close()
        if self._via is not None:
            self._via.close()

    def _gone(self, error: Exception) -> HostUnreachable:
        self.close()
        why = self.lost or str(error) or type(error).__name__
        return HostUnreachable(
            f"the connection to `{self.settings.target}` ({self.address}) is lost: {why}",
            hint=f"`ssh {words_of(self.settings.target)} true` tells whether the machine answers",
        )


def connect(settings: SSHSettings, access: Access, passed: tuple[SSHTarget, ...] = ()) -> SSHConnection:
    """Dial, check the host key, log in. Blocks, within the deadlines of `access`, unless a person is asked.

    Raises `HostUnreachable`, `HostKeyError`, `AuthenticationError` or `HostError`; nothing stays open then.
    """
    via: SSHConnection | None = None
    said: Callable[[], str] | None = None
    began = time.monotonic()
    if settings.jumps:
        via = _connect_through(settings, access, passed)
        wire, address = _tunnel(via, settings, access.deadlines)
    elif settings.proxy_command:
        wire, said = dial_by_command(settings.proxy_command, access.deadlines)
        address = f"through `{settings.proxy_command.split()[0]}`"
    else:
        wire, address = dial(settings, access.deadlines)
    try:
        return _log_in(settings, access, wire, address, via, said, began)
    except BaseException:
        wire.close()
        if via is not None:
            via.close()
        raise


def close_quietly(channel: paramiko.Channel) -> None:
    """Wakes the channel's readers first; then it may block, or fail, as it tells the host. Fit for a thread."""
    try:
        channel.close()
    except (OSError, EOFError, paramiko.SSHException):
        pass


def _connect_through(settings: SSHSettings, access: Access, passed: tuple[SSHTarget, ...]) -> SSHConnection:
    *before, last = settings.jumps
    if last in passed or len(passed) >= _JUMPS_AT_MOST:
        raise UsageError(f"the ProxyJump of `{settings.target}` leads in a circle", hint="check ~/.ssh/config")
    found = resolve(last, access.config_file)
    if before:
        found = replace(found, jumps=tuple(before), proxy_command=None)
    return connect(found, access, (*passed, last))


def _tunnel(via: SSHConnection, settings: SSHSettings, deadlines: Deadlines) -> tuple[Wire, str]:
    place = (settings.hostname, settings.port)
    try:
        channel = via._transport.open_channel(
            "direct-tcpip", place, ("127.0.0.1", 0), timeout=settings.connect_timeout or deadlines.connect
        )
    except paramiko.ChannelException as error:
        via.close()
        forbidden = error.code == 1
        raise HostUnreachable(
            f"`{via.settings.target}` can't reach `{settings.target}`, {settings.hostname} port {settings.port}",
            evidence=str(error),
            hint=f"its sshd forbids it (AllowTcpForwarding) on `{via.settings.target}`"
            if forbidden
            else f"`ssh {words_of(via.settings.target)} nc -vz {settings.hostname} {settings.port}` shows more",
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise via._gone(error) from error
    return Wire(channel, deadlines.silence), f"{settings.hostname} through {via.settings.target}"


def _log_in(
    settings: SSHSettings,
    access: Access,
    wire: Wire,
    address: str,
    via: SSHConnection | None,
    said: Callable[[], str] | None,
    began: float,
) -> SSHConnection:
    journal = Journal()
    known = KnownHosts.read(settings.user_known_hosts + settings.global_known_hosts)
    transport = _transport(wire, access.deadlines, journal, known.kinds(settings.known_as))
    try:
        _handshake(transport, settings, access.deadlines, wire, address, said, began)
        _check_host_key(transport, settings, access, known, address)
        authenticate(transport, settings, access.keys, access.ask_password, wire, address, journal)
    except BaseException:
        transport.close()
        raise
    wire.ping = lambda: _ping(transport)
    return SSHConnection(settings, transport, wire, address, via, access.deadlines)


_loggers = itertools.count()


def _transport(wire: Wire, deadlines: Deadlines, journal: Journal, known_kinds: Sequence[str]) -> paramiko.Transport:
    transport = paramiko.Transport(wire, packetizer_class=Packetizer)
    transport.packetizer.grant_while(transport.clear_to_send.is_set)
    own = logging.Logger(f"paramiko.connection.{next(_loggers)}", logging.INFO)  # of no tree, so it goes with us
    own.addHandler(journal)
    transport.logger = own
    transport.packetizer.set_log(own)
    # a rekey of ours can stall for 30 s and end the connection (paramiko #822); sshd asks for one when it's
    # due
    transport.packetizer.REKEY_BYTES = 1 << 36
    transport.packetizer.REKEY_PACKETS = 1 << 40
    transport.banner_timeout = deadlines.banner
    transport.handshake_timeout = deadlines.handshake
    transport.auth_timeout = deadlines.auth
    options = transport.get_security_options()
    options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in transport.preferred_ciphers)
    options.key_types = _preferred(tuple(options.key_types), known_kinds)
    return transport


def _preferred(offered: tuple[str, ...], known_kinds: Sequence[str]) -> tuple[str, ...]:
    """Algorithms for which we hold a key of this host stand first, so that it shows that one."""
    first = [name for name in offered if ("ssh-rsa" if name.startswith("rsa-") else name) in known_kinds]
    return (*first, *(name for name in offered if name not in first))


def _ping(transport: paramiko.Transport) -> None:
    """A question that sshd must answer. Called by the thread that reads, which may never wait for a rekey."""
    if not transport.clear_to_send.is_set():
        return
    message = paramiko.Message()
    message.add_byte(cMSG_GLOBAL_REQUEST)
    message.add_string("keepalive@openssh.com")
    message.add_boolean(True)
    transport._send_user_message(message)


def _handshake(
    transport: paramiko.Transport,
    settings: SSHSettings,
    deadlines: Deadlines,
    wire: Wire,
    address: str,
    said: Callable[[], str] | None,
    began: float,
) -> None:
    trouble: Exception | None = None
    try:
        transport.start_client(timeout=deadlines.handshake)
    except (paramiko.SSHException, EOFError, OSError) as error:
        trouble = error
    if trouble is None and transport.initial_kex_done:
        return
    lost = wire.lost
    last_words = said() if said is not None and not wire.opening else ""
    wire.close()
    name, place = f"`{settings.target}`", f"{address} port {settings.port}"
    took = f"after {time.monotonic() - began:.1f} s"
    heard = wire.opening.decode("utf-8", "replace").strip()
    if isinstance(trouble, paramiko.SSHException) and "Incompatible" in type(trouble).__name__:
        raise HostError(
            f"{name} ({place}) speaks only algorithms that are not safe any more",
            evidence=str(trouble),
            hint="its sshd is too old; update it",
        ) from trouble
    if "Not allowed at this time" in heard:
        raise HostUnreachable(
            f"{name} takes no connection from here for a while ({place}): Not allowed at this time",
            hint="its sshd punishes this address for failed logins (PerSourcePenalties): wait some minutes",
        )
    if "Exceeded MaxStartups" in heard:
        raise HostUnreachable(
            f"{name} has too many logins in progress ({place}): {heard}", hint="try again in a few seconds"
        )
    if said is not None and not heard:
        raise HostUnreachable(
            f"the ProxyCommand for {name} does not reach it ({took}{': ' + lost if lost else ''})",
            evidence=last_words or None,
            hint=f"try it by hand: {settings.proxy_command}",
        )
    if heard and "SSH-" not in heard:
        raise HostUnreachable(
            f"what answers for {name} at {place} is not an SSH server",
            evidence=heard[:200],
            hint="is the port right?",
        )
    if lost and not heard:
        raise HostUnreachable(
            f"{name} closed the connection before it said anything ({place}, {took})",
            evidence=lost,
            hint="too many connections at once (MaxStartups), or a firewall: try again in a few seconds",
        )
    if not heard:
        raise HostUnreachable(
            f"{name} took the connection but its SSH server says nothing ({place}, {took})",
            hint="the machine may be overloaded or suspended, or the port is another program's",
        )
    raise HostUnreachable(
        f"{name} did not finish the SSH handshake ({place}, {took})",
        evidence=lost or (str(trouble) if trouble else None),
        hint=f"`ssh -v {words_of(settings.target)}` shows where it stops",
    )


def _check_host_key(
    transport: paramiko.Transport, settings: SSHSettings, access: Access, known: KnownHosts, address: str
) -> None:
    shown = transport.get_remote_server_key()
    key = HostKey(shown.get_name(), shown.asbytes())
    verdict = known.judge(settings.known_as, key)
    if verdict.standing is Standing.KNOWN or (settings.known_as, key) in access.accepted:
        return
    if verdict.standing is not Standing.UNKNOWN:
        raise _wrong_key(settings, key, verdict)
    file = settings.user_known_hosts[0] if settings.user_known_hosts else None
    question = UnknownHostKey(
        host=str(settings.target),
        known_as=settings.known_as,
        address=address,
        key=key,
        file=file,
        others=tuple(f"{line.place} ({line.key.short_kind})" for line in verdict.lines),
    )
    silently = settings.host_key_check is HostKeyCheck.ACCEPT_NEW and not verdict.lines
    if not silently:
        if settings.host_key_check is HostKeyCheck.REFUSE or access.confirm is None or settings.batch_mode:
            raise _unknown_key(settings, question, known.notes, "is not known here")
        if not access.confirm(question):
            raise _unknown_key(settings, question, known.notes, "was not accepted")
    access.accepted.add((settings.known_as, key))
    if file is not None:
        try:
            remember(file, settings.known_as, key, hashed=settings.hash_known_hosts)
        except OSError as error:
            raise HostKeyError(
                f"the host key of `{settings.target}` can't be written to `{file}`",
                evidence=error.strerror,
                hint=f"ls -l {file}",
            ) from error


def _wrong_key(settings: SSHSettings, key: HostKey, verdict: Verdict) -> HostKeyError:
    line = verdict.lines[0]
    if verdict.standing is Standing.REVOKED:
        return HostKeyError(
            f"`{settings.target}` shows a host key that is revoked at {line.place}",
            evidence=f"it shows {key.short_kind} {key.fingerprint}",
            hint="do not connect; ask whoever runs that machine",
        )
    was = "\n".join(f"{line.place} holds {line.key.short_kind} {line.key.fingerprint}" for line in verdict.lines)
    return HostKeyError(
        f"the host key of `{settings.target}` is not the one at {line.place}",
        evidence=f"{was}\nit shows {key.short_kind} {key.fingerprint}\n"
        "either the machine was installed anew, or somebody stands between",
        hint=f"if you know that it changed: ssh-keygen -f {line.file} -R '{settings.known_as}'",
    )


def _unknown_key(settings: SSHSettings, question: UnknownHostKey, notes: Sequence[str], what: str) -> HostKeyError:
    evidence = [f"it shows {question.key.short_kind} {question.fingerprint}"]
    evidence += [f"another kind of key is known at {place}" for place in question.others]
    evidence += [note for note in notes if "cert-authority" in note]
    command = f"ssh {words_of(settings.target)}"
    if settings.host_key_check is HostKeyCheck.REFUSE:
        port = f"-p {settings.port} " if settings.port != 22 else ""
        kind = question.key.short_kind.lower()
        command = f"ssh-keyscan -t {kind} {port}{settings.hostname} >> {question.file or '~/.ssh/known_hosts'}"
    return HostKeyError(
        f"the host key of `{settings.target}` ({question.address}) {what}",
        evidence="\n".join(evidence),
        hint=f"{command}   # compare the fingerprint with the machine's own before you say yes",
    )
