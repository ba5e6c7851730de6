"""The names of machine types that stand for types of EC2, and what is known of those without asking anybody."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from remoterun.clouds.base import Offer
from remoterun.model import Rental
from remoterun.sizes import hourly


@dataclass(frozen=True)
class PriceTable:
    date: str
    regions: Mapping[str, Mapping[str, float]]
    """US dollars an hour on demand, of each type."""
    types: Mapping[str, Offer]
    """What each has, at no place."""
    gp3: Mapping[str, float]
    """US dollars a month of a GB of disk, by region."""


@functools.cache
def table() -> PriceTable:
    """The table in the wheel, `prices.json`."""
    record = json.loads(resources.files(__package__).joinpath("prices.json").read_text("utf-8"))
    types = {name: Offer(name, "", "", *values) for name, values in record["types"].items()}
    return PriceTable(record["date"], record["regions"], types, record["gp3"])


DISK = {"gpu": 100, "cpu": 50}
"""GB of the root disk, where nobody says otherwise; and never less than the image has."""
_IMAGE = {"gpu": 75, "cpu": 8}
"""GB of AWS's own images."""
MONTH = 730.0
"""Hours, as AWS divides what it takes for a month."""
ADDRESS = 0.005
"""US dollars an hour of a public IPv4 address, in each region."""

NAMES: dict[str, str] = {
    "cpu-big": "c7i.4xlarge",
    "cpu-huge": "c7i.16xlarge",
    "ram-big": "r7i.2xlarge",
    "ram-huge": "r7i.8xlarge",
    "t4": "g4dn.xlarge",
    "t4-big": "g4dn.4xlarge",
    "t4-huge": "g4dn.8xlarge",
    "t4x4": "g4dn.12xlarge",
    "t4x8": "g4dn.metal",
    "a10g": "g5.xlarge",
    "a10g-big": "g5.4xlarge",
    "a10gx4": "g5.12xlarge",
    "a10gx8": "g5.48xlarge",
    "l4": "g6.xlarge",
    "l4-big": "g6.4xlarge",
    "l4x4": "g6.12xlarge",
    "l4x8": "g6.48xlarge",
    "l40s": "g6e.xlarge",
    "l40sx4": "g6e.12xlarge",
    "l40sx8": "g6e.48xlarge",
    "rtx6000": "g7e.2xlarge",
    "a100x8": "p4d.24xlarge",
    "a100-80gx8": "p4de.24xlarge",
    "h100": "p5.4xlarge",
    "h100x8": "p5.48xlarge",
    "h200x8": "p5en.48xlarge",
    "b200x8": "p6-b200.48xlarge",
}
"""A machine type → the type of EC2 that it is."""

_GONE = "{}s are gone from AWS"
_NEVER = "AWS has no {}s"
GONE: dict[str, tuple[str, str]] = {
    "k80": ("g4dn.xlarge", _GONE),
    "k80x4": ("g4dn.12xlarge", _GONE),
    "k80x8": ("g4dn.metal", _GONE),
    "p100": ("g4dn.xlarge", _NEVER),
    "p100x4": ("g4dn.12xlarge", _NEVER),
    "v100": ("g5.xlarge", _GONE),
    "v100x4": ("g5.12xlarge", _GONE),
    "v100x8": ("g5.48xlarge", _GONE),
    "a100": ("g6e.xlarge", "AWS has {}s by eights only"),
}
"""A machine type that can't be had → the nearest type that can, and why, with a place for the GPU's name."""


def rental(word: str) -> Rental | None:
    """What is rented for a built-in name, in any case of its letters; None for a word that is not one."""
    name = word.lower()
    if name in NAMES:
        return Rental("aws", (NAMES[name],))
    if name in GONE:
        return Rental("aws", (GONE[name][0],), instead_of=name)
    return None


def instead(asked_for: str, offer: Offer) -> str:
    """A line for people: why they get another GPU than they named."""
    why = GONE[asked_for.lower()][1].format(re.sub(r"x\d+$", "", asked_for.lower()).upper())
    article = "an" if offer.gpu[:1] in "AEFHILMNORSX" else "a"
    number = f"{offer.gpus} {offer.gpu}s are" if offer.gpus > 1 else f"{article} {offer.gpu} is"
    price = f", {hourly(offer.hourly)}" if offer.price is not None else ""
    return f"{why}; {number} the nearest: {offer.type}{price}"


def architecture(type: str) -> str:
    """`x86_64` or `arm64`, as AWS's names of types tell it: Graviton has a `g` behind the number (m7g, c7gn, g5g)."""
    return "arm64" if re.match(r"a1\.|[a-z]+\d+[a-z]*g", type) else "x86_64"


def disk_size(gpus: int, asked_for: int | None, image: int | None = None) -> int:
    """GB of the root disk. `image`: of an image; where that is not known yet, it is one of AWS's."""
    kind = "gpu" if gpus else "cpu"
    return max(asked_for or DISK[kind], _IMAGE[kind] if image is None else image)


def with_disk(offer: Offer, size: int) -> Offer:
    """An offer with the price of a disk of so many GB, and of a public address."""
    disk = round(table().gp3.get(offer.region, 0.08) * size / MONTH, 5)
    return replace(offer, extra=round(disk + ADDRESS, 5), disk=disk)


def offer(
    type: str, region: str, zone: str = "", *, spot: bool = False, price: float | None = None, disk: int | None = None
) -> Offer:
    """What may be had, as far as the table knows it. `price` is one that was asked for just now: without it, that of
    the table, and none for spot, whose price changes by the hour; AWS takes no more for it than on demand. `disk`: GB
    that were asked for."""
    known = table().types.get(type, Offer(type))
    on_demand = table().regions.get(region, {}).get(type)
    listed = None if spot else on_demand
    found = replace(
        known,
        region=region,
        zone=zone,
        spot=spot,
        price=listed if price is None else price,
        priced="now" if price is not None else table().date if listed is not None else "",
        limit=on_demand if spot else None,
    )
    return with_disk(found, disk_size(known.gpus, disk))


def nearest(type: str) -> Sequence[str]:
    """Types of the table with a name like `type`, for a hint."""
    import difflib

    return difflib.get_close_matches(type, list(table().types), 3, 0.6)
