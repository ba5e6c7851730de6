"""The types of Hugging Face's hosts: by its API, or by a table (`hardware.json`) where nobody is to be asked."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from remoterun.clouds.base import Offer
from remoterun.clouds.vendor import MOST_PRICE

PER_HOUR = {"minute": 60.0, "hour": 1.0}


@functools.cache
def table() -> Mapping[str, Offer]:
    """By name, with the prices of a day."""
    found = json.loads(resources.files(__package__).joinpath("hardware.json").read_text("utf-8"))
    return {each["type"]: Offer(**each, priced=found["day"]) for each in found["types"]}


def read(listed: Iterable[Mapping[str, Any]]) -> dict[str, Offer]:
    """By name, what its API lists: there a price is of a minute, and a size is a text, such as "16 GB"."""
    found = {}
    for each in listed:
        gpu, name, cost = each.get("accelerator") or {}, str(each["name"]), each.get("unitCostUSD")
        gpus, hours = int(_number(gpu.get("quantity"))), PER_HOUR.get(str(each.get("unitLabel")))
        if not isinstance(cost, (int, float)) or not 0 <= cost * (hours or 1) <= MOST_PRICE:
            cost = None
        found[name] = Offer(
            name,
            vcpus=int(_number(each.get("cpu"))),
            memory=_number(each.get("ram")),
            gpus=gpus,
            gpu=str(gpu.get("model") or ""),
            gpu_memory=_number(gpu.get("vram")) / max(gpus, 1),
            price=None if hours is None or cost is None else float(cost) * hours,
            priced="now",
            unpriced="" if hours and cost is not None else "it is neither of a minute nor of an hour",
        )
    return found


def _number(text: object) -> float:
    """The number that a text begins with; 0 without one."""
    found = re.match(r"\d+(?:\.\d+)?", str(text))
    return float(found[0]) if found else 0.0
