"""What is known of the rented hosts of a run, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from remoterun.sizes import iso


@dataclass(frozen=True)
class HostUse:
    """A rented host as one run had it. `token` is that of the host, which may have been rented for an earlier run;
    `id`, `type` and `zone` are its provider's words; `price` in US dollars an hour, `limit` what an hour can come to.
    Times in seconds since 1970; `ended` is None while the run has it. The host stays `idle` seconds for another run,
    and is gone by its `deadline`."""

    token: str
    id: str
    type: str
    zone: str
    price: float | None
    began: float
    ended: float | None = None
    limit: float | None = None
    idle: float = 0.0
    deadline: float = 0.0
    gone: bool = False
    """Its provider said that it is gone: what the run left is read from the archive."""

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far, without the host's disk and its traffic: as its price was when it began, or `at_most`."""
        price = self.price if self.limit is None or not at_most else self.limit
        return None if price is None else max((self.ended or now) - self.began, 0.0) / 3600 * price

    @property
    def stays_until(self) -> float | None:
        """When it ends if no other run comes; None while the run has it."""
        return None if self.ended is None else max(min(self.ended + self.idle, self.deadline), self.ended)

    @property
    def idle_cost(self) -> float | None:
        """US dollars that it costs at the most from the end of the run until then."""
        until = self.stays_until
        if until is None or self.ended is None or self.price is None:
            return None
        return (until - self.ended) / 3600 * (self.limit or self.price)


@dataclass(frozen=True)
class Renting:
    """What is known of the hosts that a run has had, newest last. `deadline` (seconds since 1970) is for all of its
    `attempts` together. `bucket` ("s3://NAME") keeps what it leaves, into which its host may write until
    `grant_ends`."""

    deadline: float
    attempts: int = 1
    attempt: int = 1
    bucket: str = ""
    grant_ends: float = 0.0
    images: tuple[str, ...] = ()
    """The images of its environment, which its host may store in the archive."""
    architecture: str = ""
    """Of its host."""
    hosts: tuple[HostUse, ...] = ()

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far; None where the price of a host is not known. See `HostUse.cost`."""
        costs = [host.cost(now, at_most) for host in self.hosts]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def left_at(self, moment: float) -> Renting:
        """A copy in which the last host was given back at `moment`."""
        *earlier, last = self.hosts
        return replace(self, hosts=(*earlier, replace(last, ended=moment)))

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
