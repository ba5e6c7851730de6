"""Uploads on their way to the machine that needs them."""

from __future__ import annotations

from dataclasses import replace

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Manifest
from remoterun.client.bucket import copy_contents
from remoterun.client.connections import Connections
from remoterun.errors import AgentError, HostError, NotFound
from remoterun.model import Upload
from remoterun.parsing import did_you_mean
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.transfer import Progress


def bring_upload(
    connections: Connections, name: str, session: Session, progress: Progress, version: int | None = None
) -> Upload:
    """A version of an upload (None: the newest), on the machine of `session`: there already, or passed on to it. Raises
    `NotFound`, `HostError`, `TransferError`."""
    registry = connections.registry
    here = note_versions(registry, session, name)
    known = registry.uploads.versions(name, version)
    if not known:
        raise absent(registry, name, version)
    wanted = known[0][0]
    for upload in here:
        if upload.digest == wanted.digest:
            return replace(upload, version=wanted.version)
    failed: HostError | None = None
    for upload, machine in known:
        if upload.version == wanted.version and upload.home_id != session.home_id:
            try:
                return _copy_version(connections, name, upload, connections.session(machine), session, progress)
            except HostError as error:
                failed = failed or error
    raise failed or absent(registry, name, version)


def bring_upload_to_rented(
    connections: Connections, name: str, session: Session, progress: Progress, version: int | None = None
) -> Upload:
    """As `bring_upload`, to a rented host, by way of the bucket, where it stays. What the host has is not recorded: the
    host will be gone."""
    bucket = connections.session(connections.bucket())
    kept = bring_upload(connections, name, bucket, progress, version)
    bring_version(connections, name, kept.digest, session, progress)
    return kept


def bring_version(connections: Connections, name: str, digest: str, session: Session, progress: Progress) -> None:
    """The version of an upload with that digest, from the bucket to a rented host."""
    if any(version.digest == digest for version in session.versions(name)):
        return
    bucket = connections.session(connections.bucket())
    manifest, _ = transfer.fetch_manifest(bucket, ResourceRef("upload", name, digest=digest))
    copy_contents(connections, bucket, manifest, session, progress)
    session.ask(api.commit_upload, api.CommitUpload(name, brought=True), manifest.encode())


def note_versions(registry: Registry, session: Session, name: str) -> list[Upload]:
    """The versions of an upload that a home has, oldest first, with our numbers. The registry knows them then, and no
    other ones there."""
    before = registry.uploads.versions(name)
    there = session.versions(name)
    found = [registry.uploads.found(version, session.machine) for version in there]
    digests = {version.digest for version in there}
    for upload, _ in before:
        if upload.home_id == session.home_id and upload.digest not in digests:
            registry.uploads.forget_copy(name, session.home_id, upload.digest)
    return found


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


def _copy_version(
    connections: Connections, name: str, upload: Upload, source: Session, target: Session, progress: Progress
) -> Upload:
    manifest, _ = transfer.fetch_manifest(source, ResourceRef("upload", name, digest=upload.digest))
    transfer.relay(source, manifest, target, progress)
    brought = target.machine.bucket is None
    asked = api.CommitUpload(name, upload.version, upload.digest, upload.created, brought)
    result = target.ask(api.commit_upload, asked, manifest.encode())
    copied = replace(same_as_sent(manifest, target.upload(name, result.version)), path=upload.path)
    return replace(connections.registry.uploads.record(copied, target.machine), version=upload.version)
