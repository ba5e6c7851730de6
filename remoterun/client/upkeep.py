"""The upkeep of a home: `check`, `gc` and `df`. The agent does the work (agent/upkeep/); the client gives runs and
versions of uploads their numbers, and names the command that makes whole what is damaged.

An answer has a bound: a host that goes on and on must not take all of our memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import LARGEST
from remoterun.errors import AgentError
from remoterun.model import MachineType, Upload
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.sizes import iso
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.archive import Archive

MOST_ROWS = 200_000
MOST_FINDINGS = 20_000
MOST_COMMANDS = 20
MOST_TEXT = 64 << 20
"""Characters of all rows of an answer."""
MOST_PARTS = 100
MOST_ITEMS = 1000
"""Items that are named of a part; the rest is counted."""


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it should be."""

    what: str
    """"blob", "file", "folder" or "list"."""
    problem: str
    """"damaged", "missing" or "changed"."""
    digest: str
    size: int
    places: tuple[dict[str, Any], ...]
    """Where it belongs: {"upload", "version", "path"} or {"run", "key", "part", "path"}; "run" is None for one that
    this client does not know."""
    more: int
    """Places that are not named."""
    why: str
    """Why a list can't be read."""

    def record(self) -> dict[str, Any]:
        return {**self.__dict__, "places": list(self.places)}


@dataclass(frozen=True)
class Checked:
    """What `check` found in a home, of `blobs` blobs with `size` bytes."""

    machine: str
    blobs: int
    size: int
    damage: tuple[Damage, ...]
    more: int = 0
    """Findings that were too many to name."""
    commands: tuple[str, ...] = ()
    """What makes it whole again."""

    @property
    def sound(self) -> bool:
        return not self.damage and not self.more

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        damage = [damage.record() for damage in self.damage]
        return {
            "machine": self.machine,
            "blobs": self.blobs,
            "bytes": self.size,
            "sound": self.sound,
            "damage": damage,
            "more": self.more,
            "commands": list(self.commands),
        }


@dataclass(frozen=True)
class Freed:
    """A kind of thing that was freed, or (`why`) was kept: how many, the bytes they take, and the first of them."""

    kind: str
    count: int
    size: int
    items: tuple[dict[str, Any], ...]
    why: str = ""

    def record(self) -> dict[str, Any]:
        record = {"kind": self.kind, "count": self.count, "bytes": self.size, "items": list(self.items)}
        return {**record, "why": self.why} if self.why else record


@dataclass(frozen=True)
class Collected:
    """What `collect` freed, or would free (`dry_run`); `free` bytes are free on that disk now."""

    machine: str
    dry_run: bool
    freed: int
    free: int
    parts: tuple[Freed, ...]
    kept: tuple[Freed, ...]

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "machine": self.machine,
            "dry_run": self.dry_run,
            "freed": self.freed,
            "free": self.free,
            "parts": [part.record() for part in self.parts],
            "kept": [part.record() for part in self.kept],
        }


@dataclass(frozen=True)
class Use:
    """One user of a home's disk: `size` bytes are what it refers to, `alone` what removing it gives back. `kind` and
    `about` are in agent/upkeep/usage.py; `number` is a run's."""

    kind: str
    name: str
    size: int
    alone: int
    number: int | None
    about: dict[str, Any]

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": self.kind, "name": self.name, "size": self.size, "alone": self.alone}
        if self.kind == "run":
            record["number"] = self.number
        if "created" in self.about:
            record["created"] = iso(self.about["created"])
        return {**self.about, **record}


@dataclass(frozen=True)
class Usage:
    """What a home takes: `total` bytes, on a disk with `free` of `disk` bytes free. `blobs`: how many, their bytes, and
    the same of those that have several users."""

    machine: str
    home: str
    total: int
    free: int
    disk: int
    blobs: dict[str, Any]
    uses: tuple[Use, ...]

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.__dict__, "uses": [use.record() for use in self.uses]}


