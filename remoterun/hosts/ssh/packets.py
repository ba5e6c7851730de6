"""SSH's packets, many at a time: what paramiko does for each one costs more than enciphering it.

    out    data of a channel is cut into packets, which are enciphered into one buffer and sent with one call
    in     packets are deciphered in the wire's buffer, and data goes from there to the channel's taker

This is for AES-GCM, which all but old sshds offer; with another cipher everything takes paramiko's way. What it needs
of paramiko stands in `internals`.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA, cMSG_CHANNEL_WINDOW_ADJUST
from paramiko.packet import NeedRekeyException

from remoterun.hosts.ssh.wire import LARGEST_PACKET, Wire

DATA = 32_704
"""Bytes of a channel's data in one packet: 32,768 less what paramiko reserves for headers."""
AT_ONCE = 32
"""Packets that are sent with one call."""

_BLOCK, _TAG, _LENGTH = 16, 16, 4
_DATA_HEAD = struct.Struct(">IBBII")
"""Packet length, padding length, type, channel, data length."""
_CHANNEL_AND_SIZE = struct.Struct(">II")
_DATA_START = 1 + _CHANNEL_AND_SIZE.size
_U32 = struct.Struct(">I")
_MOST_OF_ONE = _DATA_HEAD.size + DATA + 2 * _BLOCK + _TAG


class ChannelData:
    """Data of one channel, to be given to `Transport._send_user_message` in place of a message, when `is_quick`.

    `channel` is its number on the host; `sizes` are those of the packets, each at most `DATA`. The channel's window
    must have room for all of them.
    """

    def __init__(self, channel: int, data: memoryview, sizes: Sequence[int]) -> None:
        self.channel, self.data, self.sizes = channel, data, sizes


