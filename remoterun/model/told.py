"""What a host tells of a run: checked, and with its times by our clock."""

from __future__ import annotations

from typing import Any, TypeVar

from remoterun.agent.shared.states import FINAL, RunEvent, RunState, RunStatus

_YEAR_10000 = 253_402_300_800  # seconds since 1970; Python's dates end there
_MOMENTS = ("t", "created", "queued", "started", "ended")
_TEXTS = ("message", "note", "engine", "evidence", "hint")
_TEXT = 10_000  # characters of a text that are kept
Told = TypeVar("Told", RunStatus, RunEvent)


def by_our_clock(record: Told, clock_skew: float = 0.0) -> Told:
    """A status or an event of a host whose clock is ahead of ours by `clock_skew` seconds, with its times by our clock.

    Raises `ValueError` for what no run can have. Of texts the beginning is kept, in characters that UTF-8 has.
    """
    if record.code is not None and not -256 < record.code < 256:
        raise ValueError(f"code: {record.code}")
    if record.outputs is not None and min(record.outputs) < 0:
        raise ValueError(f"outputs: {record.outputs}")
    changed: dict[str, Any] = {}
    for name in _MOMENTS:
        moment = getattr(record, name, None)
        if moment is not None:
            changed[name] = max(check_time(moment) - clock_skew, 0.0)
    for name in _TEXTS:
        text = getattr(record, name, None)
        if text is not None:
            changed[name] = text[:_TEXT].encode("utf-8", "replace").decode()
    return record._replace(**changed)


def event_fields(event: RunEvent) -> dict[str, Any]:
    """What of a run's status an event with a state tells."""
    found: dict[str, Any] = {
        name: getattr(event, name)
        for name in ("reason", "code", "message", "engine")
        if getattr(event, name) is not None
    }
    if event.outputs is not None:
        found["outputs"] = event.outputs._asdict()
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