def check(session: Session, registry: Registry, set_aside: bool, progress: Progress) -> Checked:
    """Verify a home; with `set_aside`, move away what is damaged. Blocks for as long as it takes to read the whole
    home. May be repeated. Raises `HostError`."""
    numbers = run_numbers(registry)
    versions = {(upload.name, upload.digest): upload for upload, _ in reversed(registry.uploads.versions())}
    damage, commands = [], []
    with session.stream(api.check, api.CheckHome(set_aside)) as stream:
        stream.end()
        for row in rows(session, _after_progress(session, stream, progress), MOST_FINDINGS):
            with session.understood():
                finding = row["finding"]
                uploads = [versions.get((user.get("upload"), user.get("tree"))) for user in finding["users"]]
                places = [_place(*found, numbers) for found in zip(finding["users"], uploads, strict=True)]
                damage.append(_damage(finding, places))
            for place, upload in zip(places, uploads, strict=True):
                commands.append(_command(place, upload, session.machine))
        totals = session.result(api.check, stream)
    some = tuple(dict.fromkeys(filter(None, commands)))[:MOST_COMMANDS]
    return Checked(session.machine.name, totals.blobs, totals.size, tuple(damage), totals.more, some)


def _after_progress(session: Session, stream: Stream, progress: Progress) -> Iterator[Frame]:
    """The frames that are findings; the others report how much was read."""
    started = False
    for frame in stream:
        if "at" not in frame.header:
            yield frame
            continue
        with session.understood():
            at = dict(frame.header["at"])
            if not started:
                started = True
                progress.start("checking", int(at["files_total"]), int(at["bytes_total"]))
            progress.add(int(at["bytes"]) - progress.bytes_done, int(at["files"]) - progress.files_done)


def _damage(finding: dict[str, Any], places: Iterable[dict[str, Any]]) -> Damage:
    """Raises `ValueError`, `TypeError`, `LookupError` for what makes no sense."""
    what, problem, digest, why = (str(finding[name]) for name in ("what", "problem", "digest", "why"))
    return Damage(what, problem, digest, int(finding["size"]), tuple(places), int(finding["more"]), why)


def _place(user: dict[str, Any], upload: Upload | None, numbers: dict[str, int]) -> dict[str, Any]:
    """A place of a finding, with our numbers."""
    for name in ("upload", "run", "path", "part"):
        if not isinstance(user.get(name, ""), str):
            raise ValueError(f"{name}: {user[name]!r}")
    if "upload" in user:
        version = upload.version if upload is not None else int(user["version"])
        return {"upload": user["upload"], "version": version, "path": user["path"]}
    return {"run": numbers.get(user["run"]), "key": user["run"], "part": user["part"], "path": user["path"]}


def _command(place: dict[str, Any], upload: Upload | None, machine: MachineType) -> str:
    """What makes the content of a place whole again; "" where this client can't know it."""
    if "upload" in place:
        path = shlex.quote(upload.path) if upload is not None and upload.path else "PATH"
        return f"remoterun upload {path} --name {shlex.quote(place['upload'])} --to {shlex.quote(machine.name)}"
    if place["run"] is None:
        return ""
    return f"remoterun rerun {place['run']}" if place["part"] == "outputs" else ""


def collect(
    session: Session, registry: Registry, keep: int | None, envs: bool, unused: float | None, dry_run: bool
) -> Collected:
    """Free what nothing of a home needs. `unused`: seconds. May be repeated. Raises `HostError`, `TransferError`."""
    asked = api.Collect(keep, envs, dry_run=dry_run)
    if unused is not None:
        asked = asked._replace(unused=unused)
    parts, kept = [], []
    with session.stream(api.collect, asked) as stream:
        stream.end()
        for row in rows(session, stream, MOST_PARTS):
            with session.understood():
                if "part" in row:
                    parts.append(_part(row["part"], registry))
                elif "kept" in row:
                    kept.append(_part(row["kept"], registry))
        totals = session.result(api.collect, stream)
    if not dry_run:
        _forget_versions(session, registry, parts)
    return Collected(session.machine.name, dry_run, totals.freed, totals.free, tuple(parts), tuple(kept))


def _part(told: dict[str, Any], registry: Registry) -> Freed:
    """Part of an answer, with our numbers of versions."""
    items = tuple(dict(item) for item in told["items"][:MOST_ITEMS])
    if told["kind"] == "versions":
        ours = {(upload.name, upload.digest): upload.version for upload, _ in registry.uploads.versions()}
        items = tuple(
            {**item, "version": ours.get((item["upload"], item["digest"]), item["version"])} for item in items
        )
    return Freed(str(told["kind"]), int(told["count"]), int(told["bytes"]), items, str(told.get("why", "")))


def _forget_versions(session: Session, registry: Registry, parts: list[Freed]) -> None:
    """Forget that this home has the versions that were freed."""
    with session.understood():
        items = [item for part in parts if part.kind == "versions" for item in part.items]
        freed = [(str(item["upload"]), str(item["digest"])) for item in items]
    for name, digest in freed:
        registry.uploads.forget_copy(name, session.home_id, digest)


