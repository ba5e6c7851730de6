"""What is known of the rented hosts of a run, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from remoterun.sizes import iso


@dataclass(frozen=True)
class HostUse:
    """A rented host as one run had it. Times in seconds since 1970."""

    token: str
    """Of the host, which may have been rented for an earlier run."""
    id: str
    """In its provider's words, as are `type` and `zone`."""
    type: str
    zone: str
    price: float | None
    """US dollars an hour."""
    began: float
    ended: float | None = None
    """None while the run has it."""
    limit: float | None = None
    """What an hour can come to."""
    idle: float = 0.0
    """Seconds that it stays for another run."""
    deadline: float = 0.0
    """It is gone by then, as far as is known."""
    gone: bool = False
    """Its provider said that it is gone: what the run made is read from the archive."""
    extra: float = 0.0
    """US dollars an hour of its disk and its public address."""
    writer: str = ""
    """The folder in which it saves by its own role, `hosts/WRITER`; empty where it has none."""
    ended_by: str = ""
    """Who ended the host itself, in words, where that is known."""
    guarded: bool = False
    """Its provider itself ends it at its deadline."""

    @property
    def hourly(self) -> float | None:
        """US dollars of an hour, with its disk and its address."""
        return None if self.price is None else self.price + self.extra

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far, until the host's deadline at the most, with its disk and its address: as its price was
        when it began, or `at_most`."""
        price = self.price if self.limit is None or not at_most else self.limit
        until = self.ended or min(now, self.deadline or now)
        return None if price is None else max(until - self.began, 0.0) / 3600 * (price + self.extra)

    def until(self, moment: float | None, by: str) -> HostUse:
        """A copy for a host that is gone since `moment`, if that is known; `by` whom. The first word counts."""
        if self.ended_by or moment is None:
            return replace(self, ended_by=self.ended_by or by)
        ended, deadline = min(self.ended or moment, moment), max(self.deadline, moment)
        return replace(self, ended=ended, idle=moment - ended, deadline=deadline, ended_by=by)

    @property
    def idle_end(self) -> float | None:
        """When it ends if no other run comes; None while the run has it."""
        return None if self.ended is None else max(min(self.ended + self.idle, self.deadline), self.ended)


@dataclass(frozen=True)
class Renting:
    """What is known of the hosts that a run has had."""

    deadline: float
    """For all of its `attempts` together, in seconds since 1970."""
    attempts: int = 1
    attempt: int = 1
    bucket: str = ""
    """"s3://NAME": has what the run makes."""
    grant_ends: float = 0.0
    """Until then its host may write there."""
    images: tuple[str, ...] = ()
    """The images of its environment, which its host may store in the archive."""
    architecture: str = ""
    """Of its host."""
    timeout: float | None = None
    """Seconds that its command may take."""
    hosts: tuple[HostUse, ...] = ()
    """The newest last."""
    pay: float | None = None
    """US dollars an hour that were agreed to; None for a price that was not known."""
    most: float = 0.0
    """US dollars to which a host can come that is about to be rented for it."""
    carried: bool = False
    """Its host can't reach the bucket: this machine carries there what it leaves."""

    @property
    def writers(self) -> tuple[str, ...]:
        """Whose folders have what the run has made, the newest last; "" stands for the run's own folder."""
        newest_first = dict.fromkeys(host.writer for host in reversed(self.hosts))
        return tuple(reversed(newest_first))

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far; None where the price of a host is not known. See `HostUse.cost`."""
        costs = [host.cost(now, at_most) for host in self.hosts]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def given_back_at(self, moment: float) -> Renting:
        """A copy in which the last host was given back at `moment`, or at its deadline, if that was before."""
        *earlier, last = self.hosts
        return replace(self, hosts=(*earlier, replace(last, ended=min(moment, last.deadline or moment))))

    def with_host(self, token: str, change: Callable[[HostUse], HostUse]) -> Renting:
        return replace(self, hosts=tuple(change(each) if each.token == token else each for each in self.hosts))

    def shown(self) -> dict[str, Any]:
        """For `--json`."""
        hosts = [
            {**host.__dict__, **{name: iso(getattr(host, name)) for name in ("began", "ended", "deadline")}}
            for host in self.hosts
        ]
        return {**self.__dict__, "deadline": iso(self.deadline), "grant_ends": iso(self.grant_ends), "hosts": hosts}
