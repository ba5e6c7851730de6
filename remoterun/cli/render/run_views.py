"""Runs: the table of them, all that is known of one, how one ended or goes on, and what differs between two."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.asked import memory_text
from remoterun.agent.shared.facts import BYTES, DOLLARS, DURATION, MOMENT, Column
from remoterun.agent.shared.measured import rank
from remoterun.agent.shared.records import Record
from remoterun.agent.shared.spec import NONE, PYTHON, TENSORFLOW
from remoterun.agent.shared.states import FINAL, INCOMPLETE, Reason, RunState, Usage
from remoterun.cli.render import hint, line, out, out_bytes, out_text, table, warning
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    Text,
    brief,
    brief_ago,
    counted,
    dollars,
    duration,
    files,
    hourly,
    is_terminal,
    name,
    paint,
    shortened,
    size,
    when,
)
from remoterun.clouds import ARCHIVE, front
from remoterun.errors import HomeMissing, HostError, NoAnswerInTime
from remoterun.model import HostUse, Run

if TYPE_CHECKING:
    from remoterun.client.runs.comparing import Difference, FileChange


JUST_ENDED = 60.0
"""Seconds after its end in which a run's host is spoken of: later it may be gone."""
OF_LATE = 86400.0
"""Seconds after its end in which `ps` speaks of a run that can go on."""
_BARS = "▁▂▃▄▅▆▇█"
NOTE = 30
"""Columns of what a run waits for, in the table."""

_COLOURS = {
    RunState.COMPLETE: "32",
    RunState.FAILED: "31",
    RunState.RUNNING: "36",
    RunState.STOPPED: "33",
    RunState.KILLED: "33",
    RunState.INTERRUPTED: "33",
}


def in_rows(runs: Sequence[Run], rows: int) -> int:
    """How many of the newest of these runs stand in so many rows, where a set has one."""
    places: dict[str, None] = {}
    for count, run in enumerate(run for run in reversed(runs) if not run.hidden):
        places[run.of.key if run.of is not None else run.key] = None
        if len(places) > rows:
            return count
    return len(runs)


def runs_table(
    runs: Sequence[Run], verbose: bool, fold: bool = False, columns: Mapping[str, Sequence[str]] = {}
) -> None:
    """A row for each run; with `fold` one for each set. With `verbose` a line below it has its engine, labels, loss and
    description. `columns`: further ones behind the state, by their heads, for which the command makes room."""
    shown = [(name, each.column) for name, each in Run._facts.items() if each.column is not None]
    shown.sort(key=lambda column: column[0] == "command")  # the widest comes last
    sets: dict[str, list[Run]] = {}
    for run in runs:
        sets.setdefault(run.of.key if fold and run.of is not None else run.key, []).append(run)
    heads = [column._replace(drop=1) if columns and fact == "command" else column for fact, column in shown]
    heads[2:2] = [Column(name(head), right=True, least=6, drop=9) for head in columns]
    rows = [[_cell_of_set(of, fact) if of[1:] else _cell(of[0], fact) for fact, _ in shown] for of in sets.values()]
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=False):
        row[2:2] = map(name, cells)
    about = [[run.engine, ", ".join(run.labels), _loss(run), run.description] for run, *_ in sets.values()]
    more = [" · ".join(filter(None, each)) for each in about]
    table(heads, rows, more if verbose else ())


def _cell(run: Run, fact: str) -> Text:
    """A fact in the table of runs."""
    if fact == "state":
        colour = _COLOURS.get(run.state)
        return paint(_state_and_place(run), colour) if colour else _state_and_place(run)
    if fact == "started":
        return "" if run.started is None else brief((run.ended or time.time()) - run.started)
    short = {"machine": lambda: run.where, "created": lambda: brief_ago(run.created), "renting": lambda: cost_text(run)}
    return short[fact]() if fact in short else _shown(run, fact) or ""


