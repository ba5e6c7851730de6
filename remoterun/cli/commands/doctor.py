"""`doctor`: the health of a machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.spec import Scheduling
from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import machine_views
from remoterun.cli.render.terminal import duration
from remoterun.client import Client, json_shapes
from remoterun.clouds import ARCHIVE, PROVIDERS, front
from remoterun.clouds.base import HasBudgets, HasPolicy
from remoterun.config import QUEUES, settings
from remoterun.errors import (
    AgentError,
    AuthenticationError,
    HostError,
    HostKeyError,
    HostUnreachable,
    RemoterunError,
    UsageError,
)
from remoterun.model import MachineType, RunRequest
from remoterun.session import understood

if TYPE_CHECKING:
    from remoterun.client.upkeep.upkeep import Checked, Collected, HomeUsage


A = TypeVar("A", "Examined", "Checked", "Collected", "HomeUsage")
Machine = Annotated[
    str | None,
    argument("MACHINE", "As after -t; of a pool each one. Default: the default machine.", complete.machine_types),
]


@app.command(cls=Command, epilog=example("remoterun doctor k80"))
def doctor(
    machine: Machine = None,
    policy: Annotated[
        bool, option("--policy", f"Of `{ARCHIVE}`: print the policy that remoterun needs; with --setup for that, too.")
    ] = False,
    setup: Annotated[
        bool, option("--setup", f"Of `{ARCHIVE}`: make the roles by which hosts save, and by which it ends them.")
    ] = False,
    budget: Annotated[
        bool,
        option("--budget", f"Of `{ARCHIVE}`: print the command for a budget, with mail at 50, 80 and 100 % of it."),
    ] = False,
    job: Annotated[bool, option("--job", "Of a cluster: try a node, too, by a run of a minute.")] = False,
    json: Json = False,
) -> int:
    """Try a machine, and say how to mend what doesn't work.

    Link, host key, python3, Docker, GPU and NVIDIA's toolkit, disk, clock. Of a cluster: accounts, partitions, the line
    to type. Of a provider of hosts: login, permissions, quotas, network, bucket. The exit status is 1 for a fault.
    """
    for asked, given in (("--policy", policy), ("--setup", setup), ("--budget", budget)):
        if given and machine not in PROVIDERS:
            raise UsageError(f"{asked} is about `{ARCHIVE}`", hint=f"remoterun doctor {ARCHIVE} {asked}")
    with connect() as client:
        name = machine or ""
        if policy:
            provider = client.hosts.provider(name)
            if not isinstance(provider, HasPolicy):
                raise _has_none(name, "policies")
            for line in provider.policy(setup).splitlines():
                render.out(line)
            who = "whoever has `MakeRoles` and `GiveRoles` can give himself any right in the account"
            none = f"this policy can't make roles: an administrator types `remoterun doctor {name} --setup`, once"
            render.warning(who if setup else none)
            for line in provider.how_to_allow().splitlines():
                render.line(line)
            return 0
        if setup and (refused := client.hosts.make_roles(name).why_not):
            render.warning(f"not all roles could be made: {refused}")
        if budget:
            _show_budget(client, name)
            return 0

        def show(found: Examined, as_json: bool) -> None:
            machine_views.checks(found.checks, as_json)

        found, status = of_each(
            client, machine, lambda it: examine(client, client.machines.get(it, False), job), show, json
        )
    return status or (0 if all(examined.sound for examined in found) else 1)


BUDGET = 50.0
"""US dollars a month, where `max_cost_month` says nothing else."""


def _show_budget(client: Client, name: str) -> None:
    """The command on stdout, for a shell; what it does on stderr."""
    provider = client.hosts.provider(name)
    if not isinstance(provider, HasBudgets):
        raise _has_none(name, "budgets")
    amount = client.config.limits.max_cost_month or BUDGET
    email = os.environ.get("EMAIL", "")
    if not email:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["git", "config", "user.email"]
            email = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    does, command, more = provider.budget(amount, email or EXAMPLE)
    for text in does.splitlines():
        render.line(text)
    for text in command.splitlines():
        render.out(text)
    for text in more.splitlines():
        render.line(text)


def _has_none(name: str, what: str) -> UsageError:
    return UsageError(f"{front(name).title} has no {what}", hint=f"remoterun doctor {name}")


EXAMPLE = "you@example.org"


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
        return {"machine": self.machine.name, "checks": json_shapes.checks(self.checks)}


def examine(client: Client, machine: MachineType, job: bool = False) -> Examined:
    """The checks of a machine, without those that a fault makes impossible; of what is rented, those of the login, of
    its provider, and of the bucket. Blocks for as long as the connection's deadlines allow, and a `job` takes."""
    if machine.bucket is not None or machine.rental is not None:
        name = machine.rental.provider if machine.rental is not None else ARCHIVE
        return Examined(machine, [*client.hosts.checks(name, machine)])
    try:
        client.machines.session(machine)
    except HostError as error:
        faulty = next((name for kind, name in _FAULTS.items() if isinstance(error, kind)), "link")
        detail = error.message + (f" ({error.evidence.splitlines()[-1]})" if error.evidence else "")
        return Examined(machine, [MachineCheck(faulty, False, detail, error.hint)])
    checks: list[MachineCheck] = []
    there = machine
    if machine.host is not None:
        checks.append(MachineCheck("link", True, f"{machine.host} answered"))
        checks.append(MachineCheck("host key", True, "known, and unchanged"))
    asked = time.time()
    found = client.machines.doctor(machine)
    answered = time.time()
    for check in (each._replace(fix=machine.says(each.fix)) for each in found):
        clock = check.time if check.name == "clock" else None
        if check.scheduling is not None and check.detail in QUEUES[1:]:
            there = replace(machine, queue=check.detail, scheduling=check.scheduling)
        elif check.scheduling is None:
            checks.append(check if clock is None else _clock(clock, asked, answered))
    if job:
        checks += _by_run(client, there) if there.queue else [MachineCheck("node", None, "no scheduler is here")]
    if there != machine:
        checks.append(MachineCheck("to type", None, _to_add(there, machine.name in client.config.machines)))
    return Examined(machine, checks)


