"""SSH's packets, many at a time: what paramiko does for each one costs more than enciphering it.

    out    data of a channel is cut into packets, enciphered one after the other into one buffer, and sent in one go
    in     packets are deciphered where the wire has read them, and data goes from there to who takes it

Only for AES-GCM, which both sides agree on but for old ones; with another cipher everything takes paramiko's way.
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
from paramiko.common import MSG_CHANNEL_DATA, cMSG_CHANNEL_DATA, cMSG_CHANNEL_WINDOW_ADJUST
from paramiko.packet import NeedRekeyException

from remoterun.hosts.ssh.wire import LARGEST_PACKET, Wire

DATA = 32_704
"""Bytes of a channel's data in one packet: 32,768 with what paramiko allows for headers."""
AT_ONCE = 32
"""Packets that are sent in one go."""

_BLOCK, _TAG, _LENGTH = 16, 16, 4
_DATA_HEAD = struct.Struct(">IBBII")
"""Packet length, padding length, type, channel, data length."""
_CHANNEL_AND_SIZE = struct.Struct(">II")
_DATA_START = 1 + _CHANNEL_AND_SIZE.size
_U32 = struct.Struct(">I")
_MOST_OF_ONE = _DATA_HEAD.size + DATA + 2 * _BLOCK + _TAG


class ChannelData:
    """Data of one channel, as `Transport._send_user_message` takes a message. `sizes`: of the packets, DATA at most
    each; the window has room for all of them."""

    def __init__(self, channel: int, data: memoryview, sizes: Sequence[int]) -> None:
        self.channel, self.data, self.sizes = channel, data, sizes

    def messages(self) -> list[paramiko.Message]:
        """The same for paramiko."""
        made, at = [], 0
        for size in self.sizes:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_DATA)
            message.add_int(self.channel)
            message.add_string(bytes(self.data[at : at + size]))
            made.append(message)
            at += size
        return made