class Packetizer(paramiko.Packetizer):  # type: ignore[misc]  # paramiko has no types
    """paramiko's packetizer with a quick way for AES-GCM.

    It also replaces the thread with which paramiko times the handshake: that thread outlives a refused connection by
    15 s, and the program can't end before it.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._encryptor: _Encryptor | None = None
        self._decryptor: _Decryptor | None = None
        self._writing = threading.RLock()
        self._takers: dict[int, Callable[[memoryview], None]] = {}
        self._grants: dict[int, int] = {}
        """Bytes of window still to be granted, by the channel's number on the host."""
        self._granting = threading.Lock()
        self._reading_thread = threading.get_ident()
        self._clear: Callable[[], bool] = lambda: True
        self._handshake_ends: float | None = None

    @property
    def is_quick(self) -> bool:
        """Whether packets of both directions take the quick way now."""
        return self._encryptor is not None and self._decryptor is not None

    def give_data(self, channel: int, taker: Callable[[memoryview], None] | None) -> None:
        """From now on the reading thread gives the data of a channel (its number here) to `taker`; None ends that.

        `taker` must not block, and must not keep the memory that it is given. Data that has come already may still take
        paramiko's way.
        """
        if taker is None:
            self._takers.pop(channel, None)
        else:
            self._takers[channel] = taker

    def grant_while(self, clear: Callable[[], bool]) -> None:
        """`clear` returns whether no keys are being exchanged, so that window may be granted."""
        self._clear = clear

    def grant(self, channel: int, size: int) -> None:
        """Let the host send `size` bytes more on a channel (its number on the host). Does not block.

        The reading thread sends the grant at once, unless keys are being exchanged or another thread writes. A grant by
        any other thread, or one that had to wait, goes out with the next packet that comes or goes.
        """
        with self._granting:
            self._grants[channel] = self._grants.get(channel, 0) + size
        if self._reading_thread == threading.get_ident():  # it alone knows that no keys are about to be exchanged
            self._send_grants()

    # -- out

    def set_outbound_cipher(self, **cipher: Any) -> None:
        super().set_outbound_cipher(**cipher)
        quick = _is_quick(cipher)
        if self._encryptor is not None and not quick:
            raise _other_cipher()
        self._encryptor = _Encryptor(cipher["block_engine"], cipher["iv_out"]) if quick else None

    def send_message(self, data: Any) -> None:
        """A paramiko message, or `ChannelData`. Blocks."""
        with self._writing:
            if not isinstance(data, ChannelData):
                self._send_one(data)
            else:
                assert self._encryptor is not None
                for packets in self._encryptor.data(data):
                    self._write(packets)
        self._send_grants()

    def _send_one(self, message: Any) -> None:
        if self._encryptor is None:
            super().send_message(message)
        else:
            self._write(self._encryptor.message(message.asbytes()))

    def _write(self, packets: memoryview) -> None:
        try:
            self.write_all(packets)
        except KeyboardInterrupt:  # half a packet may be on its way
            self.close()
            raise
        assert self._encryptor is not None
        if self._encryptor.bytes >= self.REKEY_BYTES and not self.need_rekey():
            self._trigger_rekey()

    def _send_grants(self) -> None:
        """Sends the grants, unless another thread writes, which then sends them afterwards: the reading thread must not
        wait for a link that stands still."""
        while self._grants and self._clear() and self._writing.acquire(blocking=False):
            try:
                with self._granting:
                    grants, self._grants = self._grants, {}
                for channel, size in grants.items():
                    message = paramiko.Message()
                    message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
                    message.add_int(channel)
                    message.add_int(size)
                    self._send_one(message)
            finally:
                self._writing.release()

    # -- in

    def set_inbound_cipher(self, **cipher: Any) -> None:
        super().set_inbound_cipher(**cipher)
        quick = _is_quick(cipher)
        if self._decryptor is not None and not quick:
            raise _other_cipher()
        self._decryptor = _Decryptor(cipher["block_engine"], cipher["iv_in"]) if quick else None

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The next message, once the data of channels with a taker has gone there. Blocks."""
        self._reading_thread = threading.get_ident()
        self._send_grants()
        if self._decryptor is None:
            kind, message = super().read_message()
            return kind, message
        while True:
            payload = self._next(self._decryptor)
            if payload[0] != MSG_CHANNEL_DATA or not self._was_taken(payload):
                message = paramiko.Message(bytes(payload[1:]))
                message.seqno = self._decryptor.count - 1
                return payload[0], message
            if self.need_rekey():
                raise NeedRekeyException

    def _was_taken(self, payload: memoryview) -> bool:
        if len(payload) < _DATA_START:
            raise paramiko.SSHException("a packet of data that is too short")
        channel, size = _CHANNEL_AND_SIZE.unpack_from(payload, 1)
        taker = self._takers.get(channel)
        if taker is None:
            return False
        if size != len(payload) - _DATA_START:
            raise paramiko.SSHException("a packet of data whose length is not the one that it states")
        taker(payload[_DATA_START:])
        return True

    def _next(self, decryptor: _Decryptor) -> memoryview:
        head = bytes(self._peek(_LENGTH))
        (size,) = _U32.unpack(head)
        if size % _BLOCK or not 0 < size <= LARGEST_PACKET - _LENGTH - _TAG:
            raise paramiko.SSHException(f"a packet with the length {size}, which is not allowed")
        payload = decryptor.open(head, self._peek(_LENGTH + size + _TAG)[_LENGTH:])
        self._wire.skip(_LENGTH + size + _TAG)
        if decryptor.bytes >= self.REKEY_BYTES and not self.need_rekey():
            self._trigger_rekey()
        return payload

    def _peek(self, size: int) -> memoryview:
        while True:
            if self.handshake_timed_out():
                raise EOFError
            try:
                return self._wire.peek(size)
            except TimeoutError:
                if self.closed:
                    raise EOFError from None
                if size == _LENGTH and not self._wire.held and self.need_rekey():
                    raise NeedRekeyException from None

    # -- the time of the handshake

    def start_handshake(self, timeout: float) -> None:
        self._handshake_ends = time.monotonic() + timeout

    def handshake_timed_out(self) -> bool:
        return self._handshake_ends is not None and time.monotonic() > self._handshake_ends

    def complete_handshake(self) -> None:
        self._handshake_ends = None


class _Encryptor:
    """Packets on their way out, under one key."""

    def __init__(self, engine: AESGCM, iv: bytes) -> None:
        self._engine, self._nonces = engine, _Nonces(iv)
        self._plain = memoryview(bytearray(_MOST_OF_ONE))
        self._out = memoryview(bytearray(AT_ONCE * _MOST_OF_ONE))
        self.bytes = 0

    def data(self, data: ChannelData) -> Iterator[memoryview]:
        """Yields its packets as they go over the wire, `AT_ONCE` in one piece; a piece is valid until the next."""
        at = 0
        for first in range(0, len(data.sizes), AT_ONCE):
            end = 0
            for size in data.sizes[first : first + AT_ONCE]:
                payload = _DATA_START + size
                padding = _padding(payload)
                _DATA_HEAD.pack_into(
                    self._plain, 0, 1 + payload + padding, padding, MSG_CHANNEL_DATA, data.channel, size
                )
                self._plain[_DATA_HEAD.size : _DATA_HEAD.size + size] = data.data[at : at + size]
                at += size
                end = self._seal(self._plain, 1 + payload, padding, self._out, end)
            yield self._out[:end]

    def message(self, payload: bytes) -> memoryview:
        """One packet as it goes over the wire."""
        padding = _padding(len(payload))
        plain = bytearray(_LENGTH + 1 + len(payload) + padding)
        _U32.pack_into(plain, 0, 1 + len(payload) + padding)
        plain[_LENGTH] = padding
        plain[_LENGTH + 1 : _LENGTH + 1 + len(payload)] = payload
        out = memoryview(bytearray(len(plain) + _TAG))
        self._seal(memoryview(plain), 1 + len(payload), padding, out, 0)
        return out

    def _seal(self, plain: memoryview, size: int, padding: int, out: memoryview, at: int) -> int:
        """Enciphers the packet in `plain`, whose padding begins after `size` bytes, into `out` at `at`. Returns its end
        there."""
        end = _LENGTH + size + padding
        plain[_LENGTH + size : end] = os.urandom(padding)
        out[at : at + _LENGTH] = length = plain[:_LENGTH]
        self._engine.encrypt_into(self._nonces.next(), plain[_LENGTH:end], length, out[at + _LENGTH : at + end + _TAG])
        self.bytes += end + _TAG
        return at + end + _TAG


class _Decryptor:
    """Packets on their way in, under one key."""

    def __init__(self, engine: AESGCM, iv: bytes) -> None:
        self._engine, self._nonces = engine, _Nonces(iv)
        self._plain = memoryview(bytearray(LARGEST_PACKET))
        self.bytes = self.count = 0

    def open(self, length: bytes, sealed: memoryview) -> memoryview:
        """The payload, valid until the next call. Raises `SSHException` when the packet is not what was sent."""
        size = len(sealed) - _TAG
        plain = self._plain[:size]
        try:
            self._engine.decrypt_into(self._nonces.next(), sealed, length, plain)
        except InvalidTag:
            raise paramiko.SSHException("a packet was changed on the way") from None
        padding = plain[0]
        if padding + 2 > size:
            raise paramiko.SSHException("a packet that holds padding only")
        self.count += 1
        self.bytes += _LENGTH + len(sealed)
        return plain[1 : size - padding]


class _Nonces:
    """RFC 5647, section 7.1: four fixed bytes, then a counter of eight."""

    def __init__(self, first: bytes) -> None:
        self._fixed, self._counter = first[:4], int.from_bytes(first[4:], "big")

    def next(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return nonce


def _padding(payload: int) -> int:
    """Bytes of padding, at least four, that make the packet without its length a multiple of the block."""
    rest = _BLOCK - (1 + payload) % _BLOCK
    return rest if rest >= 4 else rest + _BLOCK


def _is_quick(cipher: dict[str, Any]) -> bool:
    engine = cipher["block_engine"]
    return bool(cipher.get("aead")) and isinstance(engine, AESGCM)


def _other_cipher() -> paramiko.SSHException:
    return paramiko.SSHException("the host changed to another kind of cipher")
