"""SSH keys: one of the client, some of each host, and what the client knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.process import run

HOST_KEY_TYPES = ("ed25519", "ecdsa")


class ClientKeys:
    """A folder like ~/.ssh: `id_ed25519`, `config` and `known_hosts`, for the lab's hosts only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.key = folder / "id_ed25519"
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"
        make_key(self.key, "ed25519")

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text()

    def write_known_hosts(self, keys: Mapping[str, Iterable[str]]) -> None:
        """`keys`: for each address its public host keys, one line each."""
        lines = [f"{address} {' '.join(key.split()[:2])}\n" for address, each in keys.items() for key in each]
        self.known_hosts.write_text("".join(lines))

    def write_config(self, hosts: Mapping[str, tuple[str, int, str]]) -> None:
        """`hosts`: for each name its address, port and user."""
        self.config.write_text(
            "".join(
                f"Host {name}\n"
                f"    HostName {address}\n"
                f"    Port {port}\n"
                f"    User {user}\n"
                f"    IdentityFile {self.key}\n"
                f"    IdentitiesOnly yes\n"
                f"    UserKnownHostsFile {self.known_hosts}\n"
                f"    GlobalKnownHostsFile /dev/null\n"
                f"    StrictHostKeyChecking yes\n\n"
                for name, (address, port, user) in hosts.items()
            )
        )
        self.config.chmod(0o600)


def make_key(path: Path, kind: str) -> None:
    """Make a key pair without a passphrase, in place of the one that was there."""
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "remoterun-lab", "-f", str(path)])


def make_host_keys(folder: Path) -> None:
    """Make `ssh_host_*_key` in a host's /etc/ssh."""
    for kind in HOST_KEY_TYPES:
        make_key(folder / f"ssh_host_{kind}_key", kind)


def public_host_keys(folder: Path) -> list[str]:
    """The public keys in a host's /etc/ssh."""
    return [(folder / f"ssh_host_{kind}_key.pub").read_text() for kind in HOST_KEY_TYPES]
