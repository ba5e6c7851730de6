"""What a run mounts, on its way to the machine that runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from remoterun import transfer
from remoterun.agent.shared.spec import MountSpec, ResourceRef
from remoterun.agent.shared.tree import show
from remoterun.client.data.upload_copies import archive_upload, check_known, restore_upload, restore_version
from remoterun.client.homes import find_store
from remoterun.client.runs.reruns import SavedTree
from remoterun.connections import Connections
from remoterun.errors import NotFound, UsageError
from remoterun.host_store import HostStore, ResourceTree
from remoterun.model import Mount, Resource, Run
from remoterun.session import Session
from remoterun.stores import tree_of
from remoterun.transfer import Progress


def check_there(connections: Connections, resource: Resource, session: Session | None) -> None:
    """Refuse what can't be mounted. Raises `NotFound`, `UsageError`, `HostError`."""
    if resource.kind == "runs":
        find_store(connections, connections.registry.run(resource.name))
    else:
        check_known(connections, resource, session)


def send_mount(
    connections: Connections,
    run: Run,
    mount: Mount,
    place: str,
    saved: Mapping[Mount, SavedTree],
    session: Session,
    progress: Progress,
) -> MountSpec:
    """A mount as the agent takes it, with the number of the version that it is; what it reads is sent to the machine
    first."""
    if mount in saved:
        where = _send_saved(connections, mount.resource, saved[mount], session, progress)
    else:
        where = send_resource(connections, mount.resource, session, progress)
    typed = mount.resource
    if typed.kind == "uploads" and (mount not in saved or saved[mount].recorded):
        registry = connections.registry
        for version, _ in registry.uploads.versions(typed.name, typed.version):
            if typed.version is not None or version.digest == where.digest:
                registry.uploads.record_read(run, typed.name, version.digest)
                typed = replace(typed, version=version.version)
                break
    return MountSpec(str(typed), mount.path, place, where)


def _send_saved(
    connections: Connections, resource: Resource, tree: SavedTree, session: Session, progress: Progress
) -> ResourceRef:
    """The tree that a run had mounted on that machine. If `gc` has freed files of it there, the mount is resolved anew,
    as far as this client has a record of it."""
    try:
        tree.send(session, progress)
    except UsageError:
        if tree.recorded:
            with contextlib.suppress(NotFound):
                return send_resource(connections, resource, session, progress)
        raise
    return ResourceRef("tree", digest=tree.manifest.digest, sub=tree.file)


def send_resource(connections: Connections, resource: Resource, session: Session, progress: Progress) -> ResourceRef:
    """How the agent calls a resource that is on its machine, or was sent to it just now: an upload by its digest."""
    if resource.kind == "uploads":
        if session.machine.rented is not None:
            upload = archive_upload(connections, resource.name, progress, resource.version)
            restore_version(connections, resource.name, upload.digest, session, progress)
        else:
            upload = restore_upload(connections, resource.name, HostStore(session), progress, resource.version)
        where = ResourceRef("upload", upload.name, sub=resource.sub, digest=upload.digest)
        if resource.sub:
            tree_of(HostStore(session), where, resource)  # that it is there
        return where
    run = connections.registry.run(resource.name)
    if run.home_id == session.home_id:
        where = ResourceRef("run", key=run.key, number=run.number, sub=resource.sub)
        if tree_of(HostStore(session), where, resource).about.live:
            raise _not_saved(resource, run)
        return where
    # On another machine: they become a tree of this one, of which no upload is made.
    tree = saved_outputs(connections, resource)
    tree.pass_on(session, progress)
    transfer.send_blobs(session, {tree.manifest.digest: tree.manifest.encode()}, progress)
    return ResourceRef("tree", digest=tree.manifest.digest, sub=resource.sub)


def saved_outputs(connections: Connections, resource: Resource) -> ResourceTree:
    run, store = find_store(connections, connections.registry.run(resource.name))
    tree = store.tree(ResourceRef("run", key=run.key, number=run.number))
    if tree.about.live:
        raise _not_saved(resource, run)
    return tree


def _not_saved(resource: Resource, run: Run) -> UsageError:
    return UsageError(
        f"{show(str(resource))} can't be mounted: its outputs are not saved", hint=f"remoterun info {run.number}"
    )
