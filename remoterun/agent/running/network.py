"""The network that a run's command sees: who listens there on which port, and connections to it.

A socket belongs to the network it was made in, wherever it is used: an engine only has to hand over sockets that were
made where the command runs. So the bytes of a connection take no detour.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ..shared.records import Record
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder

PATIENCE = 10.0
"""Seconds that a server may take to accept a connection."""
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where one is asked who listens at all addresses of a family."""
_LISTENS = b"0A"
MOST_TABLE = 4 << 20  # bytes of a table that are read: 28,000 connections, and first those who listen
_DOCKERS_OWN = "127.0.0.11"
"""Docker answers there for names, in a container's network."""


class Listener(Record):
    """A socket that accepts connections. `socket`: its inode."""

    family: int
    address: str
    port: int
    socket: bytes


class Network:
    """`make` gives a new TCP socket of a family, made in that network; `tables` are files open for reading that tell
    its connections, as /proc/net/tcp does (none where the system has no such file). `processes` gives the pids of the
    run, where others use the same network. Any thread may call."""

    def __init__(
        self,
        make: Callable[[int], socket.socket],
        tables: Sequence[int],
        processes: Optional[Callable[[], Iterable[int]]] = None,
    ) -> None:
        self._make = make
        self._tables = list(tables)
        self._processes = processes
        self._reading = threading.Lock()

    def listening(self) -> Optional[Set[int]]:
        """The ports on which somebody listens; None where the system doesn't tell."""
        if not self._tables:
            return None
        return {each.port for each in self._listeners()}

    def listening_of_run(self) -> Set[int]:
        """The ports on which the run's own processes listen; none where the system doesn't tell. Takes as long as it
        takes to inspect every process of the machine where others use the same network."""
        return {each.port for each in self._of_run(self._listeners())}

    def _of_run(self, listeners: List[Listener]) -> List[Listener]:
        own = None if self._processes is None else _sockets(self._processes())
        return [each for each in listeners if own is None or each.socket in own]

    def _listeners(self) -> List[Listener]:
        with self._reading:
            lines = [line.split() for table in self._tables for line in _content(table).splitlines()[1:]]
        found = [_listener(fields) for fields in lines if fields[3] == _LISTENS]
        return [each for each in found if each.address != _DOCKERS_OWN]

    def _ways(self, port: int) -> List[Tuple[int, str]]:
        """(family, address) where the run listens on the port: at other addresses of it, others of this machine may."""
        if not self._tables:
            return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
        there = [each for each in self._listeners() if each.port == port]
        own = self._of_run(there)
        ways = [(each.family, LOOPBACK.get(each.address, each.address)) for each in own]
        if not any(each.family == socket.AF_INET for each in there) and any(each.address == "::" for each in own):
            ways.append((socket.AF_INET, "127.0.0.1"))  # such a socket may have both families
        return ways

    def connect(self, port: int) -> socket.socket:
        """A connection to the port, where processes of the run listen. Raises `HomeError("not_listening")`,
        `HomeError("no_network")`."""
        for family, address in self._ways(port):
            try:
                connection = self._make(family)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # it has no IPv6
                    continue
                raise HomeError("no_network", "the network of the run can't be reached: %s" % error)
            try:
                connection.settimeout(PATIENCE)
                connection.connect((address, port))
                return connection
            except OSError:
                connection.close()
        raise HomeError("not_listening", "no process of the run listens on port %d" % port)

    def close(self) -> None:
        tables, self._tables = self._tables, []
        for table in tables:
            os.close(table)


@contextlib.contextmanager
def of_this_machine(processes: Callable[[], Iterable[int]]) -> Iterator[Network]:
    """The network that this process is in; `processes` gives the pids of the run."""
    tables = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in TABLES if os.path.exists(path)]
    network = Network(lambda family: socket.socket(family, socket.SOCK_STREAM), tables, processes)
    with contextlib.closing(network):
        yield network


_open: Dict[str, List[Network]] = {}
"""By the key of a run: the networks that this process has open."""


@contextlib.contextmanager
def opened(home: Home, run: RunFolder) -> Iterator[Network]:
    """The network of a run whose command runs; `network_of` gives it meanwhile. Raises `HomeError`."""
    from .engines import engine_of_run

    with engine_of_run(home, run).network(run) as network:
        networks = _open.setdefault(run.key, [])
        networks.append(network)
        try:
            yield network
        finally:
            networks.remove(network)


def network_of(run: RunFolder) -> Network:
    """The one that was opened last. Raises `HomeError`."""
    networks = _open.get(run.key)
    if not networks:
        raise HomeError("not_running", "nobody watches the ports of the run")
    return networks[-1]


def _content(table: int) -> bytes:
    with open(table, "rb", closefd=False) as file:
        file.seek(0)
        return file.read(MOST_TABLE).rpartition(b"\n")[0]


def _listener(fields: List[bytes]) -> Listener:
    """Of a line of a table: there an address is its words, each as the processor has it, as hexadecimal numbers."""
    address, _, port = fields[1].decode().partition(":")
    words = (int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
    family = socket.AF_INET if len(address) == 8 else socket.AF_INET6
    return Listener(family, socket.inet_ntop(family, b"".join(words)), int(port, 16), fields[9])


def _sockets(pids: Iterable[int]) -> Set[bytes]:
    """The inodes of the sockets that these processes have."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for name in os.listdir("/proc/%d/fd" % pid):
                with contextlib.suppress(OSError):
                    link = os.readlink("/proc/%d/fd/%s" % (pid, name))
                    found.add(link.partition("socket:[")[2].rstrip("]").encode())
    return found
