"""The upkeep of a home: `check`, `gc` and `df`. The agent does the work (agent/upkeep/); the client gives runs and
versions of uploads their numbers, and names the command that makes whole what is damaged.

An answer has a bound: a host that goes on and on must not take all of our memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import LARGEST
from remoterun.archive import Archive
from remoterun.archive import upkeep as archived
from remoterun.errors import AgentError
from remoterun.model import MachineType
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.sizes import iso
from remoterun.transfer import Progress

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


@dataclass(frozen=True)
class Checked:
    """What `check` found in a home, of `blobs` blobs."""

    machine: str
    blobs: int
    bytes: int
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
        return {**asdict(self), "sound": self.sound}


@dataclass(frozen=True)
class Freed:
    """A kind of thing that was freed, or (`why`) was kept: how many, the bytes they take, and the first of them."""

    kind: str
    count: int
    bytes: int
    items: tuple[dict[str, Any], ...]
    why: str = ""


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
        return asdict(self)


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
class HomeUsage:
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


class _Known:
    """What this client knows of what a home reports: the numbers of its runs and of versions of uploads."""

    def __init__(self, registry: Registry) -> None:
        self.runs = {run.key: run.number for run in registry.runs()}
        self.versions = {(upload.name, upload.digest): upload for upload, _ in reversed(registry.uploads.versions())}

    def damage(self, finding: dict[str, Any]) -> Damage:
        """Raises `ValueError`, `TypeError`, `LookupError` for what makes no sense."""
        what, problem, digest, why = (str(finding[name]) for name in ("what", "problem", "digest", "why"))
        places = tuple(self._place(user) for user in finding["users"])
        return Damage(what, problem, digest, int(finding["size"]), places, int(finding["more"]), why)

    def _place(self, user: dict[str, Any]) -> dict[str, Any]:
        for name in ("upload", "run", "path", "part"):
            if not isinstance(user.get(name, ""), str):
                raise ValueError(f"{name}: {user[name]!r}")
        if "upload" not in user:
            return {"run": self.runs.get(user["run"]), "key": user["run"], "part": user["part"], "path": user["path"]}
        upload = self.versions.get((user["upload"], user["tree"]))
        version = upload.version if upload is not None else int(user["version"])
        return {"upload": user["upload"], "version": version, "path": user["path"]}

    def commands(self, damage: Iterable[Damage], machine: MachineType, home: str = "") -> tuple[str, ...]:
        """What makes whole again what is damaged, or removes a run whose records can't be read, as far as this client
        can know it. `home`: the folder of the home."""
        paths = {(upload.name, upload.version): upload.path for upload in self.versions.values()}
        found: dict[str, None] = {}
        for fault, place in ((each, place) for each in damage for place in each.places):
            if "upload" in place:
                path = shlex.quote(paths.get((place["upload"], place["version"])) or "PATH")
                name, target = shlex.quote(place["upload"]), shlex.quote(machine.name)
                found[f"remoterun upload {path} --name {name} --to {target}"] = None
            elif fault.what == "list" and place["run"] is not None:
                found[f"remoterun rm {place['run']}"] = None
            elif fault.what == "list" and home and "newer remoterun" not in fault.why:
                remove = f"rm -rf {shlex.quote(home)}/runs/{shlex.quote(place['key'])}"
                on_host = f"remoterun machines ssh {shlex.quote(machine.name)} {shlex.quote(remove)}"
                found[remove if machine.host is None else on_host] = None
            elif place["run"] is not None and place["part"] == "outputs":
                found[f"remoterun rerun {place['run']}"] = None
        return tuple(found)[:MOST_COMMANDS]

    def part(self, told: dict[str, Any]) -> Freed:
        """A part of what `collect` reports."""
        items = [dict(item) for item in told["items"][:MOST_ITEMS]]
        if told["kind"] == "versions":
            for item in items:
                upload = self.versions.get((str(item["upload"]), str(item["digest"])))
                item["version"] = upload.version if upload is not None else item["version"]
        return Freed(str(told["kind"]), int(told["count"]), int(told["bytes"]), tuple(items), str(told.get("why", "")))

    def use(self, about: dict[str, Any]) -> Use:
        """A row of what `usage` reports."""
        kind, name, size, alone = (about.pop(field) for field in ("kind", "name", "size", "alone"))
        number = self.runs.get(name) if kind == "run" else None
        return Use(str(kind), str(name), int(size), int(alone), number, about)


def check(session: Session, registry: Registry, set_aside: bool, progress: Progress) -> Checked:
    """Verify a home; with `set_aside`, move away what is damaged. Blocks for as long as it takes to read the whole
    home. May be repeated. Raises `HostError`."""
    known, damage = _Known(registry), []
    with session.stream(api.check, api.CheckHome(set_aside)) as stream:
        stream.end()
        for row in rows(session, _after_progress(session, stream, progress), MOST_FINDINGS):
            with session.understood():
                damage.append(known.damage(row["finding"]))
        totals = session.result(api.check, stream)
    machine = session.machine
    commands = known.commands(damage, machine, session.hello.home)
    return Checked(machine.name, totals.blobs, totals.size, tuple(damage), totals.more, commands)


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


def collect(
    session: Session, registry: Registry, keep: int | None, envs: bool, unused: float | None, dry_run: bool
) -> Collected:
    """Free what nothing of a home needs. `unused`: seconds. May be repeated. Raises `HostError`, `TransferError`."""
    asked = api.Collect(keep, envs, dry_run=dry_run)
    if unused is not None:
        asked = asked._replace(unused=unused)
    known, parts, kept = _Known(registry), [], []
    with session.stream(api.collect, asked) as stream:
        stream.end()
        for row in rows(session, stream, MOST_PARTS):
            with session.understood():
                if "part" in row:
                    parts.append(known.part(row["part"]))
                elif "kept" in row:
                    kept.append(known.part(row["kept"]))
        totals = session.result(api.collect, stream)
    if not dry_run:
        _forget_versions(registry, session.home_id, parts)
    return Collected(session.machine.name, dry_run, totals.freed, totals.free, tuple(parts), tuple(kept))


def _forget_versions(registry: Registry, home_id: str, parts: Iterable[Freed]) -> None:
    """Forget that this home has the versions that were freed."""
    for item in (item for part in parts if part.kind == "versions" for item in part.items):
        registry.uploads.forget_copy(str(item["upload"]), home_id, str(item["digest"]))


def usage(session: Session, registry: Registry) -> HomeUsage:
    """Who uses how much of a home. Raises `HostError`."""
    known, uses = _Known(registry), []
    with session.stream(api.usage, Nothing()) as stream:
        stream.end()
        for told in rows(session, stream):
            with session.understood():
                uses.append(known.use(dict(told["row"])))
        totals = session.result(api.usage, stream)
    shared = {"count": totals.shared, "bytes": totals.shared_size}
    blobs = {"count": totals.blobs, "bytes": totals.size, "shared": shared}
    home = session.hello.home
    return HomeUsage(session.machine.name, home, totals.total, totals.free, totals.disk, blobs, tuple(uses))


def rows(session: Session, frames: Iterable[Frame], most: int = MOST_ROWS) -> Iterator[dict[str, Any]]:
    """The rows of an answer, as JSON. Raises `AgentError` for more of them, or for more text, than any home has."""
    text = 0
    for number, frame in enumerate(frames):
        text += len(repr(frame.header))
        if number >= most or text > MOST_TEXT:
            name = session.machine.name
            raise AgentError(f"{name} answers with more than any home holds", hint=f"remoterun doctor {name}")
        yield frame.header


# -- the archive, which people call by the name of a machine


def check_archive(
    archive: Archive, machine: MachineType, registry: Registry, set_aside: bool, progress: Progress
) -> Checked:
    """As `check`; with `set_aside`, mark versions that are damaged, so that an upload sends them again."""
    progress.start("checking", 0, 0)
    packs, size, found = archived.check(archive, set_aside, lambda packs: progress.add(0, packs))
    known = _Known(registry)
    damage = tuple(map(known.damage, found[:MOST_FINDINGS]))
    more = max(0, len(found) - MOST_FINDINGS)
    return Checked(machine.name, packs, size, damage, more, known.commands(damage, machine))


def collect_archive(archive: Archive, name: str, registry: Registry, keep: int | None, dry_run: bool) -> Collected:
    """As `collect`."""
    known = _Known(registry)
    found = [known.part(part.__dict__) for part in archived.collect(archive, keep, dry_run)]
    parts, kept = (tuple(part for part in found if bool(part.why) == later) for later in (False, True))
    if not dry_run:
        _forget_versions(registry, archive.id, parts)
    return Collected(name, dry_run, sum(part.bytes for part in parts), LARGEST, parts, kept)


def usage_of_archive(archive: Archive, name: str, registry: Registry) -> HomeUsage:
    """As `usage`."""
    known = _Known(registry)
    uses = tuple(known.use(row) for row in archived.usage(archive))
    blobs = {"count": 0, "bytes": 0, "shared": {"count": 0, "bytes": 0}}
    return HomeUsage(name, archive.address, sum(use.size for use in uses), LARGEST, LARGEST, blobs, uses)
