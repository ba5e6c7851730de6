"""The way to a host's sshd: a TCP connection, or a `ProxyCommand`."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, NamedTuple

from remoterun.errors import HostUnreachable
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, local_environment

_REASONS = {
    errno.ECONNREFUSED: (
        "{} refused the connection",
        "is sshd running there, and is this its port? `sudo systemctl status ssh` on that machine",
    ),
    errno.EHOSTUNREACH: ("there is no route to {}", "is the machine on, and are you on its network or VPN?"),
    errno.ENETUNREACH: ("there is no route to {}", "is this machine on the network, or on the VPN?"),
}
"""Why an address can't be connected to → our words for the host, and what may help; the first that was met counts."""


class Way(NamedTuple):
    """A connection to a host's sshd. `sock` is a socket, or a channel of paramiko's through another host; `address` is
    for messages."""

    sock: Any
    address: str
    proxy: Proxy | None = None

    def close(self) -> None:
        """Wakes who reads from it. May be repeated."""
        if isinstance(self.sock, socket.socket):
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sock.close()
        if self.proxy is not None:
            self.proxy.end()


def dial(settings: SSHSettings, deadlines: Deadlines) -> Way:
    """Connects. Blocks for `deadlines.connect` at most, or the configuration's ConnectTimeout. Raises
    `HostUnreachable`."""
    if settings.proxy_command:
        ours, theirs = socket.socketpair()
        with theirs:
            proxy = Proxy(settings.proxy_command, theirs.fileno())
        return Way(ours, f"through `{settings.proxy_command.split()[0]}`", proxy)
    began = time.monotonic()
    limit = settings.connect_timeout or deadlines.connect
    addresses = _look_up(settings, limit)
    problems: dict[str, int] = {}
    """Address → the error's number; 0: no answer."""
    for place, address in enumerate(addresses):
        patience = (began + limit - time.monotonic()) / (len(addresses) - place)
        try:
            sock = socket.create_connection((address, settings.port), max(0.1, patience))
        except OSError as error:
            problems[address] = error.errno or 0
            continue
        _tune(sock, deadlines.silence)
        return Way(sock, address)
    raise _no_connection(settings, problems, time.monotonic() - began)


class Proxy:
    """The process of a `ProxyCommand`. It keeps the terminal, so that it can ask, but ^C does not reach it."""

    def __init__(self, command: str, link: int) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"trap '' INT; exec {command}"],
            stdin=link,
            stdout=link,
            stderr=self._errors,
            env=local_environment(),
        )
        threading.Thread(target=self._process.wait, daemon=True).start()  # so that it leaves no zombie

    def end(self) -> None:
        """Asks the process to end, and returns. May be repeated; nothing else may be asked after that."""
        self._process.terminate()
        self._errors.close()

    def last_words(self) -> str:
        """The end of what it printed as errors. Waits up to half a second for the process to end."""
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            pass
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace").strip()


def answers(address: str, seconds: float = 3.0) -> bool:
    """Whether an sshd greets on port 22 of an address, before anybody logs in. Blocks for `seconds` at the most."""
    try:
        with socket.create_connection((address, 22), seconds) as sock:
            sock.settimeout(seconds)
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False


def _look_up(settings: SSHSettings, limit: float) -> list[str]:
    """The addresses of the host. `getaddrinfo` has no deadline, so it runs in a thread that may outlive this call."""
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
    return [str(address[0]) for _, _, _, _, address in found]


def _tune(sock: socket.socket, silence: float) -> None:
    """Turns off Nagle's algorithm, which costs 40 ms per connection, and lets the kernel end a connection on which
    nothing that was sent arrives."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence * 1000))


def _no_connection(settings: SSHSettings, problems: dict[str, int], took: float) -> HostUnreachable:
    what, hint = next(
        (_REASONS[code] for code in _REASONS if code in problems.values()),
        (
            "{} does not answer",
            f"is the machine on? `ssh -v {settings.target.host}` shows more (a firewall may drop it)",
        ),
    )
    place = f"{', '.join(problems)} port {settings.port}"
    return HostUnreachable(
        f"{what.format(f'`{settings.target}`')} ({place}, after {took:.1f} s)",
        evidence="\n".join(
            f"{address} port {settings.port}: {os.strerror(code) if code else 'no answer'}"
            for address, code in problems.items()
        ),
        hint=hint,
    )
