"""What `check`, `gc` and `df` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.tree import LARGEST
from remoterun.cli.render.figures import ago, counted, files, name, size, word
from remoterun.cli.render.output import Column, out, out_json, table
from remoterun.cli.render.talk import hint, line
from remoterun.cli.render.terminal import DONE, FAILED

if TYPE_CHECKING:
    from remoterun.client.upkeep import Checked, Collected, Damage, Freed, Usage, Use

_SHOWN = 20


def checked(done: Checked, as_json: bool) -> None:
    """Each damage with where it belongs, and the commands that make it whole again."""
    if as_json:
        out_json(done.record())
        return
    for damage in done.damage:
        _damage(damage)
    content = f"{counted(done.blobs, 'blob')}, {size(done.size)}"
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
    for place in damage.places[:_SHOWN]:
        out(f"    {_place(place)}")
    more = max(len(damage.places) - _SHOWN, 0) + damage.more
    if more:
        out(f"    and {more} places more")


def _place(place: dict[str, Any]) -> str:
    if "upload" in place:
        version = f" (version {place['version']})" if place["version"] else ""
        path = f"/{name(place['path'])}" if place["path"] else ""
        return f"uploads/{place['upload']}{path}{version}"
    run = f"runs/{place['run']}" if place["run"] is not None else f"a run of somebody else ({place['key']})"
    part = {"outputs": "", "source": " (its source)", "mount": " (mounted)"}.get(
        place["part"], f" (its {place['part']})"
    )
    return f"{run}{'/' + name(place['path']) if place['path'] else ''}{part}"


def collected(done: Collected, as_json: bool) -> None:
    """What was freed, by kind, and what was kept for now."""
    if as_json:
        out_json(done.record())
        return
    rows = [[_KINDS[part.kind], str(part.count), size(part.size), _items(part)] for part in done.parts]
    heads = [
        Column("WHAT"),
        Column("COUNT", right=True, drop=2),
        Column("WOULD FREE" if done.dry_run else "FREED", right=True),
        Column("WHICH", least=12, drop=1),
    ]
    table(heads, rows)
    for part in done.kept:
        line(f"kept: {_KINDS[part.kind]}, {size(part.size)}: {part.why}")
    free = f"; {size(done.free)} are free there" if done.free < LARGEST else ""
    if not done.parts:
        line(DONE, f"There is nothing to free on {done.machine}{free}")
    elif done.dry_run:
        line(f"{size(done.freed)} would be freed on {done.machine}{free}")
        line("  the same command without --dry-run frees it")
    else:
        line(DONE, f"Freed {size(done.freed)} on {done.machine}{free}")


_KINDS = {
    "versions": "old versions",
    "remains": "remains of removals",
    "temporary": "temporary files",
    "partial": "cut transfers",
    "blobs": "unused content",
    "environments": "environments",
    "images": "images",
    "agents": "old agents",
}


def _items(part: Freed) -> str:
    if part.kind == "versions":
        versions: dict[str, list[str]] = {}
        for item in part.items:
            versions.setdefault(item["upload"], []).append(str(item["version"]))
        return "; ".join(f"uploads/{upload}: {', '.join(numbers)}" for upload, numbers in versions.items())
    if part.kind in ("environments", "images"):
        return "; ".join(str(item.get("contents") or item.get("name", "")) for item in part.items)
    return ", ".join(str(item.get("name") or item.get("path", "")) for item in part.items).strip(", ")


def usage_table(found: Usage, as_json: bool) -> None:
    """Who uses what, the largest of a kind first, and the total."""
    if as_json:
        out_json(found.record())
        return
    order = list(_USES)
    uses = sorted(found.uses, key=lambda use: (order.index(use.kind), -use.alone, -use.size, use.name))
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
    table(heads, [*rows, ["total", size(found.total), "", ""]])
    line(f"{found.home} on {found.machine}")
    if shared["count"]:
        line(f"  {counted(shared['count'], 'blob')}, {size(shared['bytes'])}, shared by several")
    if found.disk < LARGEST:
        line(f"  {size(found.free)} of {size(found.disk)} are free on its disk")
    if any(use.kind == "unreferenced" for use in uses):
        line(f"  remoterun machines gc {word(found.machine)}   frees what nothing needs")


_USES = {
    "upload": "uploads/",
    "run": "runs/",
    "environment": "environment",
    "image": "image",
    "leased": "transfers",
    "partial": "cut transfers",
    "temporary": "temporary files",
    "damaged": "damaged content",
    "unreferenced": "nothing",
    "other": "remoterun itself",
}


def _user(use: Use) -> str:
    if use.kind == "upload":
        return f"uploads/{use.name}"
    if use.kind == "run":
        return f"runs/{use.number}" if use.number is not None else f"run {use.name}"
    return _USES[use.kind]


def _about(use: Use) -> str:
    about = use.about
    if about.get("damaged"):
        return "its lists of files are damaged: `remoterun machines check`"
    if use.kind == "upload":
        versions = about["versions"]
        newest = f", the newest {files(versions[-1]['files'])}, {size(versions[-1]['size'])}" if versions else ""
        return f"{counted(len(versions), 'version')}{newest}"
    if use.kind == "run":
        parts = [(key, about[key]) for key in ("outputs", "work", "log") if about.get(key)]
        named = {"work": "work tree"}
        return ", ".join([str(about["state"]), *(f"{named.get(key, key)} {size(count)}" for key, count in parts)])
    if use.kind in ("environment", "image"):
        verb = "used" if use.kind == "environment" else "made"
        return f"{about.get('contents') or use.name}, {verb} {ago(about['used'])}"
    if use.kind == "unreferenced":
        return counted(about["count"], "blob") + " that nothing refers to"
    if use.kind == "other":
        return "agents, registry, settings"
    if use.kind == "leased":
        return f"going on, or cut less than a day ago: {counted(about['count'], 'blob')}"
    return counted(about["count"], "file")
