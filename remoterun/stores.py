"""Where uploads and runs are read: the home of a machine, through its agent, or the archive.

A run has one home for life, its host: `rented_runs.find_store` asks that, and reads the archive once the host is gone.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun import archive as archives
from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import ArchivedTree, SignedObject, upload_prefix
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.measured import MOST_NAME, MOST_POINTS, MOST_SERIES, MOST_USAGE, POINT
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.records import encode, from_json, to_json
from remoterun.agent.shared.spec import KEY, ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, TreeError, show
from remoterun.connections import Connections
from remoterun.errors import AddressExpired, NotFound, RemoterunError, UsageError
from remoterun.model import MachineType, Resource, Run, Told, Upload, by_our_clock
from remoterun.session import Session, understood

if TYPE_CHECKING:
    from remoterun.archive.runs import RunPlace
    from remoterun.transfer import Fetched, Progress, Sent

MOST_TREE = 1 << 29
"""Bytes of a list of files."""
SIGNED = 6 * 3600.0
"""Seconds for which a host may download; what it has not got by then is signed again."""
SIGN_AGAIN = 10
"""Times: a store whose clock is off accepts nothing, however often it is signed."""
Arrange = Callable[[Manifest], Manifest]
"""Makes the manifest of an upload out of that of what was sent."""


class HostStore:
    """The home of a machine. Everything may raise `HostError`, and `NotFound` where what is asked for is absent."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.machine = session.machine
        self.home_id = session.home_id

    @property
    def clock_skew(self) -> float:
        """Seconds by which the clock of what it reports is ahead of ours."""
        return self.session.clock_skew

    def newest(self) -> list[Upload]:
        """The newest version of each upload."""
        found = self.session.ask(api.uploads, api.Nothing()).uploads
        return [self.session.upload(item.name, item.newest) for item in found]

    def versions(self, name: str) -> list[Upload]:
        """The versions of an upload, oldest first; none without one."""
        answer = self.session.ask(api.upload, api.VersionsOf(name))
        return [self.session.upload(name, version) for version in answer.versions]

    def put_upload(
        self, asked: api.CommitUpload, tree: transfer.Reading, progress: Progress, base: str, arrange: Arrange
    ) -> tuple[Manifest, Upload, bool, Sent]:
        """Make `tree`, which is used up, a version of an upload: (its manifest, the version, whether it is new in this
        store, what was sent). `base`: the digest of the version that it goes on from, "" for the newest."""
        sent_tree, sent = transfer.send_tree(self.session, tree, {}, progress, asked.name)
        manifest = arrange(sent_tree)
        result = self.session.ask(api.commit_upload, asked, manifest.encode())
        return manifest, self.session.upload(asked.name, result.version), result.created, sent

    def remove_upload(self, name: str, digest: str | None) -> bool:
        """Remove an upload, or one version; whether there was one."""
        return self.session.ask(api.remove_upload, api.RemoveUpload(name, digest)).removed

    def manifest(self, resource: ResourceRef) -> tuple[Manifest, api.Tree]:
        """The files of a resource, and what else is known of it. Raises `UsageError` for outputs that are not saved."""
        return transfer.fetch_manifest(self.session, resource)

    def download(self, resource: ResourceRef) -> transfer.Download:
        """What downloads files of a resource."""
        return transfer.download(self.session, resource)

    def contents(self, resource: ResourceRef, digests: Iterable[str], most: int) -> dict[str, bytes]:
        """Contents of a resource, of up to `most` bytes together, by their digests; without those that it lacks."""
        return transfer.contents(self.session, digests, most)

    def tree(self, digest: str) -> Manifest:
        """A tree that a run mounts."""
        text = transfer.contents(self.session, [digest], MOST_TREE).get(digest)
        try:
            return Manifest.decode(text or b"")
        except TreeError:
            raise NotFound(f"the list of files {digest[:12]} is not on {self.machine.name} any more")

    def statuses(self, keys: Sequence[str] | None) -> api.Statuses:
        """The runs of these keys, or all of them, as far as they are known."""
        return self.session.ask(api.runs, api.RunKeys(None if keys is None else list(keys)))

    def details(self, key: str) -> api.RunDetails:
        return self.session.ask(api.run, api.RunKey(key))

    def follow(
        self, asked: api.Follow, stopped: threading.Event, opened: Callable[[Stream], object]
    ) -> Iterator[Frame | api.Followed]:
        """What `api.follow` answers, with its result as the last item. It ends once `stopped`, or when the stream with
        which `opened` is called is cancelled."""
        with self.session.stream(api.follow, asked) as stream:
            opened(stream)
            if stopped.is_set():
                stream.cancel()
            stream.end()
            yield from stream
            yield self.session.result(api.follow, stream)

    def measured(self, asked: api.Measured, add: Callable[[str, bytes], None]) -> tuple[list[str], api.MeasuredUntil]:
        """(the names of further series of a run, how many points it has by now). `add` gets those that are new."""
        names: list[str] = []
        ends = {"metrics": asked.metrics, "usage": asked.usage}
        with self.session.stream(api.measured, asked) as stream, understood(self.machine.name):
            stream.end()
            for frame in stream:
                names += from_json(list[str], frame.header.get("names", []))
                kinds = ends.keys() & frame.header.keys()
                for kind in kinds:
                    if frame.header[kind] != ends[kind]:
                        raise ValueError(f"{kind}: points of another place")
                    ends[kind] += len(frame.body)
                _check_bounds(asked.names, names, **ends)
                for kind in kinds:
                    add(kind, bytes(frame.body))
            until = self.session.result(api.measured, stream)
            if until.metrics % POINT.size or until.usage % POINT.size:
                raise ValueError("points that end with a part of one")
        return names, until

    def log_part(self, asked: api.LogPart) -> tuple[int, int, bytes]:
        """(where the bytes begin, how many the log has, the bytes)."""
        with self.session.stream(api.log_part, asked) as stream:
            stream.end()
            data = stream.read(asked.size)
            answer = self.session.result(api.log_part, stream)
        return answer.start, answer.total, data

    def search_log(self, asked: api.SearchLog) -> api.Hits:
        return self.session.ask(api.search_log, asked)

    def remove_run(self, key: str) -> None:
        """Raises `UsageError` for one that goes on."""
        self.session.ask(api.remove_run, api.RunKey(key))


