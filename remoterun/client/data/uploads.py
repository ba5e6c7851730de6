"""Data sets: sent, listed, added to, removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from remoterun import machines, transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, TreeError
from remoterun.client.data.upload_copies import absent, note_versions, restore_upload, same_as_sent
from remoterun.clouds import ARCHIVE, front
from remoterun.connections import Connections, home_gone
from remoterun.errors import HomeMissing, HostError, NoLogin, NotFound, UsageError
from remoterun.host_store import Arrange
from remoterun.model import MachineType, Resource, Upload, check_upload_name
from remoterun.stores import Store, store_of
from remoterun.threads import start
from remoterun.transfer import Progress, Sent


@dataclass(frozen=True)
class Uploaded:
    """What `upload` did. `created` is False when the newest version had this content already."""

    upload: Upload
    created: bool
    sent: Sent
    warnings: tuple[str, ...] = ()


class Uploads:
    """What a client does with uploads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def upload(
        self,
        path: Path,
        name: str | None,
        to: str | None = None,
        progress: Progress | None = None,
        *,
        git: bool = False,
    ) -> Uploaded:
        """Make the content of `path` the newest version of the upload `name` (None: that of its folder) on a machine
        (default: the default one).

        The `.git` of a work tree is sent only with `git`. Repeat it after a cut: what has arrived is not sent again.
        Raises `UsageError`, `TransferError`, `HostError`.
        """
        folder = path if path.is_dir() else path.parent
        name = check_upload_name(folder.resolve().name if name is None else name)
        progress = progress or Progress()
        machine = self._connections.home(to, any=True)
        with contextlib.ExitStack() as stack:
            stamps = self._connections.config.home / "stamps.db"
            reading = start(partial(transfer.read_tree, path, stamps, git))  # while the machine is connected to
            try:
                store = store_of(self._connections, machine)
            finally:
                tree = stack.enter_context(reading.result())
            source = str(path.resolve())
            there = note_versions(self._connections.registry, store, name)
            if tree.hashed and there:
                same = self._unchanged(store, there[-1], tree, source)
                if same is not None:
                    return same
            return self._put(store, name, tree, progress, source)

    def _unchanged(self, store: Store, newest: Upload, tree: transfer.Reading, path: str) -> Uploaded | None:
        """The result if nothing needs to be read or sent: the newest version on that machine, and of all, has this
        content."""
        manifest = Manifest(tree.entries())
        highest = self._connections.registry.uploads.highest(newest.name)
        if not manifest.digest == newest.digest == highest[1] or newest.damaged or newest.for_mount:
            return None
        tree.close(complete=True)
        upload = self._record(store, newest, path)
        return Uploaded(upload, False, Sent(0, 0, manifest.size), tuple(tree.warnings))

    def _put(
        self,
        store: Store,
        name: str,
        tree: transfer.Reading,
        progress: Progress,
        path: str | None,
        base: str = "",
        arrange: Arrange = lambda manifest: manifest,
    ) -> Uploaded:
        highest = self._connections.registry.uploads.highest(name)
        asked = api.CommitUpload(name, *highest)
        manifest, upload, created, sent = store.put_upload(asked, tree, progress, base, arrange)
        upload = self._record(store, same_as_sent(manifest, upload), path)
        return Uploaded(upload, created or upload.version > highest[0], sent, (*tree.warnings, *_of_git(manifest)))

    def _record(self, store: Store, upload: Upload, path: str | None) -> Upload:
        return self._connections.registry.uploads.record(replace(upload, path=path), store.machine, time.time())

    def list(self, wait: float | None = None) -> Sequence[Upload]:
        """The newest version of each upload, with the machines that have it and the runs that read it.

        All machines that this client has used are asked at once, and the bucket. Of one that can't be reached, or takes
        longer than `wait` seconds (None: as long as connecting may take), it is what was known before, and
        `UploadCopy.fault` says so. Raises `HostError` where nothing is known, and a machine can't be asked.
        """
        answers = self._ask_homes(self._record_newest, wait)
        found = _with_copies(self._connections.registry.uploads.versions(), answers)
        newest: dict[str, Upload] = {}
        for upload in found:
            newest.setdefault(upload.name, upload)
        failed = [each for each in answers.values() if isinstance(each, HostError) and not isinstance(each, NoLogin)]
        if failed and not newest:
            raise failed[0]
        return [self._with_readers(upload) for upload in newest.values()]

    def versions(self, name: str, wait: float | None = None) -> Sequence[Upload]:
        """All versions of an upload, the oldest first, each with the machines that have it and the runs that read it;
        `wait` as for `list`. Raises `NotFound`."""
        registry = self._connections.registry
        answers = self._ask_homes(partial(self._describe_versions, name), wait)
        found = _with_copies(registry.uploads.versions(name), answers)
        if not found:
            raise absent(registry, name)
        return [self._with_readers(upload) for upload in reversed(found)]

    def known(self, name: str) -> Sequence[Upload]:
        """The versions of an upload that are known here, the newest first, once for each machine that has one, with the
        runs that read it."""
        return [self._with_readers(upload) for upload, _ in self._connections.registry.uploads.versions(name)]

    def _with_readers(self, upload: Upload) -> Upload:
        readers = self._connections.registry.uploads.readers(upload.name)
        return replace(upload, runs=tuple(readers.get(upload.digest, ())))

    def _record_newest(self, machine: MachineType) -> str:
        """Note the newest version of each upload of a machine; the id of its home."""
        store, registry = store_of(self._connections, machine), self._connections.registry
        before = [upload for upload, _ in registry.uploads.versions()]
        ours = {upload.name for upload in before}
        found = store.newest()
        for upload in found:
            if upload.name in ours or not upload.for_mount:
                registry.uploads.found(upload, machine)
        there = {upload.name for upload in found}
        here = {upload.name for upload in before if upload.home_id == store.home_id}
        for name in here - there:  # another client has removed it
            registry.uploads.forget_copy(name, store.home_id)
        registry.uploads.saw(store.home_id, time.time())
        return store.home_id

    def _describe_versions(self, name: str, machine: MachineType) -> str:
        store = store_of(self._connections, machine)
        note_versions(self._connections.registry, store, name)
        return store.home_id

    def _ask_homes(
        self, question: Callable[[MachineType], str], wait: float | None
    ) -> dict[tuple[str | None, ...], str | HostError]:
        """What `question` returned, by the place of each home: of this machine, of the default one and the bucket, and
        of those that this client has used. Others are left alone: they might ask for a password first."""
        connections, registry = self._connections, self._connections.registry
        used = [*registry.hosts(), *(machine for _, machine in registry.uploads.versions())]
        places = {machine.place for machine in used}
        named = [
            machine
            for machine in machines.listing(connections.config)
            if not machine.pool and (machine.host is None or machine.place in places)
        ]
        default = connections.machine(None)
        known = [default, *named, *connections.named_bucket(), *used]
        homes = {
            machine.place: machine
            for machine in reversed(known)
            if machine.rented is None and machine.rental is None and not machine.pool
        }
        answers: dict[tuple[str | None, ...], str | HostError] = {}
        for place, machine in homes.items():
            if machine.bucket is not None and not connections.may_ask(machine):
                answers[place] = NoLogin(
                    f"{machine.bucket} was not asked: there is no login at {front(ARCHIVE).title} here"
                )
        questions = {machine: partial(question, machine) for place, machine in homes.items() if place not in answers}
        asked = connections.ask_all(questions, wait).items()
        return answers | {machine.place: answer for machine, answer in asked}

    def add(self, path: Path, target: Resource, to: str | None = None, progress: Progress | None = None) -> Uploaded:
        """Add a file or a folder's contents to an upload, below `target.sub`: a new version of it.

        The upload stays where it is; a new one is made on `to`. Raises `UsageError` for a run.
        """
        if target.kind != "uploads":
            raise UsageError(
                f"{target} can't be written: a run's outputs stay as they were", hint="remoterun cp PATH uploads/NAME/"
            )
        progress = progress or Progress()
        with transfer.read_tree(path, self._connections.config.home / "stamps.db") as added:
            single = path.is_file()
            known = self._connections.registry.uploads.versions(target.name)
            if target.version is not None:
                whole = replace(target, version=None)
                raise UsageError(
                    f"{target} can't be written: a version stays as it is", hint=f"remoterun cp … {whole}/"
                )
            machine = self._connections.home(to, any=True) if to or not known else known[0][1]
            store = store_of(self._connections, machine)
            if known and not to and known[0][0].home_id != store.home_id:  # its home there is gone
                restore_upload(self._connections, target.name, store, progress)
            known = self._connections.registry.uploads.versions(target.name, home_id=store.home_id)
            entries, digest = {}, ""
            there = store.versions(target.name)
            if there:
                newest = known[0][0].digest if known else ""
                digest = newest if newest in [version.digest for version in there] else there[-1].digest
                base = store.tree(ResourceRef("upload", target.name, digest=digest)).manifest
                entries = {entry.path: entry for entry in base}

            def with_added(more: Manifest) -> Manifest:
                together = dict(entries)
                below = any(known.startswith(f"{target.sub}/") for known in entries)
                for entry in more:
                    place = "/".join(part for part in (target.sub, entry.path) if part)
                    if single and target.sub and not target.trailing and not below:
                        place = target.sub
                    together[place] = entry._replace(path=place)
                try:
                    return Manifest(_without_filled_folders(together.values()))
                except TreeError as error:
                    raise UsageError(f"{target} can't be written: {error}", hint=f"remoterun ls uploads/{target.name}")

            with_added(Manifest(added.entries()))  # that it can be, before anything is sent
            path_then = known[0][0].path if known else None
            return self._put(store, target.name, added, progress, path_then, digest, with_added)

    def remove(self, name: str, version: int | None = None) -> tuple[Sequence[str], Mapping[str, HostError]]:
        """Delete an upload, or a version of it, on every machine that this client knows to have it: (the machines that
        have it no more, why others have it until the next contact with them). Raises `NotFound` where there is none."""
        registry = self._connections.registry
        known = registry.uploads.versions(name, version)
        if version is not None and not known:
            raise absent(registry, name, version)
        digest = known[0][0].digest if version is not None else None
        others = [upload for upload, _ in registry.uploads.versions(name) if upload.version != version]
        homes = {machine.place: machine for _, machine in known} or {(): self._connections.home(None)}
        registry.uploads.remove(name, version or 0)  # first: `store_of` deletes it now, or at the next contact
        if digest in [upload.digest for upload in others]:  # another version has the same content
            return [machine.name for machine in homes.values()], {}

        def delete(machine: MachineType) -> bool:
            store = store_of(self._connections, machine)
            removed = store.remove_upload(name, digest)
            registry.uploads.forget_copy(name, store.home_id, digest)
            return removed or bool(known)

        answers = self._connections.ask_all({each: partial(delete, each) for each in homes.values()}, None)
        remaining = {machine.name: answer for machine, answer in answers.items() if isinstance(answer, HostError)}
        removed = [machine.name for machine, answer in answers.items() if answer is True]
        if not removed and not (known and remaining):
            raise next(iter(remaining.values()), NotFound(f"there is no uploads/{name}", hint="remoterun ls uploads"))
        return removed, remaining


