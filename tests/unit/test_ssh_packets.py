"""SSH's packets in bulk: what ours sends paramiko reads, and the other way round, bit for bit; lies are refused."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from paramiko.packet import NeedRekeyException

from remoterun.hosts.ssh.inbox import Inbox
from remoterun.hosts.ssh.packets import AT_ONCE, DATA, ChannelData, Packetizer
from remoterun.hosts.ssh.wire import Wire
from tests.workshop import until

IGNORE = 2
KEY, IV = b"k" * 16, b"ivivv" + b"\xff" * 7  # the counter wraps at once


def cipher(direction: str, key: bytes = KEY, iv: bytes = IV) -> dict[str, Any]:
    more = {"mac_engine": None, "mac_size": 16, "mac_key": None, "aead": True, f"iv_{direction}": iv}
    return {"block_engine": AESGCM(key), "block_size": 16, **more}


class Pair:
    """Our packetizer, and paramiko's at the other end of a socket."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        there.settimeout(60)
        self.raw = there
        self.wire = Wire(here, silence=10)
        self.ours = Packetizer(self.wire)
        self.theirs = paramiko.Packetizer(there)
        self.ours.set_outbound_cipher(**cipher("out"))
        self.ours.set_inbound_cipher(**cipher("in"))
        self.theirs.set_outbound_cipher(**cipher("out"))
        self.theirs.set_inbound_cipher(**cipher("in"))

    def they_send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.theirs.send_message(message(payload))


@contextmanager
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.ours.close()
        made.theirs.close()
        made.raw.close()


def message(payload: bytes) -> paramiko.Message:
    made = paramiko.Message()
    made.add_bytes(payload)
    return made


def data_packet(channel: int, data: bytes) -> bytes:
    return struct.pack(">BII", MSG_CHANNEL_DATA, channel, len(data)) + data


def sizes_of(total: int) -> list[int]:
    return [min(DATA, total - at) for at in range(0, total, DATA)]


class TestOut:
    @pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 4096, DATA - 1, DATA, DATA + 1, 3 * DATA, AT_ONCE * DATA + 7])
    def test_data_is_what_paramiko_reads(self, size: int) -> None:
        data = os.urandom(size)
        with pair() as both:
            sender = threading.Thread(
                target=both.ours.send_message, args=(ChannelData(7, memoryview(data), sizes_of(size)),)
            )
            sender.start()
            got = b""
            for _ in sizes_of(size):
                kind, read = both.theirs.read_message()
                assert (kind, read.get_int()) == (MSG_CHANNEL_DATA, 7)
                got += read.get_binary()
            sender.join(60)
            assert got == data

    @given(st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=20))
    def test_other_messages_and_data_in_turns(self, payloads: list[bytes]) -> None:
        with pair() as both:
            for payload in payloads:
                both.ours.send_message(message(bytes([IGNORE]) + payload))
                both.ours.send_message(ChannelData(1, memoryview(payload), [len(payload)]))
                kind, read = both.theirs.read_message()
                assert (kind, read.get_remainder()) == (IGNORE, payload)
                kind, read = both.theirs.read_message()
                assert (kind, read.get_int(), read.get_binary()) == (MSG_CHANNEL_DATA, 1, payload)

    def test_without_that_cipher_messages_take_paramikos_way(self) -> None:
        here, there = socket.socketpair()
        ours, theirs = Packetizer(Wire(here, 10)), paramiko.Packetizer(there)
        assert not ours.is_quick
        ours.send_message(message(b"\x02hello"))
        assert theirs.read_message()[1].get_remainder() == b"hello"
        theirs.send_message(message(data_packet(3, b"back")))
        kind, read = ours.read_message()
        assert (kind, read.get_int(), read.get_binary()) == (MSG_CHANNEL_DATA, 3, b"back")
        ours.close()
        theirs.close()

    def test_it_asks_for_new_keys_in_time(self) -> None:
        with pair() as both:
            both.ours.REKEY_BYTES = 100_000
            reader = threading.Thread(target=lambda: [both.theirs.read_message() for _ in range(4)])
            reader.start()
            both.ours.send_message(ChannelData(1, memoryview(bytes(DATA)), [DATA]))
            assert not both.ours.need_rekey()
            both.ours.send_message(ChannelData(1, memoryview(bytes(3 * DATA)), [DATA] * 3))
            assert both.ours.need_rekey()
            reader.join(60)