def _cell_of_set(runs: Sequence[Run], fact: str) -> Text:
    """A fact of a set in the table of runs: how many of them have ended, and the best value and whose it is."""
    if fact == "number":
        return spans(run.number for run in runs)
    if fact == "state":
        ended = sum(run.final for run in runs)
        failed = ended - sum(run.state is RunState.COMPLETE for run in runs)
        text = f"{ended} of {len(runs)} done" + (f", {failed} failed" if failed else "")
        colour = _COLOURS[RunState.FAILED if failed else RunState.COMPLETE if ended == len(runs) else RunState.RUNNING]
        return paint(text, colour)
    if fact == "command":
        from remoterun.client.data.metrics import best_first

        metric, [(best, value), *_] = best_first(runs)
        names = " × ".join(runs[0].of.params) if runs[0].of is not None else ""
        return names + (f": best {name(metric)} {value:.3g} (run {best.number})" if value is not None else "")
    return _cell(runs[0], fact) if fact in ("machine", "created") else ""


_INFO: dict[str, Callable[[Run], str | None]] = {
    "machine": lambda run: _machine(run),
    "note": lambda run: run.note if not run.final and run.line is None else None,
    "outputs": lambda run: f"{files(run.outputs.files)}, {size(run.outputs.size)}" if run.outputs else None,
    "progress": lambda run: _loss(run),
    "usage": lambda run: _used(run.usage) if run.usage is not None else None,
}
"""Facts that have words of their own."""
_FORMS: dict[str, Callable[[Any], str]] = {MOMENT: when, DURATION: duration, BYTES: size, DOLLARS: dollars}


def _shown(run: Run, fact: str) -> str | None:
    """A fact for people; None where there is nothing to say."""
    value = getattr(run, fact)
    if fact in _INFO:
        return _INFO[fact](run)
    if value in (None, False, "", ()):
        return None
    if isinstance(value, tuple) and not isinstance(value, Record):
        return ", ".join(map(str, value))
    show = _FORMS.get(Run._facts[fact].form, str)
    return "yes" if value is True else show(value)


def _used(usage: Usage) -> str:
    """What a run used, in lines."""
    lines = [f"{usage.cpu:.0f} % of one CPU, on average", f"{size(usage.memory)} of memory at most"]
    return "\n".join([*lines, *([f"{size(usage.gpu_memory)} of GPU memory at most"] if usage.gpu_memory else [])])


def _loss(run: Run) -> str | None:
    """How it went, at a glance: `█▄▂▁ 3.41 → 1.82`."""
    series = {each.name: each for each in run.progress.series} if run.progress is not None else {}
    others = [name for name in series if rank(name)[0] <= 1]
    found = next((series[name] for name in ("train_loss", "loss", "val_loss", *others) if name in series), None)
    if found is None or found.first is None or found.last is None:
        return None
    return f"{sparkline(found.spark, 16)} {found.first:.3g} → {found.last:.3g}"


