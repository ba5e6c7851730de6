"""The bytes under an SSH connection: dialling, proxies, and noticing that the other end is gone.

`Wire` is what paramiko gets as its socket. paramiko's own keepalive asks for no answer and so notices
nothing; `Wire` asks (`ping`) when the line is quiet and ends the connection when nothing comes back.
"""

from __future__ import annotations

import errno
import heapq
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from remoterun.errors import HostUnreachable
from remoterun.hosts.ssh.config import SSHSettings, local_environment

_CHANNEL_TAKES = 1 << 15  # bytes, at once
_POLL = 0.5  # seconds between looks at the clock while nothing comes
_STAGGER = 0.25  # seconds before the next address of a name is tried beside the one that is slow
LARGEST_PACKET = 256 << 10
"""Bytes; OpenSSH sends none that is larger, and 32 kB of data at most if we don't ask for more."""
_BUFFER = 2 * LARGEST_PACKET
_PING_SIZE = 1024  # what is longer than this, on its way out, is data: a ping's answer may have to wait behind it


@dataclass(frozen=True)
class Deadlines:
    """Seconds. `silence` is how long the other end may say nothing to a question before the link counts as
    dead."""

    connect: float = 8.0  # name look-up and TCP, all addresses together
    banner: float = 8.0  # until sshd says its first line
    handshake: float = 15.0  # key exchange, the banner included
    auth: float = 30.0  # each key
    channel: float = 15.0  # a channel on an open connection
    start: float = 30.0  # the host's shell, with its start-up files, and the agent's first bytes
    install: float = 60.0  # copying the agent there
    silence: float = 10.0


class Stream(Protocol):
    """What `Wire` needs: a socket, or a paramiko channel through another host."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def close(self) -> None: ...


class Wire:
    """A socket as paramiko wants it, which reads ahead and dies when the peer does.

    `recv` and `send` raise `EOFError` once the link is lost; `lost` then says why, in words for the user.
    `opening` keeps the first bytes that came: a refusal in plain text is in there.
    """

    def __init__(self, stream: Stream, silence: float, close: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self._silence = silence
        self._close_more = close
        self._socket = stream if isinstance(stream, socket.socket) else None
        self._view = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self._heard_at = self._moved_at = self._bulk_at = time.monotonic()
        self._asked_at: float | None = None
        self._sending = False
        self._closed = False  # paramiko looks at this name
        self._closing = threading.Lock()
        self.ping: Callable[[], None] | None = None
        self.lost = ""
        self.opening = b""
        stream.settimeout(min(_POLL, silence / 4))

    def recv(self, size: int) -> bytes:
        if self._start == self._end:
            self._fill()
        stop = min(self._end, self._start + size)
        data = bytes(self._view[self._start : stop])
        self._start = stop
        return data

    @property
    def held(self) -> int:
        """Bytes that were read ahead."""
        return self._end - self._start

    def peek(self, size: int) -> memoryview:
        """The next bytes, `LARGEST_PACKET` at most, which stay; good until the next call. `TimeoutError` when they
        aren't all here yet: call again."""
        while self._end - self._start < size:
            self._fill()
        return self._view[self._start : self._start + size]

    def skip(self, size: int) -> None:
        """These are read now."""
        self._start += size

    def send(self, data: bytes | memoryview) -> int:
        if len(data) > _PING_SIZE:
            self._bulk_at = time.monotonic()
        self._sending = True
        try:
            sent = self._stream.send(data if self._socket is not None else bytes(data[:_CHANNEL_TAKES]))
        except TimeoutError as error:
            if error.errno is not None:  # TCP_USER_TIMEOUT
                raise self._end_of_link(f"no answer for {self._silence:g} s") from error
            quiet = time.monotonic() - max(self._moved_at, self._heard_at)
            if quiet > self._silence * 3:
                raise self._end_of_link(f"nothing could be sent for {quiet:.0f} s") from error
            raise
        except OSError as error:
            raise self._end_of_link(error.strerror or str(error)) from error
        finally:
            self._sending = False
        if sent:
            self._moved_at = time.monotonic()
        return sent

    def settimeout(self, seconds: float | None) -> None:
        """paramiko asks for 0.1 s, to look at its flags; `close` wakes a reader here, so the longer poll
        stays."""

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """May be called twice, from any thread; wakes a blocked `recv` or `send`."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._stream.close()
        if self._close_more is not None:
            self._close_more()

    def _fill(self) -> None:
        """More, behind what is held."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._view) - self._start < LARGEST_PACKET:
            held = self.held
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        room = self._view[self._end :]
        try:
            if self._socket is not None:
                count = self._socket.recv_into(room)
            else:
                data = self._stream.recv(len(room))
                count = len(data)
                room[:count] = data
        except TimeoutError as error:
            if error.errno is not None:
                raise self._end_of_link(f"no answer for {self._silence:g} s") from error
            self._look_at_the_clock()
            raise
        except OSError as error:
            raise self._end_of_link(error.strerror or str(error)) from error
        if not count:
            raise self._end_of_link("closed by the other end")
        self._end += count
        self._heard_at = time.monotonic()
        self._asked_at = None
        if len(self.opening) < 256:
            self.opening += bytes(room[: min(count, 256)])

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        patience = self._silence / 2
        if self._asked_at is None:
            if self.ping is not None and now - self._heard_at > patience and not self._sending:
                self._asked_at = now
                self.ping()
            return
        if now - self._bulk_at < self._silence:
            patience = self._silence * 3
        if now - self._asked_at > patience:
            raise self._end_of_link(f"no answer for {now - self._heard_at:.0f} s")

    def _end_of_link(self, why: str) -> EOFError:
        self.lost = self.lost or ("closed" if self._closed else why)
        return EOFError(self.lost)


