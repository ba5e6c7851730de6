"""Write `prices.json` anew from AWS's public price files: `python -m remoterun.providers.aws.update_prices [REGION …]`.

Needs no credentials, and some minutes: the file of a region has hundreds of megabytes, of which nothing is kept. Prices
are those of the types that the table has facts of; a new type is first added there by hand.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import urllib.request
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from remoterun.agent.shared.files import write_whole
from remoterun.providers.aws.catalogue import PriceTable, table

ADDRESS = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{}/index.csv"
SOURCE = "AWS's public price files, offers/v1.0/aws/AmazonEC2"
FILE = Path(__file__).with_name("prices.json")
WANTED = {
    "TermType": "OnDemand",
    "Unit": "Hrs",
    "Currency": "USD",
    "Tenancy": "Shared",
    "Operating System": "Linux",
    "Pre Installed S/W": "NA",
    "CapacityStatus": "Used",
    "License Model": "No License required",
}
"""What a row says that is the price of a plain Linux machine."""


def main(regions: list[str]) -> None:
    before = table()
    day, found = "", {region: dict(prices) for region, prices in before.regions.items()}
    for region in regions or sorted(before.regions):
        print(f"{region}…", file=sys.stderr)
        with urllib.request.urlopen(ADDRESS.format(region), timeout=60) as answer:
            published, found[region] = read(io.TextIOWrapper(answer, "utf-8", newline=""), set(before.types))
            day = max(day, published)
    write_whole(str(FILE), text(replace(before, date=day, source=SOURCE, regions=found)).encode(), 0o644)
    print(f"{FILE}: prices of {day}", file=sys.stderr)


def read(lines: Iterable[str], types: set[str]) -> tuple[str, dict[str, float]]:
    """The day on which a price file was published, and the US dollars an hour of each of these types in it.

    Raises `ValueError` for a file that has no price for any of them: its form has changed.
    """
    rows = csv.reader(lines)
    day = ""
    header: list[str] = []
    for row in rows:
        if row[:1] == ["Publication Date"]:
            day = row[1][:10]
        if row[:1] == ["SKU"]:
            header = row
            break
    prices: dict[str, float] = {}
    for row in rows:
        values = dict(zip(header, row, strict=False))
        type = values.get("Instance Type", "")
        if type in types and all(values.get(key) == value for key, value in WANTED.items()):
            price = float(values["PricePerUnit"])
            if price > 0:
                prices[type] = round(price, 4)
    if not prices or not day:
        raise ValueError("this price file has another form than it had")
    return day, dict(sorted(prices.items()))


def text(made: PriceTable) -> str:
    """The table as it stands in the repository: a line for each region and each type."""
    record = made.record()
    regions = ",\n".join(f"  {json.dumps(name)}: {json.dumps(prices)}" for name, prices in record["regions"].items())
    types = ",\n".join(f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in record["types"].items())
    head = "".join(f" {json.dumps(key)}: {json.dumps(record[key])},\n" for key in ("format", "date", "source"))
    return f'{{\n{head} "regions": {{\n{regions}\n }},\n "types": {{\n{types}\n }}\n}}\n'


if __name__ == "__main__":
    main(sys.argv[1:])