def sparkline(values: Sequence[float], most: int) -> str:
    """A bar for each value, or for so many of them, evenly."""
    shown = [values[at * (len(values) - 1) // (most - 1)] for at in range(most)] if len(values) > most else values
    least, span = min(shown, default=0.0), max(shown, default=0.0) - min(shown, default=0.0) or 1.0
    return "".join(_BARS[round((value - least) / span * 7)] for value in shown)


def _state_and_place(run: Run) -> str:
    """The state, and what a run waits for."""
    is_told = not run.final and (run.started is None or run.state is RunState.SAVING)
    waits = run.line.brief if run.line is not None else run.note if is_told else None
    return f"{state_text(run)}, {shortened(waits, NOTE)}" if waits else state_text(run)


def state_text(run: Run) -> str:
    """The state with what a reader wants to know of it."""
    text = run.state.value
    if run.final:
        return f"{text} ({run.code})" if run.code not in (None, 0) else text
    if not run.reachable:
        return f"{text}, seen {brief_ago(run.last_seen or run.created)}"
    return f"{text}, stopping" if run.stopping else text


def not_reached(runs: Iterable[Run]) -> None:
    """Warn of the machines that could not be asked, and say why."""
    show_faults({run.host.name: run.fault for run in runs if run.fault is not None})


def show_faults(faults: Mapping[str, HostError]) -> None:
    """Warn of machines that could not be asked. `faults` says why, by the name of the machine."""
    for fault in faults.values():
        more = " (--wait 30s waits longer)" if isinstance(fault, NoAnswerInTime) else ""
        warning(f"{fault.message}{more}; what is shown of it was known before")
        hint(fault.hint if isinstance(fault, HomeMissing) else None)


def kept(run: Run, reason: str) -> None:
    """Before a log that is read from this machine."""
    warning(f"{reason}; this is the log of run {run.number} as it was kept here")


def spans(numbers: Iterable[int], dash: str = "–") -> str:
    """Numbers in order, those that follow each other as `12–17`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return (", " if dash == "–" else " ").join(f"{a}{dash}{b}" if a != b else str(a) for a, b in found)


def ended(run: Run) -> None:
    """How a run ended, in one line."""
    lasted = f" after {duration(run.ended - run.started)}" if run.ended and run.started else ""
    status = f", exit status {run.code}" if run.code is not None else ""
    mark = DONE if run.state is RunState.COMPLETE else FAILED
    line(mark, f"run {run.number} {run.state.value}{lasted}{status}{_why(run)}")


def _why(run: Run) -> str:
    """Why a run ended, where its state and its exit status do not say it."""
    if run.words is None or run.state is RunState.COMPLETE or run.reason is Reason.EXIT_NONZERO:
        return ""
    return f": {run.words}"


def ending(run: Run) -> None:
    """How a run ended, in one line or two, and what to do with what it left."""
    ended(run)
    if run.message:
        line(f"  {run.message}")
    if run.renting is not None and run.renting.hosts:
        line(f"  it cost {cost_text(run)}" if cost_text(run) else "  what it cost is not known")
        gone = run.ended is None or run.reason in (Reason.HOST_LOST, Reason.PREEMPTED)
        if run.ended is not None and not gone and time.time() - run.ended < JUST_ENDED:
            host_goes_on(run.renting.given_back_at(run.ended).hosts[-1])
    if run.outputs and run.outputs.files:
        saved = f"{files(run.outputs.files)} saved ({size(run.outputs.size)})"
        line(f"  {saved}: `remoterun ls runs/{run.number}` · `remoterun cp runs/{run.number}`")


def can_go_on(runs: Iterable[Run]) -> None:
    """Say which runs were interrupted of late and may be given another rented host."""
    for run in runs:
        if run.ended is None or time.time() - run.ended >= OF_LATE:
            continue
        if INCOMPLETE in (run.message or ""):
            line(f"run {run.number}: {run.message}")
        if run.continuable:
            line(f"run {run.number} can go on: `remoterun continue {run.number}` rents it another host, if you agree")


def detached(run: Run, has_ports: bool = False) -> None:
    """After ^C: what goes on, and what to type about it."""
    line("")
    line(f"run {run.number} goes on without this terminal")
    line(f"  remoterun logs {run.number}   shows its log again, live until it ends")
    if has_ports:
        line(f"  remoterun forward {run.number}   reaches its ports again")
    line(f"  remoterun stop {run.number}   ends it; its outputs are saved")
    line(f"  remoterun kill {run.number}   ends it at once; no outputs are saved")


def _machine(run: Run) -> str:
    if run.machine.rental is not None:
        return f"{run.machine.name} (rented)"
    if run.machine.pool and run.placed is None:
        return f"{run.machine.name} (a pool)"
    name = f"{run.host.name} of {run.machine.name}" if run.machine.pool else run.machine.name
    return f"{name} ({run.host.host or 'this machine'})"


def _hosts(run: Run) -> list[tuple[str, str | None]]:
    """The rows about a run's rented hosts."""
    if run.renting is None:
        return []
    hosts = [
        f"{host.id}, {host.type}{f' in {host.zone}' if host.zone else ''}{_host_end(host)}"
        for host in run.renting.hosts
    ]
    ended = bool(run.renting.hosts and run.renting.hosts[-1].ended_by)
    attempts = f"{run.renting.attempt} of {run.renting.attempts}" if run.renting.attempts > 1 else None
    name = run.machine.rental.provider if run.machine.rental is not None else ARCHIVE
    guard = f"{front(name).title} itself" if hosts and run.renting.hosts[-1].guarded else front(name).unguarded
    return [
        ("hosts", "\n".join(hosts)),
        ("attempt", attempts),
        ("goes on", f"remoterun continue {run.number}   rents it another host" if run.continuable else None),
        ("cost", cost_text(run)),
        ("ends", f"{when(run.renting.deadline)}, at the latest" if not run.final and not ended else None),
        ("guard", None if ended or not hosts else guard),
        ("bucket", run.renting.bucket),
    ]


def _host_end(host: HostUse) -> str:
    """When a host itself ended, and by whom."""
    if host.ended_by and host.idle_end is not None:
        return f"\n  ended {when(host.idle_end)}, {host.ended_by}"
    return ", which is gone" if host.gone else ""


def _attempt(spec: dict[str, Any], events: list[dict[str, Any]]) -> str | None:
    """`2 of 3`: the attempt that a machine of the user's own is at; None where there is only one."""
    attempts = spec.get("attempts", 1)
    return f"{max([1, *(event.get('attempt', 1) for event in events)])} of {attempts}" if attempts > 1 else None


def _after(other: dict[str, Any]) -> str:
    return f"run {other['number']}{' however it ends' if other.get('any') else ''}"


def _mounted(mount: dict[str, Any]) -> str:
    version = mount.get("resource", {}).get("version")
    return f"{mount['typed']}{f' (version {version})' if version else ''} at {mount['path']}"


def _after_the_end(events: Sequence[dict[str, Any]]) -> list[str]:
    """What was noted once the run had ended."""
    ends = [place for place, event in enumerate(events) if event.get("state") in {state.value for state in FINAL}]
    return [event["note"] for event in events[ends[0] :] if "note" in event] if ends else []


def _framework(environment: dict[str, Any]) -> str | None:
    """The framework of an environment, in the word that `--framework` takes."""
    if not environment or environment.get("image"):
        return None
    variant = environment.get("variant")
    return variant if variant in (PYTHON, NONE) else TENSORFLOW


def run_info(run: Run, details: dict[str, Any]) -> None:
    """All that is known of a run, a line each."""
    spec = details["spec"] or {}
    git = spec.get("git") or {}
    environment = spec.get("environment", {})
    secrets = spec.get("secrets", {})
    if spec.get("after"):
        run = run._replace(note=None)  # it says the same
    code = "" if run.code is None else f", exit status {run.code}"
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    rows = [
        ("run", f"{run.number} ({run.key})"),
        ("state", state_text(run).partition(" (")[0] + code + _why(run)),
        *((each.info, _shown(run, name)) for name, each in Run._facts.items() if each.info),
        ("duration", duration(run.ended - run.started) if run.ended and run.started else None),
        *_hosts(run),
        ("rerun of", f"run {details['again_of']}" if details.get("again_of") else None),
        ("run again as", ", ".join(f"run {number}" for number in details.get("again_as") or ())),
        ("attempt", _attempt(spec, details.get("events") or [])),
        ("gpus", str(spec["gpus"]) if spec.get("gpus") else None),
        ("nodes", str(spec["nodes"]) if spec.get("nodes") else None),
        ("cpus", str(spec["cpus"]) if spec.get("cpus") else None),
        ("memory", memory_text(spec["memory"]) if spec.get("memory") else None),
        ("after", ", ".join(map(_after, spec.get("after", [])))),
        ("commit", f"{git['commit'][:12]} ({git.get('branch') or 'no branch'}{dirty})" if git.get("commit") else None),
        ("remote", git.get("remote")),
        ("started in", spec.get("workdir") or None),
        ("mounts", "\n".join(map(_mounted, spec.get("mounts", [])))),
        ("framework", _framework(environment)),
        ("variables", ", ".join(name for name in spec.get("asked_env", []) if name not in secrets)),
        ("secrets", ", ".join(name if name == at else f"{name} as {at}" for at, name in secrets.items())),
        ("notify", ", ".join(spec.get("notify", []))),
        ("image", environment.get("image")),
        ("apt", ", ".join(environment.get("apt", []))),
        ("pip", ", ".join(environment.get("pip", []))),
        ("requirements", environment.get("requirements")),
        ("timeout", duration(spec["timeout"]) if spec.get("timeout") else None),
        ("since then", "\n".join(_after_the_end(details.get("events") or []))),
        ("folder", details.get("folder")),
    ]
    for head, text in rows:
        if text:
            for number, part in enumerate(str(text).split("\n")):
                out_text(f"{'' if number else head:<14}{part}", hang=14, command=head == "command")


_DIFF_COLOURS = {"-": "31", "+": "32", "@": "36"}


def difference(found: Difference, stat: bool) -> None:
    """All of it, or, with `stat`, of files only how much."""
    rows = [("run", (str(found.before.number),), (str(found.after.number),)), *found.facts]
    times = tuple((duration(time) if time is not None else "",) for time in found.durations)
    if times[0] != times[1]:
        rows.append(("duration", times[0], times[1]))
    wide = max(len(row[0]) for row in rows) + 2
    for head, before, after in rows:
        for mark, lines in (("-", before), ("+", after)):
            for text in lines:
                out(f"{head:<{wide}}"[:-1], paint(f"{mark} {text}", _DIFF_COLOURS[mark]))
                head = ""
    if found.files:
        out("")
    elif len(rows) == 1:
        line("Nothing else differs between these runs")
    if stat:
        _stat(found.files)
    elif is_terminal(sys.stdout):
        for change in found.files:
            for part in change.lines:
                colour = "1" if part.startswith(("diff ", "--- ", "+++ ")) else _DIFF_COLOURS.get(part[:1])
                out(paint(part, colour) if colour else part)
    else:  # as it is, for `git apply`
        text = "".join(f"{part}\n" for change in found.files for part in change.lines)
        out_bytes(text.encode(errors="surrogateescape"))


def _stat(changes: tuple[FileChange, ...]) -> None:
    if not changes:
        return
    wide = max(len(name(change.path)) for change in changes)
    added = removed = 0
    for change in changes:
        more, less = change.count("+"), change.count("-")
        added, removed = added + more, removed + less
        counts = [paint(f"+{more}", "32"), paint(f"-{less}", "31")] if change.hunks else [" → ".join(change.sizes)]
        out(f"{name(change.path):<{wide}} |", *counts)
    out(f"{files(len(changes))} changed, {counted(added, 'line')} added, {removed} removed")


def cost_text(run: Run) -> str:
    """What a run's hosts have cost, so far; "" for a run that rents none, or if it is not known."""
    return dollars(run.cost(time.time()))


def host_goes_on(use: HostUse) -> None:
    """What a host goes on to cost that stays for another run."""
    until = use.idle_end
    if until is None or until <= time.time():
        return
    cost = replace(use, began=use.ended or until, ended=until).cost(until, at_most=True)
    most = "" if cost is None else f" ({dollars(cost)} at the most)"
    line(f"  its host stays for another run, at {hourly(use.hourly)}, until {when(until)}{most}")
    line(f"  `remoterun machines rm {use.id}` ends it now")
