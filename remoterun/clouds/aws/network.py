"""How hosts are reached: the default network of a region, one security group of ours in it, and one rule in that for
each address that a client has been at."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remoterun import __version__
from remoterun.clouds.aws import tags
from remoterun.clouds.aws.calls import Calls, Refused, no_default_vpc
from remoterun.clouds.base import Leftover, ProviderUnreachable
from remoterun.clouds.folder import HostFolder, home_mark
from remoterun.errors import ConfigError, HostUnreachable
from remoterun.sizes import iso
from remoterun.threads import each as each_at_once

GROUP = "remoterun"
ADDRESS_VARIABLE = "REMOTERUN_CLIENT_ADDRESS"
WHO_AM_I = "https://checkip.amazonaws.com"
HOME = "home-"
"""A rule has a tag for each home that comes in by it, since AWS has one rule for an address: HOME + mark = when that
has let itself in last. The newest of them stay, and all of the last hour: AWS has room for 50 tags."""
HOMES = 20
AWAITED = 3600.0
"""Seconds for which a rule and its group are left to another home, whether it has a host yet or not."""


def subnets(calls: Calls, region: str, own: str | None = None) -> dict[str, dict[str, Any]]:
    """The subnet of each zone of a region in which hosts may be: the default ones, or one that is named in their place,
    and has one zone. Raises `Refused` where there is none."""
    which = {"SubnetIds": [own]} if own else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    listed = calls("ec2", "describe_subnets", region, **which)["Subnets"]
    if not listed:
        raise no_default_vpc(region)
    return {subnet["AvailabilityZone"]: subnet for subnet in sorted(listed, key=lambda each: each["AvailabilityZone"])}


def client_addresses(given: str | None) -> list[str]:
    """The addresses, as `203.0.113.7/32`, that hosts may see this machine at. `given` is what the configuration says of
    it. Where the web is reached through a proxy, ssh may go another way: so both are asked for.

    Blocks for some seconds. Raises `ProviderUnreachable`, `ConfigError`.
    """
    text = os.environ.get(ADDRESS_VARIABLE) or given
    if text:
        return [checked_address(text)]
    proxies = urllib.request.getproxies()
    found = list(each_at_once(_seen_from, [{}, proxies] if proxies else [{}]))
    addresses = [each for each in found if isinstance(each, str)]
    if not addresses:
        raise ProviderUnreachable(
            "the address of this machine can't be found out, so no host can be told to let it in",
            evidence=f"{WHO_AM_I}: {found[-1]}",
            hint=f'{ADDRESS_VARIABLE}=203.0.113.7, or address = "203.0.113.7" below [aws] in config.toml',
        )
    return list(dict.fromkeys(addresses))


def _seen_from(proxies: dict[str, str]) -> str | Exception:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        with opener.open(WHO_AM_I, timeout=10) as answer:
            return checked_address(answer.read(100).decode("ascii", "replace").strip())
    except (OSError, ConfigError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return error


def checked_address(text: str) -> str:
    """`text` as an address, or a network of up to 65536, in CIDR. Raises `ConfigError`."""
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError:
        network = None
    if network is None or network.version != 4 or network.prefixlen < 16:
        raise ConfigError(f"`{text}` is not the address of a client", hint="203.0.113.7, or 203.0.113.0/24")
    return str(network)


def admit(calls: Calls, region: str, vpc: str, source: str, mark: str) -> str:
    """The id of our security group, which lets `source` in on port 22: an address in CIDR, or the id of a security
    group. Makes what is missing, and notes there when the home with this mark has needed it.

    For some seconds AWS may refuse a group that it has made just now (`InvalidGroup.NotFound`). May be repeated.
    """
    filters = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = calls("ec2", "describe_security_groups", region, Filters=filters)["SecurityGroups"]
    if groups:
        group = groups[0]
    else:  # `InvalidGroup.Duplicate` where another client made it just now
        about = "Hosts of remoterun: SSH from the addresses of their clients"
        labels = [tags.specification("security-group", _own(calls))]
        asked = {"GroupName": GROUP, "Description": about, "VpcId": vpc, "TagSpecifications": labels}
        group = calls("ec2", "create_security_group", region, **asked)
    found: str = group["GroupId"]
    stamp = {f"{HOME}{mark}": iso(time.time())}
    for rule in _rules(calls, region, found) if group.get("IpPermissions") else ():
        if source in (rule.get("CidrIpv4"), rule.get("ReferencedGroupInfo", {}).get("GroupId")):
            known = sorted((at, name) for name, at in tags.ours(rule.get("Tags")).items() if name.startswith(HOME))
            labels = [{"Key": tags.PREFIX + name, "Value": value} for name, value in stamp.items()]
            before = iso(time.time() - AWAITED)
            old = [{"Key": tags.PREFIX + name} for at, name in known[:-HOMES] if at < before]
            with contextlib.suppress(Refused):  # the rule does without, if its tags may not be changed
                for operation, changed in (("delete_tags", old), ("create_tags", labels)):
                    if changed:
                        calls("ec2", operation, region, Resources=[rule["SecurityGroupRuleId"]], Tags=changed)
            return found
    _add_rule(calls, region, found, source, stamp)
    return found


def _rules(calls: Calls, region: str, group: str) -> list[dict[str, Any]]:
    """Who may come in on port 22."""
    filters = [{"Name": "group-id", "Values": [group]}]
    found = calls.pages("ec2", "describe_security_group_rules", region, "SecurityGroupRules", Filters=filters)
    return [rule for rule in found if not rule.get("IsEgress") and rule.get("FromPort") == 22]


def _add_rule(calls: Calls, region: str, group: str, source: str, stamp: dict[str, str]) -> None:
    listed, key = ("UserIdGroupPairs", "GroupId") if source.startswith("sg-") else ("IpRanges", "CidrIp")
    who = [{key: source, "Description": "remoterun"}]
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, listed: who}
    labels = [tags.specification("security-group-rule", _own(calls, **stamp))]
    asked = {"GroupId": group, "IpPermissions": [permission], "TagSpecifications": labels}
    try:
        calls("ec2", "authorize_security_group_ingress", region, **asked)
    except Refused as refused:
        if refused.code != "InvalidPermission.Duplicate":
            raise


def examined(
    calls: Calls, region: str, hosts: Sequence[dict[str, Any]], home: Path, everything: bool
) -> dict[str, Leftover | None]:
    """Our security group in a region, and the rules of this client in one that stays, by ids that begin with the
    region. None for what is needed, by one of `hosts`, or by a client that has let itself in and may not have one yet:
    for this home, that is so while it acquires one; of others, only when they did is known."""
    filters = [{"Name": "group-name", "Values": [GROUP]}]
    groups = calls("ec2", "describe_security_groups", region, Filters=filters)["SecurityGroups"]
    own, acquires = {home_mark(home)}, any(folder.is_locked() for folder in HostFolder.all(home))
    told = [tags.ours(host.get("Tags")) for host in hosts if host["State"]["Name"] != "terminated"]
    homes = {each.get("home") for each in told}
    reached = {source for each in told for source in each.get("client", "").split()}
    if told and groups:
        with contextlib.suppress(HostUnreachable):
            reached.update(client_addresses(calls.settings.address))
    found: dict[str, Leftover | None] = {}
    for group in [f"{region}/{each['GroupId']}" for each in groups if tags.ours(each.get("Tags"))]:
        is_awaited, rules = False, dict[str, Leftover | None]()
        for rule in _rules(calls, region, group.rpartition("/")[2]):
            labels, source, id = tags.ours(rule.get("Tags")), rule.get("CidrIpv4"), rule["SecurityGroupRuleId"]
            since = {name.removeprefix(HOME): at for name, at in labels.items() if name.startswith(HOME)}
            new = {mark for mark, at in since.items() if time.time() - (tags.time_of(at) or 0.0) < AWAITED}
            in_use = bool(new - own) or (acquires and bool(own & since.keys()))
            is_awaited = is_awaited or in_use
            if source and (own & since.keys() or (not since and labels.get("owner") == tags.owner())):
                needed = in_use or source in reached or homes & since.keys() - own
                left = Leftover("rule", f"{group}/{id}", f"no host is reached from {source}", at="aws")
                rules[left.id] = None if needed else left
        goes = everything or not (told or is_awaited)
        found |= {group: Leftover("group", group, "no host needs it", at="aws")} if goes else {group: None, **rules}
    return found


def clear(calls: Calls, leftover: Leftover) -> bool:
    """Remove it. Whether it is gone: not a group that hosts still use as they end."""
    region, group, *rules = leftover.id.split("/")
    try:
        if rules:
            calls.if_there("ec2", "revoke_security_group_ingress", region, GroupId=group, SecurityGroupRuleIds=rules)
        else:
            calls.if_there("ec2", "delete_security_group", region, GroupId=group)
    except Refused as refused:
        if refused.code != "DependencyViolation":
            raise
        return False
    return True


def _own(calls: Calls, **more: str) -> dict[str, str]:
    values = {"owner": tags.owner(), "version": __version__, **more}
    return {**calls.settings.tags, "Name": "remoterun", **{tags.PREFIX + name: value for name, value in values.items()}}
