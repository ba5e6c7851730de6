"""What an hour costs on demand where the table does not know it: AWS's own Price List says so, for free."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import write_whole
from remoterun.clouds.aws.calls import Calls
from remoterun.clouds.base import Offer
from remoterun.errors import RemoterunError

PLAIN = {"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used"}


def priced(calls: Calls, home: Path, offers: list[Offer]) -> list[Offer]:
    """Offers of one type in one region, with its price on demand, or with why that is not known."""
    if not offers or (offers[0].limit if offers[0].spot else offers[0].price) is not None:
        return offers
    type, region, day, known = offers[0].type, offers[0].region, time.strftime("%F"), dict[str, Any]()
    file, name = home / "prices.json", f"{region} {type} in {day[:7]}"  # what AWS said holds for that month
    with contextlib.suppress(OSError, TypeError, ValueError):
        known = dict(json.loads(file.read_text("utf-8")))
    if not _is_price(known.get(name)):
        wanted = {"instanceType": type, "regionCode": region, **PLAIN}.items()
        by = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted]
        try:
            rows = calls.pages("pricing", "get_products", "us-east-1", "PriceList", ServiceCode="AmazonEC2", Filters=by)
        except RemoterunError as error:
            return [replace(each, unpriced=error.message) for each in offers]
        terms = [term for each in rows for term in json.loads(each).get("terms", {}).get("OnDemand", {}).values()]
        parts = [part for term in terms for part in term["priceDimensions"].values() if part["unit"] == "Hrs"]
        price = max((float(part["pricePerUnit"].get("USD", 0)) for part in parts), default=0.0)  # reserved: 0
        if not price:
            return [replace(each, unpriced=f"AWS's Price List has no {type} in {region}") for each in offers]
        known[name] = price, day
        with contextlib.suppress(OSError):
            write_whole(str(file), json.dumps(known).encode())
    price, day = known[name]
    return [replace(each, **({"limit": price} if each.spot else {"price": price, "priced": day})) for each in offers]


def _is_price(saved: Any) -> bool:
    """Whether it is what was saved here: a price, and the day when it was asked for."""
    return isinstance(saved, list) and len(saved) == 2 and isinstance(saved[0], float) and 0 < saved[0] < math.inf
