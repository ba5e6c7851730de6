"""Who uses which machine: its GPUs, its slots, its lines, its load."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared import api
from remoterun.agent.shared.records import to_json
from remoterun.cli.render.data import out, out_json
from remoterun.cli.render.terminal import clean, paint, shortened, terminal_width
from remoterun.cli.render.words import ago, counted, duration, size
from remoterun.model import Line, about

if TYPE_CHECKING:
    from remoterun.client import MachineStatus

HEAD = 9
"""Columns before what a line says."""


def machines_status(found: Sequence[MachineStatus], as_json: bool) -> None:
    if as_json:
        out_json([_record(status) for status in found])
        return
    width = terminal_width(sys.stdout)
    for number, status in enumerate(found):
        if number:
            out("")
        if status.there is None:
            seen = f", last seen {ago(status.last_seen)}" if status.last_seen is not None else ""
            out(paint(status.machine.name, "1"), f"is away{seen}")
            _line("", status.unreached or "", width)
            continue
        out(paint(status.machine.name, "1"), f"({status.machine.host or 'this machine'})")
        for head, text in _lines(status, status.there):
            _line(head, text, width)


def _line(head: str, text: str, width: int | None) -> None:
    line = clean(f"  {head:<{HEAD}}{text}" if head else f"  {text}")
    out(line if width is None else shortened(line, width))


def _lines(status: MachineStatus, there: api.Occupancy) -> Iterator[tuple[str, str]]:
    """What is said of a machine: each line with its head."""
    yield "load", f"{there.load:.1f} on {there.cpus} cores; {_free(there.memory_free, there.memory)} of memory free"
    yield "disk", f"{_free(there.disk_free, there.disk)} free"
    runs = {run.key: run for run in there.runs if not run.place}
    for gpu in there.gpus:
        used = f"{size(gpu.memory_used << 20)} of {size(gpu.memory << 20)}"
        yield f"GPU {gpu.number}", f"{gpu.name}, {used}: {_user(status, gpu, runs)}"
    if there.gpus_unknown is not None:
        yield "GPUs", there.gpus_unknown
    plain = [run for run in runs.values() if not run.gpus]
    for run in plain:
        yield "slot", _running(status, run)
    yield "slots", f"{max(there.slots - len(plain), 0)} of {there.slots} free"
    for run in there.runs:
        if run.place:
            line = Line(status.machine.name, run.place, run.of, run.starts_in)
            needs = f" for {counted(run.gpus, 'GPU')}" if run.gpus else ""
            yield "waits", f"{_named(status, run)}, {line.brief}{needs}: {run.command}"


def _user(status: MachineStatus, gpu: api.GpuThere, runs: dict[str, api.RunThere]) -> str:
    if gpu.run:
        return _running(status, runs[gpu.run]) if gpu.run in runs else "a run"
    users = [f"{each.name}{f' of {each.user}' if each.user else ''} (process {each.pid})" for each in gpu.others]
    return ", ".join(users) or "free"


def _running(status: MachineStatus, run: api.RunThere) -> str:
    since = f" for {duration(run.running)}" if run.running is not None else ""
    left = f", {about(run.ends_in)} left" if run.ends_in is not None and run.running is not None else ""
    return f"{_named(status, run)}, {run.state.value}{since}{left}: {run.command}"


def _named(status: MachineStatus, run: api.RunThere) -> str:
    number = status.numbers.get(run.key)
    return "a run of another client" if number is None else f"run {number}"


def _free(free: int, total: int) -> str:
    return f"{size(free)} of {size(total)}"


def _record(status: MachineStatus) -> dict[str, Any]:
    about_it: dict[str, Any] = {} if status.there is None else to_json(status.there)
    for run in about_it.get("runs", ()):
        run["number"] = status.numbers.get(run["key"])
    for name in ("free", "before", "starts_in", "lacks"):  # of a run that nobody asked for
        about_it.pop(name, None)
    return {
        "name": status.machine.name,
        "host": status.machine.host,
        "reachable": status.there is not None,
        "unreached": status.unreached,
        "last_seen": time.time() if status.there is not None else status.last_seen,
        **about_it,
    }
