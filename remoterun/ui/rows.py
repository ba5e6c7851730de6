"""What the page shows of each noun, as JSON. Times in seconds since 1970, sizes in bytes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.facts import DOLLARS, DURATION
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import RunState
from remoterun.client.data.metrics import outlook, parameters
from remoterun.clouds.base import RentedHost
from remoterun.model import Run, Upload

if TYPE_CHECKING:
    from remoterun.client.occupancy import MachineStatus

LONGEST = 1000
"""Characters of a text that a row has."""
MOST_PARAMS, LONGEST_PARAM = 32, 100
"""Parameters of a row, and characters of the value of one."""
ON_PAGE = tuple((name, each) for name, each in Run._facts.items() if each.page is not None)
OF_PROGRESS = ("step", "total", "alerts", "unread", "left_out")
OF_SPEC: dict[str, Any] = {"git": None, "mounts": [], "environment": None, "ports": []}


def row(run: Run, now: float) -> dict[str, Any]:
    known, cost = run.progress, run.cost(now)
    progress = None
    if known is not None:
        ahead = {name: value if value is None else round(value, 2) for name, value in vars(outlook(run, now)).items()}
        progress = {name: getattr(known, name) for name in OF_PROGRESS} | ahead
        progress["series"] = [to_json(series) for series in known.series]
    facts = {each.json or name: to_json(getattr(run, name)) for name, each in ON_PAGE}
    facts["why"] = str(run.line or "") or (run.words if run.final and run.state is not RunState.COMPLETE else None)
    facts["note"] = run.note or (None if run.message == run.words else run.message)
    return {
        **{name: value[:LONGEST] or None if isinstance(value, str) else value for name, value in facts.items()},
        "machine": run.where,
        "params": _params(run),
        "unreached": run.unreached,
        "cost": cost and round(cost, 4),
        "progress": progress,
        "figures": _figures(run, cost, progress or {}),
    }


def _params(run: Run) -> dict[str, str]:
    """The parameters by which the list filters and sorts; `about` has those of the spec, too."""
    found = parameters(run.command[:LONGEST], run.params, run.progress)
    short = [(name, value) for name, value in found.items() if len(name) <= LONGEST_PARAM]
    return {name: str(value)[:LONGEST_PARAM] for name, value in short[-MOST_PARAMS:]}  # what it was given comes last


def _figures(run: Run, cost: float | None, progress: Mapping[str, Any]) -> list[list[Any]]:
    """What the page says of a run in its one line: words, with {} in the place of the value, its form, the value, and
    whether the list says it, too."""
    shown = [(name, each) for name, each in ON_PAGE if each.page]
    facts = [[each.page, each.form, to_json(getattr(run, name)), each.column is not None] for name, each in shown]
    left = progress.get("left") if run.state is RunState.RUNNING else None
    ahead = None if run.final or cost is None else progress.get("cost_left")
    known = [["about {} left", DURATION, left, True], ["{}" if run.final else "{} so far", DOLLARS, cost, True]]
    return [each for each in [*facts, *known, ["{} more to the end", DOLLARS, ahead, False]] if each[2]]


def about(run: Run, details: dict[str, Any], diff: bytes) -> dict[str, Any]:
    """What is known of one besides its row; `details` as `Runs.info` has them, and `diff` what was not committed."""
    spec = details["spec"] or {}
    return {
        **details,
        **{name: spec.get(name, empty) for name, empty in OF_SPEC.items()},
        "params": parameters_of(run, spec),
        "cut_at": outlook(run, time.time(), spec).cut_at,
        "phases": _phases(run, details["events"] or ()),
        "diff": diff.decode(errors="replace"),
        "attempts": f"{run.attempt} of {spec['attempts']}" if spec.get("attempts", 1) > 1 else None,
        "hosts": run.renting.shown()["hosts"] if run.renting is not None else [],
    }


def parameters_of(run: Run, spec: dict[str, Any]) -> dict[str, str]:
    return parameters(run.command, spec.get("params"), run.progress)


def best(run: Run) -> dict[str, float | None]:
    """The best value of each metric, or the last one where it is not known which is better."""
    series = run.progress.series if run.progress is not None else ()
    return {one.name: one.last if one.best is None else one.best for one in series}


def machine(status: MachineStatus) -> dict[str, Any]:
    about = {"name": status.machine.name, "kind": status.machine.reached_by, "unreached": status.unreached}
    there = status.there
    if there is None:
        return about
    runs = [(number, run) for run in there.runs if (number := status.numbers.get(run.key)) is not None]
    used = [(f"{gpu.name}, {gpu.memory_used} of {gpu.memory} MiB", gpu.others) for gpu in there.gpus]
    return {
        **about,
        "runs": [{"number": number, "state": run.state.value, "command": run.command} for number, run in runs],
        "line": sum(run.place > 0 for run in there.runs),
        "gpus": [", ".join([text, *(f"{user.name} of {user.user}" for user in users)]) for text, users in used],
        "disk": {"free": there.disk_free, "total": there.disk},
        "load": there.load,
    }


def rented(host: RentedHost, now: float) -> dict[str, Any]:
    about = {"id": host.id, "type": host.offer.type, "region": host.offer.region, "state": host.state}
    return {**about, "cost": host.cost(now), "ends": host.deadline, "run": host.number if host.ours else None}


def upload(newest: Upload, known: Iterable[Upload]) -> dict[str, Any]:
    versions = {
        each.version: {
            **{name: getattr(each, name) for name in ("size", "files", "created")},
            "number": each.version,
            "read_by": each.runs,
        }
        for each in known
    }
    where = [copy.machine for copy in newest.copies]
    return {"name": newest.name, "versions": [versions[number] for number in sorted(versions)], "where": where}


def _phases(run: Run, events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The states that it went through, and when."""
    steps = {"provisioning": run.provisioning, "uploading": run.uploading}
    moves = [(state, moment) for state, moment in steps.items() if moment is not None]
    moves += [(event["state"], event["t"]) for event in events if "state" in event]
    ends = [*(moment for _, moment in moves[1:]), run.ended]
    found = [{"state": state, "start": start, "end": end} for (state, start), end in zip(moves, ends, strict=False)]
    return [phase for phase in found if not RunState(phase["state"]).final]
