"""The pipe over SSH with data that goes past paramiko: to `packets.Packetizer`, and from it to the taker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import paramiko

from remoterun.hosts.ssh.inbox import Inbox
from remoterun.hosts.ssh.packets import DATA, ChannelData, Packetizer
from remoterun.hosts.ssh.pipe import POLL, SSHPipe

if TYPE_CHECKING:
    from remoterun.hosts.ssh.connection import SSHConnection


class QuickPipe(SSHPipe):
    """To be made before the channel's command is started, so that its inbox misses nothing.

    It depends on `internals.INTERNALS`, and on a cipher that the packetizer has its quick way for.
    """

    def __init__(self, channel: paramiko.Channel, connection: SSHConnection) -> None:
        super().__init__(channel, connection)
        self._inbox = channel.in_buffer = Inbox()
        self._packetizer: Packetizer = connection.transport.packetizer

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        def take(data: memoryview) -> None:
            taker(data)
            self._grant(len(data))

        self._give_kept(taker)
        self._packetizer.give_data(self._channel.chanid, self._inbox.feed)
        try:
            self._inbox.give(take)
            while not self._inbox.wait(POLL):
                self._collect_errors()
        finally:
            self._packetizer.give_data(self._channel.chanid, None)
        if self._inbox.failure is not None:
            raise self._inbox.failure

    def _grant(self, size: int) -> None:
        """`size` bytes were taken: let the host send as many more, once they are worth a packet."""
        grant = self._channel._check_add_window(size)
        if grant:
            with contextlib.suppress(OSError, EOFError):  # a reader will see that the link has ended
                self._packetizer.grant(self._channel.remote_chanid, grant)

    def _send(self, data: memoryview) -> int:
        sizes = self._packet_sizes(len(data))
        if sizes:
            self._connection.transport._send_user_message(ChannelData(self._channel.remote_chanid, data, sizes))
        return sum(sizes)

    def _packet_sizes(self, size: int) -> list[int]:
        """Sizes of packets, together `size` or as much as the host's window has room for; [] when it is closed.

        Blocks while there is no room at all; raises `TimeoutError` after `POLL`.
        """
        channel = self._channel
        sizes: list[int] = []
        with channel.lock:
            while size and (channel.out_window_size or not sizes):
                granted = channel._wait_for_send_window(min(size, DATA))
                if not granted:
                    break
                sizes.append(granted)
                size -= granted
        return sizes
