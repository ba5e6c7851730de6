"""One authenticated SSH connection: dialled, its host key checked, logged in, perhaps through other hosts.

It uses paramiko's transport without paramiko's client, which reads no known_hosts file with markers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

from remoterun.errors import HostUnreachable, UsageError
from remoterun.hosts.base import Prompts
from remoterun.hosts.ssh import internals
from remoterun.hosts.ssh.config import SSHSettings, SSHTarget, resolve, words_of
from remoterun.hosts.ssh.deadlines import Deadlines
from remoterun.hosts.ssh.dial import dial
from remoterun.hosts.ssh.handshake import make_transport, shake_hands
from remoterun.hosts.ssh.host_key import check_host_key
from remoterun.hosts.ssh.keys import KeyRing
from remoterun.hosts.ssh.known_hosts import HostKey, KnownHosts
from remoterun.hosts.ssh.login import DisconnectReason, authenticate
from remoterun.hosts.ssh.pipe import SSHPipe, close_quietly
from remoterun.hosts.ssh.proxy import dial_by_command
from remoterun.hosts.ssh.wire import Wire

_JUMPS_AT_MOST = 8


@dataclass(frozen=True)
class Access:
    """How connections are made and who is asked; the same for a host and for the jump hosts on the way to it."""

    deadlines: Deadlines
    config_file: Path | None
    prompts: Prompts
    keys: KeyRing


class SessionRefused(Exception):
    """sshd opens no further session on this connection (MaxSessions), or none at all."""


class SSHConnection:
    """Made by `connect`. Any thread may call `start`."""

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
        self.transport = transport
        """For libraries that open their own channels; closed with the connection."""
        self._wire = wire
        self._via = via
        self._deadlines = deadlines
        self.round_trip = 0.0
        """Seconds that sshd's quickest answer took; 0 before the first."""

    @property
    def alive(self) -> bool:
        """False from the moment on that the link is lost: paramiko first ends its channels, and then says so."""
        return bool(self.transport.is_active()) and not self._wire.closed and not self._wire.lost

    @property
    def lost(self) -> str:
        """Why the link is gone, in words; "" while it is there."""
        if self._via is not None and self._via.lost:
            return f"{self._via.lost} (at `{self._via.settings.target}`, on the way)"
        return self._wire.lost

    def start(self, command: str) -> SSHPipe:
        """Run `command` in a new channel. Raises `SessionRefused`, or `HostUnreachable` when the link is gone."""
        begun = time.monotonic()
        try:
            channel = self.transport.open_session(timeout=self._deadlines.channel)
            self.round_trip = min(self.round_trip or float("inf"), time.monotonic() - begun)
        except paramiko.ChannelException as error:
            raise SessionRefused(str(error)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._gone(error) from error
        pipe = self._pipe(channel)
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
        return pipe

    def close(self) -> None:
        """May be called twice, from any thread. Wakes every reader, and closes the connections to jump hosts too."""
        self._wire.close()
        self.transport.close()
        if self._via is not None:
            self._via.close()

    def _pipe(self, channel: paramiko.Channel) -> SSHPipe:
        if internals.missing() or not self.transport.packetizer.is_quick:
            return SSHPipe(channel, self)
        from remoterun.hosts.ssh.quick_pipe import QuickPipe

        return QuickPipe(channel, self)

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
    proxy_errors: Callable[[], str] | None = None
    began = time.monotonic()
    if settings.jumps:
        via = _connect_through(settings, access, passed)
        wire, address = _tunnel(via, settings, access.deadlines)
    elif settings.proxy_command:
        wire, proxy_errors = dial_by_command(settings.proxy_command, access.deadlines)
        address = f"through `{settings.proxy_command.split()[0]}`"
    else:
        wire, address = dial(settings, access.deadlines)
    try:
        return _log_in(settings, access, wire, address, via, proxy_errors, began)
    except BaseException:
        wire.close()
        if via is not None:
            via.close()
        raise


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
        channel = via.transport.open_channel(
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
    proxy_errors: Callable[[], str] | None,
    began: float,
) -> SSHConnection:
    reason = DisconnectReason()
    known = KnownHosts.read(settings.user_known_hosts + settings.global_known_hosts)
    transport = make_transport(wire, access.deadlines, reason, known.kinds(settings.known_as))
    try:
        shake_hands(transport, settings, access.deadlines, wire, address, proxy_errors, began)
        shown = transport.get_remote_server_key()
        key = HostKey(shown.get_name(), shown.asbytes())
        check_host_key(key, settings, known, address, access.prompts.confirm_host_key)
        authenticate(transport, settings, access.keys, access.prompts.ask_password, wire, address, reason)
    except BaseException:
        transport.close()
        raise
    if not internals.missing():
        wire.ping = lambda: _ping(transport)
    return SSHConnection(settings, transport, wire, address, via, access.deadlines)


def _ping(transport: paramiko.Transport) -> None:
    """Sends a question that sshd must answer. The thread that reads calls it, which must never wait for new keys."""
    if not transport.clear_to_send.is_set():
        return
    message = paramiko.Message()
    message.add_byte(cMSG_GLOBAL_REQUEST)
    message.add_string("keepalive@openssh.com")
    message.add_boolean(True)
    transport._send_user_message(message)