class TestIn:
    def test_data_goes_to_its_taker_and_the_rest_to_paramiko(self) -> None:
        with pair() as both:
            got: list[bytes] = []
            both.ours.give_data(5, lambda data: got.append(bytes(data)))
            both.they_send(
                data_packet(5, b"one"), data_packet(5, b"two" * 9000), data_packet(6, b"not taken"), b"\x02rest"
            )
            kind, read = both.ours.read_message()
            assert got == [b"one", b"two" * 9000]
            assert (kind, read.get_int(), read.get_binary(), read.seqno) == (MSG_CHANNEL_DATA, 6, b"not taken", 2)
            kind, read = both.ours.read_message()
            assert (kind, read.get_remainder(), read.seqno) == (IGNORE, b"rest", 3)
            both.ours.give_data(5, None)
            both.they_send(data_packet(5, b"no taker any more"))
            assert both.ours.read_message()[0] == MSG_CHANNEL_DATA

    @given(st.integers(1, 40), st.integers(0, 1 << 32))
    def test_packets_cut_anywhere(self, most: int, seed: int) -> None:
        """They arrive in pieces of any size; the wire's buffer is gone through several times."""
        random = Random(seed)
        with pair() as both:
            here, there = socket.socketpair()
            both.theirs._Packetizer__socket = here
            contents = [random.randbytes(random.choice([1, 100, 30_000])) for _ in range(most)]
            got: list[bytes] = []
            both.ours.give_data(5, lambda data: got.append(bytes(data)))

            def cut() -> None:
                for content in contents:
                    both.they_send(data_packet(5, content))
                    packet = there.recv(1 << 17)
                    while packet:
                        size = random.choice([1, 5, 1000, 20_000])
                        both.raw.sendall(packet[:size])
                        packet = packet[size:]
                both.they_send(b"\x02end")
                both.raw.sendall(there.recv(1000))

            sender = threading.Thread(target=cut)
            sender.start()
            assert both.ours.read_message()[0] == IGNORE
            sender.join(60)
            assert got == contents
            here.close()
            there.close()

    @pytest.mark.parametrize("size", [0, 1, 15, 17, 300_000, 1 << 31, (1 << 32) - 16])
    def test_absurd_lengths(self, size: int) -> None:
        """Refused by their head: nobody waits for what follows."""
        with pair() as both:
            both.raw.sendall(struct.pack(">I", size))
            with pytest.raises(paramiko.SSHException, match=f"with the length {size}"):
                both.ours.read_message()

    def test_a_packet_that_was_changed(self) -> None:
        with pair() as both:
            both.raw.sendall(struct.pack(">I", 32) + os.urandom(48))
            with pytest.raises(paramiko.SSHException, match="changed on the way"):
                both.ours.read_message()

    @pytest.mark.parametrize(
        "payload",
        [
            bytes([MSG_CHANNEL_DATA]),
            bytes([MSG_CHANNEL_DATA]) + b"\0\0\0\5\0\0\0",
            struct.pack(">BII", MSG_CHANNEL_DATA, 5, 10) + b"short",
            struct.pack(">BII", MSG_CHANNEL_DATA, 5, 2) + b"longer",
        ],
    )
    def test_data_that_lies_about_its_length(self, payload: bytes) -> None:
        with pair() as both:
            both.ours.give_data(5, lambda data: None)
            both.they_send(payload)
            with pytest.raises(paramiko.SSHException, match="packet of data"):
                both.ours.read_message()

    @pytest.mark.parametrize("padding", [15, 16, 255])
    def test_a_packet_of_padding_alone(self, padding: int) -> None:
        with pair() as both:
            length = struct.pack(">I", 16)
            sealed = AESGCM(KEY).encrypt(IV, bytes([padding]) + bytes(15), length)
            both.raw.sendall(length + sealed)
            with pytest.raises(paramiko.SSHException, match="padding"):
                both.ours.read_message()

    def test_when_keys_are_due_it_says_so_between_packets(self) -> None:
        with pair() as both:
            both.ours.REKEY_BYTES = 1000
            got: list[int] = []
            both.ours.give_data(5, lambda data: got.append(len(data)))
            both.they_send(data_packet(5, bytes(500)), data_packet(5, bytes(600)), data_packet(5, bytes(1)))
            with pytest.raises(NeedRekeyException):
                both.ours.read_message()
            assert got == [500, 600], "nothing is lost"
            with pytest.raises(NeedRekeyException):
                both.ours.read_message()
            assert got == [500, 600, 1]
            with pytest.raises(NeedRekeyException):  # nothing comes: it does not wait
                both.ours.read_message()

    def test_the_end_of_the_link(self) -> None:
        with pair() as both:
            both.raw.close()
            with pytest.raises(EOFError):
                both.ours.read_message()

    def test_another_kind_of_cipher_in_the_midst(self) -> None:
        with pair() as both:
            for direction, change in (("out", both.ours.set_outbound_cipher), ("in", both.ours.set_inbound_cipher)):
                with pytest.raises(paramiko.SSHException, match="another kind of cipher"):
                    change(**{**cipher(direction), "aead": False, f"iv_{direction}": None})


