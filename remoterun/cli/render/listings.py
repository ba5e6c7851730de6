"""Lists of what there is: uploads, runs with files, the files in one, machines, and a machine's checks."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.api import MachineCheck, Tree
from remoterun.agent.shared.states import FINAL
from remoterun.cli.render.data import out, out_json, out_text
from remoterun.cli.render.rented import hourly
from remoterun.cli.render.runs import show_faults, state_text
from remoterun.cli.render.table import Column, table
from remoterun.cli.render.talk import line
from remoterun.cli.render.terminal import DONE, FAILED, NOT_NEEDED, clean, shortened, terminal_width
from remoterun.cli.render.words import ago, files, name, size
from remoterun.cli.render.wrapping import is_command
from remoterun.machines import HOW_TO_SET_UP_AWS
from remoterun.model import Run, Upload, UploadCopy

if TYPE_CHECKING:
    from remoterun.client import Secret
    from remoterun.config import Config
    from remoterun.providers.base import Identity, Offer

SHORT_DIGEST = 12
MOST_SHOWN = 20
"""Lines of what a question is about."""


def uploads(found: Sequence[Upload], as_json: bool) -> None:
    """Uploads with their newest version, each with the machines that have it."""
    _not_reached(found)
    if as_json:
        out_json([upload.record() for upload in found])
    elif found:
        heads = [
            Column("UPLOAD", least=16),
            Column("VERSION", right=True),
            Column("SIZE", right=True),
            Column("FILES", drop=1),
            Column("WHEN", drop=2),
            Column("MACHINES", least=10, drop=3),
        ]
        table(heads, [[f"uploads/{upload.name}", *_upload_row(upload)] for upload in found])
    else:
        line("There is no upload yet. Make one: `remoterun upload PATH --name NAME`")


def versions(found: Sequence[Upload], as_json: bool) -> None:
    """The versions of an upload, the oldest first."""
    _not_reached(found)
    if as_json:
        out_json([upload.record() for upload in found])
        return
    heads = [
        Column("VERSION", right=True),
        Column("SIZE", right=True),
        Column("FILES", drop=1),
        Column("WHEN", drop=2),
        Column("MACHINES", least=8),
        Column("RUNS", least=8),
        Column("DIGEST", drop=3),
    ]
    rows = [[*_upload_row(upload), ", ".join(map(str, upload.runs)), upload.digest[:SHORT_DIGEST]] for upload in found]
    table(heads, rows)
    if len(found) > 1:
        name = found[-1].name
        line(f"  uploads/{name}@{found[0].version} is the first of them, uploads/{name} the last")


def _upload_row(upload: Upload) -> list[str]:
    """The cells of an upload, from its version on."""
    machines = dict.fromkeys(_copy(copy) for copy in upload.copies) or [upload.machine]
    return [str(upload.version), size(upload.size), files(upload.files), ago(upload.created), ", ".join(machines)]


def _copy(copy: UploadCopy) -> str:
    return copy.machine if copy.fault is None else f"{copy.machine} (seen {ago(copy.seen)})"


def _not_reached(found: Sequence[Upload]) -> None:
    """Warn of the machines that could not be asked, and say why."""
    copies = [copy for upload in found for copy in upload.copies]
    show_faults({copy.machine: copy.fault for copy in copies if copy.fault is not None})


def secrets(found: Sequence[Secret], as_json: bool) -> None:
    if as_json:
        out_json([secret.record() for secret in found])
    elif found:
        heads = [Column("SECRET", least=16), Column("SET"), Column("KEPT IN", least=20)]
        table(heads, [[secret.name, ago(secret.set), secret.where] for secret in found])
    else:
        line("There is no secret yet. Make one: `remoterun secret set NAME`")


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
        line('There is no run with files yet. Start one: `remoterun run "echo hello > file"`')


def to_remove(found: Sequence[tuple[str, Run | Sequence[Upload]]]) -> None:
    """What is about to be removed, before the question: resources, each with its run, or with the versions that it is,
    once for each machine that has one."""
    width = max(len(resource) for resource, _ in found)
    room = terminal_width(sys.stderr) or 100
    for resource, what in found[:MOST_SHOWN]:
        about = ""
        if isinstance(what, Run):
            about = f"{state_text(what)}, {ago(what.ended or what.created)}  {what.command}"
        elif what:
            count = len({upload.version for upload in what})
            several = f"{count} versions" if count > 1 else size(what[0].size)
            about = f"{several}, on {', '.join(dict.fromkeys(upload.machine for upload in what))}"
        line(shortened(f"  {clean(resource):<{width}}  {clean(about)}".rstrip(), room))
    if len(found) > MOST_SHOWN:
        line(f"  … and {len(found) - MOST_SHOWN} more")


def manifest(resource: str, tree: Any, about: Tree, levels: int | None, as_json: bool) -> None:
    """The files below a resource: so many levels, folders with what is in them; None: every one."""
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
        parts = entry.path.split("/")
        shown = entry.path if levels is None or len(parts) <= levels else "/".join(parts[:levels]) + "/"
        if entry.kind == "d":
            shown = shown.rstrip("/") + "/"
        row = rows.setdefault(shown, [0, 0, entry.target if entry.kind == "l" and not shown.endswith("/") else ""])
        row[0] += entry.size
        row[1] += entry.kind == "f"
    for shown, (total, count, target) in rows.items():
        inside = f"  ({files(count)})" if shown.endswith("/") else ""
        arrow = f" -> {name(target)}" if target else ""
        out(f"{size(total):>10}  {name(shown)}{arrow}{inside}")


def machines(
    found: Sequence[Any], default: str, aliases: Sequence[str], offers: Mapping[str, Offer], as_json: bool
) -> None:
    """`offers`: what is rented for a name."""
    own = {machine.name for machine in found}
    if as_json:
        rented = [{"name": name, **offer.__dict__, "default": name == default} for name, offer in offers.items()]
        mine = [{**machine.record(), "default": machine.name == default} for machine in found]
        out_json(mine + [each for each in rented if each["name"] not in own])
        return
    rows = [
        [
            ("* " if machine.name == default else "  ") + machine.name,
            _place(machine),
            "" if machine.pool else machine.engine,
            "" if machine.pool else str(machine.gpus),
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
    others = [alias for alias in aliases if alias not in own]
    if others:
        line(f"also, from your ssh configuration: {', '.join(others[:12])}")
    _rented({name: offer for name, offer in offers.items() if name not in own}, default)
    line("* is the default; `remoterun machines add NAME user@host` adds one")
    if not offers:
        line(HOW_TO_SET_UP_AWS)


def _place(machine: Any) -> str:
    if machine.pool:
        return f"pool: {', '.join(machine.pool)}"
    if machine.rental is None:
        return machine.host or "this machine"
    spot = " spot" if machine.rental.spot else ""
    return f"{machine.rental.provider}{spot}: {', '.join(machine.rental.types)}"


def _rented(offers: Mapping[str, Offer], default: str) -> None:
    """The table of what is rented for a run."""
    if not offers:
        return
    out("")
    rows = [
        [
            ("* " if name == default else "  ") + name,
            offer.type,
            str(offer.vcpus or ""),
            f"{offer.memory:g} GiB" if offer.memory else "",
            f"{offer.gpus} × {offer.gpu} {offer.gpu_memory:g} GiB" if offer.gpus else "",
            hourly(offer.price) if offer.price is not None else "",
        ]
        for name, offer in offers.items()
    ]
    heads = [
        Column("  RENTED", least=12),
        Column("TYPE"),
        Column("VCPUS", right=True, drop=2),
        Column("MEMORY", right=True, drop=1),
        Column("GPUS", least=8),
        Column("SPOT" if next(iter(offers.values())).spot else "PRICE", right=True),
    ]
    table(heads, rows)
    region = next(iter(offers.values())).region
    dates = sorted({offer.priced for offer in offers.values() if offer.priced})
    of = f", prices {'of now' if dates == ['now'] else f'of {dates[-1]}'}" if dates else ""
    line(f"rented in {region} for each run{of}, without disk and traffic")


def whoami(config: Config, identity: Identity | None, as_json: bool) -> None:
    rows = {
        "user": getpass.getuser(),
        "machine": socket.gethostname(),
        "home": str(config.home),
        "default": config.default,
        "aws": identity.name if identity is not None else None,
        "account": identity.account if identity is not None else None,
        "region": identity.region if identity is not None else None,
        "bucket": config.aws.bucket,
    }
    if as_json:
        out_json(rows)
        return
    for head, value in rows.items():
        if value:
            out(f"{head:<9}{value}")
    if identity is None:
        line(HOW_TO_SET_UP_AWS)


def check_records(found: Sequence[MachineCheck]) -> list[dict[str, Any]]:
    """Checks as JSON has them."""
    return [{key: getattr(check, key) for key in ("name", "ok", "detail", "fix")} for check in found]


def checks(found: Sequence[MachineCheck], as_json: bool) -> None:
    """Each check green or red, each red one with the command that mends it."""
    if as_json:
        out_json(check_records(found))
        return
    width = max(len(check.name) for check in found)
    for check in found:
        mark = DONE if check.ok else NOT_NEEDED if check.ok is None else FAILED
        out_text(mark, f"{check.name:<{width}}  {check.detail}".rstrip(), hang=width + 4)
        if check.ok is False and check.fix:
            for number, part in enumerate(check.fix.splitlines()):
                title = "fix: " if number == 0 else "     "
                out_text(f"{'':<{width + 4}}{title}{part}", hang=width + 9, command=is_command(part))
