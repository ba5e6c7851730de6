"""Uploads, the files of runs, secrets, what a transfer did, and a page that is served."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.api import Tree
from remoterun.agent.shared.states import FINAL
from remoterun.cli.render.figures import ago, brief_ago, files, name, size, word
from remoterun.cli.render.output import Column, finish, out, out_json, table
from remoterun.cli.render.run_views import show_faults, state_text
from remoterun.cli.render.talk import line, warning
from remoterun.cli.render.terminal import DONE, clean, shortened, terminal_width
from remoterun.client import json_shapes
from remoterun.model import Run, Upload, UploadCopy

if TYPE_CHECKING:
    from remoterun.client import Secret


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
    return [str(upload.version), size(upload.size), files(upload.files), brief_ago(upload.created), ", ".join(machines)]


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
        table(heads, [[secret.name, brief_ago(secret.set), secret.where] for secret in found])
    else:
        line("There is no secret yet. Make one: `remoterun secret set NAME`")


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
        out_json(json_shapes.files(resource, tree, about))
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


def uploaded(done: Any, as_json: bool, folder: str = "") -> None:
    """What an upload did, its path, and the line that mounts it: at `folder` ("": the name of the upload)."""
    upload = done.upload
    for text in done.warnings:
        warning(text)
    if as_json:
        out_json(json_shapes.uploaded(done))
        return
    path = f"uploads/{upload.name}"
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to send: {path} has this content already (version {upload.version})")
    else:
        already = _already(done.sent.already, upload.size)
        line(f"Uploaded {content}{already}: {path} (version {upload.version}) on {upload.machine}")
    mount = f"{path}:{folder}" if folder and folder != upload.name else path
    line(f"  remoterun run --mount {word(mount)} COMMAND   finds it in ./{name(folder or upload.name)}")
    out(path)


def added(done: Any, as_json: bool) -> None:
    """What adding files to an upload did, and its path."""
    if as_json:
        uploaded(done, as_json)
        return
    for text in done.warnings:
        warning(text)
    upload = done.upload
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to add: uploads/{upload.name} has this content already (version {upload.version})")
    else:
        line(
            f"Added {size(done.sent.size + done.sent.already)}: uploads/{upload.name} (version {upload.version}) on"
            f" {upload.machine} has {content}"
        )
    out(f"uploads/{upload.name}")


def _already(already: int, total: int) -> str:
    """How much the machine had already; where the rounded sizes are equal, how much it did not have."""
    if not already:
        return ""
    if size(already) != size(total):
        return f", {size(already)} of it there already"
    return f", all{f' but {size(total - already)}' if total > already else ''} of it there already"


def not_finished(command: str, here: bool = False) -> None:
    """After ^C: says that what has arrived stays, and how to go on."""
    line("")
    line(f"Not finished. What has arrived stays {'here' if here else 'there'}; to go on:")
    line(f"  {command}")


def fetched(result: Any, resource: str, as_json: bool = False) -> None:
    """What a copy to here did, and where it went; where nothing was copied, why."""
    copy_warnings(result)
    if as_json:
        out_json(json_shapes.fetched(result))
        return
    where = name(_here(result.place))
    if result.files or result.damaged:
        already = f", {size(result.there)} of it here already" if result.there else ""
        line(DONE, f"Copied {files(result.files)}, {size(result.size)}{already}, to {where}")
        if result.unchanged:
            line(f"  {files(result.unchanged)} {'was' if result.unchanged == 1 else 'were'} here already")
    elif result.unchanged:
        every = "all " if not result.skipped and result.unchanged > 2 else ""
        same = f"{files(1)} is" if result.unchanged == 1 else f"{every}{files(result.unchanged)} are"
        one = os.path.isfile(result.place)
        line(f"Nothing to copy: {where} is the same already" if one else f"Nothing to copy: {same} in {where} already")
    elif not result.listed:
        line(f"Nothing to copy: {name(resource)} holds no files{' yet' if result.live else ''}")
    elif not result.skipped:
        line(DONE, f"Copied no file, only links or empty folders, to {where}")
    if result.skipped:
        line(f"  Kept {files(len(result.skipped))} that existed")


def copy_warnings(result: Any) -> None:
    for text in result.warnings:
        warning(text)
    if result.more_warnings:
        warning(f"and {result.more_warnings:,} more like these")


def _here(place: str) -> str:
    """A path as it is typed here: what lies below the current folder begins with `./`."""
    path = os.path.relpath(place)
    if path == os.curdir:
        return "this folder"
    return place if path.startswith(os.pardir) else f"./{path}"


def page(served: Any, as_json: bool) -> None:
    """The model, and the address, at once."""
    model = served.model
    step = "" if model.step is None else f", step {model.step}"
    line(f"The model in {name(model.name)}: {files(model.files)}, {size(model.size)}{step}")
    if model.live:
        run = model.name.split("/")[1]
        line(f"  run {run} goes on: this is its model so far; repeat the command for a newer one")
    if as_json:
        out_json(json_shapes.page(served))
    else:
        out(served.address)
    finish()


def page_shown(port: int, shown: bool, far_away: bool, ending: str = "^C ends it") -> None:
    """What to do with the address of a server on this machine."""
    line(f"  {'your browser shows it' if shown else 'open it in a browser'}; {ending}")
    if far_away and not shown:
        line(f"  ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE   from the machine you sit at")
