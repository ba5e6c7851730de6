"""Where uploads and runs are read: the home of a machine (host_store.py), or the archive (archive_store.py).

A run has one home for life, its host: `rented_runs.find_store` asks that, and reads the archive once the host is gone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Union

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import show
from remoterun.connections import Connections
from remoterun.errors import HostError, NotFound, RemoterunError
from remoterun.host_store import HostStore, ResourceTree
from remoterun.model import MachineType, Resource, Run, Told, by_our_clock
from remoterun.session import Session, understood

if TYPE_CHECKING:
    from remoterun.archive_store import ArchiveStore

Store = Union[HostStore, "ArchiveStore"]
Answer = dict[str, RunStatus | Run | HostError]
"""By the keys of runs: what their machine reports, the run itself where that is what was known, or why that is not
known now."""


def store_of(connections: Connections, machine: MachineType) -> Store:
    """The store of a machine, without the uploads that were removed while it could not be reached. Raises `HostError`,
    `UsageError` for a machine that has yet to be rented."""
    store = archive_store(connections, machine) if machine.bucket else HostStore(connections.session(machine))
    index = connections.registry.uploads
    with suppress(RemoterunError):  # else at the next one
        for name, digest in index.unwanted(store.home_id):
            store.remove_upload(name, digest)
            index.forget_copy(name, store.home_id, digest)
    return store


def archive_store(connections: Connections, machine: MachineType) -> ArchiveStore:
    """That of an archive. Raises `HostError`."""
    from remoterun.archive_store import ArchiveStore

    return ArchiveStore(connections, machine)


def told(store: Store | Session, record: Told) -> Told:
    """A status or an event that a store reports, by our clock. Raises `AgentError` for what makes no sense."""
    with understood(store.machine.name):
        return by_our_clock(record, store.clock_skew)


def tree_of(store: Store, where: ResourceRef, resource: Resource) -> ResourceTree:
    """What `Store.tree` returns; its error names what is missing as it was typed."""
    try:
        return store.tree(where)
    except NotFound as error:
        if not resource.sub or error.hint:
            raise
        raise NotFound(f"there is no `{show(str(resource))}`", hint=f"remoterun ls {replace(resource, sub='')}")
