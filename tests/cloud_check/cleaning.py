"""The end of the check: what it made is removed, and what is left nevertheless is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cloud_check.checklist import Checklist

GONE_SECONDS = 420.0
SETTLE_SECONDS = 10.0
"""AWS may list a host so long after the call that made it."""
CLEAR_AGAIN = (5.0, 20.0)
"""Seconds."""


def clean(checklist: Checklist, interrupted: bool) -> list[str]:
    """Remove what the check made, by remoterun's own commands first; what is left, in words. Nothing that fails stops
    the rest. `interrupted`: a host may be about to appear."""
    user, account = checklist.user, checklist.account
    problems: list[str] = []

    def attempt(what: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # noqa: BLE001 - the rest is removed all the same
            problems.append(f"{what}: {error}")

    def end_hosts() -> None:
        for host in account.alive():
            attempt(f"end of {host['InstanceId']}", lambda host=host: user.run("machines", "rm", host["InstanceId"]))  # type: ignore[misc]

    def until_gone() -> None:
        began = time.monotonic()
        while time.monotonic() - began < (GONE_SECONDS if account.unfinished() else SETTLE_SECONDS * interrupted):
            account.terminate()
            time.sleep(2)

    def remove_runs() -> None:
        for run in user.json("ps"):
            attempt(f"rm runs/{run['number']}", lambda run=run: user.run("rm", f"runs/{run['number']}"))  # type: ignore[misc]

    def clear() -> None:
        for pause in (*CLEAR_AGAIN, None):
            done = user.run("machines", "gc", "aws", "-y", status=None if pause else 0)
            if done.status == 0 and not set(account.groups()) - set(checklist.groups_before):
                return
            time.sleep(pause or 0)  # a group is in use for a while after its last host is gone

    print("removing what was made …", file=sys.stderr, flush=True)
    attempt("the end of the hosts", end_hosts)
    attempt("the wait for their end", until_gone)
    if checklist.bucket is not None:
        attempt("rm of the runs", remove_runs)
        attempt("rm of the upload", lambda: user.run("rm", f"uploads/{user.name}"))
    attempt("machines gc aws", clear)
    bucket = checklist.bucket
    if bucket is not None and bucket not in checklist.buckets_before:
        attempt("the bucket's removal", lambda: account.remove_bucket(bucket))
    left: list[str] = []
    attempt("the look at what is left", lambda: left.extend(left_over(checklist)))
    return left + [f"(while it was removed) {problem}" for problem in problems]


def left_over(checklist: Checklist) -> list[str]:
    """What was not there before, as AWS tells."""
    account = checklist.account
    found = [f"host {each['InstanceId']} ({each['State']['Name']})" for each in account.unfinished()]
    found += [f"disk {each['VolumeId']}" for each in account.disks() if each["State"] != "deleting"]
    for group, rules in account.groups().items():
        if group not in checklist.groups_before:
            found.append(f"security group {group}")
        found += [f"rule {rule} of {group}" for rule in rules if rule not in checklist.groups_before.get(group, [])]
    buckets = account.buckets()
    found += [f"bucket {name}" for name in buckets - checklist.buckets_before if name == checklist.bucket]
    if checklist.bucket in checklist.buckets_before & buckets:
        new = sorted(set(account.objects(checklist.bucket)) - checklist.objects_before)
        found += [f"object {key}, unless another client made it" for key in new]
    return found
