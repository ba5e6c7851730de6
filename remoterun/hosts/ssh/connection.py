"""One authenticated SSH connection, and the pipe to a program over it.

paramiko's client does the handshake, the host key's policy and the login, and its channels carry the data. Here a dead
link is noticed, and errors get words for the user.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence

import paramiko

from remoterun.errors import HostError, HostUnreachable, LinkLost, RemoterunError
from remoterun.hosts.base import KEPT, TAIL, Prompts
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, words_of
from remoterun.hosts.ssh.dial import Way, dial
from remoterun.hosts.ssh.host_key import KnownHostsPolicy, kinds, lines_about
from remoterun.hosts.ssh.login import Login
from remoterun.hosts.ssh.master import Unanswered

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_WINDOW = 8 << 20  # bytes that may be on their way to us before we have read any of them
_READ = 1 << 20
_POLL = 0.5  # seconds between looks at deadlines while nothing comes
_END_SECONDS = 5.0  # for paramiko's thread, whose socket is closed
_SETTLE_SECONDS = 1.0  # for a link that may be ending
_GONE = (OSError, EOFError, paramiko.SSHException)  # what a channel raises whose link has ended
_HEAD = 4096  # bytes; what is shorter is sent in one packet with what follows
_MOST_LINES = 200
_OFFERS = {
    "kex algorithm": "kex algos: ",
    "host key": "server key: ",
    "ciphers": "client encrypt: ",
    "macs": "client mac: ",
}
"""What paramiko calls a kind of algorithm in an error → how the line of its log begins that says what sshd offers."""

_LOGGER = "remoterun.ssh"
logging.getLogger(_LOGGER).addHandler(logging.NullHandler())  # what is lost becomes an exception, and is not printed


class SessionRefused(Exception):
    """sshd opens no further session on this connection (MaxSessions), or none at all."""


class SSHConnection:
    """Made by `connect`. Any thread may call `start`."""

    def __init__(self, client: paramiko.SSHClient, settings: SSHSettings, way: Way, deadlines: Deadlines) -> None:
        self.client = client
        """For libraries that open their own channels; closed with the connection."""
        self.settings = settings
        self.round_trip = 0.0
        """Seconds that sshd's quickest answer took; 0 before the first."""
        self.moved_at = 0.0
        """When (monotonic) a pipe last sent or received something."""
        self._transport: paramiko.Transport = client.get_transport()
        self._way = way
        self._deadlines = deadlines
        self._lost = ""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active()) and not self._closed.is_set()

    @property
    def lost(self) -> str:
        """Why the link is gone, in words; "" while it is not, and after `close`."""
        if self._lost or self._closed.is_set() or self._transport.is_active():
            return self._lost
        return "closed by the other end"

    def start(self, command: str) -> SSHPipe:
        """Run `command` in a new channel. Raises `SessionRefused`, or `HostUnreachable` when the link is gone."""
        begun = time.monotonic()
        try:
            channel = self._transport.open_session(timeout=self._deadlines.channel)
            self.round_trip = min(self.round_trip or float("inf"), time.monotonic() - begun)
        except paramiko.ChannelException as error:
            raise SessionRefused(str(error)) from error
        except Exception as error:  # noqa: BLE001 - as in `connect`
            raise self._gone(error) from error
        try:
            channel.exec_command(command)
        except Exception as error:  # noqa: BLE001 - as in `connect`
            # a link that ends closes its channels first, and is dead after that
            if not isinstance(error, paramiko.SSHException) or not self.alive:
                raise self._gone(error) from error
            _close_quietly(channel)
            raise SessionRefused("the host executes no command for this user") from error
        return SSHPipe(channel, self)

    def settle(self) -> None:
        """A link that ends closes its channels first, and is dead after that: waits for it."""
        self._transport.join(_SETTLE_SECONDS)

    def close(self) -> None:
        """May be called twice, from any thread. Wakes every reader."""
        self._closed.set()
        _end(self.client, self._way)

    def _watch(self) -> None:
        """Asks sshd for a sign of life from time to time, and ends the connection when none comes while nothing else
        moves. The answer may have to wait behind data that is on its way."""
        silence = self._deadlines.silence
        while not self._closed.wait(silence / 2) and self._transport.is_active():
            asked_at = time.monotonic()
            patience = 3 * silence if asked_at - self.moved_at < silence else silence / 2
            question = threading.Thread(target=self._ask, daemon=True)
            question.start()
            while question.is_alive() and time.monotonic() - max(asked_at, self.moved_at) < patience:
                question.join(min(_POLL, silence / 4))
            if question.is_alive():
                self._lost = f"no answer for {time.monotonic() - asked_at:.0f} s"
                break
        else:
            self._lost = "" if self._closed.is_set() else "closed by the other end"
        self.close()

    def _ask(self) -> None:
        with contextlib.suppress(*_GONE):  # the link has ended: the transport knows
            self._transport.global_request("keepalive@openssh.com", wait=True)

    def _gone(self, error: Exception) -> HostUnreachable:
        why = self.lost or ("closed by the other end" if isinstance(error, EOFError) else str(error))
        self.close()
        return HostUnreachable(
            f"the connection to `{self.settings.target}` ({self._way.address}) is lost: {why}",
            hint=f"`ssh {words_of(self.settings.target)} true` tells whether the machine answers",
        )