class ArchiveStore:
    """The archive: what a `HostStore` has, without a machine."""

    clock_skew = 0.0

    def __init__(self, connections: Connections, machine: MachineType) -> None:
        self._connections = connections
        self.machine = machine
        self.archive = connections.archive(machine)
        self.home_id = self.archive.id
        self._last: tuple[ResourceRef, str, ArchivedTree, api.Tree] | None = None

    def newest(self) -> list[Upload]:
        return [self._upload(name, version) for name, version in archives.uploads.newest(self.archive)]

    def versions(self, name: str) -> list[Upload]:
        return [self._upload(name, version) for version in archives.uploads.versions(self.archive, name)]

    def put_upload(
        self, asked: api.CommitUpload, tree: transfer.Reading, progress: Progress, base: str, arrange: Arrange
    ) -> tuple[Manifest, Upload, bool, Sent]:
        manifest, version, created, sent = archives.uploads.put_upload(
            self.archive, asked, tree, progress, base, arrange
        )
        return manifest, self._upload(asked.name, version), created, sent

    def remove_upload(self, name: str, digest: str | None) -> bool:
        return archives.uploads.remove_upload(self.archive, name, digest)

    def manifest(self, resource: ResourceRef) -> tuple[Manifest, api.Tree]:
        _, tree, about = self._find(resource)
        named = tree.manifest.find(resource.sub) if resource.sub else None
        try:
            return tree.manifest.below(resource.sub), about._replace(single=named is not None and named.kind == "f")
        except KeyError:
            raise NotFound(f"there is no {show(resource.typed)}")

    def download(self, resource: ResourceRef) -> transfer.Download:
        prefix, tree, _ = self._find(resource)
        return archives.reading.TreeReader(self.archive, prefix, tree.places).place

    def let_download(self, resource: ResourceRef, manifest: Manifest, target: Session, progress: Progress) -> None:
        """Let a rented host download the contents of a resource, which `manifest` lists. Raises `TransferError`."""
        prefix, tree, _ = self._find(resource)
        sizes = {entry.digest: entry.size for entry in manifest.files}
        signed_again = 0
        while wanted := [digest for digest, _ in transfer.missing_blobs(target, list(sizes))]:
            progress.start("from the archive", len(wanted), sum(sizes[digest] for digest in wanted))
            try:
                _download(target, archives.grants.downloads(self.archive, prefix, tree, wanted, SIGNED), progress)
                return
            except AddressExpired:  # as on a laptop that slept; what has come stays
                signed_again += 1
                if signed_again > SIGN_AGAIN:
                    raise
        progress.start("from the archive", 0, 0)

    def contents(self, resource: ResourceRef, digests: Iterable[str], most: int) -> dict[str, bytes]:
        prefix, tree, _ = self._find(resource)
        wanted = set(digests)
        files = [entry for entry in tree.manifest.files if entry.digest in wanted]
        return archives.reading.TreeReader(self.archive, prefix, tree.places).contents(files, most)

    def statuses(self, keys: Sequence[str] | None) -> api.Statuses:
        listed = self.archive.s3.folders("runs/") if keys is None else keys
        return api.Statuses(*archives.runs.statuses(self.archive, [*filter(KEY.match, listed)], self._place))

    def details(self, key: str) -> api.RunDetails:
        return archives.runs.details(self.archive, self._place(key))

    def follow(
        self, asked: api.Follow, stopped: threading.Event, opened: Callable[[Stream], object]
    ) -> Iterator[Frame | api.Followed]:
        return archives.runs.follow(self.archive, self._place(asked.key), asked, stopped.wait)

    def measured(self, asked: api.Measured, add: Callable[[str, bytes], None]) -> tuple[list[str], api.MeasuredUntil]:
        return archives.runs.measured(self.archive, self._place(asked.key), asked, add)

    def log_part(self, asked: api.LogPart) -> tuple[int, int, bytes]:
        return archives.runs.log_part(self.archive, self._place(asked.key), asked)

    def search_log(self, asked: api.SearchLog) -> api.Hits:
        return archives.runs.search_log(self.archive, self._place(asked.key), asked)

    def remove_run(self, key: str) -> None:
        archives.runs.remove_run(self.archive, self._place(key))

    def _place(self, key: str) -> RunPlace:
        """Where a run lies, by the row that this client has of it, else as its own client recorded it."""
        registry = self._connections.registry
        number = registry.numbers([key]).get(key)
        run = None if number is None else registry.run(number)
        if run is not None and run.renting is not None:
            return place_of(run)
        return archives.runs.recorded_place(self.archive, key)

    def _upload(self, name: str, version: api.UploadVersion) -> Upload:
        with understood(self.machine.name):
            return Upload.told(name, version, self.machine.name, self.archive.id)

    def _find(self, resource: ResourceRef) -> tuple[str, ArchivedTree, api.Tree]:
        """(the prefix below which the packs of a tree lie, the tree, what else is known of it)."""
        whole, about = resource._replace(sub="", number=0), api.Tree()
        if self._last is not None and self._last[0] == whole:
            return self._last[1:]
        if resource.kind == "upload":
            prefix = upload_prefix(resource.name)
            tree, version = archives.uploads.find_upload(self.archive, resource.name, resource.digest)
            about = api.Tree(about=to_json(version))
        elif resource.kind == "run":
            place = self._place(resource.key)
            status = archives.runs.read_record(self.archive, place).status
            about = api.Tree(about={"state": status.state.value})
            try:
                prefix, tree = archives.runs.read_run_tree(self.archive, place, "outputs")
            except NotFound:
                what = f"the outputs of {show(resource.typed)} are not in the archive"
                hint = f"remoterun logs {resource.number or 'RUN'}   shows its log, as far as it was saved"
                raise UsageError(what, hint=hint, evidence=status.message)
        else:
            prefix, tree = archives.runs.read_run_tree(self.archive, self._place(resource.key), "source")
        self._last = whole, prefix, tree, about
        return prefix, tree, about


