"""What a provider is to the rest of the client: it gives hosts and takes them back.

A host that was given is an SSH host like any other; what a provider adds is how it begins and ends, and what it costs.
Every implementation passes `tests/contract/test_providers.py`. What a provider's own library raises is translated in
the provider's folder, to the errors named here.

The order in which things happen is the same everywhere: the run has its row, the `Intent` is on disk, then comes the
first call that costs something. An intent may be acquired any number of times, and stands for one host at the most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from remoterun.agent.shared.api import MachineCheck
from remoterun.errors import HostError, HostUnreachable, RemoterunError
from remoterun.model import MachineType


def unheard(_: str) -> None:
    """A note that nobody reads."""


class ProviderError(RemoterunError):
    """The provider refuses, or can't be asked. Final: the same call would be refused again. The hint says what mends
    it."""


class NoCapacity(ProviderError):
    """None of the offers can be had now. The evidence says what each was refused with. May be tried again later."""


class ProviderUnreachable(HostUnreachable):
    """The provider does not answer, or can't now. Says nothing about its hosts; may be tried again."""


class Busy(ProviderUnreachable):
    """The provider refuses for the moment: what was asked for was not done."""


class NotListedYet(ProviderUnreachable):
    """A host was asked for so short a time ago that its provider may not list it yet."""


class HostNeverCame(HostError):
    """A host was given and did not become usable in time. It was released."""


LATE = 300.0
"""Seconds past its deadline from which on a host should have ended: clocks differ, and shutting down takes a while."""
LEAST = 60.0
"""Seconds of a host that are paid for, once a host."""
LOST = ("gone", "stopped")
"""The states of a host that its provider knows, and that will not come back: nothing of ours starts one again."""


@dataclass(frozen=True)
class Offer:
    """A type of machine at one place."""

    type: str
    region: str = ""
    zone: str = ""
    vcpus: int = 0
    memory: float = 0.0
    """GiB."""
    gpus: int = 0
    gpu: str = ""
    gpu_memory: float = 0.0
    """GiB of each GPU."""
    spot: bool = False
    price: float | None = None
    """US dollars an hour; None where it is not known."""
    priced: str = ""
    """The day of the price ("2026-07-20"), or "now"."""
    unpriced: str = ""
    """Why the price is not known."""
    limit: float | None = None
    """What an hour can come to where the price moves, as that of a spot host does."""
    extra: float = 0.0
    """US dollars an hour of what comes with the machine: its disk, and its public address."""
    disk: float = 0.0
    """The part of it that is the disk's, and goes on where the machine is stopped."""

    @property
    def hourly(self) -> float | None:
        """US dollars of an hour, with all that comes with the machine."""
        return None if self.price is None else self.price + self.extra

    @property
    def at_most(self) -> float | None:
        """US dollars that an hour can come to, with all that comes with the machine."""
        price = self.limit if self.spot else self.price
        return None if price is None else price + self.extra


@dataclass(frozen=True)
class Intent:
    """A host that is about to be acquired, as it stands on disk before the first call that costs something."""

    token: str
    """Names the host for ever: it is made from the run and the attempt."""
    run: str
    number: int
    attempt: int
    machine: MachineType
    deadline: float
    """When (seconds since 1970) the host ends itself, whatever happens."""
    idle: float
    """Seconds that it stays without a run."""


