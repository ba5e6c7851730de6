"""Showing an address in the person's browser, where there is one to open."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

_OPENERS = ("xdg-open", "x-www-browser", "firefox", "chromium", "google-chrome")
_PATIENCE = 30.0
"""Seconds that a connection may take to ask."""
_MOST_HEARD = 1 << 16
_ESTABLISHED = "01"


def show(address: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser was started. It gets no terminal: one that would draw in ours can't.

    The address may hold a token, and everybody on this machine sees the words of a program: the browser is given the
    address of a `_Door`, which is there for as long as this process is.
    """
    words = _words(environ)
    if words is None:
        return False
    try:
        door = _Door(address).address
    except OSError:  # no port is free
        return False
    words = [word.replace("%s", door) for word in words] if any("%s" in word for word in words) else [*words, door]
    try:
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def far_away(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the person sits at another machine, whose browser does not reach an address of this one."""
    return "SSH_CONNECTION" in environ and not environ.get("BROWSER")


class _Door:
    """A port of this machine that sends the user's browser on to an address, and refuses everybody else.

    The kernel tells whose a connection is. On macOS it doesn't: there the first one that comes is sent on.
    """

    def __init__(self, address: str) -> None:
        self._leads_to = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._used = threading.Semaphore(1)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, name="remoterun door", daemon=True).start()

    def _accept(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # one that is gone already
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), name="remoterun door", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_PATIENCE)
            ours = self._is_ours(connection)
            heard = b""
            while b"\r\n\r\n" not in heard and len(heard) < _MOST_HEARD:
                part = connection.recv(_MOST_HEARD)
                if not part:  # browsers connect in advance
                    return
                heard += part
            status, more, body = "302 Found", f"Location: {self._leads_to}\r\nReferrer-Policy: no-referrer\r\n", ""
            if not ours:
                status, more, body = "403 Forbidden", "", "Open the address that remoterun shows in its terminal.\n"
            head = f"HTTP/1.1 {status}\r\n{more}Cache-Control: no-store\r\nContent-Type: text/plain\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())

    def _is_ours(self, connection: socket.socket) -> bool:
        if not Path("/proc/net/tcp").exists():
            return self._used.acquire(blocking=False)
        return _owner(connection) in (os.getuid(), 0)  # root sees every process's memory anyway


def _owner(connection: socket.socket) -> int | None:
    """The user whose program made a connection to this machine's 127.0.0.1."""
    there, here = _in_table(connection.getpeername()), _in_table(connection.getsockname())
    for table, prefix in (("/proc/net/tcp", ""), ("/proc/net/tcp6", "0000000000000000FFFF0000")):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines():
                fields = line.split()
                if fields[1:4] == [prefix + there, prefix + here, _ESTABLISHED]:
                    return int(fields[7])
    return None


def _in_table(address: tuple[str, int]) -> str:
    """An address as /proc/net/tcp has it."""
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"


def _words(environ: Mapping[str, str]) -> list[str] | None:
    """The command that opens an address: $BROWSER; the desktop's own; None where there is no desktop."""
    chosen = environ.get("BROWSER", "").split(os.pathsep)[0]
    if chosen:
        try:
            return shlex.split(chosen)
        except ValueError:
            return None
    if far_away(environ):
        return None
    if sys.platform == "darwin":
        return ["open"]
    names = _OPENERS if environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") else ("wslview",)
    found = next((name for name in names if shutil.which(name)), None)
    return [found] if found else None
