"""Uploads, the files of runs, secrets, what a transfer did, a page; what `check`, `gc` and `df` found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.api import Tree
from remoterun.agent.shared.states import FINAL
from remoterun.agent.shared.tree import LARGEST
from remoterun.cli.render import Column, finish, hint, line, out, out_json, table, table_of, warning
from remoterun.cli.render.run_views import show_faults, state_text
from remoterun.cli.render.terminal import (
    DONE,
    FAILED,
    ago,
    brief_ago,
    clean,
    counted,
    files,
    name,
    shortened,
    size,
    terminal_width,
    word,
)
from remoterun.client import json_shapes
from remoterun.errors import HomeMissing, NoLogin
from remoterun.model import Run, Upload, UploadCopy

if TYPE_CHECKING:
    from remoterun.client.secrets import Secret
    from remoterun.client.upkeep.upkeep import Checked, Collected, Damage, HomeUsage, Use


SHORT_DIGEST = 12
MOST_SHOWN = 20
"""Lines of what a question is about, and places of a damage."""


def uploads(found: Sequence[Upload], as_json: bool, versions: bool = False) -> None:
    """Uploads with their newest version, or the `versions` of one, the oldest first; each with the machines that have
    it."""
    copies = [copy for upload in found for copy in upload.copies]
    faults = {copy.machine: copy.fault for copy in copies if copy.fault is not None}
    show_faults({name: fault for name, fault in faults.items() if not isinstance(fault, NoLogin)})
    if as_json:
        out_json([upload.record() for upload in found])
        return
    if not found:
        line("There is no upload yet. Make one: `remoterun upload PATH --name NAME`")
    shown: list[tuple[Column, Callable[[Upload], str]]] = [
        (Column("UPLOAD", least=16), lambda each: f"uploads/{each.name}"),
        (Column("VERSION", right=True), lambda each: str(each.version)),
        (Column("SIZE", right=True), lambda each: size(each.size)),
        (Column("FILES", drop=1), lambda each: files(each.files)),
        (Column("WHEN", drop=2), lambda each: brief_ago(each.created)),
        (Column("MACHINES", least=10, drop=0 if versions else 3), _machines),
        (Column("RUNS", least=8), lambda each: ", ".join(map(str, each.runs))),
        (Column("DIGEST", drop=3), lambda each: each.digest[:SHORT_DIGEST]),
    ]
    table_of(found, shown[1:] if versions else shown[:-2])
    if versions and len(found) > 1:
        name = found[-1].name
        since = "a run on a machine to which another client uploaded since gets that version"
        line(f"  uploads/{name} means uploads/{name}@{found[-1].version}; {since}")


def _machines(upload: Upload) -> str:
    return ", ".join(dict.fromkeys(map(_copy, upload.copies)) or [upload.machine])


def _copy(copy: UploadCopy) -> str:
    seen = "its home is gone" if isinstance(copy.fault, HomeMissing) else f"seen {brief_ago(copy.seen)}"
    return copy.machine if copy.fault is None else f"{copy.machine} ({seen})"


def secrets(found: Sequence[Secret], as_json: bool) -> None:
    if as_json:
        out_json([secret.record() for secret in found])
    elif found:
        heads = [Column("SECRET", least=16), Column("SET"), Column("KEPT IN", least=20)]
        table(heads, [[secret.name, brief_ago(secret.set), secret.where] for secret in found])
    else:
        line("There is no secret yet. Make one: `remoterun secret set NAME`")


def to_remove(found: Sequence[tuple[str, Run | Sequence[Upload]]]) -> None:
    """What is about to be removed, before the question: resources, each with its run, or with the versions that it
    is."""
    width = max(len(resource) for resource, _ in found)
    room = terminal_width(sys.stderr) or 100
    for resource, what in found[:MOST_SHOWN]:
        about = ""
        if isinstance(what, Run):
            about = f"{state_text(what)}, {ago(what.ended or what.created)}  {what.command}"
        elif what:
            several = f"{len(what)} versions" if len(what) > 1 else size(what[0].size)
            foreign = "" if all(upload.ours for upload in what) else ", uploaded from elsewhere"
            on = dict.fromkeys(copy.machine for upload in what for copy in upload.copies)
            about = f"{several}, on {', '.join(on)}{foreign}"
        line(shortened(f"  {clean(resource):<{width}}  {clean(about)}".rstrip(), room))
    if len(found) > MOST_SHOWN:
        line(f"  … and {len(found) - MOST_SHOWN} more")


def manifest(resource: str, tree: Any, about: Tree, levels: int | None, as_json: bool) -> None:
    """The files below a resource: so many levels, folders with what is in them; None: every one."""
    if as_json:
        out_json(json_shapes.files(resource, tree, about))
        return
    if not tree.count:
        goes_on = about.about.get("state") not in (None, *(state.value for state in FINAL))
        line(f"{resource} holds no files{' yet' if goes_on else ''}")
        return
    rows: dict[str, list[Any]] = {}
    for entry in tree:
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
    if not done.created:
        line(f"Nothing to send: {path} has this content already (version {upload.version})")
    else:
        already = f", {size(done.sent.already)} of it there already" if done.sent.already else ""
        content = f"{files(upload.files)}, {size(upload.size)}{already}"
        line(f"Uploaded {content}: {path} (version {upload.version}) on {upload.machine}")
    mount = f"{path}:{folder}" if folder and folder != upload.name else path
    line(f"  remoterun run --mount {word(mount)} COMMAND   finds it in ./{name(folder or upload.name)}")
    out(path)


def not_finished() -> None:
    """After ^C: says that what has arrived stays, and how to go on."""
    line("")
    line("Not finished. What has arrived stays; the same command goes on.")


def fetched(result: Any, resource: str, as_json: bool = False) -> None:
    """What a copy to here did, and where it went; where nothing was copied, why."""
    copy_warnings(result)
    if as_json:
        out_json(json_shapes.fetched(result))
        return
    where = name(_here(result.place))
    unchanged = f"{files(result.unchanged)} {'was' if result.unchanged == 1 else 'were'} here already"
    if result.files or result.damaged:
        already = f", {size(result.there)} of it here already" if result.there else ""
        line(DONE, f"Copied {files(result.files)}, {size(result.size)}{already}, to {where}")
        if result.unchanged:
            line(f"  {unchanged}")
    elif result.unchanged:
        line(f"Nothing to copy: {unchanged} ({where})")
    elif not result.skipped:
        what = "only links or empty folders" if result.listed else f"no files{' yet' if result.live else ''}"
        line(f"Nothing to copy: {name(resource)} holds {what}")
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


def runs_page(port: int, address: str, as_json: bool) -> None:
    """Where the page of runs is, at once."""
    if as_json:
        out_json({"address": address, "port": port})
    else:
        out(address)
    finish()


def page_shown(port: int, shown: bool, far_away: bool, ending: str = "^C ends it") -> None:
    """What to do with the address of a server on this machine."""
    line(f"  {'your browser shows it' if shown else 'open it in a browser'}; {ending}")
    if far_away and not shown:
        line(f"  ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE   from the machine you sit at")


def checked(done: Checked, as_json: bool) -> None:
    """Each damage with where it belongs, and the commands that make it whole again."""
    if as_json:
        out_json(done.record())
        return
    for damage in done.damage:
        _damage(damage)
    content = f"{counted(done.blobs, 'blob')}, {size(done.bytes)}"
    if done.sound:
        line(DONE, f"{done.machine} is sound: {content}")
        return
    line(FAILED, f"{counted(len(done.damage), 'damage')} on {done.machine}, of {content}")
    if done.more:
        line(FAILED, f"{done.more} more were too many for one check: check {word(done.machine)} again after that")
    if done.commands:
        hint("\n".join(done.commands))


def _damage(damage: Damage) -> None:
    what = f"{damage.what} {damage.digest[:12]}".strip() + (f", {size(damage.size)}" if damage.size else "")
    why = damage.why or ("" if damage.places else "nothing refers to it")
    out(FAILED, f"{damage.problem}: {what}{'; ' if why else ''}{why}")
    for place in damage.places[:MOST_SHOWN]:
        out(f"    {_place(place)}")
    more = max(len(damage.places) - MOST_SHOWN, 0) + damage.more
    if more:
        out(f"    and {more} places more")


def _place(place: dict[str, Any]) -> str:
    path = f"/{name(place['path'])}" if place["path"] else ""
    if "upload" in place:
        return f"uploads/{place['upload']}{path}" + (f" (version {place['version']})" if place["version"] else "")
    run = f"runs/{place['run']}" if place["run"] is not None else f"a run of somebody else ({place['key']})"
    return f"{run}{path}" + ("" if place["part"] == "outputs" else f" (its {place['part']})")


def collected(done: Collected, as_json: bool) -> None:
    """What was freed, by kind, and what was kept for now."""
    if as_json:
        out_json(done.record())
        return
    table_of(
        done.parts,
        [
            (Column("WHAT"), lambda part: part.kind),
            (Column("COUNT", right=True, drop=2), lambda part: str(part.count)),
            (Column("WOULD FREE" if done.dry_run else "FREED", right=True), lambda part: size(part.bytes)),
            (Column("WHICH", least=12, drop=1), lambda part: ", ".join(filter(None, map(_item, part.items)))),
        ],
    )
    for part in done.kept:
        line(f"{size(part.bytes)} of {part.kind} stay: {part.why}")
    free = f"; {size(done.free)} are free there" if done.free < LARGEST else ""
    if not done.parts:
        line(DONE, f"There is nothing to free on {done.machine}{free}")
    elif done.dry_run:
        line(f"{size(done.freed)} would be freed on {done.machine}{free}")
        line("  the same command without --dry-run frees it")
    else:
        line(DONE, f"Freed {size(done.freed)} on {done.machine}{free}")
    if done.free < 1e9:
        hint(f"remoterun machines df {word(done.machine)}   shows who uses the rest\nremoterun rm runs --failed")


def _item(item: dict[str, Any]) -> str:
    if "upload" in item:
        return f"uploads/{item['upload']}@{item['version']}"
    return str(item.get("contents") or item.get("name") or item.get("path", ""))


def usage_table(found: HomeUsage, as_json: bool) -> None:
    """Who uses what, the largest of a kind first, and the total."""
    if as_json:
        out_json(found.record())
        return
    uses = sorted(found.uses, key=lambda use: (_USES.index(use.kind), -use.alone, -use.size, use.name))
    rows = [
        [_user(use), size(use.size), size(use.alone), _about(use)] for use in uses if use.size or use.kind == "upload"
    ]
    shared = found.blobs["shared"]
    heads = [
        Column("USED BY", least=16),
        Column("SIZE", right=True),
        Column("ALONE", right=True),
        Column("WHAT", least=12, drop=1),
    ]
    images = [use for use in uses if use.kind == "image"]  # they lie outside of the home, and share their base
    total = found.total + sum(use.alone for use in images) + max((use.size - use.alone for use in images), default=0)
    table(heads, [*rows, ["total", size(total), "", ""]])
    line(f"{found.home} on {found.machine}")
    if shared["count"]:
        line(f"  {counted(shared['count'], 'blob')}, {size(shared['bytes'])}, shared by several")
    if found.disk < LARGEST:
        line(f"  {size(found.free)} of {size(found.disk)} are free on its disk")
    if any(use.kind == "unreferenced" for use in uses):
        line(f"  remoterun machines gc {word(found.machine)}   frees what nothing needs")


_USES = ("upload", "run", "environment", "image", "leased", "partial", "temporary", "damaged", "unreferenced", "other")
"""What a row is about, in their order."""


def _user(use: Use) -> str:
    if use.kind == "upload":
        return f"uploads/{use.name}"
    if use.kind == "run":
        return f"runs/{use.number}" if use.number is not None else f"run {use.name}"
    return use.kind


def _about(use: Use) -> str:
    about = use.about
    if about.get("damaged") or about.get("state", "") is None:
        return "its records are damaged: `remoterun machines check`"
    if use.kind == "upload":
        return counted(len(about["versions"]), "version")
    if use.kind == "run":
        return str(about["state"])
    if use.kind in ("environment", "image"):
        verb = "used" if use.kind == "environment" else "made"
        return f"{about.get('contents') or use.name}, {verb} {ago(about['used'])}"
    if "count" not in about:
        return ""
    return counted(about["count"], "blob" if use.kind in ("leased", "unreferenced") else "file")