@dataclass(frozen=True)
class RentedHost:
    """A host that a provider gave, as the provider reports it: from its own tags, without any record of ours."""

    id: str
    token: str
    state: str
    """"pending", "running", "stopped", "ending" or "gone"."""
    offer: Offer
    began: float
    """Seconds since 1970."""
    deadline: float
    machine: MachineType | None = None
    """How it is reached; None where this client has no key for it."""
    run: str = ""
    number: int = 0
    attempt: int = 1
    owner: str = ""
    """Who rented it, on which machine."""
    why: str = ""
    """The provider's words for its end."""
    preempted: bool = False
    """The provider has taken it away."""
    was_ended: bool = False
    """Somebody of the account has ended it."""
    idle: float = 0.0
    """Seconds that it stays without a run."""
    ours: bool = False
    """It was rented by this home."""
    ended: float | None = None
    """When it ended, where its provider says so."""
    writer: str = ""
    """The name under which the bucket knows what this host writes by its own role: the folder `hosts/WRITER` is its.
    Empty where it has no role, and writes with a form that a client signs."""
    guarded: bool = False
    """The provider itself ends it at its deadline, whatever happens in the host."""

    @property
    def alive(self) -> bool:
        return self.state in ("pending", "running")

    @property
    def hourly(self) -> float | None:
        """US dollars of an hour from now on; None where the price is not known."""
        return self.offer.hourly if self.alive else self.offer.disk if self.state == "stopped" else 0.0

    def late(self, now: float) -> bool:
        """Whether it should have ended by itself, and is there."""
        return self.alive and self.deadline + LATE < now

    def until(self, now: float) -> float:
        """Until when it costs: `now` while it is there; else its end, or by its deadline, a minute at the least."""
        ended = self.ended or (min(now, self.deadline) if self.state in LOST else now)
        return now if self.alive else max(ended, self.began + LEAST)

    def cost(self, now: float) -> float | None:
        """US dollars so far, with its disk and its address; None where the price is not known."""
        hourly = self.offer.hourly
        return None if hourly is None else max(self.until(now) - self.began, 0.0) / 3600 * hourly


@dataclass(frozen=True)
class Identity:
    """Who the provider takes this client for."""

    name: str
    """In the provider's own words."""
    account: str
    """The one that pays."""
    region: str
    """Used where none is named."""


@dataclass(frozen=True)
class Leftover:
    """Something of ours that nobody needs."""

    kind: str
    """"host", "objects", or what else a provider has."""
    id: str
    why: str
    saves: float | None = 0.0
    """US dollars `per` hour ("h") or month; None where that is not known."""
    per: str = "month"
    bytes: int = 0
    """Of what is counted in them."""
    host: RentedHost | None = None
    at: str = ""
    """The provider that has it; of a host, its id says that."""


NOT_MADE = "not made yet"
GUARD_LATE = 120.0
"""Seconds after its deadline at which the provider itself ends a host, which has ended by itself before."""


@dataclass(frozen=True)
class Roles:
    """What the provider lets hosts, and itself, do for us, without any client: made once for an account."""

    writer: str = ""
    """The name of the role by which hosts save in the bucket, as the provider knows it for ever; empty without it."""
    guard: str = ""
    """The role by which the provider ends hosts at their deadline; empty without it."""
    why_not: str = ""
    """Why one is absent: `NOT_MADE`, or what the account refuses."""
    old: str = ""
    """The name of one that may do more, or less, than one that is made now."""
    buckets: tuple[str, ...] = ()
    """In which hosts may save by it, as far as that is known."""


@dataclass(frozen=True)
class Spent:
    """What the provider's own bill says of hosts of ours on one day."""

    day: str
    """"2026-11-30", in UTC."""
    dollars: float
    token: str = ""
    """Of the host; empty where the bill does not say."""


class Provider(Protocol):
    """What every provider answers; what only some can, they answer by the protocols below.

    Any thread may call any method. All of them may be repeated, and none may wait without a deadline."""

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        """What may be had for a machine type, in the order in which it would be tried.

        Costs nothing. Without `live` it asks nobody where a table will do. Raises `NotFound` for a type that is not
        known, `ProviderError`.
        """
        ...

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        """The host of an intent, which answers on its SSH port: a new one, or the one that an earlier call got.

        Blocks for minutes. `say` is told in a few words what is waited for ("its boot"), `note` what a person must see.
        Ends what it began where it fails. Raises `NoCapacity`, `ProviderError`, `HostNeverCame`, `ProviderUnreachable`.
        """
        ...

    def find(self, name: str) -> RentedHost | None:
        """The host of a token, or of the provider's own id; one that is gone, too, for as long as the provider knows
        it. None without one. A place that our records name is asked first, and alone if it knows the host."""
        ...

    def admit(self, rented: RentedHost) -> None:
        """See to it that this machine, from where it is now, may reach a host: for one that is alive and doesn't answer
        because the laptop has moved."""
        ...

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        """All hosts of ours that are not gone, also those that another client rented. `note` is called with what could
        not be asked, and why ("eu-central-1 can't be asked: …"): the others count all the same."""
        ...

    def release(self, host: RentedHost) -> None:
        """End a host. Returns once the provider has agreed to. One that is gone is fine."""
        ...

    def identity(self) -> Identity:
        """Raises `ProviderError` for a login that is not there, or is over."""
        ...

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        """For `doctor`, of a machine or of all. Asks the provider everything that a run will ask, changes nothing."""
        ...


