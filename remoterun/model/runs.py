"""Runs as the registry knows them, which ones are meant, their place in a line, and what a host reports of them."""

from __future__ import annotations

import enum
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from remoterun.agent.shared.facts import MOMENT, Column, EventFacts, HostFacts, RunEvent, RunStatus, fact
from remoterun.agent.shared.measured import MOST_NAME, SHOWN, SPARK, Progress
from remoterun.agent.shared.records import REQUIRED, Record, to_json
from remoterun.agent.shared.states import ENDINGS, FINAL, Reason, RunState
from remoterun.errors import HostError
from remoterun.model.machine_types import MachineType
from remoterun.model.rented import Renting
from remoterun.sizes import iso

_KEY_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class Line(Record):
    """Where a run that waits stands: at `place` (1 is the next) `of` those that wait on `machine`.

    `holders`: the numbers of the runs that have what it waits for, None for one of another client; `others`: processes
    of others, in words."""

    machine: str
    place: int
    of: int
    holders: tuple[int | None, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: `2nd of 3 on box; run 12 is running`."""
        where = f"next in line on {self.machine}" if self.of == 1 else f"{self._place} on {self.machine}"
        numbers = sorted(number for number in self.holders if number is not None)
        names = [f"run {numbers[0]}" if len(numbers) == 1 else f"runs {listed(map(str, numbers))}"] if numbers else []
        foreign = len(self.holders) - len(numbers)
        if foreign:
            names.append("a run of another client" if foreign == 1 else f"{foreign} runs of other clients")
        running = f"; {listed(names)} {'is' if len(self.holders) == 1 else 'are'} running" if names else ""
        return where + running + "".join(f"; {each}" for each in self.others)

    @property
    def brief(self) -> str:
        """For a table: `2nd of 3`."""
        return "next in line" if self.of == 1 else self._place

    @property
    def _place(self) -> str:
        return f"{_ordinal(self.place)} of {self.of}"


class SetMember(Record):
    """What makes a run one of a set: one of those that were made in one go, each with other values."""

    key: str
    """That of the first run of the set."""
    name: str
    """By which the set can be completed; "" for none."""
    params: dict[str, str]
    at_once: int = 0
    """How many may be at work at the same time; 0 for any number."""
    asked: str = ""
    """The digest of what was asked of the set."""

    def __str__(self) -> str:
        return (f"{self.name}: " if self.name else "") + ", ".join(
            f"{name} {value}" for name, value in self.params.items()
        )


class ClientFacts(Record, kw_only=True):
    """What this client knows of a run besides what its host reports: each has a column of the registry."""

    placed: MachineType | None = fact(None, json="host")
    """The machine that was got; None before that."""
    home_id: str | None = fact(None, json=None)
    """The home on it that has the run."""
    description: str | None = fact(None, info="description", page="")
    labels: tuple[str, ...] = fact((), info="labels", page="")
    params: dict[str, str] = fact({})
    """What it was given in variables: `RunSpec.params`."""
    remark: str = fact("", info="remark", page="")
    """What a person has noted about it."""
    pinned: bool = fact(False, page="")
    """It stands first in lists."""
    hidden: bool = fact(False, page="")
    """Lists leave it out."""
    provisioning: float | None = fact(None, form=MOMENT)
    """When this client began to look for a machine for it."""
    uploading: float | None = fact(None, form=MOMENT)
    """When this client began to send it."""
    last_seen: float | None = fact(None, form=MOMENT)
    renting: Renting | None = fact(None, column=Column("COST", right=True, drop=5))
    """Of a run on rented hosts."""
    of: SetMember | None = fact(None, json="set", info="set", page="")


class Run(HostFacts, ClientFacts, EventFacts):
    """One run as the registry knows it, corrected by its host when that was asked. Times in seconds since 1970."""

    number: int = fact(REQUIRED, page="", column=Column("RUN", right=True))
    key: str = fact(REQUIRED)
    state: RunState = fact(REQUIRED, page="", column=Column("STATE", least=11))
    machine: MachineType = fact(REQUIRED, info="machine", column=Column("MACHINE", least=10, drop=4))
    """What was asked for."""
    command: str = fact(REQUIRED, info="command", page="", column=Column("COMMAND", least=16))
    created: float = fact(REQUIRED, form=MOMENT, info="created", page="", column=Column("WHEN", drop=3))
    line: Line | None = fact(None, info="line")
    """Where it stood in the line just now."""
    fault: HostError | None = None
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
        return self.placed or self.machine

    @property
    def where(self) -> str:
        """The name of the machine that was asked for, for people; of a pool with the machine that was got."""
        if not self.machine.pool or self.placed is None:
            return self.machine.name
        return f"{self.machine.name} ({self.placed.name})"

    @property
    def attempt(self) -> int:
        """Which of its hosts it has, or had; the first is 1."""
        return self.renting.attempt if self.renting is not None else 1

    @property
    def archived(self) -> bool:
        """Whether it is read from the archive: its host is gone, or was never known here."""
        if self.placed is None:
            return False
        hosts = self.renting.hosts if self.renting is not None else ()
        return self.placed.bucket is not None or any(host.gone and host.token == self.placed.rented for host in hosts)

    @property
    def continuable(self) -> bool:
        """Whether `remoterun continue` may give it another rented host."""
        return self.state is RunState.INTERRUPTED and self.renting is not None

    def cost(self, now: float) -> float | None:
        """US dollars that its hosts have cost while it had them, also those that never came to serve it; None for a
        run that rents none, or if that is not known."""
        return None if self.renting is None else self.renting.cost(self.ended if self.final and self.ended else now)

    @property
    def words(self) -> str | None:
        """Why it ended, for people."""
        if self.reason is Reason.HOST_LOST and self.renting is not None:
            return "its host was lost"
        if self.reason is Reason.KILLED and self.renting is not None and self.message:
            return "its host was ended"
        told = self.message if self.reason is Reason.EXIT_NONZERO else None
        return told or (ENDINGS[self.reason].words if self.reason else None)

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
        """This run as its host says it is: that answers, whatever it did before."""
        facts = {name: getattr(status, name) for name in (*HostFacts._fields, *EventFacts._fields)}
        return self._replace(**facts, state=status.state, last_seen=now, line=None, fault=None)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        facts = {each.json or name: _in_json(getattr(self, name), each.form) for name, each in FACTS_IN_JSON}
        return {**facts, "reachable": self.reachable, "cost": self.cost(time.time())}


FACTS_IN_JSON = tuple((name, each) for name, each in Run._facts.items() if each.json is not None)


def _in_json(value: Any, form: str) -> Any:
    if isinstance(value, MachineType):
        return value.name
    if isinstance(value, Renting):
        return value.shown()
    return iso(value) if form == MOMENT else to_json(value)


@dataclass(frozen=True)
class RunFilter:
    """Which runs are meant: those in one of the `states`, with one of the `labels`, of the `machine`, `among` those
    numbers, made `since` then (seconds since 1970), with all of `words` in their commands or descriptions, in any case
    of letters. What is empty excludes none. Those that lists leave out are meant only with `hidden`."""

    states: frozenset[RunState] = frozenset()
    labels: tuple[str, ...] = ()
    machine: str | None = None
    since: float | None = None
    words: tuple[str, ...] = ()
    among: tuple[range, ...] = ()
    hidden: bool = True

    def fits(self, run: Run) -> bool:
        return self.may_fit(run) and (not self.states or run.state in self.states)

    def may_fit(self, run: Run) -> bool:
        """Whether it fits as soon as it is in one of the states: one that goes on may be in another one by now."""
        text = f"{run.command}\n{run.description or ''}".lower()
        return (
            (self.hidden or not run.hidden)
            and (not self.states or not run.final or run.state in self.states)
            and (not self.labels or not set(self.labels).isdisjoint(run.labels))
            and (self.machine is None or self.machine in (run.machine.name, run.host.name))
            and (not self.among or any(run.number in each for each in self.among))
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


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


_YEAR_10000 = 253_402_300_800  # seconds since 1970; Python's dates end there
_TEXT = 10_000  # characters of a text that are kept
MOST_PARAMS, MOST_ALERTS = 50, 20
Told = TypeVar("Told", RunStatus, RunEvent)


def by_our_clock(record: Told, clock_skew: float = 0.0) -> Told:
    """A status or an event of a host whose clock is ahead of ours by `clock_skew` seconds, with its times by our clock.

    Raises `ValueError` for what no run can have. Of texts the beginning is kept, in characters that UTF-8 has.
    """
    changed: dict[str, Any] = {}
    for name in record._fields:
        value, known = getattr(record, name), record._facts.get(name)
        if value is None or isinstance(value, str) and isinstance(value, enum.Enum):
            continue
        if known is not None and known.right is not None and not known.right(value):
            raise ValueError(f"{name}: {value}")
        if known is not None and known.form == MOMENT:
            changed[name] = max(check_time(value) - clock_skew, 0.0)
        elif isinstance(value, str):
            changed[name] = value[:_TEXT].encode("utf-8", "replace").decode()
        elif isinstance(value, Progress):
            changed[name] = _bounded(value, clock_skew)
    return record._replace(**changed)


def _bounded(progress: Progress, clock_skew: float) -> Progress:
    """As much of it as a host that does as it should would report."""

    def text(value: str, most: int = MOST_NAME) -> str:
        return value[:most].encode("utf-8", "replace").decode()

    return progress._replace(
        at=max(check_time(progress.at) - clock_skew, 0.0),
        series=[each._replace(name=text(each.name), spark=each.spark[:SPARK]) for each in progress.series[:SHOWN]],
        params={text(name): text(value) for name, value in list(progress.params.items())[:MOST_PARAMS]},
        alerts=[text(alert) for alert in progress.alerts[:MOST_ALERTS]],
        unread=max(progress.unread, 0),
        left_out=max(progress.left_out, 0),
    )


def event_fields(event: RunEvent) -> dict[str, Any]:
    """What of a run's status an event with a state tells."""
    told = {name: getattr(event, name) for name in EventFacts._fields}
    found = {name: value for name, value in told.items() if value != EventFacts._field_defaults[name]}
    if event.state is RunState.RUNNING:
        found["started"] = event.t
    if event.state in FINAL:
        found["ended"] = event.t
    return found


def check_time(value: Any) -> float:
    """`value` if it can be a moment, in seconds since 1970. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _YEAR_10000:
        raise ValueError(f"{value!r} is not a time")
    return value
