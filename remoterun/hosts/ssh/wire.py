"""The bytes under an SSH connection, and noticing that the other end is gone.

`Wire` is what paramiko gets as its socket. paramiko's own keepalive asks for no answer and so notices nothing; `Wire`
asks (`ping`) when nothing has come for a while, and ends the connection when no answer comes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

_CHANNEL_TAKES = 1 << 15  # bytes that are given to a channel of another connection at once
_POLL = 0.5  # seconds between looks at the clock while nothing comes
LARGEST_PACKET = 256 << 10
"""Bytes; OpenSSH sends no packet that is larger, and 32 kB of data in one at most unless the client asks for more."""
_BUFFER = 2 * LARGEST_PACKET
_OPENING = 4096  # bytes that are kept of what came first
_PING_SIZE = 1024  # bytes; a longer packet on its way out is data, and a ping's answer may have to wait behind it


class SocketLike(Protocol):
    """What `Wire` needs: a socket, or a paramiko channel through another host."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def close(self) -> None: ...


class Wire:
    """A socket as paramiko wants it. It reads ahead, and ends when the other end does not answer any more.

    `recv` and `send` raise `EOFError` once the link is lost; `lost` then says why, in words for the user. `opening`
    keeps the first bytes that came: a server that is not an SSH server, or that refuses, writes plain text.
    """

    def __init__(self, stream: SocketLike, silence: float, close: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self._silence = silence
        self._close_more = close
        self._socket = stream if isinstance(stream, socket.socket) else None
        self._view = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self._heard_at = self._moved_at = self._bulk_at = time.monotonic()
        self._asked_at: float | None = None
        self._sending = False
        self._closed = False  # paramiko looks at this name
        self._closing = threading.Lock()
        self.ping: Callable[[], None] | None = None
        self.lost = ""
        self.opening = b""
        stream.settimeout(min(_POLL, silence / 4))

    def recv(self, size: int) -> bytes:
        if self._start == self._end:
            self._fill()
        stop = min(self._end, self._start + size)
        data = bytes(self._view[self._start : stop])
        self._start = stop
        return data

    @property
    def held(self) -> int:
        """Bytes that were read ahead."""
        return self._end - self._start

    def peek(self, size: int) -> memoryview:
        """The next `size` bytes (at most `LARGEST_PACKET`), which stay to be read; valid until the next call.

        Raises `TimeoutError` when they haven't all come yet: call again.
        """
        while self._end - self._start < size:
            self._fill()
        return self._view[self._start : self._start + size]

    def skip(self, size: int) -> None:
        """Drop the next `size` bytes, which `peek` showed."""
        self._start += size

    def send(self, data: bytes | memoryview) -> int:
        if len(data) > _PING_SIZE:
            self._bulk_at = time.monotonic()
        self._sending = True
        try:
            sent = self._stream.send(data if self._socket is not None else bytes(data[:_CHANNEL_TAKES]))
        except TimeoutError as error:
            if error.errno is not None:  # TCP_USER_TIMEOUT
                raise self._end_of_link(f"no answer for {self._silence:g} s") from error
            quiet = time.monotonic() - max(self._moved_at, self._heard_at)
            if quiet > self._silence * 3:
                raise self._end_of_link(f"nothing could be sent for {quiet:.0f} s") from error
            raise
        except OSError as error:
            raise self._end_of_link(error.strerror or str(error)) from error
        finally:
            self._sending = False
        if sent:
            self._moved_at = time.monotonic()
        return sent

    def settimeout(self, seconds: float | None) -> None:
        """Ignored: paramiko asks for 0.1 s to look at its flags, and here `close` wakes a reader."""

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """May be called twice, from any thread; wakes a blocked `recv` or `send`."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._stream.close()
        if self._close_more is not None:
            self._close_more()

    def _fill(self) -> None:
        """Reads more, behind what is held."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._view) - self._start < LARGEST_PACKET:
            held = self.held
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        room = self._view[self._end :]
        try:
            if self._socket is not None:
                count = self._socket.recv_into(room)
            else:
                data = self._stream.recv(len(room))
                count = len(data)
                room[:count] = data
        except TimeoutError as error:
            if error.errno is not None:
                raise self._end_of_link(f"no answer for {self._silence:g} s") from error
            self._look_at_the_clock()
            raise
        except OSError as error:
            raise self._end_of_link(error.strerror or str(error)) from error
        if not count:
            raise self._end_of_link("closed by the other end")
        self._end += count
        self._heard_at = time.monotonic()
        self._asked_at = None
        if len(self.opening) < _OPENING:
            self.opening += bytes(room[: min(count, _OPENING)])

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        patience = self._silence / 2
        if self._asked_at is None:
            if self.ping is not None and now - self._heard_at > patience and not self._sending:
                self._asked_at = now
                self.ping()
            return
        if now - self._bulk_at < self._silence:
            patience = self._silence * 3
        if now - self._asked_at > patience:
            raise self._end_of_link(f"no answer for {now - self._heard_at:.0f} s")

    def _end_of_link(self, why: str) -> EOFError:
        self.lost = self.lost or ("closed" if self._closed else why)
        return EOFError(self.lost)