@runtime_checkable
class HasQuotas(Protocol):
    """A provider whose accounts may have so many hosts, and no more."""

    def check_quotas(self, offers: Sequence[Offer]) -> None:
        """Raises `ProviderError` where the account may have none of these, with what raises its limit."""
        ...


@runtime_checkable
class HasRoles(Protocol):
    """A provider that lets hosts, and itself, do something for us. Its settings have `roles`."""

    def roles(self, make_for: str = "") -> Roles:
        """Which roles the account has for us. With `make_for` those that are absent are made, and hosts may save in the
        bucket of that name; it may be repeated. Raises `ProviderError` where even asking fails."""
        ...


@runtime_checkable
class Guards(Protocol):
    """A provider that ends hosts itself."""

    def guard(self, rented: RentedHost) -> RentedHost:
        """Let the provider itself end a host at its deadline; the host then, which has none where the user
        wants none. Raises `ProviderError`."""
        ...


@runtime_checkable
class SaysEnd(Protocol):
    """A provider whose hosts end in one of several ways."""

    def end_of(self, machine: MachineType) -> str:
        """The end of a host while no client is there: what brings it, in a line. Raises `ProviderError`."""
        ...


@runtime_checkable
class Mounts(Protocol):
    """A provider whose hosts may have the bucket of the archive as a folder."""

    def folder_of(self, machine: MachineType, token: str = "") -> str:
        """Where new hosts for a machine type have it, or the one of a token; "" for nowhere, or where that one has
        another bucket, of earlier settings. Raises `ProviderError`."""
        ...


@runtime_checkable
class HasProxy(Protocol):
    """A provider with an SSH server of its own, through which its hosts are reached."""

    def unknown_proxy(self, machine: MachineType) -> MachineType | None:
        """That server, as a machine, as long as its host key is not known here."""
        ...


@runtime_checkable
class Bills(Protocol):
    """A provider that can be asked for its own bill."""

    def spent(self, since: float, until: float) -> list[Spent]:
        """What the provider has billed for hosts of ours between two moments (seconds since 1970), as far as its bill
        is written by now. Raises `ProviderError` where the account does not let us ask."""
        ...


@runtime_checkable
class HasBudgets(Protocol):
    """A provider that warns of what a month costs."""

    def budget(self, dollars: float, email: str) -> tuple[str, str, str]:
        """How the provider is made to warn of what a month costs: (what it does, the command for a shell, what else is
        to be typed), in its words. Raises as `Bills.spent`."""
        ...


@runtime_checkable
class HasPolicy(Protocol):
    """A provider whose accounts are allowed single things."""

    def policy(self, setup: bool = False) -> str:
        """All that this client has to be allowed, in the provider's own words, to give to who may allow it; without
        `setup` all but to make roles. Without a login it has placeholders in angle brackets."""
        ...

    def how_to_allow(self) -> str:
        """How a policy is used, in lines."""
        ...


@runtime_checkable
class HasLeftovers(Protocol):
    """A provider at which more remains of a host than the host."""

    def leftovers(self, note: Callable[[str], None] = unheard, everything: bool = False) -> list[Leftover]:
        """What else there is of ours and no host needs, for `machines gc`; with `everything` all there is, needed
        or not, and also what is made once, such as roles. `note` as in `hosts`."""
        ...

    def clear(self, leftover: Leftover, everything: bool = False) -> bool:
        """Remove one, unless it is needed again by now: that is looked up anew, but with `everything`. Whether it was
        removed, or was gone already; not, as long as hosts that end use it. Raises `ProviderError`."""
        ...


def roles_of(provider: Provider, make_for: str = "") -> Roles:
    """As `HasRoles.roles`; none at a provider that has no such thing."""
    return provider.roles(make_for) if isinstance(provider, HasRoles) else Roles(why_not="it has none")