def dial(settings: SSHSettings, deadlines: Deadlines) -> tuple[Wire, str]:
    """Connect to the host's address, the several addresses of a name side by side. Returns the address too.

    Raises `HostUnreachable`, within `deadlines.connect` (or the configuration's ConnectTimeout).
    """
    limit = settings.connect_timeout or deadlines.connect
    began = time.monotonic()
    addresses = _look_up(settings, limit)
    sock, problems = _race(addresses, began + limit)
    if sock is None:
        raise _no_connection(settings, problems, time.monotonic() - began)
    _tune(sock, deadlines.silence)
    return Wire(sock, deadlines.silence), _plain(sock.getpeername())


def dial_by_command(command: str, deadlines: Deadlines) -> tuple[Wire, Callable[[], str]]:
    """A `ProxyCommand`: its standard input and output are the link. The second value gives its last words.

    It keeps the terminal, so that it can ask, but not ^C, which is ours.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        proxy = _Proxy(command, theirs.fileno())
    return Wire(ours, deadlines.silence, proxy.end), proxy.last_words


class _Proxy:
    """The process of a `ProxyCommand`."""

    def __init__(self, command: str, link: int) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `_reap`)
        self._words = ""
        self._reading = threading.Lock()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"trap '' INT; exec {command}"],
            stdin=link,
            stdout=link,
            stderr=self._errors,
            env=local_environment(),
        )

    def end(self) -> None:
        """Does not block: it is waited for, and killed if need be, in the background."""
        if self._process.poll() is None:
            self._process.terminate()
        threading.Thread(target=self._reap, daemon=True).start()

    def last_words(self) -> str:
        """The end of what it printed as errors; waits for half a second, as it may be about to."""
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            pass
        with self._reading:
            if not self._errors.closed:
                size = os.fstat(self._errors.fileno()).st_size
                tail = os.pread(self._errors.fileno(), 2000, max(0, size - 2000))
                self._words = tail.decode("utf-8", "replace").strip()
            return self._words

    def _reap(self) -> None:
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.last_words()
        with self._reading:
            self._errors.close()


_Address = tuple[socket.AddressFamily, Any]


def _look_up(settings: SSHSettings, limit: float) -> list[_Address]:
    """getaddrinfo knows no deadline, so it runs in a thread that may be left behind."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.extend(
                socket.getaddrinfo(settings.hostname, settings.port, settings.address_family, socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            found.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(limit)
    label = _label(settings)
    if not found:
        raise HostUnreachable(
            f"the name `{settings.hostname}` of {label} was not resolved within {limit:g} s",
            hint=f"is the network up? try `getent hosts {settings.hostname}`",
        )
    if isinstance(found[0], Exception):
        raise HostUnreachable(
            f"the name `{settings.hostname}` of {label} is not known here",
            evidence=str(found[0]),
            hint=f"check the spelling, or give `{settings.target.host}` a HostName in ~/.ssh/config",
        )
    first = [(family, address) for family, _, _, _, address in found if family == found[0][0]]
    other = [(family, address) for family, _, _, _, address in found if family != found[0][0]]
    mixed: list[_Address] = []
    for index in range(max(len(first), len(other))):
        mixed += first[index : index + 1] + other[index : index + 1]
    return mixed


def _race(addresses: list[_Address], until: float) -> tuple[socket.socket | None, list[tuple[str, int]]]:
    """The first socket that connects; and, per address, what went wrong with the others (errno, 0 for
    time-out)."""
    problems: list[tuple[str, int]] = []
    waiting = [(time.monotonic() + index * _STAGGER, index) for index in range(len(addresses))]
    heapq.heapify(waiting)
    winner: socket.socket | None = None
    with selectors.DefaultSelector() as selector:
        while winner is None and (waiting or selector.get_map()):
            now = time.monotonic()
            if now >= until:
                break
            if waiting and (waiting[0][0] <= now or not selector.get_map()):
                family, address = addresses[heapq.heappop(waiting)[1]]
                problem = _begin(selector, family, address)
                if problem:
                    problems.append((_plain(address), problem))
                continue
            pause = min([until] + [at for at, _ in waiting[:1]]) - now
            for key, _ in selector.select(max(0.0, pause)):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                selector.unregister(sock)
                problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem or winner is not None:
                    sock.close()
                    if problem:
                        problems.append((_plain(key.data), problem))
                else:
                    winner = sock
        for key in list(selector.get_map().values()):
            problems.append((_plain(key.data), 0))
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
    return winner, problems


def _begin(selector: selectors.BaseSelector, family: socket.AddressFamily, address: Any) -> int:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        return error.errno or errno.EAFNOSUPPORT
    sock.setblocking(False)
    problem = sock.connect_ex(address)
    if problem not in (0, errno.EINPROGRESS):
        sock.close()
        return problem
    selector.register(sock, selectors.EVENT_WRITE, address)
    return 0


def _tune(sock: socket.socket, silence: float) -> None:
    """No Nagle (40 ms per connect), and a kernel that gives up on a silent peer where it knows how."""
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    interval = max(1, round(silence / 4))
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence * 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    elif hasattr(socket, "TCP_KEEPALIVE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, interval)
    if hasattr(socket, "TCP_KEEPINTVL"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    if hasattr(socket, "TCP_KEEPCNT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _no_connection(settings: SSHSettings, problems: list[tuple[str, int]], took: float) -> HostUnreachable:
    label = _label(settings)
    codes = {code for _, code in problems}
    places = ", ".join(dict.fromkeys(address for address, _ in problems)) or settings.hostname
    where = f"{places} port {settings.port}, after {took:.1f} s"
    evidence = "\n".join(
        f"{address} port {settings.port}: {os.strerror(code) if code else 'no answer'}" for address, code in problems
    )
    if errno.ECONNREFUSED in codes:
        return HostUnreachable(
            f"{label} refused the connection ({where})",
            evidence=evidence,
            hint="is sshd running there, and is this its port? `sudo systemctl status ssh` on that machine",
        )
    if codes & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return HostUnreachable(
            f"there is no route to {label} ({where})",
            evidence=evidence,
            hint="is the machine on, and are you on its network or VPN?",
        )
    return HostUnreachable(
        f"{label} does not answer ({where})",
        evidence=evidence,
        hint=f"is the machine on? `ssh -v {settings.target.host}` shows more (a firewall may eat it)",
    )


def _label(settings: SSHSettings) -> str:
    return f"`{settings.target}`"


def _plain(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else str(address)
