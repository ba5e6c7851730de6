"""SSH keys made here: one for us, and one that a new host is to show at the first contact."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class KeyPair(NamedTuple):
    """An ed25519 key as OpenSSH's files hold it: `private` is a secret, `public` one line without a line end."""

    private: str
    public: str


def fresh_key_pair(comment: str) -> KeyPair:
    """A key that nobody else has. `comment` stands at the end of its public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return KeyPair(private, f"{public} {comment}")
