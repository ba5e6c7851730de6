"""A run as the list of the page has it, and all that is known of one. Times in seconds since 1970."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import RunState
from remoterun.client.metrics import outlook, parameters
from remoterun.model import Run

LONGEST = 1000
"""Characters of a text that a row has."""
AS_THEY_ARE = ("number", "words", "stopping", "labels", "created", "started", "ended", "pinned", "hidden", "unreached")
OF_PROGRESS = ("step", "total", "alerts", "left_out", "params")
OF_INFO = ("spec", "folder", "events", "usage", "again_of", "again_as")
OF_SPEC: dict[str, Any] = {"git": None, "mounts": [], "environment": None, "ports": []}


def row(run: Run, now: float) -> dict[str, Any]:
    known, cost = run.progress, run.cost(now)
    progress = None
    if known is not None:
        ahead = {name: value if value is None else round(value, 2) for name, value in vars(outlook(run, now)).items()}
        progress = {name: getattr(known, name) for name in OF_PROGRESS} | ahead
        progress["series"] = [to_json(series) for series in known.series]
    texts = {"command": run.command, "description": run.description, "remark": run.remark}
    texts |= {"note": run.note or run.message, "line": str(run.line or "")}
    return {
        **{name: getattr(run, name) for name in AS_THEY_ARE},
        **{name: (text or "")[:LONGEST] or None for name, text in texts.items()},
        "state": run.state.value,
        "reason": run.reason and run.reason.value,
        "exit_status": run.code,
        "machine": run.where,
        "cost": cost and round(cost, 3),
        "progress": progress,
    }


def about(run: Run, details: dict[str, Any], diff: bytes) -> dict[str, Any]:
    """What is known of one besides its row; `details` as `Runs.info` has them, and `diff` what was not committed."""
    spec = details["spec"] or {}
    return {
        **{name: details[name] for name in OF_INFO},
        **{name: spec.get(name, empty) for name, empty in OF_SPEC.items()},
        "params": parameters_of(run, spec),
        "phases": _phases(run, details["events"] or ()),
        "diff": diff.decode(errors="replace"),
        "remark": run.remark,
        "attempts": f"{run.attempt} of {spec['attempts']}" if spec.get("attempts", 1) > 1 else None,
        "hosts": run.renting.shown()["hosts"] if run.renting is not None else [],
    }


def parameters_of(run: Run, spec: dict[str, Any]) -> dict[str, str]:
    return parameters(run.command, spec.get("params"), run.progress)


def best(run: Run) -> dict[str, float | None]:
    """The best value of each metric, or the last one where it is not known which is better."""
    series = run.progress.series if run.progress is not None else ()
    return {one.name: one.last if one.best is None else one.best for one in series}


def _phases(run: Run, events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The states that it went through, and when."""
    moves = [(state.value, moment) for state, moment in run.steps]
    moves += [(event["state"], event["t"]) for event in events if "state" in event]
    ends = [*(moment for _, moment in moves[1:]), run.ended]
    found = [{"state": state, "start": start, "end": end} for (state, start), end in zip(moves, ends, strict=False)]
    return [phase for phase in found if not RunState(phase["state"]).final]
