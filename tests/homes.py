"""Homes whose content a test puts, asks for, damages and frees; and what must be true of a whole one."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from remoterun.agent.shared.api import Collect
from remoterun.agent.shared.logs import LogFile
from remoterun.agent.shared.packs import MISSING, pack
from remoterun.agent.shared.protocol import Link
from remoterun.agent.shared.spec import EnvironmentSpec, MountSpec, ResolvedMount, ResourceRef
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import outputs
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from remoterun.agent.upkeep.check import Check
from remoterun.agent.upkeep.gc import Collection
from tests.workshop import NO_PACKAGES, Files, ask, call, create_run, read_files, spec_of, tree_of, write_files


def put(home: Home, files: Files) -> Manifest:
    manifest, blobs = tree_of(files)
    for data in blobs.values():
        home.blobs.put(data)
    return manifest


def sound(home: Home) -> None:
    """Every blob is what its name says, and every upload what its manifest says."""
    for folder in Path(home.blobs.folder).iterdir():
        for path in folder.iterdir():
            name = path.name.removesuffix(".x")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == folder.name + name
            assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.name.endswith(".x") else 0o444)
    for upload in home.uploads.newest():
        for version in home.uploads.versions(upload["name"]):
            stored = home.uploads.stored(upload["name"], version["digest"])
            assert stored.manifest().digest == version["digest"]
            assert tree_of(read_files(Path(stored.folder)))[0].digest == version["digest"]


def missing(link: Link, *blobs: bytes) -> list[tuple[int, int]]:
    digests = b"".join(hashlib.sha256(blob).digest() for blob in blobs)
    return list(MISSING.iter_unpack(b"".join(frame.body for frame in ask(link, "missing", digests))))


def send(link: Link, *blobs: bytes) -> None:
    call(link, "put", *((pack([(hashlib.sha256(blob).digest(), blob)]), {"p": 1}) for blob in blobs))


DAY = 86400.0


@dataclass
class Collected:
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    freed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return {kind: part["count"] for kind, part in self.parts.items()}


def collect(home: Home, keep: int | None = None, dry_run: bool = False, after: float = 0.0, **more: Any) -> Collected:
    """One clean-up, `after` seconds from now."""
    found = Collected()

    def take(part: dict[str, Any] | None = None, kept: dict[str, Any] | None = None) -> None:
        if part is not None:
            found.parts[part["kind"]] = part
        if kept is not None:
            found.kept[kept["kind"]] = kept

    asked = Collect(keep, dry_run=dry_run, **more)
    done = Collection(home, asked, take, clock=lambda: time.time() + after)
    found.freed = done.run().freed
    return found


def everything(home: Home) -> dict[str, bytes]:
    """All files of a home by name, locks aside."""
    top = Path(home.path)
    paths = [path for path in top.rglob("*") if path.is_file() and path.parent.name != "locks"]
    return {str(path.relative_to(top)): path.read_bytes() for path in paths}


def blobs(home: Home) -> set[str]:
    return {path.parent.name + path.name for path in Path(home.blobs.folder).glob("*/*")}


class Mounted(NamedTuple):
    """A mount, and the tree that was found for it."""

    spec: MountSpec
    resolved: ResolvedMount

    @property
    def tree(self) -> str:
        return self.resolved.tree


def make_run(home: Home, files: Files, mounts: Sequence[Mounted] = (), **changed: Any) -> RunFolder:
    """A run that is QUEUED."""
    context, content = tree_of(NO_PACKAGES)
    for data in (*content.values(), context.encode()):
        home.blobs.put(data)
    source = put(home, files)
    environment = EnvironmentSpec("none", "cpu", context.digest)
    spec = spec_of(environment=environment, source=source.digest, mounts=tuple(mount.spec for mount in mounts))
    spec = spec._replace(**changed)
    return create_run(home, spec, source, [mount.resolved for mount in mounts])


def end(run: RunFolder, state: RunState = RunState.COMPLETE) -> None:
    run.move(state, reason=Reason.EXITED.value)


def mount(home: Home, name: str, sub: str = "", **resource: Any) -> Mounted:
    """As `submit` pins it."""
    tree = home.uploads.stored(name).manifest().below(sub)
    spec = MountSpec("uploads/" + name, "data", "data", ResourceRef("upload", name, sub=sub, **resource))
    return Mounted(spec, ResolvedMount("data", home.blobs.put(tree.encode())))


def upload(link: Any, name: str, files: Files) -> dict[str, Any]:
    """As a client does it: ask, send, commit."""
    manifest, contents = tree_of(files)
    wanted = list(contents.values())
    absent = missing(link, *wanted)
    if absent:
        send(link, *(wanted[number] for number, _ in absent))
    return call(link, "commit_upload", manifest.encode(), name=name)


def check(home: Home, set_aside: bool = True) -> list[dict[str, Any]]:
    """The findings of one check; its progress is looked at, too."""
    findings: list[dict[str, Any]] = []
    last: dict[str, Any] = {}

    def take(at: dict[str, Any] | None = None, finding: dict[str, Any] | None = None) -> None:
        if at is not None:
            assert last.get("bytes", 0) <= at["bytes"] <= at["bytes_total"] and at["files"] <= at["files_total"]
            last.update(at)
        if finding is not None:
            findings.append(finding)

    Check(home, set_aside, take).run()
    return findings


def damage(path: str, keep_size: bool = True) -> None:
    """As a failing disk does: the same file, another content."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.write(b"\0")
        if not keep_size:
            file.truncate(1)
    os.chmod(path, mode)


def whole(home: Home) -> None:
    sound(home)
    assert check(home) == [] and os.listdir(home.tmp) == []


def run_with_outputs(home: Home, files: Files, made: Files) -> RunFolder:
    run = make_run(home, files)
    home.checkout(Manifest.decode(Path(run.source_file).read_bytes()), run.work, private=True)
    write_files(Path(run.work), made)
    outputs.save(home, run)
    end(run)
    return run


@contextmanager
def log_with(content: bytes | None, times: str | None = None, before: int = 0) -> Iterator[LogFile]:
    with tempfile.TemporaryDirectory() as folder:
        log = LogFile(f"{folder}/log", f"{folder}/log.times", before)
        if content is not None:
            Path(log.path).write_bytes(content)
        if times is not None:
            Path(log.times).write_text(times)
        yield log
