"""The archive as a `Store`: what a `HostStore` has, without a machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import ArchivedTree, SignedObject, upload_prefix
from remoterun.agent.shared.follower import RunFollower
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.log_search import search
from remoterun.agent.shared.logs import read_part
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.records import encode, to_json
from remoterun.agent.shared.spec import KEY, ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, show
from remoterun.archive import Archive, grants, reading, runs, uploads
from remoterun.archive.objects import Unsigned
from remoterun.archive.runs import RunPlace
from remoterun.clouds.base import Mounts
from remoterun.clouds.folder import HostFolder
from remoterun.connections import Connections
from remoterun.copied_runs import CopiedRun, copied
from remoterun.errors import AddressExpired, AddressMoved, NotFound, UsageError
from remoterun.host_store import Add, Arrange, ResourceTree, take_points
from remoterun.log_cache import LogCache
from remoterun.model import MachineType, Run, Upload
from remoterun.session import Session, understood

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from remoterun.transfer import Progress, Sent
    from remoterun.transfer.destination import Destination

SIGNED = 6 * 3600.0
"""Seconds for which a host may download; what it has not got by then is signed again."""
SIGN_AGAIN = 10
"""Times: a store whose clock is off accepts nothing, however often it is signed."""
POLL = 5.0
"""Seconds between two questions about a run that goes on."""


class ArchiveStore:
    clock_skew = 0.0

    def __init__(self, connections: Connections, machine: MachineType) -> None:
        self.connections = connections
        self.machine = machine
        self.archive = connections.archive(machine)
        self.home_id = self.archive.id

    def newest(self) -> list[Upload]:
        return [self._upload(name, version) for name, version in uploads.newest(self.archive)]

    def versions(self, name: str) -> list[Upload]:
        return [self._upload(name, version) for version in uploads.versions(self.archive, name)]

    def put_upload(
        self, asked: api.CommitUpload, tree: transfer.Reading, progress: Progress, base: str, arrange: Arrange
    ) -> tuple[Manifest, Upload, bool, Sent]:
        manifest, version, created, sent = uploads.put_upload(self.archive, asked, tree, progress, base, arrange)
        return manifest, self._upload(asked.name, version), created, sent

    def remove_upload(self, name: str, digest: str | None) -> bool:
        return uploads.remove_upload(self.archive, name, digest)

    def tree(self, resource: ResourceRef) -> ArchiveTree:
        prefix, tree, about = self._find(resource)
        named = tree.manifest.find(resource.sub) if resource.sub else None
        try:
            part = tree.manifest.below(resource.sub)
        except KeyError:
            raise NotFound(f"there is no {show(resource.typed)}")
        about = about._replace(single=named is not None and named.kind == "f")
        return ArchiveTree(self, resource, part, about, prefix, tree)

    def statuses(self, keys: Sequence[str] | None, waiting: Sequence[str] = ()) -> api.Statuses:
        listed = self.archive.objects.folders("runs/") if keys is None else keys
        return api.Statuses(*runs.statuses(self.archive, [*filter(KEY.match, listed)], self.place))

    def run(self, key: str) -> ArchivedRun:
        config = self.connections.config
        return ArchivedRun(self.archive, self.place(key), LogCache(config.home, config.keep_logs))

    def place(self, key: str) -> RunPlace:
        """Where a run lies, by the row that this client has of it, else as its own client recorded it."""
        registry = self.connections.registry
        number = registry.numbers([key]).get(key)
        run = None if number is None else registry.run(number)
        if run is not None and run.renting is not None:
            return place_of(run)
        return runs.recorded_place(self.archive, key)

    def _upload(self, name: str, version: api.UploadVersion) -> Upload:
        with understood(self.machine.name):
            return Upload.told(name, version, self.machine.name, self.archive.id)

    def _find(self, resource: ResourceRef) -> tuple[str, ArchivedTree, api.Tree]:
        """(the prefix below which the packs of a tree lie, the whole tree, what else is known of it)."""
        if resource.kind == "upload":
            tree, version = uploads.find_upload(self.archive, resource.name, resource.digest)
            return upload_prefix(resource.name), tree, api.Tree(about=to_json(version))
        place = self.place(resource.key)
        if resource.kind != "run":
            return *runs.read_run_tree(self.archive, place, "source"), api.Tree()
        status = runs.read_record(self.archive, place).status
        try:
            found = runs.read_run_tree(self.archive, place, "outputs")
        except NotFound:
            what = f"the outputs of {show(resource.typed)} are not in the archive"
            hint = f"remoterun logs {resource.number or 'RUN'}   shows its log, as far as it was saved"
            raise UsageError(what, hint=hint, evidence=status.message)
        return *found, api.Tree(about={"state": status.state.value})


class ArchivedRun:
    """A run in the archive, read from its copy here."""

    def __init__(self, archive: Archive, place: RunPlace, cache: LogCache) -> None:
        self._archive, self._place, self._cache = archive, place, cache

    def _copied(self) -> AbstractContextManager[CopiedRun]:
        return copied(self._archive, self._place, self._cache)

    def details(self) -> api.RunDetails:
        return runs.details(self._archive, self._place)

    def follow(
        self, asked: api.Follow, stopped: threading.Event, opened: Callable[[Stream], object]
    ) -> Iterator[Frame | api.Followed]:
        with self._copied() as run:
            follower = RunFollower(run, asked)
            while True:
                yield from (Frame(header, data) for header, data in follower.news())
                if run.ended or not asked.follow or stopped.wait(POLL):
                    yield follower.until(run.record.status)
                    return
                run.refresh(self._archive, self._place)

    def measured(self, asked: api.Measured, add: Add) -> tuple[list[str], api.MeasuredUntil]:
        with self._copied() as run, understood(self._archive.address):
            until = run.points.until(run.record.status)
            frames = (Frame(header, points) for header, points in run.points.since(asked, until))
            return take_points(asked, frames, add), until

    def log_part(self, asked: api.LogPart) -> tuple[int, int, bytes]:
        with self._copied() as run:
            return read_part(run.log_file(asked.name), asked.start, asked.size)

    def search_log(self, asked: api.SearchLog) -> api.Hits:
        with self._copied() as run:
            return search(run.log_file(asked.name), asked.text, asked.start, asked.most)

    def remove(self) -> None:
        runs.remove_run(self._archive, self._place)


class ArchiveTree(ResourceTree):
    """`tree`: the whole of it, whose packs lie below `prefix`."""

    def __init__(
        self,
        store: ArchiveStore,
        resource: ResourceRef,
        manifest: Manifest,
        about: api.Tree,
        prefix: str,
        tree: ArchivedTree,
    ) -> None:
        super().__init__(store.machine, store.home_id, resource, manifest, about)
        self._archive, self._prefix, self._tree = store.archive, prefix, tree
        self._connections = store.connections
        self._reader = reading.TreeReader(store.archive, prefix, tree.places)

    def place(self, files: Iterable[Entry], size: int, destination: Destination) -> None:
        self._reader.place(files, size, destination)

    def contents(self, digests: Iterable[str], most: int) -> dict[str, bytes]:
        wanted = set(digests)
        return self._reader.contents((entry for entry in self._tree.manifest.files if entry.digest in wanted), most)

    def pass_on(self, target: Session, progress: Progress) -> None:
        """A rented host reads them in the mounted bucket, or downloads them itself, where the store gives it addresses
        that hold. Raises `TransferError`."""
        if target.machine.rented is None:
            super().pass_on(target, progress)
            return
        sizes = {entry.digest: entry.size for entry in self.manifest.files}
        signed_again, folder = 0, self._folder_at(target)
        while wanted := [digest for digest, _ in transfer.missing_blobs(target, list(sizes))]:
            progress.start("from the archive", len(wanted), sum(sizes[digest] for digest in wanted))
            try:
                lines = grants.downloads(self._archive, self._prefix, self._tree, wanted, SIGNED, folder)
                _download(target, lines, progress)
                return
            except (Unsigned, AddressMoved):
                super().pass_on(target, progress)
                return
            except AddressExpired:  # as on a laptop that slept; what has come stays
                signed_again += 1
                if signed_again > SIGN_AGAIN:
                    raise
        progress.start("from the archive", 0, 0)

    def _folder_at(self, target: Session) -> str:
        """Where a rented host has this bucket as a folder; "" for nowhere."""
        token, is_current = (
            target.machine.rented,
            self._archive is self._connections.archive(self._connections.bucket()),
        )
        intent = HostFolder(self._connections.config.home, token).intent() if token and is_current else None
        if intent is None or intent.machine.rental is None:
            return ""
        provider = self._connections.provider(intent.machine.rental.provider)
        return provider.folder_of(intent.machine, intent.token) if isinstance(provider, Mounts) else ""


def _download(target: Session, lines: Iterable[SignedObject], progress: Progress) -> None:
    with target.stream(api.download, api.Nothing()) as stream:
        for line in lines:
            stream.send(encode(line))
        stream.end()
        done = 0
        for frame in stream:
            at = frame.header.get("at")
            if isinstance(at, int) and at > done:
                progress.add(at - done)
                done = at
        target.result(api.download, stream)


def place_of(run: Run) -> RunPlace:
    """Where a run lies in the archive."""
    return RunPlace(run.key, run.renting.writers if run.renting is not None else ())
