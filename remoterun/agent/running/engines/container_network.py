"""The network of a container, as a process outside of it can use it without being root.

A small container joins the network of the run's, makes sockets there, and hands them over through a Unix socket in a
folder that both see. Its image is empty, and it runs the agent's own Python, mounted read-only from the host: nothing
is asked of the run's image, of which a library or a variable would be loaded into that Python. It ends when the agent
closes the Unix socket, or is gone.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import sys
import threading
from typing import Callable, Iterator, List

from ...store.errors import HomeError
from ...store.home import Home
from ..network import TABLES, Network

MEETING = "/remoterun-network"
IMAGE = "remoterun-network"
START_PATIENCE = 20.0
"""Seconds from the start of the container until its program must have connected."""
MAKER = """
import array, os, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect(sys.argv[1])
def give(descriptors):
    there.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
give([os.open(path, os.O_RDONLY) for path in sys.argv[2:] if os.path.exists(path)])
while True:
    asked = there.recv(1)
    if not asked:
        break
    try:
        made = socket.socket(socket.AF_INET6 if asked == b"6" else socket.AF_INET)
    except OSError:
        there.sendall(b"-")
        continue
    give([made.fileno()])
    made.close()
"""
"""The program in the container: first it hands over the tables of connections, then a socket for each byte it gets."""


def maker_words(tool: str, container: str, user: str, folder: str) -> List[str]:
    """The words that start the container."""
    words = [
        tool, "run", "--rm", "--detach", "--network", "container:" + container, "--user", user,
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable",
        "--log-driver", "none",
        "--env", "NVIDIA_VISIBLE_DEVICES=void",  # a runtime of NVIDIA's would mount its libraries
        "--mount", "type=bind,source=%s,target=%s" % (folder, MEETING),
    ]  # fmt: skip
    for each in sorted({"/usr", "/lib", "/lib64", "/etc/ld.so.cache", os.path.realpath(sys.base_prefix)}):
        if os.path.exists(each):
            words += ["--mount", "type=bind,source=%s,target=%s,readonly" % (each, each)]
    program = os.path.realpath(sys.executable)
    return [*words, "--entrypoint", program, IMAGE, "-I", "-S", "-c", MAKER, MEETING + "/socket", *TABLES]


@contextlib.contextmanager
def opened(home: Home, start: Callable[[str], None]) -> Iterator[Network]:
    """The network of a container; `start` starts the program, whose Unix socket is in the folder that it is given.

    Raises `HomeError("no_network")`.
    """
    with home.temporary("network") as folder, socket.socket(socket.AF_UNIX) as listener:
        parent = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            listener.bind("/proc/self/fd/%d/socket" % parent)  # its own path may be too long for a Unix socket
        finally:
            os.close(parent)
        listener.listen(1)
        start(folder)
        listener.settimeout(START_PATIENCE)
        try:
            there, _ = listener.accept()
        except OSError:
            raise HomeError("no_network", "the program that reaches into the container's network does not start")
    with there:
        there.settimeout(START_PATIENCE)
        maker = _SocketMaker(there)
        with contextlib.closing(Network(maker.make, maker.tables)) as network:
            yield network


class _SocketMaker:
    """The program in the container, asked for one socket at a time."""

    def __init__(self, there: socket.socket) -> None:
        self._there = there
        self._asking = threading.Lock()
        self.tables = self._receive()

    def make(self, family: int) -> socket.socket:
        """Raises `OSError`."""
        with self._asking:
            self._there.sendall(b"6" if family == socket.AF_INET6 else b"4")
            descriptors = self._receive()
        if len(descriptors) != 1:
            raise OSError(errno.EAFNOSUPPORT, "no socket of that family could be made")
        return socket.socket(fileno=descriptors[0])

    def _receive(self) -> List[int]:
        found = array.array("i")
        room = socket.CMSG_SPACE(4 * found.itemsize)
        said, messages, _, _ = self._there.recvmsg(1, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not said:
            raise OSError("the program in the container's network has ended")
        for level, kind, data in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
        return list(found)
