"""The client's half of `doctor`: whether the machine can be reached and its clock agrees. The agent checks the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

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
    """A machine, and what was found: checks as `examine` gives them."""

    machine: MachineType
    checks: list[dict[str, Any]]

    @property
    def sound(self) -> bool:
        """There is no fault."""
        return all(check["ok"] is not False for check in self.checks)

    def record(self) -> dict[str, Any]:
        """For `--json`, where several machines are examined."""
        return {"machine": self.machine.name, "checks": render.check_records(self.checks)}


def examine(client: Client, machine: MachineType) -> list[dict[str, Any]]:
    """Checks with name, ok (None: neither good nor a fault), detail, fix.

    Those that a fault makes impossible are left out. Blocks for as long as the connection's deadlines allow.
    """
    begun = time.monotonic() - render.time_at_prompts()
    try:
        client.machines.session(machine)
    except HostError as error:
        return _unreachable(error)
    took = time.monotonic() - render.time_at_prompts() - begun
    checks: list[dict[str, Any]] = []
    if machine.host is not None:
        checks += [_good("link", f"{machine.host} answered in {took:.2f} s"), _good("host key", "known, and unchanged")]
        checks += packets()
    asked = time.time()
    found = client.machines.doctor(machine)
    answered = time.time()
    for check in found:
        if check["name"] == "clock":
            checks.append(_clock(float(check["time"]), asked, answered))
        else:
            checks.append(check)
    return checks


def examine_rented(client: Client, machine: MachineType) -> list[dict[str, Any]]:
    """The same for what is rented: the login, what its provider says, and the bucket."""
    provider = machine.rental.provider if machine.rental is not None else machine.name
    found = [*client.hosts.checks(provider), *client.hosts.bucket_checks()]
    return [{name: getattr(check, name) for name in ("name", "ok", "detail", "fix")} for check in found]


def packets() -> list[dict[str, Any]]:
    """A line where the quick packet path is off, which makes transfers slower and nothing else."""
    from remoterun.hosts.ssh import internals

    missing = internals.missing()
    if not missing:
        return []
    detail = f"paramiko's own; the quick path needs paramiko 5 (this one has no {missing[0]})"
    return [{"name": "packets", "ok": None, "detail": detail, "fix": None}]


def _unreachable(error: HostError) -> list[dict[str, Any]]:
    faulty = next((name for kind, name in _FAULTS.items() if isinstance(error, kind)), "link")
    order = ["link", "host key", "login", "agent"]
    good = [_good(name, "") for name in order[: order.index(faulty)]]
    detail = error.message + (f" ({error.evidence.splitlines()[-1]})" if error.evidence else "")
    return [*good, {"name": faulty, "ok": False, "detail": detail, "fix": error.hint}]


def _clock(theirs: float, asked: float, answered: float) -> dict[str, Any]:
    skew = max(asked - theirs, theirs - answered, 0.0)
    if skew <= CLOCK_TOLERANCE:
        return _good("clock", "agrees with this machine's")
    return {
        "name": "clock",
        "ok": False,
        "detail": f"{skew:.0f} s away from this machine's",
        "fix": "sudo timedatectl set-ntp true",
    }


def _good(name: str, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": True, "detail": detail, "fix": None}
