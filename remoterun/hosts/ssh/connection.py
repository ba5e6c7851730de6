"""One authenticated SSH connection, perhaps through other hosts, and the pipe to a program over it.

paramiko's client does the handshake, the host key's policy and the login, and its channels carry the data. Here the way
to the host is chosen, a dead link is noticed, and errors get words for the user.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from remoterun.errors import HostError, HostUnreachable, LinkLost, UsageError
from remoterun.hosts.base import KEPT, TAIL, Prompts
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, SSHTarget, resolve, words_of
from remoterun.hosts.ssh.dial import Way, dial
from remoterun.hosts.ssh.host_key import KnownHostsPolicy, kinds, lines_about
from remoterun.hosts.ssh.login import KeyRing, Login

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_WINDOW = 8 << 20  # bytes that may be on their way to us before we have read any of them
_READ = 1 << 20
_POLL = 0.5  # seconds between looks at deadlines while nothing comes
_END_SECONDS = 5.0  # for paramiko's thread, whose socket is closed
_HEAD = 4096  # bytes; what is shorter is sent in one packet with what follows
_JUMPS_AT_MOST = 8

_ALGORITHMS = {
    "kex algorithm": ("key exchange", "kex algos", "kex", "KexAlgorithms"),
    "host key": ("kind of host key", "server key", "key_types", "HostKeyAlgorithms"),
    "ciphers": ("cipher", "client encrypt", "ciphers", "Ciphers"),
    "macs": ("integrity check", "client mac", "digests", "MACs"),
}
"""What paramiko calls a kind of algorithm in an error → our noun, its name in paramiko's log, in its security options,
and in sshd_config."""

_REFUSALS = {
    "Not allowed at this time": (
        "takes no connection from here for a while",
        "its sshd punishes this address for failed logins (PerSourcePenalties): wait some minutes",
    ),
    "Exceeded MaxStartups": ("has too many logins in progress", "try again in a few seconds"),
}
"""What sshd greets with in place of its version → what that means, and what helps."""

_log = logging.getLogger("paramiko")
_log.addHandler(logging.NullHandler())  # paramiko prints every lost connection; here it becomes an exception
_log.propagate = False
logging.getLogger("paramiko.transport").setLevel(logging.DEBUG)


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
        client: paramiko.SSHClient,
        settings: SSHSettings,
        way: Way,
        deadlines: Deadlines,
        via: SSHConnection | None,
    ) -> None:
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
        self._via = via
        self._asked_at: float | None = None
        self._lost = ""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active()) and not self._closed.is_set()

    @property
    def lost(self) -> str:
        """Why the link is gone, in words; "" while it is there, and after `close`."""
        if self._via is not None and self._via.lost:
            return f"{self._via.lost} (at `{self._via.settings.target}`, on the way)"
        if self._lost or self._closed.is_set() or self._transport.is_active():
            return self._lost
        asked_at = self._asked_at
        silent = time.monotonic() - asked_at if asked_at is not None else 0.0
        return f"no answer for {silent:.0f} s" if silent > 2 * _POLL else "closed by the other end"

    def start(self, command: str) -> SSHPipe:
        """Run `command` in a new channel. Raises `SessionRefused`, or `HostUnreachable` when the link is gone."""
        begun = time.monotonic()
        try:
            channel = self._transport.open_session(timeout=self._deadlines.channel)
            self.round_trip = min(self.round_trip or float("inf"), time.monotonic() - begun)
        except paramiko.ChannelException as error:
            raise SessionRefused(str(error)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._gone(error) from error
        deadline = threading.Timer(self._deadlines.channel, _close_quietly, (channel,))  # paramiko waits without one
        deadline.daemon = True
        deadline.start()
        try:
            channel.exec_command(command)
        except (EOFError, OSError) as error:  # a link that ends closes its channels first, and is dead after that
            raise self._gone(error) from error
        except paramiko.SSHException as error:
            if not self.alive:
                raise self._gone(error) from error
            _close_quietly(channel)
            raise SessionRefused("the host executes no command for this user") from error
        finally:
            deadline.cancel()
        return SSHPipe(channel, self)

    def tunnel(self, settings: SSHSettings) -> Way:
        """The way through this host to another one. Raises `HostUnreachable`."""
        place = (settings.hostname, settings.port)
        limit = settings.connect_timeout or self._deadlines.connect
        try:
            channel = self._transport.open_channel("direct-tcpip", place, ("127.0.0.1", 0), timeout=limit)
        except paramiko.ChannelException as error:
            here = f"`{self.settings.target}`"
            look = f"`ssh {words_of(self.settings.target)} nc -vz {settings.hostname} {settings.port}` shows more"
            raise HostUnreachable(
                f"{here} can't reach `{settings.target}`, {settings.hostname} port {settings.port}",
                evidence=str(error),
                hint=f"its sshd forbids it (AllowTcpForwarding) on {here}" if error.code == 1 else look,
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._gone(error) from error
        return Way(channel, f"{settings.hostname} through {self.settings.target}")

    def close(self) -> None:
        """May be called twice, from any thread. Wakes every reader, and closes the connections to jump hosts too."""
        self._closed.set()
        _end(self.client, self._way)
        if self._via is not None:
            self._via.close()

    def _watch(self) -> None:
        """Asks sshd for a sign of life from time to time, and ends the connection when none comes. The answer may have
        to wait behind data that is on its way."""
        silence = self._deadlines.silence
        while not self._closed.wait(silence / 2) and self._transport.is_active():
            self._asked_at = asked_at = time.monotonic()
            question = threading.Thread(target=self._ask, daemon=True)
            question.start()
            while question.is_alive():
                question.join(min(_POLL, silence / 4))
                silent = time.monotonic() - asked_at
                busy = asked_at - self.moved_at < silence or self.moved_at > asked_at
                if silent > (3 * silence if busy else silence / 2) and question.is_alive():
                    self._lost = f"no answer for {silent + silence / 2:.0f} s"
                    self.close()
                    return
            if self._transport.is_active():
                self._asked_at = None

    def _ask(self) -> None:
        try:
            self._transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, EOFError, OSError):
            return  # the link has ended, which the transport knows

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
        self._unread = memoryview(b"")
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
        if self._connection.alive or self._closed:
            return ""
        return self._connection.lost or "closed"

    def read(self, limit: int) -> bytes:
        if not self._unread:
            self._unread = memoryview(self._receive())
        data = bytes(self._unread[:limit])
        self._unread = self._unread[limit:]
        return data

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        unread, self._unread = self._unread, memoryview(b"")
        if unread:
            taker(unread)
        while data := self._receive():
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
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            pass

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
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken() from error
        if not sent or not self._connection.alive:
            raise self._broken()
        self._connection.moved_at = time.monotonic()
        return sent

    def _receive(self) -> bytes:
        """What has come; `b""` at the end, or when it is too late."""
        while not self._closed:
            if self.give_up_at is not None and time.monotonic() > self.give_up_at:
                self.late = True
                break
            try:
                data = bytes(self._channel.recv(_READ))
            except TimeoutError:
                self._collect_errors()
                continue
            except (OSError, EOFError, paramiko.SSHException):
                data = b""
            self._connection.moved_at = time.monotonic()
            self._collect_errors()
            return data
        return b""

    def _collect_errors(self) -> None:
        """The error stream shares the channel's window: left unread, it would stop the other stream."""
        try:
            while self._channel.recv_stderr_ready():
                data = self._channel.recv_stderr(_READ)
                if not data:
                    return
                self._errors += data
                del self._errors[:-KEPT]
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def _broken(self) -> LinkLost:
        why = self.lost or ("the pipe was closed" if self._closed else "the program there has ended")
        return LinkLost(
            f"the link to `{self._connection.settings.target}` broke: {why}",
            evidence=self.diagnosis() or None,
        )


