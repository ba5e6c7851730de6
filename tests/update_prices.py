"""Write `prices.json` anew from AWS's public price files: `python -m tests.update_prices [REGION …]`.

Without a region it is all that AWS has. Needs no credentials, and half an hour: the file of a region has hundreds of
megabytes, of which nothing is kept. Prices are those of a disk, and of the types that the table has facts of; a new
type is first added there by hand.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import botocore.session

from remoterun.clouds.aws import catalogue

ADDRESS = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{}/index.csv"
SOURCE = "AWS's public price files, offers/v1.0/aws/AmazonEC2"
FILE = Path(catalogue.__file__).with_name("prices.json")
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
    table = json.loads(FILE.read_text("utf-8"))
    days = []
    for region in regions or sorted(botocore.session.get_session().get_available_regions("ec2")):
        print(f"{region}…", file=sys.stderr)
        with urllib.request.urlopen(ADDRESS.format(region), timeout=60) as answer:
            day, prices, disk = read(io.TextIOWrapper(answer, "utf-8", newline=""), set(table["types"]))
        table["regions"][region], table["gp3"][region] = prices, disk
        days.append(day)
    FILE.write_text(text({**table, "date": max(days), "source": SOURCE}), "utf-8")
    print(f"{FILE}: prices of {max(days)}", file=sys.stderr)


def read(lines: Iterable[str], types: set[str]) -> tuple[str, dict[str, float], float]:
    """The day on which a price file was published, the US dollars an hour of each of these types in it, and those a
    month of a GB of disk.

    Raises `ValueError` for a file that has no price for any of them: its form has changed.
    """
    day, disk = "", 0.0
    rows = csv.reader(lines)
    for header in rows:  # lines about the file come before its table
        if header[0] == "Publication Date":
            day = header[1][:10]
        if header[0] == "SKU":
            break
    prices: dict[str, float] = {}
    for values in (dict(zip(header, row, strict=False)) for row in rows):
        if values.get("Instance Type") in types and all(values.get(key) == value for key, value in WANTED.items()):
            prices[values["Instance Type"]] = round(float(values["PricePerUnit"]), 4)
        if values.get("Volume API Name") == "gp3" and values["Unit"] == "GB-Mo":  # and not what its speed costs
            disk = float(values["PricePerUnit"])
    if not prices or not day or not disk:
        raise ValueError("this price file has another form than it had")
    return day, {type: price for type, price in sorted(prices.items()) if price > 0}, disk


def text(table: dict[str, Any]) -> str:
    """The table as it stands in the repository: a line for each region and each type."""
    spread = json.dumps(table, indent=1)
    return re.sub(r"[\[{][^][{}]*[]}]", lambda found: json.dumps(json.loads(found[0])), spread) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
