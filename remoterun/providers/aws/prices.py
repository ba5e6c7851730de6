"""The dated table in the wheel: what types of machine are, and what an hour of each costs on demand.

`prices.json`, written by `update_prices.py`:

    {"format": 1, "date": "2026-07-20", "source": TEXT, "regions": {REGION: {TYPE: US dollars an hour}},
     "types": {TYPE: [vCPUs, memory GiB, GPUs, GPU, memory of each GPU in GiB, instance store in GB]}}

Of a type without GPUs or instance store the list is shorter.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class TypeFacts:
    """What a type of machine has. Memory in GiB, of each GPU as well; `disk` is its instance store in GB."""

    vcpus: int = 0
    memory: float = 0.0
    gpus: float = 0
    gpu: str = ""
    gpu_memory: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class PriceTable:
    date: str
    source: str = ""
    regions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    types: Mapping[str, TypeFacts] = field(default_factory=dict)

    def price(self, type: str, region: str) -> float | None:
        """US dollars an hour on demand; None where the table does not say."""
        return self.regions.get(region, {}).get(type)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        types = {}
        for name, facts in self.types.items():
            values: list[Any] = list(facts.__dict__.values())
            while values and not values[-1]:
                values.pop()
            types[name] = values
        return {
            "format": FORMAT,
            "date": self.date,
            "source": self.source,
            "regions": {region: dict(prices) for region, prices in self.regions.items()},
            "types": types,
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> PriceTable:
        if record["format"] != FORMAT:
            raise ValueError(f"prices of format {record['format']}")
        types = {name: TypeFacts(*values) for name, values in record["types"].items()}
        return cls(record["date"], record["source"], record["regions"], types)


@functools.cache
def table() -> PriceTable:
    """The table in the wheel."""
    return PriceTable.of(json.loads(resources.files(__package__).joinpath("prices.json").read_text("utf-8")))