def connect(settings: SSHSettings, access: Access, passed: tuple[SSHTarget, ...] = ()) -> SSHConnection:
    """Dial, check the host key, log in. Blocks, within the deadlines of `access`, unless a person is asked.

    Raises `HostUnreachable`, `HostKeyError`, `AuthenticationError` or `HostError`; nothing stays open then.
    """
    began = time.monotonic()
    via = _connect_through(settings, access, passed) if settings.jumps else None
    try:
        way = via.tunnel(settings) if via is not None else dial(settings, access.deadlines)
        client = _log_in(settings, access, way, began)
    except BaseException:
        if via is not None:
            via.close()
        raise
    return SSHConnection(client, settings, way, access.deadlines, via)


def _connect_through(settings: SSHSettings, access: Access, passed: tuple[SSHTarget, ...]) -> SSHConnection:
    *before, last = settings.jumps
    if last in passed or len(passed) >= _JUMPS_AT_MOST:
        raise UsageError(f"the ProxyJump of `{settings.target}` leads in a circle", hint="check ~/.ssh/config")
    found = resolve(last, access.config_file)
    if before:
        found = replace(found, jumps=tuple(before), proxy_command=None)
    return connect(found, access, (*passed, last))


def _log_in(settings: SSHSettings, access: Access, way: Way, began: float) -> paramiko.SSHClient:
    """A client that the host has let in. Raises what `connect` raises, after closing the way."""
    client = paramiko.SSHClient()
    deadlines = access.deadlines
    try:
        known = lines_about(settings)
        client.set_missing_host_key_policy(
            KnownHostsPolicy(settings, known, way.address, access.prompts.confirm_host_key)
        )
        with _Log() as log:
            place = f"{way.address} port {settings.port}"
            try:
                client.connect(
                    settings.hostname,
                    settings.port,
                    settings.user,
                    sock=way.sock,
                    timeout=deadlines.handshake,
                    banner_timeout=deadlines.banner,
                    auth_timeout=deadlines.auth,
                    transport_factory=lambda sock, **more: _transport(sock, kinds(known), log, deadlines, **more),
                    auth_strategy=Login(settings, access.keys, access.prompts, place, log.disconnect_reason),
                )
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise _no_handshake(error, log, settings, way, time.monotonic() - began) from error
    except BaseException:
        transport = client.get_transport()
        _end(client, way)
        if transport is not None:
            transport.join(_END_SECONDS)
            transport.packetizer.complete_handshake()  # ends its timer
        raise
    return client