class SSHPipe:
    """See `Pipe`. Made by `SSHConnection.start`: one channel, in which one program runs.

    `give_up_at` (monotonic, None: never) ends the next read that begins, or still waits, after that time; `late` then
    is True.
    """

    def __init__(self, channel: paramiko.Channel, connection: SSHConnection) -> None:
        self._channel = channel
        self._connection = connection
        self._errors = bytearray()
        self._closing = threading.Lock()
        self._closed = False
        self.give_up_at: float | None = None
        self.late = False
        channel.settimeout(_POLL)

    @property
    def round_trip(self) -> float:
        return self._connection.round_trip

    @property
    def lost(self) -> str:
        """Why the link broke; "" where it didn't, so that the end of the stream is the program's own."""
        if self._channel.closed and not self._channel.eof_received and not self._closed:
            self._connection.settle()
        if self._connection.alive or self._closed:
            return ""
        return self._connection.lost or "closed"

    def read(self, limit: int) -> bytes:
        """`b""` also when it is too late."""
        while not self._closed:
            if self.give_up_at is not None and time.monotonic() > self.give_up_at:
                self.late = True
                break
            try:
                data = bytes(self._channel.recv(limit))
            except TimeoutError:
                self._collect_errors()
                continue
            except _GONE:
                data = b""
            self._connection.moved_at = time.monotonic()
            self._collect_errors()
            return data
        return b""

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        while data := self.read(_READ):
            taker(memoryview(data))

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        if len(views) > 1 and len(views[0]) < _HEAD:
            views = [memoryview(b"".join(views))]
        for view in views:
            while view:
                view = view[self._send(view) :]

    def end_input(self) -> None:
        """Nothing more will be written; the program's output still comes."""
        with contextlib.suppress(*_GONE):
            self._channel.shutdown_write()

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # This wakes the reader at once; the message to the host may have to wait for a link that stands still.
        closer = threading.Thread(target=_close_quietly, args=(self._channel,), daemon=True)
        closer.start()
        closer.join(1.0)

    def diagnosis(self) -> str:
        self._collect_errors()
        text = bytes(self._errors[-TAIL:]).decode("utf-8", "replace").strip()
        lost = self.lost
        return "\n".join(part for part in (text, f"the link broke: {lost}" if lost else "") if part)

    def exit_status(self, patience: float) -> int | None:
        """The program's exit status; None where a signal ended it, or it does not end within `patience` seconds."""
        if not self._channel.status_event.wait(patience):
            return None
        status = int(self._channel.recv_exit_status())
        self._collect_errors()
        return None if status < 0 else status

    def _send(self, data: memoryview) -> int:
        """The number of bytes that were sent; 0 if there is no room yet. Raises `LinkLost`."""
        try:
            sent = int(self._channel.send(data[:_READ]))
        except TimeoutError:
            if self._connection.alive and not self._closed:
                return 0
            sent = 0
        except _GONE as error:
            raise self._broken() from error
        if not sent or not self._connection.alive:
            raise self._broken()
        self._connection.moved_at = time.monotonic()
        return sent

    def _collect_errors(self) -> None:
        """The error stream shares the channel's window: left unread, it would stop the other stream."""
        with contextlib.suppress(*_GONE):
            while self._channel.recv_stderr_ready() and (data := self._channel.recv_stderr(_READ)):
                self._errors += data
                del self._errors[:-KEPT]

    def _broken(self) -> LinkLost:
        why = self.lost or ("the pipe was closed" if self._closed else "the program there has ended")
        return LinkLost(
            f"the link to `{self._connection.settings.target}` broke: {why}",
            evidence=self.diagnosis() or None,
        )


