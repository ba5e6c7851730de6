"""The upkeep of a home: is it sound, what can be freed, who uses what. The agent does the work (agent/check.py, gc.py,
usage.py); here is what only the client can do: bring what is damaged from elsewhere, and say which run is which.

Nothing that comes from a host is trusted: the home that gets a blob verifies it by its hash.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.protocol import PIECE, Body, Stream
from remoterun.agent.shared.tree import TreeError, check_path, hash_file, is_digest, show
from remoterun.environments import context
from remoterun.errors import AgentError, HostError, RemoterunError, TransferError
from remoterun.model import MachineType
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.transfer import Progress


@dataclass(frozen=True)
class Damage:
    """One thing that was not as it should be. `what`: "blob", "file", "folder" or "list"; `problem`: "damaged",
    "missing" or "changed"; `places`: where it belongs, as the agent names it, runs with their number where it is known,
    and `more` places than those. `mended`: from what, "" if it is not; then `why`, if that is known."""

    what: str
    problem: str
    digest: str
    size: int
    places: tuple[dict[str, Any], ...]
    more: int
    mended: str
    why: str

    def record(self) -> dict[str, Any]:
        return {**self.__dict__, "places": list(self.places)}


@dataclass(frozen=True)
class Checked:
    """What `verify` found in a home, of `blobs` blobs with `size` bytes. `more`: what was not looked into, for there
    were too many damages."""

    machine: str
    blobs: int
    size: int
    damage: tuple[Damage, ...]
    more: int = 0

    @property
    def sound(self) -> bool:
        """Nothing is damaged any more."""
        return not self.more and all(damage.mended for damage in self.damage)

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
        }


@dataclass(frozen=True)
class Part:
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
    parts: tuple[Part, ...]
    kept: tuple[Part, ...]

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
    `about` are in agent/usage.py; `number` is a run's."""

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
        return {**record, **self.about}


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


# -- verify


@dataclass(frozen=True)
class Elsewhere:
    """Where else a content may be: what the registry remembers, and other machines, opened when they are needed."""

    registry: Registry
    machines: tuple[MachineType, ...]
    open: Callable[[MachineType], Session]


def verify(
    session: Session, elsewhere: Elsewhere, repair: bool, progress: Progress, note: Callable[[str], None]
) -> Checked:
    """Verify a home; with `repair`, mend it. `note` is called with a line for each machine that can't be asked.

    Blocks for as long as it takes to read the whole home. May be repeated. Raises `HostError`.
    """
    totals, findings = _check(session, repair, progress)
    if repair and _bring(session, findings, elsewhere, progress, note):
        totals, more = _check(session, repair, progress)  # a list of files is there again: are its files?
        _bring(session, more, elsewhere, progress, note)
        findings = [finding for finding in findings if finding["mended"]] + more
    numbers = _numbers(elsewhere.registry)
    damage = tuple(_damage(finding, numbers) for finding in findings)
    return Checked(session.machine.name, totals.blobs, totals.size, damage, totals.more)


def _check(session: Session, repair: bool, progress: Progress) -> tuple[api.CheckTotals, list[dict[str, Any]]]:
    findings = []
    phase = ""
    with session.stream(api.check, api.CheckHome(repair)) as stream:
        stream.end()
        for frame in stream:
            with session.understood():
                if "finding" in frame.header:
                    findings.append(_finding(frame.header["finding"]))
                    continue
                at = dict(frame.header["at"])
                if at["phase"] != "blobs":
                    continue  # the others take no time beside it
                if phase != "blobs":
                    phase = "blobs"
                    progress.start("checking", int(at["files_total"]), int(at["bytes_total"]))
                progress.add(int(at["bytes"]) - progress.bytes_done, int(at["files"]) - progress.files_done)
        return session.result(api.check, stream), findings


def _finding(told: dict[str, Any]) -> dict[str, Any]:
    """As `agent.check` tells it. Raises `ValueError`, `TypeError`, `LookupError` for what makes no sense."""
    finding: dict[str, Any] = {name: str(told[name]) for name in ("what", "problem", "digest", "mended", "why")}
    users = [dict(user) for user in told["users"]]
    for user in users:
        for name in ("upload", "run", "path"):
            if not isinstance(user.get(name, ""), str):
                raise ValueError(f"{name}: {user[name]!r}")
        if "upload" in user:
            user.setdefault("path", "")
    return {**finding, "size": int(told["size"]), "more": int(told["more"]), "users": users}


