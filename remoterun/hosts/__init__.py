"""Machines that can execute an agent. Each kind of host is a row of `HOSTS`; its module is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoterun.config import Config
    from remoterun.hosts.base import Host, Prompts
    from remoterun.model import MachineType

HOSTS = {
    "local": "remoterun.hosts.local.of_machine",
    "ssh": "remoterun.hosts.ssh.host.of_machine",
}
"""Kind of host (`MachineType.reached_by`) → a function of (machine, config, prompts) that makes the `Host`."""


def host_of(machine: MachineType, config: Config, prompts: Prompts) -> Host:
    """The host that a machine type stands for. Opens nothing."""
    module, _, function = HOSTS[machine.reached_by].rpartition(".")
    host: Host = getattr(importlib.import_module(module), function)(machine, config, prompts)
    return host
