"""A `ProxyCommand` as the way to a host."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from remoterun.hosts.ssh.config import local_environment
from remoterun.hosts.ssh.deadlines import Deadlines
from remoterun.hosts.ssh.wire import Wire


def dial_by_command(command: str, deadlines: Deadlines) -> tuple[Wire, Callable[[], str]]:
    """The wire whose other end is the standard input and output of a `ProxyCommand`, and a function that returns the
    end of what the command printed as errors.

    The command keeps the terminal, so that it can ask, but ^C does not reach it.
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
        """Asks the process to end, and returns; a thread waits for it, and kills it after some seconds."""
        if self._process.poll() is None:
            self._process.terminate()
        threading.Thread(target=self._reap, daemon=True).start()

    def last_words(self) -> str:
        """The end of what it printed as errors. Waits up to half a second for the process to end."""
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
