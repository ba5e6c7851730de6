"""The home of a machine as a `Store`, through its agent; and what the trees of any store can do."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.measured import MOST_NAME, MOST_POINTS, MOST_SERIES, MOST_USAGE, POINT
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.records import from_json
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, TreeError
from remoterun.errors import NotFound
from remoterun.model import MachineType, Upload
from remoterun.session import Session

if TYPE_CHECKING:
    from remoterun.transfer import Fetched, Progress, Sent
    from remoterun.transfer.destination import Destination

MOST_TREE = 1 << 29
"""Bytes of a list of files."""
Arrange = Callable[[Manifest], Manifest]
"""Makes the manifest of an upload out of that of what was sent."""
Add = Callable[[str, bytes], None]
"""Takes further points of a run: of "metrics", or of "usage"."""


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

    def tree(self, resource: ResourceRef) -> ResourceTree:
        """The files of a resource. Raises `UsageError` for outputs that are not saved."""
        if resource.kind == "tree":
            return HostTree(self.session, resource, self._mounted(resource.digest or ""), api.Tree())
        return HostTree(self.session, resource, *transfer.fetch_manifest(self.session, resource))

    def _mounted(self, digest: str) -> Manifest:
        text = transfer.contents(self.session, [digest], MOST_TREE).get(digest)
        try:
            return Manifest.decode(text or b"")
        except TreeError:
            raise NotFound(f"the list of files {digest[:12]} is not on {self.machine.name} any more")

    def statuses(self, keys: Sequence[str] | None, waiting: Sequence[str] = ()) -> api.Statuses:
        """The runs of these keys, or all of them, as far as they are known. `waiting`: see `RunKeys`."""
        return self.session.ask(api.runs, api.RunKeys(None if keys is None else list(keys), list(waiting)))

    def run(self, key: str) -> HostRun:
        """A run, of which nothing is asked yet."""
        return HostRun(self.session, key)


class HostRun:
    """A run in the home of its host."""

    def __init__(self, session: Session, key: str) -> None:
        self._session, self._key = session, key

    def details(self) -> api.RunDetails:
        """What was asked for, and what has become of it."""
        return self._session.ask(api.run, api.RunKey(self._key))

    def follow(
        self, asked: api.Follow, stopped: threading.Event, opened: Callable[[Stream], object]
    ) -> Iterator[Frame | api.Followed]:
        """What `api.follow` answers, with its result as the last item. It ends once `stopped`, or when the stream with
        which `opened` is called is cancelled."""
        with self._session.stream(api.follow, asked) as stream:
            opened(stream)
            if stopped.is_set():
                stream.cancel()
            stream.end()
            yield from stream
            yield self._session.result(api.follow, stream)

    def measured(self, asked: api.Measured, add: Add) -> tuple[list[str], api.MeasuredUntil]:
        """(the names of further series of a run, how many points it has by now). `add` gets those that are new."""
        with self._session.stream(api.measured, asked) as stream, self._session.understood():
            stream.end()
            names = take_points(asked, stream, add)
            until = self._session.result(api.measured, stream)
            if until.metrics % POINT.size or until.usage % POINT.size:
                raise ValueError("points that end with a part of one")
        return names, until

    def log_part(self, asked: api.LogPart) -> tuple[int, int, bytes]:
        """(where the bytes begin, how many the log has, the bytes)."""
        with self._session.stream(api.log_part, asked) as stream:
            stream.end()
            data = stream.read(asked.size)
            answer = self._session.result(api.log_part, stream)
        return answer.start, answer.total, data

    def search_log(self, asked: api.SearchLog) -> api.Hits:
        return self._session.ask(api.search_log, asked)

    def remove(self) -> None:
        """Raises `UsageError` for one that goes on."""
        self._session.ask(api.remove_run, api.RunKey(self._key))


class ResourceTree:
    """The files of a resource in a store, and what else is known of it."""

    def __init__(
        self, machine: MachineType, home_id: str, resource: ResourceRef, manifest: Manifest, about: api.Tree
    ) -> None:
        self.machine, self.home_id = machine, home_id
        self.resource, self.manifest, self.about = resource, manifest, about

    def place(self, files: Iterable[Entry], size: int, destination: Destination) -> None:
        """Download files of it, of `size` bytes together."""
        raise NotImplementedError

    def contents(self, digests: Iterable[str], most: int) -> dict[str, bytes]:
        """Contents of up to `most` bytes together, by their digests; without those that it lacks."""
        raise NotImplementedError

    def pass_on(self, target: Session, progress: Progress) -> None:
        """Let the home `target` have the contents; what it lacks is on this machine's disk meanwhile."""
        missing = {digest for digest, _ in transfer.missing_blobs(target, digests_of(self.manifest))}
        if missing:
            with self.saved(missing, progress) as reading:
                transfer.send_tree(target, reading, {}, progress)

    def fetch(
        self,
        target: Path,
        conflict: transfer.Conflict,
        progress: Progress,
        into: bool = False,
        choose: transfer.Choice | None = None,
    ) -> Fetched:
        """Copy it, or the part of it that `choose` returns, to `target`: see `transfer.place`."""
        manifest = self.manifest if choose is None else choose(self.manifest, self.about)
        name = self.machine.name
        return transfer.place(manifest, self.about, self.place, name, target, conflict, progress, into)

    @contextmanager
    def saved(self, wanted: set[str], progress: Progress) -> Iterator[transfer.Reading]:
        """The tree on this machine's disk, as far as its contents are `wanted`, to be sent on."""
        contents = {
            entry.digest: Entry("f", entry.digest, entry.size, entry.digest)
            for entry in self.manifest.files
            if entry.digest in wanted
        }
        with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
            if contents:
                by_digest, name = Manifest(contents.values()), self.machine.name
                transfer.place(by_digest, api.Tree(), self.place, name, Path(folder), transfer.refuse, progress)
            files = ((entry, f"{folder}/{entry.digest}" if entry.digest in contents else "") for entry in self.manifest)
            with transfer.read_entries(files) as reading:
                yield reading


