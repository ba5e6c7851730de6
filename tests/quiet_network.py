"""A network of its own for a browser of the tests.

Chromium watches the machine's network: when an address comes or goes, it ends what it is fetching with
ERR_NETWORK_CHANGED, from 127.0.0.1 as well. The lab's hosts come and go beside the tests of pages.

    with QuietNetwork() as network:      needs root; nothing of it is left behind, whatever becomes of us
        network.program(chromium)        path of a program that starts `chromium` inside
        network.options                  options that let Chromium reach 127.0.0.1 of this machine from there
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import socket
import socketserver
import struct
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.opening import Opening

_CLONE_NEWNET = 0x40000000
_GRANTED, _REFUSED = 0, 5
_CONNECT, _BY_NAME = 1, 3
_NO_LOGIN = b"\x05\x00"


class QuietNetwork(Opening):
    """A network namespace that has only a loopback, and in it a SOCKS server whose connections are made out here."""

    def open(self, stack: contextlib.ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="network-")))
        listener = self._listener_inside()
        stack.callback(os.close, self._namespace)
        stack.enter_context(_Proxy(listener))
        self.options: Sequence[str] = (
            f"--proxy-server=socks5://127.0.0.1:{listener.getsockname()[1]}",
            "--proxy-bypass-list=<-loopback>",
        )

    def program(self, path: str) -> str:
        inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace}", path]
        script = self._folder / "inside"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(inside)} "$@"\n')
        script.chmod(0o755)
        return str(script)

    def _listener_inside(self) -> socket.socket:
        """Make the namespace, which is there for as long as somebody has it open, and a socket that listens in it."""
        made: list[socket.socket] = []

        def make() -> None:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            made.append(socket.create_server(("127.0.0.1", 0)))
            self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

        thread = threading.Thread(target=make)  # which alone is in the namespace, and ends
        thread.start()
        thread.join()
        if not made:
            raise OSError("no network namespace could be made")
        return made[0]


class _Proxy(socketserver.ThreadingTCPServer):
    """SOCKS 5 (RFC 1928), as far as Chromium asks for it: no login, connections to a
    host by its name, which may be the address 127.0.0.1."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("127.0.0.1", 0), _Connection, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def __enter__(self) -> _Proxy:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            there = self._asked()
            self._answer(_GRANTED if there is not None else _REFUSED)
            if there is not None:
                with there:
                    back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
                    back.start()
                    _copy(self.connection, there)
                    back.join()

    def _asked(self) -> socket.socket | None:
        """The connection that is asked for; None where there is none."""
        _, methods = struct.unpack("BB", self._read(2))
        self._read(methods)
        self.wfile.write(_NO_LOGIN)
        _, command, _, kind = struct.unpack("BBBB", self._read(4))
        if (command, kind) != (_CONNECT, _BY_NAME):
            return None
        name = self._read(self._read(1)[0])
        (port,) = struct.unpack("!H", self._read(2))
        try:
            here = name == b"127.0.0.1" or name.endswith(b".localhost")
            return socket.create_connection(("127.0.0.1", port)) if here else None
        except OSError:
            return None

    def _read(self, size: int) -> bytes:
        data: bytes = self.connection.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionError
        return data

    def _answer(self, code: int) -> None:
        self.wfile.write(struct.pack("!BBBB4sH", 5, code, 0, 1, bytes(4), 0))


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until the source ends, or one of the two is gone."""
    with contextlib.suppress(OSError):
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