def connect(settings: SSHSettings, deadlines: Deadlines, prompts: Prompts) -> SSHConnection:
    """Dial, check the host key, log in. Blocks, within the deadlines, unless a person is asked about the key.

    Raises `HostUnreachable`, `HostKeyError`, `AuthenticationError` or `HostError`; nothing stays open then.
    """
    began = time.monotonic()
    way = dial(settings, deadlines)
    client = paramiko.SSHClient()
    try:
        known = lines_about(settings)
        client.set_missing_host_key_policy(KnownHostsPolicy(settings, known, way.address, prompts.confirm_host_key))
        try:
            client.connect(
                settings.hostname,
                settings.port,
                settings.user,
                sock=way.sock,
                timeout=deadlines.handshake,
                banner_timeout=deadlines.banner,
                auth_timeout=deadlines.auth,
                transport_factory=lambda sock, **more: _Transport(sock, kinds(known), deadlines, **more),
                auth_strategy=Login(
                    settings, f"{way.address} port {settings.port}", lambda: client.get_transport().disconnect_reason()
                ),
            )
        except RemoterunError:
            raise
        except Exception as error:  # noqa: BLE001 - of what a host sends, paramiko raises whatever it meets
            transport = client.get_transport()
            raise _no_handshake(error, transport, settings, way, time.monotonic() - began) from error
    except BaseException:
        transport = client.get_transport()
        _end(client, way)
        if transport is not None:
            transport.join(_END_SECONDS)
            transport.packetizer.complete_handshake()  # ends its timer
        raise
    return SSHConnection(client, settings, way, deadlines)


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """A connection with our ciphers only, which asks first for the kinds of host key that are known. It keeps what
    paramiko logs and raises nowhere: sshd's reason for hanging up, what it greets with, the algorithms that it offers.
    """

    def __init__(self, sock: object, known_kinds: Sequence[str], deadlines: Deadlines, **more: object) -> None:
        self._lines: list[str] = []
        super().__init__(sock, default_window_size=_WINDOW, **more)
        self.set_log_channel(_LOGGER)  # of its channels
        self.handshake_timeout = deadlines.handshake
        options = self.get_security_options()
        options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in options.ciphers)
        offered = options.key_types
        first = [name for name in offered if ("ssh-rsa" if name.startswith("rsa-") else name) in known_kinds]
        options.key_types = (*first, *(name for name in offered if name not in first))

    def _log(self, level: int, text: str | list[str], *args: object) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines += text if isinstance(text, list) else [text % args if args else text]

    def disconnect_reason(self) -> str:
        """Why sshd hung up, as it says itself; "" where it did not say."""
        return self.said("Disconnect (").partition("): ")[2].strip()

    def said(self, start: str) -> str:
        """What stands after the `start` of a line; "" without such a line."""
        return next((line[len(start) :] for line in self._lines if line.startswith(start)), "")


def _no_handshake(
    error: Exception, transport: _Transport | None, settings: SSHSettings, way: Way, took: float
) -> HostError:
    """Why the two sides have no keys. `transport`: None where paramiko could not even make one."""
    name, place = f"`{settings.target}`", f"{way.address} port {settings.port}, after {took:.1f} s"
    proxied = way.proxy.last_words() if way.proxy is not None else ""
    if re.search("Permission denied|verification failed", proxied):
        return Unanswered(
            f"a host on the way to {name} does not let this user in ({place})",
            evidence=proxied,
            hint=f"remoterun login {settings.target.typed}   asks once, in a terminal",
        )
    greeted, offers = "", ""
    if transport is not None:
        greeted = transport.said("Banner: ")
        refused = (line for kind, line in _OFFERS.items() if f"no acceptable {kind}" in str(error))
        offers = next(map(transport.said, refused), "")
    heard = greeted or (transport is not None and transport.remote_version)
    why = str(error) if heard or not proxied else ""  # of a proxy that has ended, it tells who was quicker
    said = (proxied, greeted[:200], why, offers and f"the host offers: {offers}")
    evidence = "\n".join(filter(None, said)) or None
    if heard:
        return HostUnreachable(
            f"{name} did not finish the SSH handshake ({place})",
            evidence=evidence,
            hint=f"ssh -v {words_of(settings.target)}   shows what it wants, or refuses\n"
            f"remoterun login {settings.target.typed}   connects with ssh, where that can",
        )
    if way.proxy is not None:
        return HostUnreachable(
            f"{name} is not reached through its ProxyJump or ProxyCommand ({place})",
            evidence=evidence,
            hint=f"try it by hand: {settings.proxy_command}",
        )
    return HostUnreachable(
        f"{name} took the connection but its SSH server says nothing ({place})",
        evidence=evidence,
        hint="the machine may be overloaded or suspended, or the port is another program's: try again in a few seconds",
    )


def _end(client: paramiko.SSHClient, way: Way) -> None:
    """Closes all of a connection. Does not wait for the other end. May be repeated."""
    way.close()
    client.close()


def _close_quietly(channel: paramiko.Channel) -> None:
    """Closes a channel, which wakes its readers. May block while the link stands still: run it on a thread."""
    with contextlib.suppress(*_GONE):
        channel.close()
