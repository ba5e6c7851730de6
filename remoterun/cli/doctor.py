"""The client's half of `doctor`: whether the machine can be reached and its clock agrees. The agent checks the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.cli import render
from remoterun.client import Client
from remoterun.errors import AgentError, AuthenticationError, HostError, HostKeyError, HostUnreachable
from remoterun.model import MachineType

CLOCK_TOLERANCE = 5.0
"""Seconds."""

_FAULTS: dict[type[HostError], str] = {
    HostUnreachable: "link",
    HostKeyError: "host key",
    AuthenticationError: "login",
    AgentError: "agent",
}


@dataclass(frozen=True)
class Examined:
    """A machine, and what `examine` found."""

    machine: MachineType
    checks: list[MachineCheck]

    @property
    def sound(self) -> bool:
        """There is no fault."""
        return all(check.ok is not False for check in self.checks)

    def record(self) -> dict[str, Any]:
        """For `--json`, where several machines are examined."""
        return {"machine": self.machine.name, "checks": render.check_records(self.checks)}


def examine(client: Client, machine: MachineType) -> list[MachineCheck]:
    """The checks of a machine, without those that a fault makes impossible.

    Blocks for as long as the connection's deadlines allow.
    """
    begun = time.monotonic() - render.time_at_prompts()
    try:
        client.machines.session(machine)
    except HostError as error:
        return _unreachable(error)
    took = time.monotonic() - render.time_at_prompts() - begun
    checks: list[MachineCheck] = []
    if machine.host is not None:
        checks.append(MachineCheck("link", True, f"{machine.host} answered in {took:.2f} s"))
        checks.append(MachineCheck("host key", True, "known, and unchanged"))
        checks += packets()
    asked = time.time()
    found = client.machines.doctor(machine)
    answered = time.time()
    for check in found:
        clock = check.time if check.name == "clock" else None
        checks.append(check if clock is None else _clock(clock, asked, answered))
    return checks


def examine_rented(client: Client, machine: MachineType) -> list[MachineCheck]:
    """The checks of what is rented: the login, what its provider says, and the bucket."""
    provider = machine.rental.provider if machine.rental is not None else machine.name
    return [*client.hosts.checks(provider), *client.hosts.bucket_checks()]


def packets() -> list[MachineCheck]:
    """A line where the quick packet path is off, which makes transfers slower and nothing else."""
    from remoterun.hosts.ssh import internals

    missing = internals.missing()
    if not missing:
        return []
    detail = f"paramiko's own; the quick path needs paramiko 5 (this one has no {missing[0]})"
    return [MachineCheck("packets", None, detail)]


def _unreachable(error: HostError) -> list[MachineCheck]:
    faulty = next((name for kind, name in _FAULTS.items() if isinstance(error, kind)), "link")
    order = ["link", "host key", "login", "agent"]
    good = [MachineCheck(name, True) for name in order[: order.index(faulty)]]
    detail = error.message + (f" ({error.evidence.splitlines()[-1]})" if error.evidence else "")
    return [*good, MachineCheck(faulty, False, detail, error.hint)]


def _clock(theirs: float, asked: float, answered: float) -> MachineCheck:
    skew = max(asked - theirs, theirs - answered, 0.0)
    if skew <= CLOCK_TOLERANCE:
        return MachineCheck("clock", True, "agrees with this machine's")
    return MachineCheck("clock", False, f"{skew:.0f} s away from this machine's", "sudo timedatectl set-ntp true")