def _check_bounds(known: int, names: Sequence[str], metrics: int, usage: int) -> None:
    """Raises `ValueError` for more than a host stores of a run, by the names and by the ends of its points."""
    if known + len(names) > MOST_SERIES or any(len(name) > MOST_NAME for name in names):
        raise ValueError("names of too many series, or too long ones")
    within = metrics <= MOST_POINTS * POINT.size and usage <= MOST_USAGE * POINT.size
    if not within or metrics % POINT.size or usage % POINT.size:
        raise ValueError("more points than a run can have, or a part of one")


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


Store = HostStore | ArchiveStore


def place_of(run: Run) -> RunPlace:
    """Where a run lies in the archive."""
    return archives.runs.RunPlace(run.key, run.renting.writers if run.renting is not None else ())


def store_of(connections: Connections, machine: MachineType) -> Store:
    """The store of a machine, without the uploads that were removed while it could not be reached. Raises `HostError`,
    `UsageError` for a machine that has yet to be rented."""
    store = ArchiveStore(connections, machine) if machine.bucket else HostStore(connections.session(machine))
    index = connections.registry.uploads
    with suppress(RemoterunError):  # else at the next one
        for name, digest in index.unwanted(store.home_id):
            store.remove_upload(name, digest)
            index.forget_copy(name, store.home_id, digest)
    return store


