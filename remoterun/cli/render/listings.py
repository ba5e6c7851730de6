"""Lists of what there is: uploads, runs with files, the files in one, machines, and a machine's checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remoterun.agent.shared.api import Tree
from remoterun.agent.shared.states import FINAL
from remoterun.cli.render.data import out, out_json
from remoterun.cli.render.runs import state_text
from remoterun.cli.render.table import Column, table
from remoterun.cli.render.talk import line
from remoterun.cli.render.terminal import DONE, FAILED, NOT_NEEDED
from remoterun.cli.render.words import ago, files, name, size
from remoterun.model import Run, Upload


def uploads(found: Sequence[Upload], as_json: bool) -> None:
    if as_json:
        out_json([upload.record() for upload in found])
    elif found:
        heads = [
            Column("UPLOAD", least=16),
            Column("VERSION"),
            Column("SIZE", right=True),
            Column("FILES", drop=1),
            Column("WHEN", drop=2),
            Column("MACHINE", least=10, drop=3),
        ]
        table(heads, [_upload_row(upload) for upload in found])
    else:
        line("There is no upload yet. Make one: remoterun upload PATH --name NAME")


def _upload_row(upload: Upload) -> list[str]:
    return [
        f"uploads/{upload.name}",
        f"v{upload.version}",
        size(upload.size),
        files(upload.files),
        ago(upload.created),
        upload.machine,
    ]


def run_resources(runs: Sequence[Run], as_json: bool) -> None:
    if as_json:
        out_json([run.record() for run in runs])
        return
    rows = []
    for run in runs:
        saved = run.outputs or {}
        kept = f"{files(saved.get('files', 0))}, {size(saved.get('size', 0))}" if run.final else "in work"
        rows.append([f"runs/{run.number}", state_text(run), kept, run.command])
    if rows:
        heads = [Column("RESOURCE"), Column("STATE", least=11), Column("OUTPUTS", drop=1), Column("COMMAND", least=14)]
        table(heads, rows)
    else:
        line('There is no run with files yet. Start one: remoterun run "echo hello > file"')


def manifest(resource: str, tree: Any, about: Tree, recursive: bool, as_json: bool) -> None:
    """The files below a resource: one level, folders with what is in them, or every one."""
    if as_json:
        entries = [
            {"path": e.path, "kind": e.kind, "size": e.size, "sha256": e.digest or None, "target": e.target or None}
            for e in tree.entries
        ]
        out_json({"resource": resource, "live": about.live, "folder": about.folder, "entries": entries})
        return
    if not tree.entries:
        goes_on = about.about.get("state") not in (None, *(state.value for state in FINAL))
        line(f"{resource} holds no files{' yet' if goes_on else ''}")
        return
    rows: dict[str, list[Any]] = {}
    for entry in tree.entries:
        first, slash, _ = entry.path.partition("/")
        shown = entry.path if recursive or not slash else first + "/"
        if entry.kind == "d":
            shown = shown.rstrip("/") + "/"
        row = rows.setdefault(shown, [0, 0, entry.target if entry.kind == "l" and not shown.endswith("/") else ""])
        row[0] += entry.size
        row[1] += entry.kind == "f"
    for shown, (total, count, target) in rows.items():
        inside = f"  ({files(count)})" if shown.endswith("/") else ""
        arrow = f" -> {name(target)}" if target else ""
        out(f"{size(total):>10}  {name(shown)}{arrow}{inside}")


def machines(found: Sequence[Any], default: str, aliases: Sequence[str], as_json: bool) -> None:
    if as_json:
        out_json([{**machine.record(), "default": machine.name == default} for machine in found])
        return
    rows = [
        [
            ("* " if machine.name == default else "  ") + machine.name,
            machine.host or "this machine",
            machine.engine,
            str(machine.gpus),
        ]
        for machine in found
    ]
    heads = [
        Column("  MACHINE", least=12),
        Column("HOST", least=12),
        Column("ENGINE", drop=1),
        Column("GPUS", right=True, drop=2),
    ]
    table(heads, rows)
    others = [alias for alias in aliases if alias not in {machine.name for machine in found}]
    if others:
        line(f"also, from your ssh configuration: {', '.join(others[:12])}")
    line("remoterun machines add NAME user@host adds one; * is the default")


def checks(machine: Any, found: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Each check green or red, each red one with the command that mends it."""
    if as_json:
        out_json([{key: check.get(key) for key in ("name", "ok", "detail", "fix")} for check in found])
        return
    width = max(len(check["name"]) for check in found)
    for check in found:
        ok = check["ok"]
        mark = DONE if ok else NOT_NEEDED if ok is None else FAILED
        out(mark, f"{check['name']:<{width}}  {check['detail']}".rstrip())
        if ok is False and check.get("fix"):
            for number, part in enumerate(str(check["fix"]).splitlines()):
                out(f"  {'':<{width}}  {'fix: ' if number == 0 else '     '}{part}")
