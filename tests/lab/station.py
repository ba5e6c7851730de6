"""The process of a relay: `python -m tests.lab.station JSON`. See `relay.py` for what it makes of a connection.

Says its port, then obeys what comes on standard input (`sever`), answered by the word itself; ends
with it. One thread, `select` (whose time-outs are finer than those of `poll`), and a queue of what is due for each
direction of each connection.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque

from tests.lab.relay import Way

PIECE = 1 << 16
PACKET, HEADERS = 1448, 90  # bytes of TCP payload in a full packet, and of all that is sent with it
FIRST_WINDOW = 10 * PACKET
KERNEL_BUFFER = 1 << 18  # little, so that a sender notices soon that the window is full
TICK = 0.0003  # what is due so soon is due now: fewer wake-ups


class Line:
    """One direction of the way, which all connections share."""

    def __init__(self, way: Way) -> None:
        self._delay = way.rtt / 2
        self._seconds_a_byte = 8 / way.rate if way.rate else 0.0
        self._free_at = 0.0

    def due(self, size: int, now: float) -> float:
        """When what is handed over now is at the other end."""
        packets = -(-size // PACKET) or 1
        begun = max(now, self._free_at)
        self._free_at = begun + (size + packets * HEADERS) * self._seconds_a_byte
        return self._free_at + self._delay


class End(enum.Enum):
    """How a sender ends."""

    CLOSED = "it has no more to say"
    RESET = "it is gone"


class Flow:
    """One direction of one connection. `opens_at`: nothing is read before."""

    def __init__(self, source: socket.socket, target: socket.socket, line: Line, way: Way, opens_at: float) -> None:
        self.source, self.target = source, target
        self.opens_at = opens_at
        self.ended = False  # the end was handed over, after everything else
        self._line, self._way = line, way
        self._window = min(FIRST_WINDOW, way.window)
        self._under_way = 0
        self._queue: deque[tuple[float, memoryview | End]] = deque()  # (when due, what)
        self._acknowledged: deque[tuple[float, int]] = deque()  # (when the sender knows, bytes)
        self._last = False  # the end was read
        self.stuck = False  # the receiver takes nothing at the moment

    def read(self, now: float) -> None:
        """Take a piece from the sender, or its end, if there is one."""
        what: memoryview | End
        try:
            data = self.source.recv(min(PIECE, self._window - self._under_way))
            what = memoryview(data) if data else End.CLOSED
        except BlockingIOError:
            return
        except OSError:
            data, what = b"", End.RESET
        self._last = not data
        self._under_way += len(data)
        self._queue.append((self._line.due(len(data), now), what))

    def deliver(self, now: float) -> None:
        """Hand over what is due. Raises ConnectionResetError when that is a reset."""
        self.stuck = False
        while self._queue and self._queue[0][0] <= now + TICK:
            due, data = self._queue[0]
            if data is End.RESET:
                raise ConnectionResetError
            try:
                if data is End.CLOSED:
                    self.target.shutdown(socket.SHUT_WR)
                    self._give_up()
                    return
                sent = self.target.send(data)
            except BlockingIOError:
                self.stuck = True
                return
            except OSError:  # the receiver is gone; the sender hears of it by the other flow, in its turn
                self._give_up()
                return
            self._acknowledged.append((now + self._way.rtt / 2, sent))
            if sent < len(data):
                self._queue[0] = due, data[sent:]
                self.stuck = True
                return
            self._queue.popleft()

    def _give_up(self) -> None:
        self.ended = self._last = True
        self._queue.clear()

    def acknowledge(self, now: float) -> None:
        """Make room for what the sender knows to have arrived; a window that is used doubles in a round trip."""
        while self._acknowledged and self._acknowledged[0][0] <= now + TICK:
            size = self._acknowledged.popleft()[1]
            if 2 * self._under_way >= self._window:
                self._window = min(self._way.window, self._window + size)
            self._under_way -= size

    def wants_to_read(self, now: float) -> bool:
        return not self._last and now >= self.opens_at and self._has_room()

    def wakes_at(self, now: float) -> float | None:
        """When there is something to do without anything to read or write."""
        times = [self._queue[0][0]] if self._queue and not self.stuck else []
        if not self._last:
            if now < self.opens_at:
                times.append(self.opens_at)
            elif not self._has_room() and self._acknowledged:
                times.append(self._acknowledged[0][0])
        return min(times, default=None)

    def _has_room(self) -> bool:
        return self._window - self._under_way >= min(PIECE, self._window // 8)


class Connection:
    """The two flows of a client that came at `now`; the other end hears of it a round trip and a half later."""

    def __init__(
        self, client: socket.socket, target: tuple[str, int], up: Line, down: Line, way: Way, now: float
    ) -> None:
        self.server = socket.socket()
        self.client = client
        for each in (self.client, self.server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        self._target = target
        self.connects_at = now + 1.5 * way.rtt
        self._connected = False
        self._up = Flow(client, self.server, up, way, now + way.rtt)
        self._down = Flow(self.server, client, down, way, self.connects_at)
        self.flows = (self._up, self._down)

    def connect(self, now: float) -> None:
        """Connect to the other end when it is time; where that is refused, a read shows it."""
        if not self._connected and now + TICK >= self.connects_at:  # as early as what is to be delivered then
            self._connected = True
            with contextlib.suppress(OSError):
                self.server.connect(self._target)

    @property
    def over(self) -> bool:
        return self._up.ended and self._down.ended

    def close(self) -> None:
        for each in (self.client, self.server):
            each.close()

    def reset(self) -> None:
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Station:
    """All connections of a relay, and what its owner says on standard input."""

    def __init__(self, target: tuple[str, int], way: Way) -> None:
        self._target, self._way = target, way
        self._up, self._down = Line(way), Line(way)
        self._connections: list[Connection] = []
        self._door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)  # what is accepted inherits it
        self._door.setblocking(False)
        self.port = int(self._door.getsockname()[1])

    def run(self) -> None:
        """Blocks until standard input ends."""
        while True:
            now = time.monotonic()
            doors: list[int | socket.socket] = [0, self._door]
            readers: dict[socket.socket, Flow] = {}
            writers: list[socket.socket] = []
            wakes: list[float] = []
            for connection in list(self._connections):
                self._step(connection, now)
            for connection in self._connections:
                if now < connection.connects_at:
                    wakes.append(connection.connects_at)
                for flow in connection.flows:
                    if flow.wants_to_read(now):
                        readers[flow.source] = flow
                    if flow.stuck:
                        writers.append(flow.target)
                    if (wake := flow.wakes_at(now)) is not None:
                        wakes.append(wake)
            patience = max(0.0, min(wakes) - time.monotonic()) if wakes else None
            ready, _, _ = select.select([*doors, *readers], writers, [], patience)
            now = time.monotonic()
            if 0 in ready and not self._listen():
                return
            if self._door in ready:
                self._accept(now)
            for each in readers.keys() & ready:
                readers[each].read(now)

    def _step(self, connection: Connection, now: float) -> None:
        try:
            connection.connect(now)
            for flow in connection.flows:
                flow.deliver(now)
                flow.acknowledge(now)
        except ConnectionResetError:
            self._reset(connection)
            return
        if connection.over:
            self._connections.remove(connection)
            connection.close()

    def _accept(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = self._door.accept()
            self._connections.append(Connection(client, self._target, self._up, self._down, self._way, now))

    def _reset(self, connection: Connection) -> None:
        self._connections.remove(connection)
        connection.reset()

    def _listen(self) -> bool:
        """Do what the owner says; False when there is no owner any more."""
        words = os.read(0, 4096).decode().split()
        for word in words:
            for connection in list(self._connections):
                self._reset(connection)
            print(word, flush=True)
        return bool(words)


def main() -> None:
    told = json.loads(sys.argv[1])
    host, port = told.pop("target")
    station = Station((host, port), Way(**told))
    print(station.port, flush=True)
    station.run()


if __name__ == "__main__":
    main()
