"""Data sets: sent, listed, added to, and brought to the machine that needs them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, TreeError
from remoterun.client.bucket import pass_on
from remoterun.client.connections import Connections
from remoterun.errors import AgentError, HostError, NotFound, UsageError
from remoterun.model import MachineType, Resource, Upload, check_upload_name, did_you_mean
from remoterun.session import Session
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

    def upload(self, path: Path, name: str, to: str | None = None, progress: Progress | None = None) -> Uploaded:
        """Make the content of `path` the newest version of the upload `name` on a machine (default: the default one).

        Repeat it after a cut: what has arrived is not sent again. Raises `UsageError`, `TransferError`, `HostError`.
        """
        check_upload_name(name)
        progress = progress or Progress()
        machine = self._connections.home(to)
        with contextlib.ExitStack() as stack:
            with ThreadPoolExecutor(1) as pool:  # listing and connecting take as long as the longer of the two
                reading = pool.submit(transfer.read_tree, path, self._connections.config.home / "stamps.db")
                try:
                    session = self._connections.session(machine)
                finally:
                    tree = reading.result()
                    stack.enter_context(tree)
            source = str(path.resolve())
            if tree.hashed:
                same = self._unchanged(session, name, tree, source)
                if same is not None:
                    return same
            with session.stream(api.commit_upload, api.UploadName(name)) as commit:
                manifest, sent = transfer.send_tree(session, tree, {}, progress, name, commit)
                commit.end()
                commit.finish()
                result = session.result(api.commit_upload, commit)
        upload, created = self._committed(session, name, result, manifest, source)
        return Uploaded(upload, created, sent, (*tree.warnings, *_of_git(manifest)))

    def _unchanged(self, session: Session, name: str, tree: transfer.Reading, path: str) -> Uploaded | None:
        """What is to be said if nothing needs to be read or sent: the newest version has this content."""
        manifest = Manifest(tree.entries())
        versions = session.versions(name, newest=True)
        if not versions or versions[-1].digest != manifest.digest or versions[-1].damaged:
            return None
        tree.close(complete=True)
        upload = self._record(session, versions[-1], path)
        return Uploaded(upload, False, Sent(0, 0, manifest.size), tuple(tree.warnings))

    def _commit(self, session: Session, name: str, manifest: Manifest, path: str | None) -> tuple[Upload, bool]:
        result = session.ask(api.commit_upload, api.UploadName(name), manifest.encode())
        return self._committed(session, name, result, manifest, path)

    def _committed(
        self, session: Session, name: str, result: api.Committed, sent: Manifest, path: str | None
    ) -> tuple[Upload, bool]:
        return self._record(session, _made_of(sent, session.upload(name, result.version)), path), result.created

    def _record(self, session: Session, upload: Upload, path: str | None) -> Upload:
        upload = replace(upload, path=path)
        self._connections.registry.record_upload(upload, session.machine, time.time())
        return upload

    def list(self) -> Sequence[Upload]:
        """The newest of each upload that this client knows, or that the default machine or the bucket has."""
        found: dict[str, Upload] = {}
        for upload, _ in self._connections.registry.uploads():
            found.setdefault(upload.name, upload)
        homes = {self._connections.home(None), *self._connections.named_bucket()}
        questions = {machine: partial(self._newest, machine) for machine in homes}
        failed: HostError | None = None
        for answer in self._connections.at_once(questions, None).values():
            if isinstance(answer, HostError):
                failed = answer
                continue
            for upload in answer:
                known = found.get(upload.name)
                if known is None or known.home_id == upload.home_id or known.digest == upload.digest:
                    found[upload.name] = upload
        if failed is not None and not found:
            raise failed
        return sorted(found.values(), key=lambda upload: upload.name)

    def _newest(self, machine: MachineType) -> Sequence[Upload]:
        session = self._connections.session(machine)
        answer = session.ask(api.uploads, api.Nothing())
        return [session.upload(item.name, item.newest) for item in answer.uploads]

    def add(self, path: Path, target: Resource, to: str | None = None, progress: Progress | None = None) -> Uploaded:
        """Add a file or a folder's contents to an upload, below `target.sub`: a new version of it.

        The upload stays where it is; a new one is made on `to`. Raises `UsageError` for a run.
        """
        if target.kind != "uploads":
            raise UsageError(
                f"{target} can't be written: a run's outputs stay as they were",
                hint="remoterun cp PATH uploads/NAME/",
            )
        progress = progress or Progress()
        with transfer.read_tree(path, self._connections.config.home / "stamps.db") as added:
            single = path.is_file()
            known = self._connections.registry.uploads(target.name)
            session = self._connections.session(self._connections.home(to) if to or not known else known[0][1])
            entries = {}
            if session.versions(target.name, newest=True):
                base, _ = transfer.fetch_manifest(session, ResourceRef("upload", target.name))
                entries = {entry.path: entry for entry in base.entries}

            def with_added(more: Iterable[Entry]) -> Manifest:
                together = dict(entries)
                for entry in more:
                    place = "/".join(part for part in (target.sub, entry.path) if part)
                    if single and target.sub and not target.trailing and not _is_folder(target.sub, entries):
                        place = target.sub
                    together[place] = entry._replace(path=place)
                try:
                    return Manifest(_without_filled_folders(together.values()))
                except TreeError as error:
                    raise UsageError(f"{target} can't be written: {error}", hint=f"remoterun ls uploads/{target.name}")

            with_added(added.entries())  # that it can be, before anything is sent
            sent_tree, sent = transfer.send_tree(session, added, {}, progress, target.name)
            manifest = with_added(sent_tree.entries)
            upload, created = self._commit(session, target.name, manifest, known[0][0].path if known else None)
            return Uploaded(upload, created, sent, tuple(added.warnings))

    def remove(self, name: str) -> bool:
        """Delete an upload, on every machine that this client knows to have it; whether there was one."""
        registry = self._connections.registry
        known = registry.uploads(name)
        removed = False
        for machine in [machine for _, machine in known] or [self._connections.home(None)]:
            session = self._connections.session(machine)
            removed = session.ask(api.remove_upload, api.UploadName(name)).removed or removed
            registry.forget_upload(name, session.home_id)
        return removed or bool(known)


def bring(connections: Connections, name: str, session: Session, progress: Progress) -> Upload:
    """The newest version of an upload, on the machine of `session`: there already, or passed on to it."""
    known = connections.registry.uploads(name)
    here = session.versions(name)
    if known:
        newest, machine = known[0]
        if newest.home_id == session.home_id and here:  # somebody else may have made a newer one there
            return here[-1]
        for version in here:
            if version.digest == newest.digest:
                return version
        if newest.home_id != session.home_id:
            return _pass_on(connections, name, newest, machine, session, progress)
    if here:
        return here[-1]
    close = did_you_mean(name, {upload.name for upload, _ in connections.registry.uploads()})
    hint = f"did you mean uploads/{close}?" if close else f"remoterun upload PATH --name {name}"
    raise NotFound(f"there is no upload `{name}`", hint=hint)


def bring_to_rented(connections: Connections, name: str, session: Session, progress: Progress) -> Upload:
    """The newest version of an upload on a rented host, by way of the bucket, where it stays. What the host has is not
    recorded: the host will be gone."""
    bucket = connections.session(connections.bucket())
    kept = bring(connections, name, bucket, progress)
    bring_version(connections, name, kept.digest, session, progress)
    return kept


def bring_version(connections: Connections, name: str, digest: str, session: Session, progress: Progress) -> None:
    """The version of an upload with that digest, from the bucket to a rented host."""
    if any(version.digest == digest for version in session.versions(name)):
        return
    bucket = connections.session(connections.bucket())
    manifest, _ = transfer.fetch_manifest(bucket, ResourceRef("upload", name, digest=digest))
    pass_on(connections, bucket, manifest, session, progress)
    session.ask(api.commit_upload, api.UploadName(name), manifest.encode())


def _pass_on(
    connections: Connections, name: str, upload: Upload, machine: MachineType, target: Session, progress: Progress
) -> Upload:
    source = connections.session(machine)
    resource = ResourceRef("upload", name, digest=upload.digest)
    manifest, _ = transfer.fetch_manifest(source, resource)
    transfer.relay(source, manifest, target, progress)
    result = target.ask(api.commit_upload, api.UploadName(name), manifest.encode())
    copied = _made_of(manifest, target.upload(name, result.version))
    connections.registry.record_upload(
        replace(copied, path=upload.path), target.machine, None
    )  # the original comes first
    return copied


def _made_of(sent: Manifest, upload: Upload) -> Upload:
    """The version, if it has the content that was sent: what is recorded of a home must not be its word alone."""
    if upload.digest != sent.digest:
        raise AgentError(f"{upload.machine} answers with another version of `{upload.name}` than was sent")
    return upload


def _of_git(tree: Manifest) -> list[str]:
    """What most people do not mean to upload; a data set may be a repository, though."""
    count = tree.encode().count(b'\n["f",".git/')  # what each of their lines begins with
    return [f"{count:,} of its files are git's own, in .git: `cp` will leave them out"] if count else []


def _is_folder(path: str, entries: dict[str, Entry]) -> bool:
    return any(known.startswith(path + "/") for known in entries)


def _without_filled_folders(entries: Iterable[Entry]) -> list[Entry]:
    """Entries without "empty" folders that have something in them by now."""
    listed = list(entries)
    return [
        entry
        for entry in listed
        if entry.kind != "d" or not any(other.path.startswith(entry.path + "/") for other in listed)
    ]
