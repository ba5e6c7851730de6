"""What is known of the rented hosts of a run, and what they cost."""

from __future__ import annotations

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
    """It is gone by then."""
    gone: bool = False
    """Its provider said that it is gone: what the run made is read from the archive."""
    extra: float = 0.0
    """US dollars an hour of its disk and its public address."""
    writer: str = ""
    """The folder in which it saves by its own role, `hosts/WRITER`; empty where it has none."""
    ended_by: str = ""
    """Who ended the host itself, in words, where that is known."""

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

    def until(self, moment: float, by: str = "") -> HostUse:
        """A copy for a host that is gone since `moment`; `by` whom."""
        ended = min(self.ended or moment, moment, self.deadline or moment)
        idle = min(self.idle, max(moment - ended, 0.0))
        return replace(self, ended=ended, idle=idle, ended_by=self.ended_by or by)

    @property
    def idle_end(self) -> float | None:
        """When it ends if no other run comes; None while the run has it."""
        return None if self.ended is None else max(min(self.ended + self.idle, self.deadline), self.ended)

    @property
    def idle_cost(self) -> float | None:
        """US dollars that it costs at the most from the end of the run until then."""
        until = self.idle_end
        return None if until is None else replace(self, began=self.ended or 0.0, ended=until).cost(until, at_most=True)


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
    hosts: tuple[HostUse, ...] = ()
    """The newest last."""
    most: float = 0.0
    """US dollars to which a host can come that is about to be rented for it."""

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

    def host_ended(self, token: str, moment: float, by: str = "") -> Renting:
        """A copy in which that host is gone since `moment`: it costs nothing from then on. `by` whom, in words."""
        hosts = (each.until(moment, by) if each.token == token else each for each in self.hosts)
        return replace(self, hosts=tuple(hosts))

    def host_is_gone(self, token: str) -> Renting:
        """A copy in which the provider has said so of that host."""
        return replace(self, hosts=tuple(replace(host, gone=host.gone or host.token == token) for host in self.hosts))

    def shown(self) -> dict[str, Any]:
        """For `--json`."""
        hosts = [
            {**host.__dict__, **{name: iso(getattr(host, name)) for name in ("began", "ended", "deadline")}}
            for host in self.hosts
        ]
        return {**self.__dict__, "deadline": iso(self.deadline), "grant_ends": iso(self.grant_ends), "hosts": hosts}
