"""The pipe to an agent over SSH: one channel of a connection, in which one command runs.

It uses what paramiko documents; `quick_pipe` is the same with a quicker way for data.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import paramiko

from remoterun.errors import LinkLost
from remoterun.hosts.base import KEPT, TAIL

if TYPE_CHECKING:
    from remoterun.hosts.ssh.connection import SSHConnection

POLL = 0.5
"""Seconds between looks at deadlines and at the error channel while nothing comes."""
_READ = 1 << 20
_HEAD = 4096  # bytes; what is shorter is sent in one packet with what follows


class SSHPipe:
    """See `Pipe`. Made by `SSHConnection.start`.

    `give_up_at` (monotonic, None: never) ends the next read that begins, or still waits, after that time; `late` then
    is True.
    """

    def __init__(self, channel: paramiko.Channel, connection: SSHConnection) -> None:
        self._channel = channel
        self._connection = connection
        self._kept = memoryview(b"")
        self._errors = bytearray()
        self._closing = threading.Lock()
        self._closed = False
        self.give_up_at: float | None = None
        self.late = False
        channel.settimeout(POLL)

    @property
    def round_trip(self) -> float:
        return self._connection.round_trip

    @property
    def lost(self) -> str:
        """Why the link broke; "" where it didn't, so that the end of the stream is the program's own."""
        if self._connection.alive or self._closed:
            return ""
        return self._connection.lost or "closed"

    def read(self, limit: int) -> bytes:
        if not self._kept:
            self._kept = memoryview(self._receive())
        data = bytes(self._kept[:limit])
        self._kept = self._kept[limit:]
        return data

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        self._give_kept(taker)
        while data := self._receive():
            taker(memoryview(data))

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        if len(views) > 1 and len(views[0]) < _HEAD:
            views = [memoryview(b"".join(views))]
        for view in views:
            while view:
                view = view[self._send_some(view) :]

    def end_input(self) -> None:
        """Nothing more will be written; the program's output still comes."""
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # This wakes the reader at once; telling the host may have to wait for a link that stands still.
        closer = threading.Thread(target=close_quietly, args=(self._channel,), daemon=True)
        closer.start()
        closer.join(1.0)

    def diagnosis(self) -> str:
        self._collect_errors()
        text = bytes(self._errors[-TAIL:]).decode("utf-8", "replace").strip()
        lost = self.lost
        return "\n".join(part for part in (text, f"the link broke: {lost}" if lost else "") if part)

    def exit_status(self, patience: float) -> int | None:
        """The program's exit status; None where a signal ended it, or it does not end within `patience` seconds."""
        self._channel.status_event.wait(patience)
        status = self._channel.exit_status
        self._collect_errors()
        return None if status < 0 else int(status)

    def _give_kept(self, taker: Callable[[memoryview], None]) -> None:
        kept, self._kept = self._kept, memoryview(b"")
        if kept:
            taker(kept)

    def _send_some(self, data: memoryview) -> int:
        """The number of bytes that were sent; 0 if there is no room yet. Raises `LinkLost`."""
        try:
            sent = self._send(data)
        except TimeoutError:
            if self._connection.alive and not self._closed:
                return 0
            sent = 0
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken() from error
        if not sent or not self._connection.alive:
            raise self._broken()
        return sent

    def _send(self, data: memoryview) -> int:
        """The number of bytes that were sent; 0 when the channel is closed. Raises `TimeoutError` after `POLL`."""
        return int(self._channel.send(bytes(data[:_READ])))

    def _receive(self) -> bytes:
        """What has come; `b""` at the end, or when it is too late."""
        while not self._closed:
            if self.give_up_at is not None and time.monotonic() > self.give_up_at:
                self.late = True
                break
            try:
                data = self._channel.recv(_READ)
            except TimeoutError:
                self._collect_errors()
                continue
            except (OSError, EOFError, paramiko.SSHException):
                data = b""
            self._collect_errors()
            return bytes(data)
        return b""

    def _collect_errors(self) -> None:
        """The error stream shares the channel's window: left unread, it would stop the other stream."""
        try:
            while self._channel.recv_stderr_ready():
                data = self._channel.recv_stderr(_READ)
                if not data:
                    return
                self._errors += data
                del self._errors[:-KEPT]
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def _broken(self) -> LinkLost:
        why = self.lost or ("the pipe was closed" if self._closed else "the program there has ended")
        return LinkLost(
            f"the link to `{self._connection.settings.target}` broke: {why}",
            evidence=self.diagnosis() or None,
        )


def close_quietly(channel: paramiko.Channel) -> None:
    """Closes a channel, which wakes its readers. May block while the link stands still: run it on a thread."""
    try:
        channel.close()
    except (OSError, EOFError, paramiko.SSHException):
        pass