def _bring(
    session: Session,
    findings: list[dict[str, Any]],
    elsewhere: Elsewhere,
    progress: Progress,
    note: Callable[[str], None],
) -> bool:
    """Bring what is damaged from wherever it is whole; whether a list of files came back."""
    left = {f["digest"]: f for f in findings if not f["mended"] and is_digest(f["digest"]) and f["users"]}
    brought: dict[str, str] = {}
    for digest, finding in left.items():
        found = _from_here(finding, elsewhere.registry)
        if found is not None and _put(session, digest, *found[1:], progress):
            brought[digest] = found[0]
    absent = [digest for digest in left if digest not in brought]
    for machine in elsewhere.machines if absent else ():
        try:
            other = elsewhere.open(machine)
            if other.home_id == session.home_id:
                continue
            for digest in _pass_on(other, session, absent, progress):
                brought[digest] = machine.name
        except RemoterunError as error:
            note(f"{machine.name} could not be asked: {error.message}")
        absent = [digest for digest in absent if digest not in brought]
    if not brought:
        return False
    with session.stream(api.mend, Nothing()) as stream:
        stream.send(bytes.fromhex("".join(brought)))
        stream.end()
        for frame in stream:
            mended, failed = str(frame.header.get("mended")), str(frame.header.get("failed"))
            if mended in brought:
                left[mended]["mended"] = brought[mended]
            elif failed in left:
                left[failed]["why"] = str(frame.header.get("why", ""))
    return any(left[digest]["what"] == "list" and left[digest]["mended"] for digest in brought)


def _from_here(finding: dict[str, Any], registry: Registry) -> tuple[str, int, Iterator[bytes]] | None:
    """(where it is, size, content) of a digest that this machine has: the file that was uploaded, or our own."""
    ours = context()[1].get(finding["digest"])
    if ours is not None:
        return "this installation", len(ours), iter([ours])
    for path in _uploaded_from(finding, registry):
        try:
            status = os.lstat(path)
            same_size = stat.S_ISREG(status.st_mode) and status.st_size == finding["size"]
            if same_size and hash_file(path)[0] == finding["digest"]:
                return show(path), status.st_size, _pieces(path)
        except (OSError, TreeError):
            continue
    return None


def _uploaded_from(finding: dict[str, Any], registry: Registry) -> Iterator[str]:
    """Paths of this machine from which it may have been uploaded."""
    seen = set()
    for user in finding["users"]:
        for upload, _ in registry.uploads(user["upload"]) if "upload" in user else ():
            if upload.path is None:
                continue
            paths = [upload.path]
            with contextlib.suppress(TreeError):  # a path that leaves the folder is a lie
                paths.insert(0, os.path.join(upload.path, check_path(user["path"])))
            for path in paths:
                if path not in seen:
                    seen.add(path)
                    yield path


