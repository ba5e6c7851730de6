"""What the quick packet path needs of paramiko and cryptography beyond what they document, in one place.

Where one of these is missing, in a later paramiko, connections use paramiko's own packetizer: slower, and nothing else
changes. `remoterun doctor` says so, and a test looks for each in the installed versions.
"""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple


class Internal(NamedTuple):
    """One name that the quick path needs. `name` is a method, or an attribute that `__init__` sets; "" is the class
    itself."""

    owner: str
    name: str
    why: str


INTERNALS = (
    Internal("paramiko.packet.NeedRekeyException", "", "read_message raises it so that the transport exchanges keys"),
    Internal("paramiko.packet.Packetizer", "REKEY_BYTES", "after so many bytes this side asks for new keys"),
    Internal("paramiko.packet.Packetizer", "need_rekey", "whether new keys were asked for"),
    Internal("paramiko.packet.Packetizer", "_trigger_rekey", "asks for new keys"),
    Internal("paramiko.packet.Packetizer", "set_outbound_cipher", "gives the key and the nonce of packets to send"),
    Internal("paramiko.packet.Packetizer", "set_inbound_cipher", "gives the key and the nonce of packets that come"),
    Internal("paramiko.packet.Packetizer", "send_message", "is called with every message to send"),
    Internal("paramiko.packet.Packetizer", "read_message", "is called for the next message"),
    Internal("paramiko.packet.Packetizer", "write_all", "writes bytes to the wire"),
    Internal("paramiko.packet.Packetizer", "start_handshake", "starts a timer thread, which is replaced by a clock"),
    Internal("paramiko.packet.Packetizer", "handshake_timed_out", "the same"),
    Internal("paramiko.packet.Packetizer", "complete_handshake", "the same"),
    Internal("paramiko.transport.Transport", "_send_user_message", "sends data once no keys are being exchanged"),
    Internal("paramiko.transport.Transport", "clear_to_send", "an event: no keys are being exchanged"),
    Internal("paramiko.channel.Channel", "in_buffer", "data that came; replaced by `Inbox`"),
    Internal("paramiko.channel.Channel", "lock", "guards the window to send"),
    Internal("paramiko.channel.Channel", "out_window_size", "bytes that the host lets us send now"),
    Internal("paramiko.channel.Channel", "_wait_for_send_window", "takes some of that window"),
    Internal("paramiko.channel.Channel", "_check_add_window", "bytes to let the host send, once worth a packet"),
    Internal("paramiko.channel.Channel", "remote_chanid", "the channel's number on the host"),
    Internal("paramiko.buffered_pipe.BufferedPipe", "feed", "is called with data that came"),
    Internal("paramiko.buffered_pipe.BufferedPipe", "empty", "takes all data that came"),
    Internal("paramiko.buffered_pipe.BufferedPipe", "_cv", "the condition that its readers wait for"),
    Internal("paramiko.buffered_pipe.BufferedPipe", "_closed", "whether the end has come"),
    Internal("cryptography.hazmat.primitives.ciphers.aead.AESGCM", "encrypt_into", "enciphers without a copy"),
    Internal("cryptography.hazmat.primitives.ciphers.aead.AESGCM", "decrypt_into", "deciphers without a copy"),
)


@functools.cache
def missing() -> tuple[str, ...]:
    """Those of `INTERNALS` that the installed versions don't have. The quick path is used when it is empty."""
    return tuple(f"{each.owner}.{each.name}".rstrip(".") for each in INTERNALS if not exists(each))


def exists(internal: Internal) -> bool:
    """Whether the installed version has it."""
    module, _, class_name = internal.owner.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError):
        return False
    if not internal.name or hasattr(found, internal.name):
        return True
    set_on_instances: tuple[str, ...] = found.__init__.__code__.co_names
    return internal.name in set_on_instances