PATIENCE = 120.0
"""Seconds that the run of `--job` may wait for a node, and then for its end."""
PROBE = """\
echo "node: $(uname -n), $(python3 -V 2>&1)"; exec 2>/dev/null
echo "node home: the same"
new=$(mktemp -d) said="pip finds nothing: --build login"
python3 -m venv $new && $new/bin/pip download --no-deps --timeout 10 --retries 1 -d $new pip >/dev/null &&
    said="pip finds packages"
rm -r $new; echo "node network: $said"
[ -z "$CUDA_VISIBLE_DEVICES" ] || echo "node gpu: $(nvidia-smi -L | cut -d'(' -f1 | paste -sd, | grep . || echo no GPU)"
"""


def _by_run(client: Client, machine: MachineType) -> list[MachineCheck]:
    """The checks of a node, made by a run on it. Blocks until it ends, or waits for too long; nothing of it stays."""
    from remoterun.client.runs.preparing import prepare

    request = RunRequest(PROBE, framework="none", timeout=60.0, notify=(), description="remoterun doctor --job")
    run = client.runs.launch(prepare(client.connections, request, None, machine))
    render.line(f"run {run.number} tries a node, for a minute; ^C takes it back")
    try:
        give_up = time.monotonic() + PATIENCE
        while not run.final and time.monotonic() < give_up + (0 if run.state is RunState.QUEUED else PATIENCE):
            time.sleep(0.5)
            run = client.runs.get(run.number)
        if run.state is not RunState.COMPLETE:
            why = f"it failed: {run.message or run.reason}" if run.final else f"none in {PATIENCE:.0f} s: {run.note}"
            fix = "is its home on a disk that the nodes share? Else name another one: --home"
            return [MachineCheck("node", False if run.final else None, why, fix)]
        text = client.runs.log_part(run.number, 0, 4096)[2].decode("utf-8", "replace")
    finally:
        client.runs.kill(run.number)
        list(client.runs.wait([run.number], PATIENCE))
        client.runs.remove(run.number)
    rows = [line.partition(": ") for line in text.splitlines()]
    known = {"pip finds nothing: --build login": None, "no GPU": False}
    return [MachineCheck(name, known.get(words, True), words) for name, _, words in rows]


def _to_add(machine: MachineType, known: bool) -> str:
    """The line that gives a machine a name and all of its settings."""
    given, usual = ({**vars(it), **(it.scheduling or Scheduling())._asdict()} for it in (machine, MachineType("")))
    given["time"] = f"{given['time'] / 3600:g}h" if given["time"] else None
    more = {key: str(given[key]) for key in settings() if given.get(key) != usual.get(key)}
    words = ["remoterun", "machines", "add", machine.name if known else "cluster", machine.host or "local"]
    words += [word for key, value in more.items() for word in (f"--{key.replace('_', '-')}", value)]
    return shlex.join(words) + (" -y" if known else "")


def _clock(theirs: float, asked: float, answered: float) -> MachineCheck:
    skew = max(asked - theirs, theirs - answered, 0.0)
    if skew <= CLOCK_TOLERANCE:
        return MachineCheck("clock", True, "agrees with this machine's")
    detail = f"{duration(skew)} {'ahead of' if theirs > answered else 'behind'} this machine's"
    return MachineCheck("clock", False, detail, "sudo timedatectl set-ntp true, on the one that is wrong")


def of_each(
    client: Client, name: str | None, ask: Callable[[str | None], A], show: Callable[[A, bool], None], as_json: bool
) -> tuple[list[A], int]:
    """What `ask` finds on the machine `name` (None: the default one), shown, and an exit status; of a pool on each of
    its machines, under a heading, or in a list of JSON. Of one that can't be asked the error stands in that place, and
    the status is the error's."""
    machine = client.machines.get(name, False)
    if not machine.pool:
        found = ask(name)
        with understood(machine.name):
            show(found, as_json)
        return [found], 0
    answers: list[A] = []
    records: list[dict[str, Any]] = []
    status = 0
    for member in machine.pool:
        if not as_json:
            if records:
                render.out("")
            render.out(render.paint(member, "1"))
        try:
            found = ask(member)
            with understood(member):
                records.append(found.record())
                if not as_json:
                    show(found, False)
            answers.append(found)
        except RemoterunError as error:
            status = max(status, error.exit_status)
            records.append({"machine": member, "error": error.message})
            render.error(error)
    if as_json:
        render.out_json(records)
    return answers, status
