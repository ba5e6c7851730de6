"""Ports of a run on 127.0.0.1 here: each TCP connection is a stream of the conversation with the run's machine."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.spec import PortSpec, RunSpec
from remoterun.agent.shared.splicing import reset, splice
from remoterun.client.runs.specs import digest_of_asked
from remoterun.connections import RECONNECT_LEAST, RECONNECT_MOST, Connections
from remoterun.errors import HostError, RemoterunError, UsageError
from remoterun.model import Run
from remoterun.session import Session

HERE = "127.0.0.1"
MOST_NAMED = 100
"""Ports on which a run listens that a machine may name."""
NEXT_PORTS = 20
"""Ports after the one that was wanted, which are tried before any other."""
_BACKLOG = 128


@dataclass(frozen=True)
class PortNews:
    """`kind`: "waiting", as nobody listens on the run's `port` yet; "up": it is `local` here; "down": nobody listens
    there any more, and connections here are refused; "failed": no port can be reached, for the reason in `text`.
    `wanted` is the port here that was asked for; `others`, while one is waited for, are those on which the run does
    listen, as far as its machine can tell: once it listens on any, "waiting" comes again with them."""

    kind: str
    port: int = 0
    local: int = 0
    wanted: int = 0
    text: str = ""
    others: tuple[int, ...] = ()


def asked_ports(connections: Connections, run: Run) -> tuple[PortSpec, ...]:
    """The ports that were asked for with a run, which its machine does not choose: what it has must be what our record
    says. Raises `HostError`, and `UsageError` where it is not."""
    session = connections.session_of(run)
    details = session.ask(api.run, api.RunKey(run.key))
    with session.understood():
        spec = RunSpec.from_record(details.spec)
    if spec.ports and connections.registry.asked(run) != digest_of_asked(spec):
        raise UsageError(
            f"{run.host.name} says that run {run.number} has ports, which are not known here: name those that you want",
            hint=f"remoterun forward {run.number} {spec.ports[0].port}",
        )
    return spec.ports


class Forwarding:
    """Ports of one run, forwarded until `close`. Made by `Runs.forward`; a context manager."""

    def __init__(
        self, connections: Connections, run: Run, ports: Sequence[PortSpec], tell: Callable[[PortNews], None]
    ) -> None:
        self._connections = connections
        self._run = run
        self._wanted = {each.port: each.wanted for each in ports}
        self._tell = tell
        self._local_ports: dict[int, _LocalPort] = {}
        self._waited: dict[int, bool] = {}
        """By port that is waited for: whether it was said on which ones the run listens."""
        self._lock = threading.Lock()  # guards what follows
        self._session: Session | None = None
        self._streams: set[Stream] = set()
        self._closed = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._keep, name="remoterun ports", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the forwarding has ended, as the run has, within `timeout` seconds."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Give the ports here back, and cut their connections. May be called twice."""
        with self._lock:
            self._closed.set()
            streams, self._session = list(self._streams), None
        for stream in streams:
            stream.cancel()
        for each in list(self._local_ports.values()):
            each.close()

    # -- the conversation

    def _keep(self) -> None:
        """Watch the ports for as long as the run runs, over lost connections."""
        pause = RECONNECT_LEAST
        try:
            while not self._closed.is_set():
                try:
                    if not self._wanted:
                        asked = asked_ports(self._connections, self._run)
                        self._wanted = {each.port: each.wanted for each in asked}
                    if self._wanted:
                        self._watch(self._connections.session_where(self._run))
                    return
                except HostError as error:
                    if not error.passing:
                        raise
                    pause = RECONNECT_LEAST if self._session is not None else min(pause * 2, RECONNECT_MOST)
                    self._session = None
                self._closed.wait(pause)
        except RemoterunError as error:
            known = self._wanted or isinstance(error, UsageError)
            if known and not self._closed.is_set() and not self._connections.closed.is_set():
                self._tell(PortNews("failed", text=error.message))
        finally:
            self.close()
            self._ended.set()

    def _watch(self, session: Session) -> None:
        asked = api.Ports(self._run.key, sorted(self._wanted))
        with session.stream(api.watch_ports, asked) as stream, self._ours(stream):
            self._session = session
            stream.end()
            for frame in stream:
                with session.understood():
                    if frame.header.get("waiting") in self._wanted:
                        others = tuple(map(int, frame.header.get("others", ())))
                        self._wait_for(frame.header["waiting"], others[:MOST_NAMED])
                    for kind, take in (("up", self._open), ("down", self._shut)):
                        if frame.header.get(kind) in self._wanted:
                            take(frame.header[kind])

    @contextlib.contextmanager
    def _ours(self, stream: Stream) -> Iterator[None]:
        """While the block uses it, `close` cancels this stream."""
        with self._lock:
            if self._closed.is_set():
                stream.cancel()
            self._streams.add(stream)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(stream)

    def _wait_for(self, port: int, others: tuple[int, ...]) -> None:
        if port in self._local_ports:  # it went while the link was lost
            self._shut(port)
        elif port not in self._waited or (others and not self._waited[port]):
            self._waited[port] = bool(others)
            self._tell(PortNews("waiting", port, wanted=self._wanted[port], others=others))

    def _open(self, port: int) -> None:
        with self._lock:
            if self._closed.is_set() or port in self._local_ports:
                return
            local_port = _LocalPort(self._wanted[port], lambda connection: self._carry(port, connection))
            self._local_ports[port] = local_port
        self._tell(PortNews("up", port, local_port.number, self._wanted[port]))

    def _shut(self, port: int) -> None:
        local_port = self._local_ports.pop(port, None)
        if local_port is not None:
            local_port.close()
            self._tell(PortNews("down", port, local_port.number, self._wanted[port]))

    # -- one connection

    def _carry(self, port: int, connection: socket.socket) -> None:
        """On a thread of its own: what comes on a connection here, and what the run's server answers."""
        with connection:
            session = self._session
            if session is None:  # the link is lost
                reset(connection)
                return
            try:
                with session.stream(api.connect, api.Port(self._run.key, port)) as stream, self._ours(stream):
                    splice(stream, connection)
                    stream.end()
                    stream.finish()
            except RemoterunError:
                reset(connection)


class _LocalPort:
    """A port of this machine on which connections are accepted."""

    def __init__(self, wanted: int, carry: Callable[[socket.socket], None]) -> None:
        self._carry = carry
        self._listeners = _listeners(wanted)
        self.number: int = self._listeners[0].getsockname()[1]
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), name="remoterun accepts", daemon=True).start()

    def close(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), name="remoterun carries", daemon=True).start()


def _listeners(wanted: int) -> list[socket.socket]:
    """Sockets that listen on 127.0.0.1 and, where there is IPv6, on ::1, which a browser takes for `localhost` and the
    names below it: on the port that is wanted, one of the next ones, or any that is free on both."""
    for port in [*range(wanted, min(wanted + NEXT_PORTS, 65536)), 0, 0, 0]:
        listener = _listening(socket.AF_INET, HERE, port)
        if listener is None:
            continue
        try:
            also = _listening(socket.AF_INET6, "::1", listener.getsockname()[1])
        except OSError:  # there is no IPv6
            return [listener]
        if also is not None:
            return [listener, also]
        listener.close()
    raise HostError("no port of this machine is free")


def _listening(family: socket.AddressFamily, here: str, port: int) -> socket.socket | None:
    """None where the port is taken. Raises `OSError` for an address that this machine does not have."""
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((here, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise
    return listener
