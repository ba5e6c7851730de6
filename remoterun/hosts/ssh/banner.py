"""Whether an sshd answers on an address, which is known before anybody logs in."""

from __future__ import annotations

import socket


def answers(address: str, seconds: float = 3.0) -> bool:
    """Whether whoever listens there on port 22 greets as an sshd does. Blocks for `seconds` at the most."""
    try:
        with socket.create_connection((address, 22), seconds) as sock:
            sock.settimeout(seconds)
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False
