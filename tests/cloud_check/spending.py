"""What the check may spend, and how long each of its hosts may live so that it can't spend more."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remoterun.providers.aws import catalogue

if TYPE_CHECKING:
    from tests.cloud_check.checklist import Settings

GPU_TYPE = catalogue.NAMES["t4"]
HOURS = 0.75
"""That each host may live, if the money suffices."""
LEAST_HOURS = 0.25
DISKS = 0.01
"""US dollars an hour of each host's disk, rounded up."""
REQUESTS = 0.02
"""US dollars for the bucket's requests, a few megabytes, and what leaves AWS."""


@dataclass(frozen=True)
class Spending:
    """`hosts`: type, US dollars an hour, what for."""

    hosts: tuple[tuple[str, float, str], ...]
    hours: float

    @classmethod
    def of(cls, settings: Settings, region: str, most: float) -> Spending:
        """Exits where the prices are not known, or where so little money makes no check."""
        wanted = [(settings.type, "all steps but the next ones")]
        wanted += [(settings.type, "spot; this is the most it can cost")] if settings.spot else []
        wanted += [(GPU_TYPE, "a GPU, if the quota allows it")] if settings.gpu else []
        hosts = []
        for type, what in wanted:
            price = catalogue.offer(type, region).price
            if price is None:
                sys.exit(f"error: the price of {type} in {region} is not known\n\nhint: --type m7i.large")
            hosts.append((type, price, what))
        hourly = sum(price + DISKS for _, price, _ in hosts)
        hours = min(HOURS, (most - REQUESTS) / hourly)
        if hours < LEAST_HOURS:
            needed = LEAST_HOURS * hourly + REQUESTS
            sys.exit(f"error: ${most:g} is not enough for these hosts\n\nhint: --max-cost {needed + 0.005:.2f}")
        return cls(tuple(hosts), hours)

    @property
    def most(self) -> float:
        """US dollars."""
        return sum(price + DISKS for _, price, _ in self.hosts) * self.hours + REQUESTS

    def lines(self) -> list[str]:
        return [f"{type} at ${price:g}/h: {what}" for type, price, what in self.hosts]