class HostTree(ResourceTree):
    def __init__(self, session: Session, resource: ResourceRef, manifest: Manifest, about: api.Tree) -> None:
        super().__init__(session.machine, session.home_id, resource, manifest, about)
        self.session = session

    def place(self, files: Iterable[Entry], size: int, destination: Destination) -> None:
        transfer.download(self.session, self.resource, files, size, destination)

    def contents(self, digests: Iterable[str], most: int) -> dict[str, bytes]:
        return transfer.contents(self.session, digests, most)


def take_points(asked: api.Measured, frames: Iterable[Frame], add: Add) -> list[str]:
    """Give `add` the points of an answer to `measured`; the names in it. Raises `ValueError` for what makes no
    sense."""
    names: list[str] = []
    ends = {"metrics": asked.metrics, "usage": asked.usage}
    for frame in frames:
        names += from_json(list[str], frame.header.get("names", []))
        kinds = ends.keys() & frame.header.keys()
        for kind in kinds:
            if frame.header[kind] != ends[kind]:
                raise ValueError(f"{kind}: points of another place")
            ends[kind] += len(frame.body)
        _check_bounds(asked.names, names, **ends)
        for kind in kinds:
            add(kind, bytes(frame.body))
    return names


def _check_bounds(known: int, names: Sequence[str], metrics: int, usage: int) -> None:
    """Raises `ValueError` for more than a host stores of a run, by the names and by the ends of its points."""
    if known + len(names) > MOST_SERIES or any(len(name) > MOST_NAME for name in names):
        raise ValueError("names of too many series, or too long ones")
    within = metrics <= MOST_POINTS * POINT.size and usage <= MOST_USAGE * POINT.size
    if not within or metrics % POINT.size or usage % POINT.size:
        raise ValueError("more points than a run can have, or a part of one")


def digests_of(manifest: Manifest) -> list[str]:
    return list({entry.digest for entry in manifest.files})
