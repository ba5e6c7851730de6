"""What a check cost by remoterun, kept for the day after, when AWS's own bill is known."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import boto3

TAG = "remoterun:token"
TOLERANCE = 0.1
"""Of what remoterun says; AWS bills each second, from a moment that nobody else knows to the second."""


def saved(file: Path, account: str, tokens: list[str], cost: float) -> None:
    """`cost`: US dollars of the hosts with these tokens, as `remoterun bill` has them."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    kept = {"account": account, "day": today, "hosts": tokens, "cost": cost}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def compared(file: Path) -> int:
    """Both bills; the status: 1 where AWS's is higher, or does not have all hosts."""
    kept = json.loads(file.read_text())
    account = boto3.client("sts").get_caller_identity()["Account"]
    if account != kept["account"]:
        sys.exit(f"error: these AWS credentials are of the account {account}; the check was made in {kept['account']}")
    billed = of_aws(datetime.date.fromisoformat(kept["day"]), kept["hosts"])
    for token in kept["hosts"]:
        print(f"{token:<40}  {f'${billed[token]:.4f}' if token in billed else 'not there yet'}")
    told, cost = sum(billed.values()), kept["cost"]
    verdict = "not all there yet"
    if billed.keys() >= set(kept["hosts"]):
        verdict = "as said" if told <= cost * (1 + TOLERANCE) else "MORE"
    print(f"`remoterun bill`: ${cost:.4f}   AWS: ${told:.4f}   {verdict}")
    if not billed:
        print(f"hint: AWS's bill shows tags only once they are active: Billing, Cost allocation tags, {TAG}")
    return int(verdict != "as said")


def of_aws(day: datetime.date, tokens: list[str]) -> dict[str, float]:
    """US dollars of each host, as Cost Explorer has them: of its day and the next one."""
    ends = min(
        day + datetime.timedelta(days=2), datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    )
    answer = boto3.client("ce", region_name="us-east-1").get_cost_and_usage(
        TimePeriod={"Start": day.isoformat(), "End": ends.isoformat()},
        Granularity="DAILY",
        Metrics=["UnblendedCost"],
        Filter={"Tags": {"Key": TAG, "Values": tokens}},
        GroupBy=[{"Type": "TAG", "Key": TAG}],
    )
    found: dict[str, float] = {}
    groups: list[dict[str, Any]] = [group for each in answer["ResultsByTime"] for group in each.get("Groups", [])]
    for group in groups:
        token = group["Keys"][0].partition("$")[2]  # "remoterun:token$rr-…"
        found[token] = found.get(token, 0.0) + float(group["Metrics"]["UnblendedCost"]["Amount"])
    return found
