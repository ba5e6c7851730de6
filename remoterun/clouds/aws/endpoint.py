"""The way to hosts where nothing gets out on port 22: an EC2 Instance Connect Endpoint in their network.

AWS's own program makes the tunnel, and ssh goes through it as through any `ProxyCommand`. Hosts let in the endpoint's
security group, so it does not matter where a client is.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from remoterun.clouds.aws import network
from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.base import ProviderError

if TYPE_CHECKING:
    from remoterun.clouds.aws.front import Settings

CONNECT = "endpoint"
"""The value of `connect` in `[aws]`."""
PROGRAM = "aws"
INSTALL = "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"
PROGRAM_SECONDS = 30.0


def admit(calls: Calls, region: str, vpc: str, settings: Settings, mark: str) -> tuple[str, list[str]]:
    """(the security group of hosts in a network, whom it lets in on port 22): the address of this machine, as
    `203.0.113.7/32`, or the security group of the endpoint that they are reached through. A group that the settings
    name stays as it is. `mark`: as for `network.admit`. Blocks for some seconds. Raises `ProviderError`, `ConfigError`.
    """
    if settings.connect == CONNECT:
        check_program()
    if settings.security_group is not None:
        return settings.security_group, []
    sources: list[str] = []
    if settings.connect == CONNECT:
        found = required(calls, region, vpc, settings.subnet)
        if not found.get("PreserveClientIp"):
            sources = [str(found["SecurityGroupIds"][0])]
    sources = sources or network.client_addresses(settings.address)
    return [network.admit(calls, region, vpc, source, mark) for source in sources][0], sources


def proxy(settings: Settings, region: str) -> str | None:
    """The `ProxyCommand` to a host whose `HostName` is its instance's id; None where it is reached without one."""
    if settings.connect != CONNECT:
        return None
    words = [PROGRAM, "ec2-instance-connect", "open-tunnel", "--instance-id", "%h", "--remote-port", "%p"]
    words += ["--region", region]
    if settings.profile is not None:
        words += ["--profile", settings.profile.replace("%", "%%")]
    return shlex.join(words)


def required(calls: Calls, region: str, vpc: str, subnet: str | None = None) -> dict[str, Any]:
    """The endpoint of a network that is ready to use; `subnet` as for `making`. Raises `Refused` where there is
    none."""
    filters = [{"Name": "vpc-id", "Values": [vpc]}]
    listed = calls.pages(
        "ec2", "describe_instance_connect_endpoints", region, "InstanceConnectEndpoints", Filters=filters
    )
    found: dict[str, Any]
    for found in listed:
        if found["State"] == "create-complete" and found.get("SecurityGroupIds"):
            return found
    if any(each["State"] == "create-in-progress" for each in listed):
        raise Refused("NoEndpoint", f"the endpoint in {region} is still being made", hint="try again in some minutes")
    raise Refused(
        "NoEndpoint",
        f"the network of hosts in {region}, {vpc}, has no EC2 Instance Connect Endpoint",
        hint=f"{making(calls, region, subnet)}   # costs nothing, takes some minutes",
    )


def making(calls: Calls, region: str, own: str | None = None) -> str:
    """The command that makes an endpoint in the default network of a region, or in a subnet that is named in its place.
    Raises `ProviderError`."""
    subnet = next(iter(network.subnets(calls, region, own).values()))
    filters = [{"Name": "vpc-id", "Values": [subnet["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
    groups = calls("ec2", "describe_security_groups", region, Filters=filters)["SecurityGroups"]
    words = ["aws", "ec2", "create-instance-connect-endpoint", "--region", region, "--subnet-id", subnet["SubnetId"]]
    if groups:
        words += ["--security-group-ids", groups[0]["GroupId"]]
    return shlex.join(words)


def check_program() -> None:
    """Raises `ProviderError` where there is no program that can make the tunnel."""
    path, said = shutil.which(PROGRAM), ""
    if path is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=PROGRAM_SECONDS)
            said = (done.stdout + done.stderr).strip()[:200]
    if not re.match(r"aws-cli/[2-9]", said):
        raise ProviderError(
            f"hosts are reached through an endpoint, and version 2 of `{PROGRAM}`, which does so, is not on PATH",
            evidence=said or None,
            hint=f"install AWS's command line, version 2: {INSTALL}",
        )
