"""How long each step of a connection may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deadlines:
    """Seconds."""

    connect: float = 8.0  # name look-up and TCP, all addresses together
    banner: float = 8.0  # until sshd sends its first line
    handshake: float = 15.0  # key exchange, the banner included
    auth: float = 30.0  # each key
    channel: float = 15.0  # a channel on an open connection
    start: float = 30.0  # the host's shell, with its start-up files, and the agent's first bytes
    install: float = 60.0  # copying the agent to the host
    silence: float = 10.0  # without an answer to a question, before the link counts as dead