def told(store: Store | Session, record: Told) -> Told:
    """A status or an event that a store reports, by our clock. Raises `AgentError` for what makes no sense."""
    with understood(store.machine.name):
        return by_our_clock(record, store.clock_skew)


def fetch(
    store: Store,
    resource: ResourceRef,
    target: Path,
    conflict: transfer.Conflict,
    progress: Progress,
    into: bool = False,
    choose: transfer.Choice | None = None,
) -> Fetched:
    """Copy a resource, or the part of it that `choose` returns, to `target`: see `transfer.place`."""
    manifest, about = store.manifest(resource)
    if choose is not None:
        manifest = choose(manifest, about)
    return transfer.place(
        manifest, about, store.download(resource), store.machine.name, target, conflict, progress, into
    )


def manifest_of(store: Store, where: ResourceRef, resource: Resource) -> tuple[Manifest, api.Tree]:
    """What `Store.manifest` returns; its error names what is missing as it was typed."""
    try:
        return store.manifest(where)
    except NotFound as error:
        if not resource.sub or error.hint:
            raise
        raise NotFound(f"there is no `{show(str(resource))}`", hint=f"remoterun ls {replace(resource, sub='')}")


def digests_of(manifest: Manifest) -> list[str]:
    return list({entry.digest for entry in manifest.files})


def pass_on(store: Store, resource: ResourceRef, manifest: Manifest, target: Session, progress: Progress) -> None:
    """Let the home `target` have the contents of a resource, which `manifest` lists: a rented host downloads them from
    the archive; else what it lacks is on this machine's disk meanwhile."""
    if isinstance(store, ArchiveStore) and target.machine.rented is not None:
        store.let_download(resource, manifest, target, progress)
        return
    missing = {digest for digest, _ in transfer.missing_blobs(target, digests_of(manifest))}
    if missing:
        with saved(store, resource, manifest, missing, progress) as reading:
            transfer.send_tree(target, reading, {}, progress)


@contextmanager
def saved(
    store: Store, resource: ResourceRef, manifest: Manifest, wanted: set[str], progress: Progress
) -> Iterator[transfer.Reading]:
    """The tree `manifest` of a resource on this machine's disk, as far as its contents are `wanted`, to be sent on."""
    contents = {
        entry.digest: Entry("f", entry.digest, entry.size, entry.digest)
        for entry in manifest.files
        if entry.digest in wanted
    }
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
        if contents:
            by_digest, name = Manifest(contents.values()), store.machine.name
            download = store.download(resource)
            transfer.place(by_digest, api.Tree(), download, name, Path(folder), transfer.refuse, progress)
        files = ((entry, f"{folder}/{entry.digest}" if entry.digest in contents else "") for entry in manifest)
        with transfer.read_entries(files) as reading:
            yield reading
