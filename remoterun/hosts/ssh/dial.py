"""The way to a host's sshd: a TCP connection, or a `ProxyCommand`, which may be the ssh of a `ProxyJump`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

from remoterun.agent.shared.records import Record
from remoterun.errors import HostUnreachable
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, local_environment


class Way(Record):
    """A connection to a host's sshd; `address` is for messages."""

    sock: socket.socket
    address: str
    proxy: Proxy | None = None

    def close(self) -> None:
        """Wakes who reads from it. May be repeated."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self.proxy is not None:
            self.proxy.end()


def dial(settings: SSHSettings, deadlines: Deadlines) -> Way:
    """Connects. Blocks for `deadlines.connect` at most, or the configuration's ConnectTimeout, once the name is
    resolved. Raises `HostUnreachable`."""
    if settings.proxy_command:
        ours, theirs = socket.socketpair()
        with theirs:
            proxy = Proxy(settings.proxy_command, theirs.fileno())
        return Way(ours, f"through `{settings.proxy_command.split()[0]}`", proxy)
    addresses = _resolve_name(settings)
    began = time.monotonic()
    limit = settings.connect_timeout or deadlines.connect
    problems: dict[str, OSError] = {}
    for count, address in enumerate(addresses):
        patience = (began + limit - time.monotonic()) / (len(addresses) - count)
        try:
            sock = socket.create_connection((address, settings.port), max(0.1, patience))
        except OSError as error:
            problems[address] = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Nagle's algorithm costs 40 ms per connection
        if sys.platform == "linux":  # the kernel ends a connection on which nothing that was sent arrives
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(deadlines.silence * 1000))
        return Way(sock, address)
    what, hint = "does not answer", "is the machine on, and are you on its network or VPN?"
    if any(error.errno == errno.ECONNREFUSED for error in problems.values()):
        what, hint = "refused the connection", "is sshd running there, and is this its port?"
    place = f"{', '.join(problems)} port {settings.port}, after {time.monotonic() - began:.1f} s"
    raise HostUnreachable(
        f"`{settings.target}` {what} ({place})",
        evidence="\n".join(f"{address}: {error}" for address, error in problems.items()),
        hint=f"{hint} `ssh -v {settings.target.host}` shows more",
    )


class Proxy:
    """The processes of a `ProxyCommand`. They have no terminal: ^C does not reach them, and an `ssh` asks nothing."""

    def __init__(self, command: str, link: int) -> None:
        # closed by `end`, which two threads may call at once: that is an error for a file with a buffer
        self._errors: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=link,
            stdout=link,
            stderr=self._errors,
            env={**local_environment(), "SSH_ASKPASS_REQUIRE": "never"},
            start_new_session=True,
        )
        threading.Thread(target=self._process.wait, daemon=True).start()  # so that it leaves no zombie

    def end(self) -> None:
        """Asks the processes to end, and returns. May be repeated; nothing else may be asked after that."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._errors.close()

    def last_words(self) -> str:
        """The end of what it printed as errors. Waits up to half a second for the process to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
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


def _resolve_name(settings: SSHSettings) -> list[str]:
    try:
        found = socket.getaddrinfo(settings.hostname, settings.port, settings.address_family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostUnreachable(
            f"the name `{settings.hostname}` of `{settings.target}` is not known here",
            evidence=str(error),
            hint=f"check the spelling, or give `{settings.target.host}` a HostName in ~/.ssh/config",
        ) from error
    return [str(address[0]) for _, _, _, _, address in found]
