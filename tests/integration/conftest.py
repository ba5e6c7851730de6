"""Fixtures that several files of this folder share."""

from tests.sshd import agent, keys, reach, server, start

__all__ = ["agent", "keys", "reach", "server", "start"]
