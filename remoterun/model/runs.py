"""Runs as the registry knows them, and which ones are meant."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

from remoterun.agent.shared.states import ENDINGS, FINAL, Reason, RunEvent, RunState, RunStatus
from remoterun.errors import HostError
from remoterun.model.lines import Line
from remoterun.model.machine_types import MachineType, Placement
from remoterun.model.rented import Renting
from remoterun.model.told import event_fields
from remoterun.sizes import iso

_KEY_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Run:
    """One run as the registry knows it, corrected by its host when that was asked. Times in seconds since 1970.

    `machine` is what was asked for, `placement` the host that was got, None before that. `steps`: when this client
    began what it does for the run (PROVISIONING, UPLOADING). `renting`: of a run on rented hosts.
    """

    number: int
    key: str
    machine: MachineType
    state: RunState
    command: str
    created: float
    reason: Reason | None = None
    code: int | None = None
    message: str | None = None
    note: str | None = None
    started: float | None = None
    ended: float | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    engine: str | None = None
    outputs: dict[str, int] | None = None
    stopping: bool = False
    last_seen: float | None = None
    placement: Placement | None = None
    steps: tuple[tuple[RunState, float], ...] = ()
    renting: Renting | None = None
    line: Line | None = field(default=None, compare=False)
    """Where it stood in the line just now."""
    fault: HostError | None = field(default=None, compare=False)
    """Why its machine could not be asked just now; the rest is what was known before."""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def reachable(self) -> bool:
        return self.fault is None

    @property
    def unreached(self) -> str | None:
        """The fault, in a line."""
        return None if self.fault is None else self.fault.message

    @property
    def host(self) -> MachineType:
        """The machine to ask about it."""
        return self.placement.machine if self.placement is not None else self.machine

    @property
    def where(self) -> str:
        """The name of the machine that was asked for, for people; of a pool with the machine that was got."""
        if not self.machine.pool or self.placement is None:
            return self.machine.name
        return f"{self.machine.name} ({self.placement.machine.name})"

    @property
    def home_id(self) -> str | None:
        return self.placement.home_id if self.placement is not None else None

    @property
    def archived(self) -> bool:
        """Whether it is read from the archive: its host is gone, or was never known here."""
        if self.placement is None:
            return False
        machine, hosts = self.placement.machine, self.renting.hosts if self.renting is not None else ()
        return machine.bucket is not None or any(host.gone and host.token == machine.rented for host in hosts)

    def cost(self, now: float) -> float | None:
        """US dollars that its hosts have cost while it had them, also those that never came to serve it; None for a
        run that rents none, or if that is not known."""
        return None if self.renting is None else self.renting.cost(self.ended if self.final and self.ended else now)

    @property
    def words(self) -> str | None:
        """Why it ended, for people."""
        if self.reason is Reason.HOST_LOST and self.renting is not None:
            return "its host was lost"
        return ENDINGS[self.reason].words if self.reason else None

    @property
    def exit_status(self) -> int:
        """What `remoterun run` returns for it: the command's own code; 137 if killed; 125 if there is no code, or if
        the command did well and what it made could not be saved."""
        if self.code is not None and not (self.code == 0 and self.state is RunState.FAILED):
            return self.code
        if self.reason in (Reason.KILLED, Reason.STOPPED):
            return 137 if self.reason is Reason.KILLED else 143
        return 125

    def with_status(self, status: RunStatus, now: float) -> Run:
        """This run as its host says it is."""
        return replace(
            self,
            state=status.state,
            reason=status.reason,
            code=status.code,
            message=status.message,
            note=status.note,
            started=status.started,
            ended=status.ended,
            engine=status.engine,
            outputs=None if status.outputs is None else status.outputs._asdict(),
            stopping=status.stopping,
            last_seen=now,
        )

    def with_event(self, event: RunEvent) -> Run:
        """This run as it was at an event of its folder, which has a state."""
        return replace(self, **{**event_fields(event), "state": event.state, "reason": event.reason})

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "number": self.number,
            "key": self.key,
            "machine": self.machine.name,
            "host": None if self.placement is None else self.placement.machine.name,
            "state": self.state.value,
            "reason": self.reason.value if self.reason else None,
            "exit_status": self.code,
            "command": self.command,
            "description": self.description,
            "labels": list(self.labels),
            "engine": self.engine,
            "created": iso(self.created),
            **{step.value: iso(moment) for step, moment in self.steps},
            "started": iso(self.started),
            "ended": iso(self.ended),
            "message": self.message,
            "note": self.note,
            "line": None if self.line is None else self.line.__dict__,
            "outputs": self.outputs,
            "stopping": self.stopping,
            "reachable": self.reachable,
            "last_seen": iso(self.last_seen),
            **({} if self.renting is None else {"renting": self.renting.shown(), "cost": self.cost(time.time())}),
        }


@dataclass(frozen=True)
class RunFilter:
    """Which runs are meant: those in one of the `states`, with one of the `labels`, of the `machine`, made `since` then
    (seconds since 1970), with all of `words` in their commands or descriptions, in any case of letters. What is empty
    excludes none."""

    states: frozenset[RunState] = frozenset()
    labels: tuple[str, ...] = ()
    machine: str | None = None
    since: float | None = None
    words: tuple[str, ...] = ()

    def fits(self, run: Run) -> bool:
        return self.may_fit(run) and (not self.states or run.state in self.states)

    def may_fit(self, run: Run) -> bool:
        """Whether it fits as soon as it is in one of the states: one that goes on may be in another one by now."""
        text = f"{run.command}\n{run.description or ''}".lower()
        return (
            (not self.states or not run.final or run.state in self.states)
            and (not self.labels or not set(self.labels).isdisjoint(run.labels))
            and (self.machine is None or self.machine in (run.machine.name, run.host.name))
            and (self.since is None or run.created >= self.since)
            and all(word.lower() in text for word in self.words)
        )


EVERY_RUN = RunFilter()


def new_key(now: float | None = None) -> str:
    """A run's global key: 26 digits of base 32, sortable by time, 80 of its bits random (the form of a ULID)."""
    value = (int((time.time() if now is None else now) * 1000) << 80) | secrets.randbits(80)
    digits = []
    for _ in range(26):
        digits.append(_KEY_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))