def usage(session: Session, registry: Registry) -> Usage:
    """Who uses how much of a home. Raises `HostError`."""
    numbers = run_numbers(registry)
    uses = []
    with session.stream(api.usage, Nothing()) as stream:
        stream.end()
        for told in rows(session, stream):
            with session.understood():
                row = dict(told["row"])
                kind, name, size, alone = (row.pop(field) for field in ("kind", "name", "size", "alone"))
                number = numbers.get(name) if kind == "run" else None
                uses.append(Use(str(kind), str(name), int(size), int(alone), number, row))
        totals = session.result(api.usage, stream)
    shared = {"count": totals.shared, "bytes": totals.shared_size}
    blobs = {"count": totals.blobs, "bytes": totals.size, "shared": shared}
    home = session.hello.home
    return Usage(session.machine.name, home, totals.total, totals.free, totals.disk, blobs, tuple(uses))


def rows(session: Session, frames: Iterable[Frame], most: int = MOST_ROWS) -> Iterator[dict[str, Any]]:
    """The rows of an answer, as JSON. Raises `AgentError` for more of them, or for more text, than any home has."""
    text = 0
    for number, frame in enumerate(frames):
        text += len(repr(frame.header))
        if number >= most or text > MOST_TEXT:
            name = session.machine.name
            raise AgentError(f"{name} answers with more than any home holds", hint=f"remoterun doctor {name}")
        yield frame.header


def collect_archive(archive: Archive, name: str, registry: Registry, keep: int | None, dry_run: bool) -> Collected:
    """As `collect`, of the archive, which people call `name`."""
    from remoterun.archive.upkeep import collect

    found = [
        _part(
            {"kind": part.kind, "count": part.count, "bytes": part.size, "items": part.items, "why": part.why}, registry
        )
        for part in collect(archive, keep, dry_run)
    ]
    parts, kept = (tuple(part for part in found if bool(part.why) == later) for later in (False, True))
    for part in parts:
        if part.kind == "versions" and not dry_run:
            for item in part.items:
                registry.uploads.forget_copy(item["upload"], archive.id, item["digest"])
    return Collected(name, dry_run, sum(part.size for part in parts), LARGEST, parts, kept)


def usage_of_archive(archive: Archive, name: str, registry: Registry) -> Usage:
    """As `usage`, of the archive, which people call `name`."""
    from remoterun.archive.upkeep import usage

    numbers, rows = run_numbers(registry), usage(archive)
    uses = tuple(
        Use(row.kind, row.name, row.size, row.size, numbers.get(row.name) if row.kind == "run" else None, row.about)
        for row in rows
    )
    blobs = {"count": 0, "bytes": 0, "shared": {"count": 0, "bytes": 0}}
    return Usage(name, archive.address, sum(row.size for row in rows), LARGEST, LARGEST, blobs, uses)


def check_archive(
    archive: Archive, machine: MachineType, registry: Registry, set_aside: bool, progress: Progress
) -> Checked:
    """Verify the archive, which is `machine` to people; with `set_aside`, mark versions that are damaged, so that an
    upload sends them again. Raises `HostError`."""
    from remoterun.archive.upkeep import check

    progress.start("checking", 0, 0)
    found = check(archive, set_aside, lambda packs: progress.add(0, packs))
    numbers, damage, commands = run_numbers(registry), [], []
    versions = {(upload.name, upload.digest): upload for upload, _ in reversed(registry.uploads.versions())}
    for fault in found.faults[:MOST_FINDINGS]:
        uploads = [versions.get((str(user.get("upload")), str(user.get("tree")))) for user in fault.places]
        places = [_place(*pair, numbers) for pair in zip(fault.places, uploads, strict=True)]
        commands += [_command(*pair, machine) for pair in zip(places, uploads, strict=True)]
        damage.append(Damage(fault.what, fault.problem, fault.digest, fault.size, tuple(places), 0, ""))
    some = tuple(dict.fromkeys(filter(None, commands)))[:MOST_COMMANDS]
    more = max(0, len(found.faults) - MOST_FINDINGS)
    return Checked(machine.name, found.packs, found.size, tuple(damage), more, some)


def run_numbers(registry: Registry) -> dict[str, int]:
    """The numbers of the runs that this client knows, by their keys."""
    return {run.key: run.number for run in registry.runs()}
