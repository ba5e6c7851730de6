"""The facts of a run: what is known of it besides what was asked, each said once.

A field of these records is one of `RunEvent` or of `RunStatus`, in which a host reports it, and of the client's `Run`.
Its `fact` says where people and programs meet it: JSON and schema, `info`, `ps` and page are made of that. What the
client alone knows of a run stands in `model/runs.py`, in the same form.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple, TypeVar, cast

from .measured import Progress
from .records import Described, Record
from .states import BuiltImage, OutputsSize, Reason, RunState, Usage

T = TypeVar("T")

MOMENT, DURATION, BYTES, DOLLARS = "moment", "duration", "bytes", "dollars"
"""Forms of numbers. A moment is in seconds since 1970, by the clock of the machine that reports it."""


class Column(Record):
    """A column of a table, and what may happen to it where the terminal is too narrow."""

    head: str
    right: bool = False
    least: Optional[int] = None
    """The width to which it may be cut before columns are left out; None: it is never cut."""
    drop: int = 0
    """Columns are left out in this order, 1 first; 0: never. One that is empty is left out anywhere, unless it is 0."""


class Fact(Record):
    """Where people and programs meet a fact."""

    json: Optional[str] = ""
    """Its name in JSON; "" for the field's own, None where it is not there."""
    form: str = ""
    info: str = ""
    """The words before it in `info`; "" where it has no line of its own."""
    column: Optional[Column] = None
    """Of `ps`."""
    page: Optional[str] = None
    """Words of the page, with {} in the place of the value; "" where it has a place of its own there, None where the
    page does not have it."""
    right: Optional[Callable[[Any], bool]] = None
    """Whether a run can have such a value."""


def fact(default: T, **more: Any) -> T:
    """The default of a field that is a fact of a run. `more`: the fields of `Fact`."""
    return cast(T, Described(default, Fact(**more)))


class EventFacts(Record, kw_only=True):
    """What an event reports; the run's status has it from then on."""

    reason: Optional[Reason] = fact(None)
    """Why it ended."""
    code: Optional[int] = fact(None, json="exit_status", page="exit status {}", right=lambda code: -256 < code < 256)
    """The command's exit status."""
    message: Optional[str] = fact(None, info="message")
    engine: Optional[str] = fact(None, info="engine")
    job: Optional[str] = fact(None, info="job")
    """By which the scheduler of its machine calls it."""
    node: Optional[str] = fact(None, info="node")
    """The machine that the scheduler chose."""
    outputs: Optional[OutputsSize] = fact(None, info="outputs", right=lambda size: min(size) >= 0)
    progress: Optional[Progress] = fact(None, info="loss")
    """How far it is by its metrics; None where it reports none."""
    usage: Optional[Usage] = fact(None, info="used", page="")
    kept: bool = fact(False, json=None)
    """The archive has all of it."""
    images: Tuple[BuiltImage, ...] = fact((), json=None)
    """Those that its host will store in the archive. They come before its command starts, which could put others in
    their places."""


class HostFacts(Record, kw_only=True):
    """What else a host knows of a run."""

    note: Optional[str] = fact(None, info="note")
    queued: Optional[float] = fact(None, json=None, form=MOMENT)
    started: Optional[float] = fact(
        None, form=MOMENT, info="started", page="", column=Column("TOOK", right=True, drop=2)
    )
    ended: Optional[float] = fact(None, form=MOMENT, info="ended", page="")
    stopping: bool = fact(False, page="")
    log_size: int = fact(0, json=None, form=BYTES)
    refused: str = fact("", json=None)
    """Why its host waits for another permission to write to the archive."""


class RunEvent(EventFacts):
    """A line of a run's events: a state that it reached, or a note."""

    t: float = fact(0.0, form=MOMENT)
    state: Optional[RunState] = None
    note: Optional[str] = None
    evidence: Optional[str] = None
    hint: Optional[str] = None
    boot: Optional[str] = None
    """The boot of the machine in which the command was started."""
    attempt: Optional[int] = None
    """The command is started again, for that time."""


class RunStatus(HostFacts, EventFacts):
    """What a home says of a run, from its files alone."""

    key: str
    state: RunState
    created: Optional[float] = fact(None, form=MOMENT)
