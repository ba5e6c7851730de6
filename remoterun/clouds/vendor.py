"""The contract of a provider of few calls: four calls, and who asks. `simple.py` makes a provider of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from remoterun.agent.shared.api import MachineCheck
from remoterun.clouds.base import Identity, Offer, ProviderUnreachable
from remoterun.clouds.folder import SharedProxy
from remoterun.errors import RemoterunError
from remoterun.model import Rental

SERVER, HOST, CLIENT = "server", "host", "client"
"""Who ends a host while no client is there: its provider, at a limit that is set as it is made; a program on the host,
which asks the provider for that; nobody."""

AGREE, CLOCK, WRONG = 5.0, 60.0, 86400.0
"""Seconds by which clocks differ that agree; by which they may without a word; and by which one can't be relied on."""
MOST_PRICE = 10_000.0
"""US dollars an hour: more can't be a price."""
SET_CLOCK = "sudo timedatectl set-ntp true"
"""The command that sets this machine's clock."""


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
    settle: float
    """Seconds after which a bucket that its hosts have as a folder surely has what was written there."""
    skew: float
    """Seconds that its clock was ahead of ours at its last answer, as `skew_of`. All of its times are by its clock."""

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


def skew_of(key: str, now: Any) -> float:
    """Seconds that the clock of a vendor is ahead of ours which says that it is `now`; 0 where they agree, as far as an
    answer of whole seconds can tell. Raises `ProviderUnreachable` for what is no time of today: nothing
    that it says of times can be relied on."""
    ours = time.time()
    if isinstance(now, bool) or not isinstance(now, (int, float)) or not ours - WRONG < now < ours + WRONG:
        what = f"the clock of `{key}` says {now!r:.40}, which differs by more than a day from that of this machine"
        raise ProviderUnreachable(what, hint=f"{SET_CLOCK}   sets this machine's")
    skew = now - ours
    return skew if abs(skew) > AGREE else 0.0


def clock_words(vendor: Vendor) -> str:
    minutes, way = abs(vendor.skew) / 60, "slow" if vendor.skew > 0 else "fast"
    return f"this machine's clock is {minutes:.0f} minutes {way}, by `{vendor.key}`"


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
    if abs(vendor.skew) > CLOCK:
        found.append(MachineCheck(f"{vendor.key}: clock", False, clock_words(vendor), SET_CLOCK))
    return found
