"""A stream of the protocol and a TCP connection, spliced: what comes on one goes out on the other, both ways.

Each direction ends for itself: {"eof": 1} on the stream is the end of what one side sends, as FIN is on a connection;
the stream ends once both sides have said so. A connection that was reset cancels the stream, and the other way round.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any, Callable

from .frames import PIECE
from .protocol import Cancelled, Stream

POLL_EVERY = 1.0
"""Seconds after which a connection that stands still checks whether its stream is gone."""


def splice(stream: Stream, connection: socket.socket) -> None:
    """Carry bytes until both sides have sent all of theirs. Blocks; the caller closes the connection.

    Raises what ended the stream: `Cancelled`, too, where the connection broke. The connection is then reset.
    """
    with contextlib.suppress(OSError):  # what is typed is sent at once
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(POLL_EVERY)
    sender = threading.Thread(target=_send_all, args=(stream, connection), name="remoterun splice", daemon=True)
    sender.start()
    try:
        for frame in stream:
            if frame.body:
                _write(stream, connection, memoryview(frame.body))
            if frame.header.get("eof"):
                break
        connection.shutdown(socket.SHUT_WR)
        sender.join()
        if stream.cancelled:
            raise Cancelled
    except OSError:
        stream.cancel()
        raise Cancelled
    finally:
        if stream.cancelled:
            reset(connection)


def reset(connection: socket.socket) -> None:
    """Close a connection so that its other end sees that it broke."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
    connection.close()


def _send_all(stream: Stream, connection: socket.socket) -> None:
    """All that comes on the connection, to the stream."""
    room = memoryview(bytearray(PIECE))
    try:
        while True:
            size = _once_possible(stream, connection.recv_into, room)
            if not size:
                break
            stream.send(room[:size])
        stream.send(eof=1)
    except OSError:
        stream.cancel()
    except Exception:  # noqa: BLE001 - the stream is gone, which whoever receives on it learns, too
        pass


def _write(stream: Stream, connection: socket.socket, data: memoryview) -> None:
    while data:
        data = data[_once_possible(stream, connection.send, data) :]


def _once_possible(stream: Stream, call: Callable[[Any], int], argument: Any) -> int:
    """What `call` returns once the connection is ready for it. Raises `OSError`, and `Cancelled` for a stream that is
    gone."""
    while True:
        try:
            return call(argument)
        except socket.timeout:  # noqa: UP041 - no TimeoutError before Python 3.10
            if stream.cancelled:
                raise Cancelled
