"""A run as the list of the page has it. Times in seconds since 1970."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import RunState
from remoterun.model import Run

if TYPE_CHECKING:
    from remoterun.client import Client

LONGEST = 1000
"""Characters of a command, a description or a message that the list has."""


def row(run: Run, now: float) -> dict[str, Any]:
    return {
        "number": run.number,
        "state": run.state.value,
        "reason": run.reason and run.reason.value,
        "words": run.words,
        "stopping": run.stopping,
        "command": run.command[:LONGEST],
        "description": (run.description or "")[:LONGEST] or None,
        "labels": run.labels,
        "machine": run.where,
        "created": run.created,
        "started": run.started,
        "ended": run.ended,
        "exit_status": run.code,
        "pinned": run.pinned,
        "hidden": run.hidden,
        "unreached": run.unreached,
        "note": (run.note or run.message or "")[:LONGEST] or None,
        "line": run.line and str(run.line),
        "cost": None if (cost := run.cost(now)) is None else round(cost, 3),
        "progress": progress(run, now),
    }


def progress(run: Run, now: float) -> dict[str, Any] | None:
    """How far it is, and how long it will take."""
    known = run.progress
    if known is None:
        return None
    fields = ("step", "total", "alerts", "left_out", "params")
    return {**{name: getattr(known, name) for name in fields}, "series": [to_json(one) for one in known.series]}


def about(client: Client, run: Run, details: dict[str, Any]) -> dict[str, Any]:
    """What is known of one run besides its row; `details` as `Runs.info` has them."""
    spec, events = details["spec"] or {}, details["events"] or []
    git = spec.get("git")
    return {
        **{name: details.get(name) for name in ("spec", "folder", "events", "usage", "again_of", "again_as")},
        "phases": _phases(run, events),
        "params": {},
        "git": git,
        "mounts": spec.get("mounts", []),
        "environment": spec.get("environment"),
        "ports": spec.get("ports", []),
        "remark": run.remark,
        "attempts": [run.attempt, spec.get("attempts", 1)],
        "hosts": [] if run.renting is None else run.renting.shown().get("hosts", []),
    }


def _phases(run: Run, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The states that it went through, and when."""
    moves = [(state.value, moment) for state, moment in run.steps]
    moves += [(event["state"], event["t"]) for event in events if "state" in event]
    ends = [moment for _, moment in moves[1:]] + [run.ended]
    found = [{"state": state, "start": start, "end": end} for (state, start), end in zip(moves, ends, strict=True)]
    return [phase for phase in found if not RunState(phase["state"]).final]