def _with_copies(
    rows: Iterable[tuple[Upload, MachineType]], answers: Mapping[tuple[str | None, ...], str | HostError]
) -> list[Upload]:
    """Each version once, with all of its copies; those whose home is gone only where there are no others."""
    found: dict[tuple[str, int], list[Upload]] = {}
    for upload, machine in rows:
        answer = answers.get(machine.place)
        (copy,) = upload.copies
        if isinstance(answer, HostError):
            copy = replace(copy, fault=answer)
        elif answer != upload.home_id:
            again = "remoterun upload PATH --name NAME   uploads again what lay only there"
            copy = replace(
                copy, fault=home_gone("uploads", machine, again, "remoterun rm uploads/NAME   takes it off this list")
            )
        found.setdefault((upload.name, upload.version), []).append(replace(upload, copies=(copy,)))
    versions = []
    for same in found.values():
        there = [each for each in same if not isinstance(each.copies[0].fault, HomeMissing)] or same
        copies, first = tuple(copy for each in there for copy in each.copies), there[0]
        versions.append(replace(same[0], machine=first.machine, home_id=first.home_id, copies=copies))
    return versions


def _of_git(tree: Manifest) -> list[str]:
    """What most people do not mean to upload; a data set may be a repository, though."""
    count = tree.encode().count(b'\n["f",".git/')  # what each of their lines begins with
    return [f"{count:,} of its files are git's own, in .git: `cp` will leave them out"] if count else []


def _without_filled_folders(entries: Iterable[Entry]) -> list[Entry]:
    """Entries without "empty" folders that have something in them by now."""
    listed = list(entries)
    return [
        entry
        for entry in listed
        if entry.kind != "d" or not any(other.path.startswith(entry.path + "/") for other in listed)
    ]
