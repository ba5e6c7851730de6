"""A connection that the system's ssh keeps open, its master: sessions go through it without another login.

It is the one that the user's configuration names (`ControlPath`), or one of our own below the home where the
configuration names none. `remoterun login` opens it; for a machine with a scheduler of its own, any command does.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from remoterun.errors import AuthenticationError, ConfigError, HostError, HostUnreachable
from remoterun.hosts.base import TAIL
from remoterun.hosts.local import ProcessPipe
from remoterun.hosts.ssh.config import (
    Deadlines,
    HostKeyCheck,
    SSHSettings,
    local_environment,
    ssh_words,
    words_of,
)

_SECONDS = 5.0  # for the master to answer a question
_LONGEST = 90
"""Bytes of a socket's path: the system takes about 107, of which ssh needs 17 while it makes one."""
_DEADLINES = Deadlines()
_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2")
_NO_FORWARDING = ("-o", "ForwardAgent=no", "-o", "ForwardX11=no")  # whatever the user's configuration says
_REFUSED = 255
"""The exit status of ssh itself."""


class Unanswered(AuthenticationError):
    """No key let the user in, but an answer may, for which ssh asks."""


@dataclass(frozen=True)
class Master:
    """The master of one host, alive or not. `path` is its socket."""

    settings: SSHSettings
    config_file: Path | None
    path: Path

    @property
    def alive(self) -> bool:
        """Whether a master greets there, as ssh's does first (PROTOCOL.mux of OpenSSH). Blocks for a moment, `_SECONDS`
        at most."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_SECONDS)
            probe.connect(str(self.path))
            return bool(probe.recv(1))
        return False

    @property
    def options(self) -> list[str]:
        """The words that make ssh use it."""
        return ["-S", str(self.path).replace("%", "%%")]

    def start(self, command: str) -> MasterPipe:
        """Run a command through it. ssh never asks, and never opens a connection of its own."""
        options = ["-T", *_NO_FORWARDING, "-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        return MasterPipe(self._words(*options, "-o", "RemoteCommand=none", "-o", "LogLevel=ERROR", command=command))

    def open(self, idle: float, batch: bool, deadlines: Deadlines = _DEADLINES) -> None:
        """Log in, with ssh's questions on the terminal, or without any and within `deadlines` where it is a `batch`. It
        ends by itself when nothing has used it for `idle` seconds. Raises `AuthenticationError`, whose evidence is what
        ssh printed in a batch, `HostUnreachable` where that was too late, `HostError`."""
        target = self.settings.target
        if len(os.fsencode(self.path)) > _LONGEST:
            raise ConfigError(
                f"the path `{self.path}` is too long for a socket",
                hint=f"name a shorter one for {target.host} in ~/.ssh/config: ControlPath ~/.ssh/%C",
            )
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.exists():
            self._control("check")  # raises where the master is slow; `auto` removes the socket of one that was killed
        options = ["-N", "-o", "ControlMaster=auto", "-o", f"ControlPersist={max(1, round(idle))}", *_ALIVE]
        options += [*_NO_FORWARDING, "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none"]
        give_up_at, environment = math.inf, local_environment()
        if batch:
            limit = self.settings.connect_timeout or deadlines.connect
            give_up_at = time.monotonic() + limit + deadlines.handshake + deadlines.auth
            options += ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={math.ceil(limit)}", "-o", "LogLevel=ERROR"]
            environment["SSH_ASKPASS_REQUIRE"] = "never"  # nor may the ssh of a ProxyJump ask, which has no terminal
        if self.settings.host_key_check is HostKeyCheck.NO:
            options += ["-o", "StrictHostKeyChecking=ask"]
        if self.settings.writes_no_known_hosts:
            options += ["-o", f'UserKnownHostsFile="{self.settings.user_known_hosts[0]}"']
        nothing = subprocess.DEVNULL  # it asks on the terminal itself, and goes on when this process has ended
        with tempfile.TemporaryFile() as errors:
            words, shown = self._words(*options), errors if batch else None
            with subprocess.Popen(
                words, stdin=nothing, stdout=nothing, stderr=shown, env=environment, start_new_session=batch
            ) as process:
                try:
                    while process.poll() is None and not self.alive and time.monotonic() < give_up_at:
                        time.sleep(0.02)
                finally:
                    process.terminate()  # it has ended, and its child is the master, unless another login was quicker
            errors.seek(0)
            said = errors.read(TAIL).decode("utf-8", "replace").strip()
        if not self.alive:
            late = time.monotonic() >= give_up_at or "timed out" in said
            raise (HostUnreachable if late else AuthenticationError)(
                f"ssh did not log in to `{target}` (exit status {process.returncode})",
                evidence=said or None,
                hint=f"ssh -v {words_of(target)}   shows where it stops",
            )

    def end(self) -> bool:
        """Close it, with every session through it; or remove the socket of one that was killed, at which nothing
        listens. Whether it was alive. Raises `HostError` where it does not end."""
        if not self.alive:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                if not self.path.is_socket():
                    return False
                try:
                    probe.connect(str(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()
            return False
        done = self._control("exit")
        give_up_at = time.monotonic() + _SECONDS
        while self.alive and time.monotonic() < give_up_at:
            time.sleep(0.02)
        if self.alive:
            raise HostError(
                f"the connection to `{self.settings.target}` did not end",
                evidence=done.stderr.decode("utf-8", "replace").strip() or None,
                hint=f"ssh -O exit {words_of(self.settings.target)}",
            )
        return True

    def _control(self, question: str) -> subprocess.CompletedProcess[bytes]:
        words, nothing = self._words("-O", question), subprocess.DEVNULL
        try:
            return subprocess.run(words, stdin=nothing, capture_output=True, timeout=_SECONDS, env=local_environment())
        except subprocess.TimeoutExpired as error:
            raise HostError(f"the ssh that holds `{self.path}` does not answer", hint="end that process") from error

    def _words(self, *options: str, command: str = "") -> list[str]:
        return ssh_words(self.settings.target, self.config_file, command, options=[*self.options, *options])


class MasterPipe(ProcessPipe):
    """See `Pipe`: a session through a master."""

    lost = ""
    """A link that breaks ends the process, as every other end does."""
    round_trip = 0.0
    """Seconds from the first request to what came after it; 0 before that."""
    _asked_at = 0.0

    def read(self, limit: int) -> bytes:
        data = super().read(limit)
        self._answered()
        return data

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        def take(data: memoryview) -> None:
            self._answered()
            taker(data)

        super().pump(take)

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        super().write(*parts)

    def end_input(self) -> None:
        """Nothing more will be written; the program's output still comes."""
        self._stdin.close()

    def close(self) -> None:
        """The agent there ends when its input does, and ssh with it, whether somebody waits for it or not."""
        threading.Thread(target=super().close, daemon=True).start()

    def exit_status(self, patience: float) -> int | None:
        """The program's exit status; None where it does not end within `patience` seconds."""
        try:
            status = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else None

    @property
    def refused(self) -> bool:
        """Whether ssh itself failed: the master is gone, or the host opens no further session on it."""
        return self._process.poll() == _REFUSED

    def _answered(self) -> None:
        if self._asked_at and not self.round_trip:
            self.round_trip = time.monotonic() - self._asked_at


def masters(settings: SSHSettings, config_file: Path | None, folder: Path) -> list[Master]:
    """Where a host may have a master: the configuration's socket, then our own, which stands in `folder`."""
    way = (settings.user, settings.hostname, settings.port, settings.proxy_command, config_file)
    own = folder / hashlib.sha256(repr(way).encode()).hexdigest()[:16]
    paths = [path for path in (settings.control_path, own) if path is not None]
    return [Master(settings, config_file, path) for path in paths]


def live_master(settings: SSHSettings, config_file: Path | None, folder: Path) -> Master | None:
    """The master that takes sessions now, if one does. Blocks for some milliseconds where there may be one."""
    return next((each for each in masters(settings, config_file, folder) if each.alive), None)