class TestGrants:
    def test_at_once(self) -> None:
        with pair() as both:
            both.ours.grant(9, 70_000)
            kind, read = both.theirs.read_message()
            assert (kind, read.get_int(), read.get_int()) == (MSG_CHANNEL_WINDOW_ADJUST, 9, 70_000)

    def test_together_when_keys_have_been_exchanged(self) -> None:
        with pair() as both:
            clear = threading.Event()
            both.ours.grant_while(clear.is_set)
            both.ours.grant(9, 70_000)
            both.ours.grant(9, 30_000)
            both.ours.send_message(message(b"\x15of the exchange"))
            assert both.theirs.read_message()[0] == 0x15
            clear.set()
            both.they_send(b"\x02next")
            both.ours.read_message()
            kind, read = both.theirs.read_message()
            assert (kind, read.get_int(), read.get_int()) == (MSG_CHANNEL_WINDOW_ADJUST, 9, 100_000)

    def test_by_who_writes_just_now(self) -> None:
        """The thread that reads does not wait for a link that stands still."""
        with pair() as both:
            data = bytes(200 * DATA)
            writer = threading.Thread(
                target=both.ours.send_message, args=(ChannelData(1, memoryview(data), sizes_of(len(data))),)
            )
            writer.start()
            until(lambda: both.ours._wire._sending)
            both.ours.grant(9, 70_000)
            kinds = [both.theirs.read_message()[0] for _ in range(201)]
            writer.join(60)
            assert kinds == [MSG_CHANNEL_DATA] * 200 + [MSG_CHANNEL_WINDOW_ADJUST]


class TestInbox:
    def test_what_was_kept_comes_first(self) -> None:
        inbox, got = Inbox(), []
        inbox.feed(b"kept")
        inbox.give(lambda data: got.append(bytes(data)))
        inbox.feed(memoryview(b"then"))
        assert got == [b"kept", b"then"]
        assert not inbox.wait(0)
        inbox.close()
        assert inbox.wait(0)

    def test_a_taker_that_fails_gets_nothing_more(self) -> None:
        inbox, got = Inbox(), []

        def taker(data: memoryview) -> None:
            got.append(bytes(data))
            raise ValueError("enough")

        inbox.give(taker)
        inbox.feed(b"one")
        inbox.feed(b"two")
        assert got == [b"one"] and inbox.wait(0) and str(inbox.failure) == "enough"

    def test_without_a_taker_it_is_read(self) -> None:
        inbox = Inbox()
        inbox.feed(b"abc")
        assert inbox.read(2) == b"ab" and inbox.read(2) == b"c"
