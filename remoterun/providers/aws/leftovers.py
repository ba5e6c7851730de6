"""What of ours is at AWS and needed by nobody: hosts, disks, rules for old addresses, security groups."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remoterun.aws_codes import DENIED
from remoterun.errors import HostUnreachable
from remoterun.providers.aws import network, tags
from remoterun.providers.aws.acquire import describe
from remoterun.providers.aws.calls import Calls, Refused, is_gone
from remoterun.providers.base import Leftover, ProviderError
from remoterun.providers.folder import HostFolder

FRESH_SECONDS = 3600.0
"""What another client made so lately may be about to be used."""
MONTH_HOURS = 730.0
DISK_PRICE = 0.08
"""US dollars a month for a GB of gp3, in most regions."""


def leftovers(calls: Calls, regions: Sequence[str], home: Path, address: str | None) -> list[Leftover]:
    """See `Provider.leftovers`. Each `id` begins with its region."""
    try:
        here: str | None = network.client_address(calls, regions[0], address)
    except HostUnreachable:
        here = None

    def ask(region: str) -> list[Leftover]:
        try:
            return _of_region(calls, region, home, here)
        except Refused as refused:
            if refused.code in DENIED and region != regions[0]:
                return []
            raise

    return calls.in_all(regions, ask)


def clear(calls: Calls, leftover: Leftover) -> None:
    """See `Provider.clear`."""
    region, _, name = leftover.id.partition("/")
    try:
        if leftover.kind == "host":
            calls("ec2", "terminate_instances", region, InstanceIds=[name])
        elif leftover.kind == "disk":
            calls("ec2", "delete_volume", region, VolumeId=name)
        elif leftover.kind == "rule":
            group, _, rule = name.partition("/")
            calls("ec2", "revoke_security_group_ingress", region, GroupId=group, SecurityGroupRuleIds=[rule])
        else:
            calls("ec2", "delete_security_group", region, GroupId=name)
    except Refused as refused:
        if not is_gone(refused):
            raise


def _of_region(calls: Calls, region: str, home: Path, here: str | None) -> list[Leftover]:
    instances = [each for each in describe(calls, region) if each["State"]["Name"] != "terminated"]
    found = [leftover for each in instances if (leftover := _host(each, region, home)) is not None]
    found += _disks(calls, region)
    groups = calls(
        "ec2", "describe_security_groups", region, Filters=[{"Name": "group-name", "Values": [network.GROUP]}]
    )["SecurityGroups"]
    if groups and not _is_acquiring(home):
        clients = {tags.ours(each.get("Tags")).get("client", "") for each in instances}
        for group in groups:
            if tags.ours(group.get("Tags")):
                found += _rules(calls, region, group["GroupId"], clients, here)
    return found


def _host(instance: dict[str, Any], region: str, home: Path) -> Leftover | None:
    rented = tags.rented_of(instance, region)
    stopped = instance["State"]["Name"] == "stopped"  # by a person, or by AWS: nothing of ours starts it again
    if rented is None or not (rented.alive or stopped):
        return None
    price = None if stopped else (rented.offer.price or 0.0) * MONTH_HOURS
    if tags.ours(instance.get("Tags")).get("home") != tags.home_mark(home):
        return None  # another client's, who may well use it
    if stopped:
        return Leftover("host", f"{region}/{rented.id}", "it was stopped, and its disk costs", price)
    folder = HostFolder(home, rented.token)
    if folder.intent() is None:
        return Leftover("host", f"{region}/{rented.id}", "this machine knows nothing of it any more", price)
    if folder.read("host.json") is None and not _is_locked(folder):
        return Leftover("host", f"{region}/{rented.id}", "whoever acquired it was cut short", price)
    return None


def _disks(calls: Calls, region: str) -> list[Leftover]:
    filters = [{"Name": "tag-key", "Values": [tags.PREFIX + "token"]}, {"Name": "status", "Values": ["available"]}]
    volumes = calls.pages("ec2", "describe_volumes", region, "Volumes", Filters=filters)
    return [
        Leftover("disk", f"{region}/{each['VolumeId']}", "no host has it", each.get("Size", 0) * DISK_PRICE)
        for each in volumes
    ]


def _rules(calls: Calls, region: str, group: str, clients: set[str], here: str | None) -> list[Leftover]:
    """Rules that no host needs; and the group, too, if none is left."""
    filters = [{"Name": "group-id", "Values": [group]}]
    rules = calls.pages("ec2", "describe_security_group_rules", region, "SecurityGroupRules", Filters=filters)
    incoming = [rule for rule in rules if not rule.get("IsEgress") and rule.get("CidrIpv4")]
    needless = [rule for rule in incoming if _is_needless(rule, clients, here)]
    found = [
        Leftover(
            "rule",
            f"{region}/{group}/{rule['SecurityGroupRuleId']}",
            f"no host is reached from {rule['CidrIpv4']}",
        )
        for rule in needless
    ]
    if not clients and len(needless) == len(incoming):
        found.append(Leftover("group", f"{region}/{group}", "no host uses it"))
    return found


def _is_needless(rule: dict[str, Any], clients: set[str], here: str | None) -> bool:
    own = tags.ours(rule.get("Tags"))
    if rule["CidrIpv4"] in clients or "owner" not in own:
        return False
    if own["owner"] == tags.owner():
        return not clients or rule["CidrIpv4"] != here
    since = tags.time_of(own.get("since", ""))
    return not clients and (since is None or time.time() - since > FRESH_SECONDS)


def _is_acquiring(home: Path) -> bool:
    """Whether a process on this machine acquires a host just now."""
    return any(_is_locked(folder) for folder in HostFolder.all(home))


def _is_locked(folder: HostFolder) -> bool:
    try:
        with folder.locked():
            return False
    except ProviderError:
        return True
