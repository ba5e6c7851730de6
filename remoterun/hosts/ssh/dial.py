"""Connecting to a host's address: name look-up and TCP, the several addresses of a name side by side."""

from __future__ import annotations

import errno
import heapq
import os
import selectors
import socket
import sys
import threading
import time
from typing import Any

from remoterun.errors import HostUnreachable
from remoterun.hosts.ssh.config import SSHSettings
from remoterun.hosts.ssh.deadlines import Deadlines
from remoterun.hosts.ssh.wire import Wire

_STAGGER = 0.25  # seconds that an address of a name has alone before the next one is tried beside it

_Address = tuple[socket.AddressFamily, Any]


def dial(settings: SSHSettings, deadlines: Deadlines) -> tuple[Wire, str]:
    """The connected wire, and the address that answered. Blocks for `deadlines.connect` at most, or the
    configuration's ConnectTimeout. Raises `HostUnreachable`."""
    limit = settings.connect_timeout or deadlines.connect
    began = time.monotonic()
    addresses = _look_up(settings, limit)
    sock, problems = _race(addresses, began + limit)
    if sock is None:
        raise _no_connection(settings, problems, time.monotonic() - began)
    _tune(sock, deadlines.silence)
    return Wire(sock, deadlines.silence), _plain(sock.getpeername())


def _look_up(settings: SSHSettings, limit: float) -> list[_Address]:
    """The addresses of the host, IPv4 and IPv6 in turns. `getaddrinfo` has no deadline, so it runs in a thread that
    may outlive this call."""
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
    label = f"`{settings.target}`"
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
    """The first socket that connects, if any, and (address, errno) of those that failed; 0 means no answer."""
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
    """Begins to connect; the errno where that fails at once, else 0."""
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
    """Turns off Nagle's algorithm, which costs 40 ms per connection, and lets the kernel end a silent connection."""
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
    label = f"`{settings.target}`"
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
        hint=f"is the machine on? `ssh -v {settings.target.host}` shows more (a firewall may drop it)",
    )


def _plain(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else str(address)
