"""The contract of a provider of few calls: four calls, and who asks. `simple.py` makes a provider of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.base import Identity, Offer
from remoterun.clouds.folder import SharedProxy
from remoterun.errors import RemoterunError
from remoterun.model import Rental

SERVER, HOST, CLIENT = "server", "host", "client"
"""Who ends a host while no client is there: its provider, at a limit that is set as it is made; a program on the host,
which asks the provider for that; nobody."""


@dataclass(frozen=True)
class Order:
    """An order for a host."""

    name: str
    offer: Offer
    seconds: int
    """From now to its end: a provider that can end it is told so."""
    deadline: float
    key: str
    """Our public key for it."""
    start: str
    """A script of the shell: the first process of a container, or what a virtual machine starts at boot; as root."""
    disk: int | None = None
    """GB."""
    image: str | None = None


@dataclass(frozen=True)
class ListedHost:
    """A host as its provider lists it. `ends`: when the provider itself ends it, as it was told; `ended`: when it did;
    `taken_away`: its provider has ended it sooner, asked by nobody; `was_ended`: asked by somebody of the account;
    `host_key`: as `ssh-ed25519 AAAA…`, where that is not the one of the start script; `proxy`: a `ProxyCommand`."""

    id: str
    name: str
    state: str = "running"
    type: str = ""
    region: str = ""
    price: float | None = None
    began: float = 0.0
    ends: float | None = None
    ended: float | None = None
    taken_away: bool = False
    was_ended: bool = False
    address: str = ""
    port: int = 22
    user: str = "root"
    host_key: str = ""
    proxy: str | None = None
    why: str = ""


class Vendor(Protocol):
    """A provider's own calls, as few as there are. Each raises `ProviderError`, and `ProviderUnreachable` where nobody
    knows what came of it."""

    key: str
    """How the ids of its hosts begin: KEY/ID."""
    unit: float
    """Seconds that are billed as one."""

    @property
    def proxy(self) -> SharedProxy | None:
        """Through which its hosts are reached, where it lets us in itself."""

    def ends(self) -> tuple[str, str]:
        """Who ends a host (`SERVER`, `HOST`, `CLIENT`); and of `HOST` the command for the host's shell."""
        ...

    def folder(self) -> tuple[str, str]:
        """Where new hosts have the bucket of the archive as a folder, and a word for that bucket; "" for nowhere."""
        ...

    def offers(self, rental: Rental, live: bool) -> list[Offer]:
        """Of the types that are wanted those that may be had, in their order. Without `live` nobody need be asked."""
        ...

    def create(self, order: Order) -> None:
        """Ask for a host. Raises `NoCapacity`."""
        ...

    def hosts(self) -> list[ListedHost]: ...

    def ended(self, name: str) -> ListedHost | None:
        """A host that is not in the list, as far as the provider still knows it."""
        ...

    def delete(self, id: str) -> None:
        """One that is not there is fine."""
        ...

    def identity(self) -> Identity: ...


def by_whom(ends: str) -> str:
    return {
        SERVER: "its provider ends it, by a limit that is set as it is made",
        HOST: "a program on it asks its provider to end it",
        CLIENT: "nothing ends it while this machine is off",
    }[ends]


def checks_of(vendor: Vendor) -> list[MachineCheck]:
    """Its calls that ask only, up to one that fails."""
    found = []
    calls: tuple[tuple[str, Callable[[], str]], ...] = (
        ("end", lambda: by_whom(vendor.ends()[0])),
        ("login", lambda: vendor.identity().name),
        ("hosts", lambda: f"{len(vendor.hosts())} listed"),
    )
    for name, call in calls:
        try:
            found.append(MachineCheck(f"{vendor.key}: {name}", True, call(), ""))
        except RemoterunError as error:
            fix = error.hint or "mend the program"
            found.append(MachineCheck(f"{vendor.key}: {name}", False, error.message, fix))
            break
    return found
