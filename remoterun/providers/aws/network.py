"""How hosts are reached: the default network of a region, one security group of ours in it, and one rule in that for
each address that a client has been at."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from remoterun import __version__
from remoterun.errors import ConfigError, HostUnreachable
from remoterun.providers.aws import tags
from remoterun.providers.aws.calls import Calls, Refused, is_gone, no_default_vpc
from remoterun.providers.base import Leftover, ProviderUnreachable

GROUP = "remoterun"
ADDRESS_VARIABLE = "REMOTERUN_CLIENT_ADDRESS"
WHO_AM_I = "https://checkip.amazonaws.com"


def subnets(calls: Calls, region: str) -> dict[str, dict[str, Any]]:
    """The default subnet of each zone of a region. Raises `Refused` where there is none."""
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    listed = calls("ec2", "describe_subnets", region, Filters=filters)["Subnets"]
    if not listed:
        raise no_default_vpc(region)
    return {subnet["AvailabilityZone"]: subnet for subnet in sorted(listed, key=lambda each: each["AvailabilityZone"])}


def client_address(given: str | None) -> str:
    """The address, as `203.0.113.7/32`, that hosts see this machine at. `given` is what the configuration says of it.

    Blocks for some seconds. Raises `ProviderUnreachable`, `ConfigError`.
    """
    text = os.environ.get(ADDRESS_VARIABLE) or given
    if text:
        return checked_address(text)
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=10) as answer:
            return checked_address(answer.read(100).decode("ascii", "replace").strip())
    except (OSError, urllib.error.URLError, ConfigError) as error:
        raise ProviderUnreachable(
            "the address of this machine can't be found out, so no host can be told to let it in",
            evidence=f"{WHO_AM_I}: {error}",
            hint=f'{ADDRESS_VARIABLE}=203.0.113.7, or address = "203.0.113.7" below [aws] in config.toml',
        )


def checked_address(text: str) -> str:
    """`text` as an address, or a network of up to 65536, in CIDR. Raises `ConfigError`."""
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError:
        network = None
    if network is None or network.version != 4 or network.prefixlen < 16:
        raise ConfigError(f"`{text}` is not the address of a client", hint="203.0.113.7, or 203.0.113.0/24")
    return str(network)


def admit(calls: Calls, region: str, vpc: str, source: str) -> str:
    """The id of our security group, which lets `source` in on port 22: an address in CIDR, or the id of a security
    group. Makes what is missing.

    For some seconds AWS may refuse a group that it has made just now (`InvalidGroup.NotFound`). May be repeated.
    """
    filters = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = calls("ec2", "describe_security_groups", region, Filters=filters)["SecurityGroups"]
    group = groups[0] if groups else _make_group(calls, region, vpc)
    if not any(rule.get("FromPort") == 22 and source in _sources(rule) for rule in group.get("IpPermissions", [])):
        _add_rule(calls, region, group["GroupId"], source)
    found: str = group["GroupId"]
    return found


def _sources(rule: dict[str, Any]) -> list[str]:
    addresses = [each["CidrIp"] for each in rule.get("IpRanges", [])]
    return [*addresses, *(each["GroupId"] for each in rule.get("UserIdGroupPairs", []) if "GroupId" in each)]


def _make_group(calls: Calls, region: str, vpc: str) -> dict[str, Any]:
    """Raises `Refused` with `InvalidGroup.Duplicate` where another client made it just now."""
    made = calls(
        "ec2",
        "create_security_group",
        region,
        GroupName=GROUP,
        Description="Hosts of remoterun: SSH from the addresses of their clients",
        VpcId=vpc,
        TagSpecifications=[tags.specification("security-group", _own())],
    )
    return {"GroupId": made["GroupId"]}


def _add_rule(calls: Calls, region: str, group: str, source: str) -> None:
    permission: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    if source.startswith("sg-"):
        permission["UserIdGroupPairs"] = [{"GroupId": source, "Description": description()}]
    else:
        permission["IpRanges"] = [{"CidrIp": source, "Description": description()}]
    try:
        calls(
            "ec2",
            "authorize_security_group_ingress",
            region,
            GroupId=group,
            IpPermissions=[permission],
            TagSpecifications=[tags.specification("security-group-rule", _own())],
        )
    except Refused as refused:
        if refused.code == "RulesPerSecurityGroupLimitExceeded":
            raise Refused(
                refused.code,
                f"the security group `{GROUP}` in {region} has as many rules as AWS allows",
                evidence=refused.evidence,
                hint="remoterun machines gc aws",
            )
        if refused.code != "InvalidPermission.Duplicate":
            raise


def leftovers(calls: Calls, region: str, hosts: Sequence[dict[str, Any]], address: str | None) -> list[Leftover]:
    """Our security group in a region without hosts; else the rules of this client in it by which none is reached, and
    through which it would not reach one now. Each `id` begins with the region."""
    filters = [{"Name": "group-name", "Values": [GROUP]}]
    groups = calls("ec2", "describe_security_groups", region, Filters=filters)["SecurityGroups"]
    found = []
    for group in [each["GroupId"] for each in groups if tags.ours(each.get("Tags"))]:
        if not hosts:
            found.append(Leftover("group", f"{region}/{group}", "no host uses it"))
            continue
        filters = [{"Name": "group-id", "Values": [group]}]
        rules = calls.pages("ec2", "describe_security_group_rules", region, "SecurityGroupRules", Filters=filters)
        needed = {tags.ours(each.get("Tags")).get("client") for each in hosts}
        with contextlib.suppress(HostUnreachable):
            needed.add(client_address(address))
        for rule in rules:
            source, own = rule.get("CidrIpv4"), tags.ours(rule.get("Tags")).get("owner") == tags.owner()
            if source and own and not rule.get("IsEgress") and source not in needed:
                id = f"{region}/{group}/{rule['SecurityGroupRuleId']}"
                found.append(Leftover("rule", id, f"no host is reached from {source}"))
    return found


def clear(calls: Calls, leftover: Leftover) -> None:
    """See `Provider.clear`."""
    region, group, *rules = leftover.id.split("/")
    try:
        if rules:
            calls("ec2", "revoke_security_group_ingress", region, GroupId=group, SecurityGroupRuleIds=rules)
        else:
            calls("ec2", "delete_security_group", region, GroupId=group)
    except Refused as refused:
        if not is_gone(refused):
            raise


def description() -> str:
    """Of a rule, in the letters that AWS allows there, which are fewer than in a tag."""
    return re.sub(r"[^A-Za-z0-9 ._\-:/@]", "_", f"remoterun {tags.owner()}")[:250]


def _own() -> dict[str, str]:
    return {"Name": "remoterun", tags.PREFIX + "owner": tags.owner(), tags.PREFIX + "version": __version__}