def _pieces(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while data := file.read(PIECE):
                yield data
    except OSError as error:
        raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")


def _pass_on(source: Session, target: Session, digests: list[str], progress: Progress) -> Iterator[str]:
    """Pass blobs on that `source` has; the digest of each that arrived whole."""
    wanted = iter(digests)
    with source.stream(api.blobs, Nothing()) as stream:
        stream.send(bytes.fromhex("".join(digests)))
        stream.end()
        for digest in wanted:
            frame = stream.receive()
            if frame is None or frame.header.get("d") != digest:
                raise TransferError(f"{source.machine.name} sent an answer that makes no sense")
            size = frame.header.get("s")
            if frame.header.get("gone"):
                continue
            if type(size) is not int or size < 0:
                raise TransferError(f"{source.machine.name} sent an answer that makes no sense")
            if _put(target, digest, size, _body(frame.body, size, stream, source), progress):
                yield digest


def _body(first: Body, size: int, stream: Stream, source: Session) -> Iterator[Body]:
    left = size - len(first)
    yield first
    while left > 0:
        frame = stream.receive()
        if frame is None:
            raise TransferError(f"{source.machine.name} ended the transfer early", hint="repeat the command")
        left -= len(frame.body)
        yield frame.body
    if left:
        raise TransferError(f"{source.machine.name} sends more than it said")


def _put(session: Session, digest: str, size: int, pieces: Iterable[Body], progress: Progress) -> bool:
    """Whether the home took it: it refuses what has another hash, such as a file that has changed just now."""
    progress.start("mending", 1, size)
    header: dict[str, Any] = {"d": digest, "s": size, "o": 0, "k": digest}
    rest = iter(pieces)
    try:
        with session.stream(api.put, Nothing()) as stream:
            for piece in rest:
                stream.send(piece, **header)
                header = {}
                progress.add(len(piece))
            if header:
                stream.send(b"", **header)
            stream.end()
            stream.finish()
    except HostError as error:
        if not isinstance(error, AgentError):
            raise
        return False
    except RemoterunError:
        for _ in rest:  # what still comes of it is not the next one's
            pass
        return False
    progress.add(0, 1)
    return True


def _numbers(registry: Registry) -> dict[str, int]:
    return {run.key: run.number for run in registry.runs()}


def _damage(finding: dict[str, Any], numbers: dict[str, int]) -> Damage:
    places = tuple(
        {**user, "run": numbers.get(user["run"]), "key": user["run"]} if "run" in user else user
        for user in finding["users"]
    )
    return Damage(
        finding["what"],
        finding["problem"],
        finding["digest"],
        finding["size"],
        places,
        finding["more"],
        finding["mended"],
        finding["why"],
    )


# -- collect


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
        for frame in stream:
            with session.understood():
                if "part" in frame.header:
                    parts.append(_part(frame.header["part"]))
                elif "kept" in frame.header:
                    kept.append(_part(frame.header["kept"]))
        totals = session.result(api.collect, stream)
    if not dry_run:
        _forget_versions(session, registry, parts)
    return Collected(session.machine.name, dry_run, totals.freed, totals.free, tuple(parts), tuple(kept))


def _part(told: dict[str, Any]) -> Part:
    items = tuple(dict(item) for item in told["items"])
    return Part(str(told["kind"]), int(told["count"]), int(told["bytes"]), items, str(told.get("why", "")))


def _forget_versions(session: Session, registry: Registry, parts: list[Part]) -> None:
    """The registry names the newest version, unless somebody else has made newer ones, and ours is gone by now."""
    with session.understood():
        versions = [item for part in parts if part.kind == "versions" for item in part.items]
        removed = {(str(item["upload"]), int(item["version"])) for item in versions}
    for known, _ in registry.uploads():
        if known.home_id != session.home_id or (known.name, known.version) not in removed:
            continue
        newest = session.versions(known.name, newest=True)[-1:]
        for version in newest:
            registry.record_upload(replace(version, path=known.path), session.machine, None)


# -- usage


def usage(session: Session, registry: Registry) -> Usage:
    """Who uses how much of a home. Raises `HostError`."""
    numbers = _numbers(registry)
    uses = []
    with session.stream(api.usage, Nothing()) as stream:
        stream.end()
        for frame in stream:
            with session.understood():
                row = dict(frame.header["row"])
                kind, name, size, alone = (row.pop(field) for field in ("kind", "name", "size", "alone"))
                number = numbers.get(name) if kind == "run" else None
                uses.append(Use(str(kind), str(name), int(size), int(alone), number, row))
        totals = session.result(api.usage, stream)
    shared = {"count": totals.blobs.shared.blobs, "bytes": totals.blobs.shared.size}
    blobs = {"count": totals.blobs.blobs, "bytes": totals.blobs.size, "shared": shared}
    home = session.hello.home
    return Usage(session.machine.name, home, totals.total, totals.free, totals.disk, blobs, tuple(uses))


def others(machines: Iterable[MachineType], than: MachineType) -> tuple[MachineType, ...]:
    """Each other machine once."""
    found: dict[tuple[str | None, str | None], MachineType] = {}
    for machine in machines:
        if (machine.host, machine.home) != (than.host, than.home):
            found.setdefault((machine.host, machine.home), machine)
    return tuple(found.values())
