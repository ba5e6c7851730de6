"""The network that a run's command sees: who listens there on which port, and connections to it.

A socket belongs to the network it was made in, wherever it is used: an engine only has to hand over sockets that were
made where the command runs. So the bytes of a connection take no detour.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder

PATIENCE = 10.0
"""Seconds that a server may take to accept a connection."""
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENS = b"0A"
MOST_TABLE = 4 << 20  # bytes of a table that are read: 28,000 connections, and first those who listen
_DOCKERS_OWN = b"0B00007F"
"""127.0.0.11: Docker answers there for names, in a container's network."""


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
        return {port for port, _ in self._listeners()}

    def listening_of_run(self) -> Set[int]:
        """The ports on which the run's own processes listen; none where the system doesn't tell. Takes as long as it
        takes to inspect every process of the machine where others use the same network."""
        own = None if self._processes is None else _sockets(self._processes())
        return {port for port, socket in self._listeners() if own is None or socket in own}

    def _listeners(self) -> List[Tuple[int, bytes]]:
        """Where connections are accepted: (port, inode of the socket)."""
        with self._reading:
            lines = [line.split() for table in self._tables for line in _content(table).splitlines()[1:]]
        found = [(fields[1].partition(b":"), fields[9]) for fields in lines if fields[3] == _LISTENS]
        return [(int(port, 16), inode) for (address, _, port), inode in found if address != _DOCKERS_OWN]

    def connect(self, port: int) -> socket.socket:
        """A connection to the port, on the loopback address of IPv4 or of IPv6. Raises
        `HomeError("not_listening")`, `HomeError("no_network")`."""
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
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
        raise HomeError("not_listening", "nobody listens on port %d of the run" % port)

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
