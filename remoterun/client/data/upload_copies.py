"""Uploads on their way to the machine that needs them, or into the archive."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Manifest
from remoterun.connections import Connections, home_gone
from remoterun.errors import AgentError, HomeMissing, HostError, NotFound, UsageError
from remoterun.host_store import HostStore, digests_of
from remoterun.model import Resource, Upload
from remoterun.parsing import did_you_mean
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.stores import Store, archive_store, store_of
from remoterun.transfer import Progress

T = TypeVar("T")


def restore_upload(
    connections: Connections, name: str, target: Store, progress: Progress, version: int | None = None
) -> Upload:
    """A version of an upload (None: the newest), in `target`, which has it already or gets a copy. Raises `NotFound`,
    `HostError`, `TransferError`, `UsageError` as `first_copy`."""
    here = note_versions(connections.registry, target, name)
    for wanted, _ in connections.registry.uploads.versions(name, version, target.home_id)[:1]:
        for upload in here:
            if upload.digest == wanted.digest:
                return replace(upload, version=wanted.version)
    return first_copy(connections, name, version, partial(_copy_version, connections, target, progress), target.home_id)


def first_copy(
    connections: Connections, name: str, version: int | None, use: Callable[[Upload, Store], T], home_id: str = ""
) -> T:
    """Call `use` with the first copy of a version (None: the newest) that can be had, near copies first; its result.
    Raises `NotFound`, `HostError`: that of a machine that may answer later, if there is one. For another home `home_id`
    it raises `UsageError` where this client did not upload the newest: the machine that has it must not decide that."""
    registry = connections.registry
    known = registry.uploads.versions(name, version, home_id)
    copies = [(upload, machine) for upload, machine in known if upload.version == known[0][0].version]
    if home_id and version is None and copies and not any(upload.ours for upload, _ in copies):
        typed = f"uploads/{name}@{copies[0][0].version}"
        raise UsageError(
            f"`uploads/{name}` was not uploaded from here: its newest version is `{typed}`, on {copies[0][1].name}",
            hint=f'`mounts=["{typed}:PATH"]` mounts that one',
        )
    failed: list[HostError | NotFound] = []
    for upload, machine in sorted(copies, key=lambda copy: bool(copy[1].bucket or copy[1].host)):
        try:
            if machine.bucket is not None:
                connections.need_login_for(machine, f"the copy of uploads/{name} is")
            store = store_of(connections, machine)
            if store.home_id != upload.home_id:
                again = f"remoterun upload {shlex.quote(upload.path or 'PATH')} --name {name}   uploads it again"
                raise home_gone(f"`uploads/{name}@{upload.version}`", machine, again)
            return use(upload, store)
        except (HostError, NotFound) as error:  # not found: another client has removed it
            failed.append(error)
    raise min(
        failed, key=lambda error: isinstance(error, (HomeMissing, NotFound)), default=absent(registry, name, version)
    )


def archive_upload(connections: Connections, name: str, progress: Progress, version: int | None = None) -> Upload:
    """A version of an upload (None: the newest), in the archive, which has it already or gets a copy."""
    archive = archive_store(connections, connections.bucket())
    return restore_upload(connections, name, archive, progress, version)


def restore_version(connections: Connections, name: str, digest: str, session: Session, progress: Progress) -> None:
    """The version of an upload with that digest, from the archive to a rented host. It is not recorded: the host will
    be gone."""
    if any(version.digest == digest for version in HostStore(session).versions(name)):
        return
    tree = archive_store(connections, connections.bucket()).tree(ResourceRef("upload", name, digest=digest))
    tree.pass_on(session, progress)
    session.ask(api.commit_upload, api.CommitUpload(name, for_mount=True), tree.manifest.encode())


def note_versions(registry: Registry, store: Store, name: str) -> list[Upload]:
    """The versions of an upload that a store has, oldest first, with our numbers. The registry knows them then, and no
    other ones of that store."""
    before = registry.uploads.versions(name)
    there = store.versions(name)
    found = [registry.uploads.found(version, store.machine) for version in there]
    digests = {version.digest for version in there}
    for upload, _ in before:
        if upload.home_id == store.home_id and upload.digest not in digests:
            registry.uploads.forget_copy(name, store.home_id, upload.digest)
    return found


def check_known(connections: Connections, resource: Resource, session: Session | None) -> None:
    """Raises `NotFound` for an upload that is neither known here nor on the machine, or in the archive, and `HostError`
    where it lies elsewhere and can't be had from there."""
    registry, name, version = connections.registry, resource.name, resource.version
    home_id = session.home_id if session is not None else ""
    known = registry.uploads.versions(name, version, home_id)
    if not any(upload.ours or upload.home_id == home_id for upload, _ in known):
        store = HostStore(session) if session is not None else archive_store(connections, connections.bucket())
        note_versions(registry, store, name)
        home_id = store.home_id
        known = registry.uploads.versions(name, version, home_id)
    newest = [(upload, machine) for upload, machine in known if upload.version == known[0][0].version]
    if not any((upload.ours and machine.bucket) or upload.home_id == home_id for upload, machine in newest):
        first_copy(connections, name, version, lambda *_: None, home_id)


def same_as_sent(sent: Manifest, upload: Upload) -> Upload:
    """The version, if it has the content that was sent: what is recorded of a home must not be its word alone."""
    if upload.digest != sent.digest:
        raise AgentError(f"{upload.machine} answers with another version of `{upload.name}` than was sent")
    return upload


def absent(registry: Registry, name: str, version: int | None = None) -> NotFound:
    """The error for an upload, or a version of it, that nobody has."""
    names = {upload.name for upload, _ in registry.uploads.versions()}
    if version is not None and name in names:
        return NotFound(
            f"there is no version {version} of the upload `{name}`", hint=f"remoterun ls uploads/{name} --versions"
        )
    close = did_you_mean(name, names)
    hint = f"did you mean uploads/{close}?" if close else f"remoterun upload PATH --name {name}"
    return NotFound(f"there is no upload `{name}`", hint=hint)


def _copy_version(connections: Connections, target: Store, progress: Progress, upload: Upload, source: Store) -> Upload:
    tree = source.tree(ResourceRef("upload", upload.name, digest=upload.digest))
    manifest = tree.manifest
    same_as_sent(manifest, upload)
    asked = api.CommitUpload(upload.name, upload.version, upload.digest, upload.created)
    if isinstance(target, HostStore):
        tree.pass_on(target.session, progress)
        result = target.session.ask(api.commit_upload, asked._replace(for_mount=True), manifest.encode())
        copied = target.session.upload(upload.name, result.version)
    else:
        with tree.saved(set(digests_of(manifest)), progress) as reading:
            _, copied, _, _ = target.put_upload(asked, reading, progress, "", lambda sent: sent)
    copied = replace(same_as_sent(manifest, copied), path=upload.path)
    return replace(connections.registry.uploads.record(copied, target.machine, for_mount=True), version=upload.version)