class Packetizer(paramiko.Packetizer):  # type: ignore[misc]  # paramiko has no types
    """paramiko's, with a quicker way where the cipher allows it, and without its thread that times the handshake: that
    one outlives a refused connection by 15 s and keeps the program up."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._sealing: _Sealing | None = None
        self._opening: _Opening | None = None
        self._writing = threading.RLock()
        self._takers: dict[int, Callable[[memoryview], None]] = {}
        self._grants: dict[int, int] = {}
        """Window that channels are to get: by their number there, bytes."""
        self._granting = threading.Lock()
        self._reader = threading.get_ident()
        self._clear: Callable[[], bool] = lambda: True
        self._until: float | None = None

    def give_data(self, channel: int, taker: Callable[[memoryview], None] | None) -> None:
        """Have the data of a channel (its number here) given to `taker`, by the thread that reads: it may not block,
        nor keep what it gets. Some may take paramiko's way all the same. None ends that."""
        if taker is None:
            self._takers.pop(channel, None)
        else:
            self._takers[channel] = taker

    def grant_while(self, clear: Callable[[], bool]) -> None:
        """`clear`: whether no keys are being exchanged, so that anything may be sent."""
        self._clear = clear

    def grant(self, channel: int, size: int) -> None:
        """Let a channel (its number there) send so many bytes more: at once, or when keys have been exchanged and
        nobody writes. What another thread than the one that reads grants goes with the next packet that comes, or
        goes."""
        with self._granting:
            self._grants[channel] = self._grants.get(channel, 0) + size
        if self._reader == threading.get_ident():  # it alone knows that no keys are about to be exchanged
            self._send_grants()

    # -- out

    def set_outbound_cipher(self, **cipher: Any) -> None:
        super().set_outbound_cipher(**cipher)
        quick = _is_quick(cipher)
        if self._sealing is not None and not quick:
            raise _other_cipher()
        self._sealing = _Sealing(cipher["block_engine"], cipher["iv_out"]) if quick else None

    def send_message(self, data: Any) -> None:
        """A paramiko message, or `ChannelData`. Blocks."""
        with self._writing:
            if not isinstance(data, ChannelData):
                self._send_one(data)
            elif self._sealing is None:
                for message in data.messages():
                    self._send_one(message)
            else:
                for packets in self._sealing.data(data):
                    self._write(packets)
        self._send_grants()

    def _send_one(self, message: Any) -> None:
        if self._sealing is None:
            super().send_message(message)
        else:
            self._write(self._sealing.message(message.asbytes()))

    def _write(self, packets: memoryview) -> None:
        try:
            self.write_all(packets)
        except KeyboardInterrupt:  # half a packet may be on its way
            self.close()
            raise
        assert self._sealing is not None
        if self._sealing.bytes >= self.REKEY_BYTES and not self.need_rekey():
            self._trigger_rekey()

    def _send_grants(self) -> None:
        """Who writes just now does it afterwards: the thread that reads must not wait for a link that stands still."""
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
        if self._opening is not None and not quick:
            raise _other_cipher()
        self._opening = _Opening(cipher["block_engine"], cipher["iv_in"]) if quick else None

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The next packet that is no data of a channel with a taker."""
        self._reader = threading.get_ident()
        self._send_grants()
        if self._opening is None:
            kind, message = super().read_message()
            return kind, message
        while True:
            payload = self._next(self._opening)
            if payload[0] != MSG_CHANNEL_DATA or not self._was_taken(payload):
                message = paramiko.Message(bytes(payload[1:]))
                message.seqno = self._opening.count - 1
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
            raise paramiko.SSHException("a packet of data that has another length than it says")
        taker(payload[_DATA_START:])
        return True

    def _next(self, opening: _Opening) -> memoryview:
        head = bytes(self._peek(_LENGTH))
        (size,) = _U32.unpack(head)
        if size % _BLOCK or not 0 < size <= LARGEST_PACKET - _LENGTH - _TAG:
            raise paramiko.SSHException(f"a packet of {size} bytes")
        payload = opening.open(head, self._peek(_LENGTH + size + _TAG)[_LENGTH:])
        self._wire.skip(_LENGTH + size + _TAG)
        if opening.bytes >= self.REKEY_BYTES and not self.need_rekey():
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
        self._until = time.monotonic() + timeout

    def handshake_timed_out(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def complete_handshake(self) -> None:
        self._until = None


class _Sealing:
    """Packets on their way out, under one key."""

    def __init__(self, engine: AESGCM, iv: bytes) -> None:
        self._engine, self._nonces = engine, _Nonces(iv)
        self._plain = memoryview(bytearray(_MOST_OF_ONE))
        self._out = memoryview(bytearray(AT_ONCE * _MOST_OF_ONE))
        self.bytes = 0

    def data(self, data: ChannelData) -> Iterator[memoryview]:
        """Some of its packets at a time, as they go over the wire; each to be used before the next."""
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
        """A packet as it goes over the wire."""
        padding = _padding(len(payload))
        plain = bytearray(_LENGTH + 1 + len(payload) + padding)
        _U32.pack_into(plain, 0, 1 + len(payload) + padding)
        plain[_LENGTH] = padding
        plain[_LENGTH + 1 : _LENGTH + 1 + len(payload)] = payload
        out = memoryview(bytearray(len(plain) + _TAG))
        self._seal(memoryview(plain), 1 + len(payload), padding, out, 0)
        return out

    def _seal(self, plain: memoryview, size: int, padding: int, out: memoryview, at: int) -> int:
        """The packet in `plain`, whose padding begins after `size` bytes, into `out` at `at`; where it ends there."""
        end = _LENGTH + size + padding
        plain[_LENGTH + size : end] = os.urandom(padding)
        out[at : at + _LENGTH] = length = plain[:_LENGTH]
        self._engine.encrypt_into(self._nonces.next(), plain[_LENGTH:end], length, out[at + _LENGTH : at + end + _TAG])
        self.bytes += end + _TAG
        return at + end + _TAG


class _Opening:
    """Packets on their way in, under one key."""

    def __init__(self, engine: AESGCM, iv: bytes) -> None:
        self._engine, self._nonces = engine, _Nonces(iv)
        self._plain = memoryview(bytearray(LARGEST_PACKET))
        self.bytes = self.count = 0

    def open(self, length: bytes, sealed: memoryview) -> memoryview:
        """The payload; good until the next. Raises `SSHException` for what isn't as it was sent."""
        size = len(sealed) - _TAG
        plain = self._plain[:size]
        try:
            self._engine.decrypt_into(self._nonces.next(), sealed, length, plain)
        except InvalidTag:
            raise paramiko.SSHException("a packet that is not as it was sent") from None
        padding = plain[0]
        if padding + 2 > size:
            raise paramiko.SSHException("a packet of padding alone")
        self.count += 1
        self.bytes += _LENGTH + len(sealed)
        return plain[1 : size - padding]


class _Nonces:
    """RFC 5647, section 7.1: four bytes that stay, eight that count."""

    def __init__(self, first: bytes) -> None:
        self._fixed, self._counter = first[:4], int.from_bytes(first[4:], "big")

    def next(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return nonce


def _padding(payload: int) -> int:
    """At least four bytes, so that the packet without its length is of whole blocks."""
    rest = _BLOCK - (1 + payload) % _BLOCK
    return rest if rest >= 4 else rest + _BLOCK


def _is_quick(cipher: dict[str, Any]) -> bool:
    engine = cipher["block_engine"]
    return bool(cipher.get("aead")) and isinstance(engine, AESGCM) and hasattr(engine, "encrypt_into")


def _other_cipher() -> paramiko.SSHException:
    return paramiko.SSHException("the host changed to another kind of cipher")
