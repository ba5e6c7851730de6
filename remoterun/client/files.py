"""The files of uploads and runs: listed, copied here, shown in the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Manifest, show
from remoterun.client.connections import Connections
from remoterun.client.rented_runs import opened
from remoterun.errors import NotFound
from remoterun.model import Resource, did_you_mean
from remoterun.session import Session
from remoterun.transfer import Conflict, Fetched, Progress

if TYPE_CHECKING:
    from remoterun.model_page import Page, PageModel


class Files:
    """What a client does with the files of a resource."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, resource: Resource) -> tuple[Manifest, api.Tree]:
        """(what is below a resource, what else is known of it). Raises `NotFound`."""
        session, where = self._locate(resource)
        return manifest_of(session, where, resource)

    def copy(
        self,
        source: str,
        target: Path,
        conflict: Conflict = transfer.refuse,
        progress: Progress | None = None,
        *,
        into: bool = False,
    ) -> Fetched:
        """Copy from a run or an upload to here, while the run goes on too.

        A folder's contents land in `target`. One file gets that name, or keeps its own if `target` is a folder, or is
        to be one (`into`). Raises `SomeDamaged`, with what was copied, where some files are damaged there.
        """
        resource = Resource.parse(source)
        session, where = self._locate(resource)
        try:
            return transfer.fetch(session, where, target, conflict, progress or Progress(), into=into)
        except NotFound as error:
            if resource.sub and not error.hint:
                error.hint = f"remoterun ls {resource.kind}/{resource.name}"
            raise

    def open(
        self,
        source: str,
        port: int = 0,
        progress: Progress | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Page:
        """The page in which a model writes, on this machine: `serve` it. `source`: a resource, or a folder here.

        The model may stand in a folder below. One of a run or an upload is copied into the home, anew each time; a run
        that goes on gives its newest export. `note` is called with what takes long. Raises `NotFound`, `UsageError`,
        `HostError`, `TransferError`, and `RemoterunError` without npm.
        """
        from remoterun import model_page as pages

        if Resource.is_one(source):
            model = self._fetch_model(Resource.parse(source), progress or Progress())
        else:
            model = pages.local_model(Path(source))
        return pages.Page(model, pages.libraries(self._connections.config.home, note), port)

    def _fetch_model(self, resource: Resource, progress: Progress) -> PageModel:
        from remoterun import model_page as pages

        session, where = self._locate(resource)
        listed, about = manifest_of(session, where, resource)
        live = about.live
        again = f"remoterun ls {resource}"
        try:
            sub = pages.find((entry.path for entry in listed.entries if entry.kind == "f"), str(resource), again)
        except NotFound as error:
            if live:
                error.hint = f"run {resource.name} goes on and may write one yet: remoterun logs {resource.name}"
            raise
        where = where._replace(sub="/".join(part for part in (resource.sub, sub) if part))
        name = where.typed
        folder = self._connections.config.home / "page" / name

        def fetch(names: frozenset[str]) -> None:
            transfer.fetch(session, where, folder, lambda _: True, progress, only=names)

        return pages.refresh(name, folder, fetch, live=live)

    def _locate(self, resource: Resource) -> tuple[Session, ResourceRef]:
        """The session of the machine that holds a resource, and how the agent calls it."""
        if resource.kind == "runs":
            run = self._connections.registry.run(resource.name)
            where = ResourceRef("run", key=run.key, number=run.number, sub=resource.sub)
            return opened(self._connections, run)[1], where
        known = self._connections.registry.uploads(resource.name)
        machine = known[0][1] if known else self._connections.home(None)
        session = self._connections.session(machine)
        there = bool(known) or bool(session.versions(resource.name, newest=True))
        for bucket in [] if there else self._connections.named_bucket():  # another client may have put it there
            session = self._connections.session(bucket)
            there = bool(session.versions(resource.name, newest=True))
        if not there:
            names = {upload.name for upload, _ in self._connections.registry.uploads()}
            close = did_you_mean(resource.name, names)
            hint = f"did you mean uploads/{close}?" if close else "remoterun ls uploads"
            raise NotFound(f"there is no upload `{resource.name}`", hint=hint)
        digest = known[0][0].digest if known else None
        return session, ResourceRef("upload", resource.name, sub=resource.sub, digest=digest)


def manifest_of(session: Session, where: ResourceRef, resource: Resource) -> tuple[Manifest, api.Tree]:
    """What `transfer.fetch_manifest` returns; its error names what is missing as it was typed."""
    try:
        return transfer.fetch_manifest(session, where)
    except NotFound as error:
        if not resource.sub or error.hint:
            raise
        raise NotFound(f"there is no `{show(str(resource))}`", hint=f"remoterun ls {resource.kind}/{resource.name}")