def _transport(
    sock: object, known_kinds: Sequence[str], log: _Log, deadlines: Deadlines, **more: object
) -> paramiko.Transport:
    """A transport before its handshake: our ciphers only, and first the kinds of host key that are known."""
    transport = paramiko.Transport(sock, default_window_size=_WINDOW, **more)
    transport.handshake_timeout = deadlines.handshake
    options = transport.get_security_options()
    options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in options.ciphers)
    offered = options.key_types
    first = [name for name in offered if ("ssh-rsa" if name.startswith("rsa-") else name) in known_kinds]
    options.key_types = (*first, *(name for name in offered if name not in first))
    log.transport = transport
    return transport


class _Log(logging.Handler):
    """What paramiko writes in its log of one connection and nowhere else: sshd's reason for hanging up, and the
    algorithms that it offers."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.transport: paramiko.Transport | None = None
        self._lines: list[str] = []

    def __enter__(self) -> _Log:
        logging.getLogger("paramiko.transport").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("paramiko.transport").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self.transport is not None and record.thread == self.transport.ident:
            self._lines.append(record.getMessage())

    def disconnect_reason(self) -> str:
        """Why sshd hung up, as it says itself; "" where it did not say."""
        return self.said("Disconnect (").partition("): ")[2].strip()

    def said(self, start: str) -> str:
        """What stands after the `start` of a line; "" without such a line."""
        return next((line[len(start) :] for line in self._lines if line.startswith(start)), "")


def _no_handshake(error: Exception, log: _Log, settings: SSHSettings, way: Way, took: float) -> HostError:
    """Why the two sides have no keys."""
    missing = re.search(r"no acceptable ([a-z ]+)", str(error))
    if missing and missing[1] in _ALGORITHMS:
        return _nothing_in_common(missing[1], log, settings, way)
    name, place = f"`{settings.target}`", f"{way.address} port {settings.port}"
    greeted = log.said("Banner: ")
    for words, (meaning, hint) in _REFUSALS.items():
        if words in greeted:
            return HostUnreachable(f"{name} {meaning} ({place}): {greeted}", hint=hint)
    if greeted:
        what, hint = f"what answers for {name} ({place}) is not an SSH server", "is the port right?"
    elif log.said("Remote version/idstring: "):
        what = f"{name} ({place}) did not finish the SSH handshake"
        hint = f"`ssh -v {words_of(settings.target)}` shows where it stops"
    elif not any(isinstance(each, (EOFError, ConnectionError)) for each in (error, error.__context__)):
        what = f"{name} took the connection but its SSH server says nothing ({place}, after {took:.1f} s)"
        hint = "the machine may be overloaded or suspended, or the port is another program's"
    elif way.proxy is not None:
        what = f"the ProxyCommand for {name} does not reach it (after {took:.1f} s)"
        hint = f"try it by hand: {settings.proxy_command}"
    else:
        what = f"{name} closed the connection before it said anything ({place}, after {took:.1f} s)"
        hint = "too many connections at once (MaxStartups), or a firewall: try again in a few seconds"
    said = way.proxy.last_words() if way.proxy is not None else ""
    return HostUnreachable(what, evidence=said or greeted[:200] or str(error) or None, hint=hint)


def _nothing_in_common(kind: str, log: _Log, settings: SSHSettings, way: Way) -> HostError:
    """`kind` is an algorithm's, as paramiko calls it."""
    noun, logged, ours, keyword = _ALGORITHMS[kind]
    assert log.transport is not None
    has = ", ".join(getattr(log.transport.get_security_options(), ours))
    return HostError(
        f"`{settings.target}` ({way.address} port {settings.port}) and this client have no {noun} in common",
        evidence=f"the host offers: {log.said(f'{logged}: ')}\n"
        f"this client (paramiko {paramiko.__version__}) has: {has}",
        hint=f"remoterun login {settings.target}   connects with ssh, which has others\n"
        f"or add one of this client's to `{keyword}` in the sshd_config of that machine",
    )


def _end(client: paramiko.SSHClient, way: Way) -> None:
    """Closes all of a connection. Does not wait for the other end. May be repeated."""
    way.close()
    client.close()


def _close_quietly(channel: paramiko.Channel) -> None:
    """Closes a channel, which wakes its readers. May block while the link stands still: run it on a thread."""
    try:
        channel.close()
    except (OSError, EOFError, paramiko.SSHException):
        pass
