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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_OPENERS = ("xdg-open", "x-www-browser", "firefox", "chromium", "google-chrome")
_PATIENCE = 30.0
"""Seconds that a connection may take to ask."""
_ESTABLISHED = "01"


def show(address: str, environ: Mapping[str, str] = os.environ, *, wait: bool = False) -> bool:
    """Whether a browser was started. It gets no terminal: one that would draw in ours can't.

    The address may hold a token, and everybody on this machine sees the words of a program: the browser is given the
    address of a `_Door`, which is there for as long as this process is; `wait` until it was used.
    """
    words = _words(environ)
    if words is None:
        return False
    try:
        door = _Door(address)
    except OSError:  # no port is free
        return False
    place = door.address
    words = [word.replace("%s", place) for word in words] if any("%s" in word for word in words) else [*words, place]
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
    return door.used.wait(_PATIENCE) if wait else True


def far_away(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the person sits at another machine, whose browser does not reach an address of this one."""
    return "SSH_CONNECTION" in environ and not environ.get("BROWSER")


class _Door(ThreadingHTTPServer):
    """A port of this machine that sends the user's browser on to an address, and refuses everybody else.

    The kernel tells whose a connection is. On macOS it doesn't: there the first one that comes is sent on.
    """

    def __init__(self, leads_to: str) -> None:
        super().__init__(("127.0.0.1", 0), _DoorHandler)
        self.leads_to = leads_to
        self.unused = threading.Semaphore(1)
        self.used = threading.Event()
        self.host = f"127.0.0.1:{self.server_port}"
        self.address = f"http://{self.host}/"
        threading.Thread(target=self.serve_forever, name="remoterun door", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that is gone already is no error."""


class _DoorHandler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Door

    def do_GET(self) -> None:
        if self.headers["Host"] == self.server.host and self._is_ours():  # no name that its owner points here
            self.send_response(302)
            self.send_header("Location", self.server.leads_to)
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.server.used.set()
        else:
            self.send_error(403, explain="Open the address that remoterun shows in its terminal.")

    def _is_ours(self) -> bool:
        if not Path("/proc/net/tcp").exists():
            return self.server.unused.acquire(blocking=False)
        return _owner(self.connection) in (os.getuid(), 0)  # root sees every process's memory anyway

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


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
