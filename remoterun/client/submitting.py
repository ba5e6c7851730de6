"""A run on its way to its machine: what is checked, brought and written down before the machine has it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.engine_names import CAPABILITIES, lacks
from remoterun.agent.shared.spec import (
    EnvironmentSpec,
    GitState,
    MountSpec,
    ResourceRef,
    RunSpec,
    SpecError,
    Submission,
    check_variables,
)
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.tree import Entry, Manifest, show
from remoterun.client.connections import Connections
from remoterun.client.files import manifest_of
from remoterun.client.uploads import bring
from remoterun.environments import context
from remoterun.errors import LinkLost, RemoterunError, UsageError
from remoterun.model import MachineType, Mount, Resource, Run, RunRequest, new_key
from remoterun.session import Session
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.source import Source


MOST_OPTIONS = 64 << 10
"""Characters of REMOTERUN_OPTIONS: a command must start that has thousands of mounts, too."""


class Submitting:
    """How a client makes a run."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def submit(
        self,
        request: RunRequest,
        source: Source | None = None,
        machine: str | None = None,
        progress: Progress | None = None,
        cast: Callable[[Run], None] = lambda _: None,
    ) -> Run:
        """Hand a run over to its machine: it then needs us no more. `cast` is called once it has its number.

        What can be refused is refused before a number is given. Raises `UsageError`, `HostError`, `TransferError`.
        """
        progress = progress or Progress()
        type_ = self._connections.machine(machine)
        places = self.check(request, source, type_)
        tree = _source_tree(source, self._connections.config.home / "stamps.db")
        session = self._connections.session(type_)
        mounts = [
            self._mount(mount, place, session, progress) for mount, place in zip(request.mounts, places, strict=True)
        ]
        key = new_key()
        description = request.description or (source.subject if source is not None else None)
        run = self._connections.registry.add_run(
            key, type_, session.home_id, request.command, time.time(), description, request.labels
        )
        cast(run)
        asked = False
        try:
            build, blobs = context()
            extra = {**blobs, build.digest: build.encode()}
            if source is not None and source.commit is not None and source.diff:  # as `_spec` refers to it
                extra[_sha256(source.diff)] = source.diff
            run = self._connections.registry.move(run, RunState.UPLOADING, time.time())
            manifest, _ = transfer.send_tree(session, tree, extra, progress)
            spec = _spec(run, request, source, manifest, mounts)
            body = Submission(spec, dict(request.env), manifest.encode()).encode()
            asked = True
            result = session.ask(api.submit, api.Nothing(), body)
        except BaseException as error:
            if asked and (isinstance(error, LinkLost) or not isinstance(error, RemoterunError)):
                self._connections.registry.give_up(run)
                raise  # it may have been handed over; whoever looks next learns it from the machine
            message = error.message if isinstance(error, RemoterunError) else "interrupted before it was handed over"
            self._connections.registry.move(
                run, RunState.FAILED, time.time(), reason=Reason.START_FAILED.value, message=message
            )
            raise
        return self._connections.registry.see(run, result.status, time.time())

    def check(self, request: RunRequest, source: Source | None, machine: MachineType) -> list[str]:
        """Where each mount goes. Raises `UsageError` for what is refused without asking the machine."""
        places = [mount.place(source.workdir if source is not None else "") for mount in request.mounts]
        _check_places(places, request)
        for mount in request.mounts:
            if mount.resource.kind == "runs":
                self._connections.registry.run(mount.resource.name)
        _check_engine(request, places, machine)
        draft = Run(0, new_key(), machine, RunState.REQUESTED, request.command, 0.0)
        _spec(replace(draft, description=request.description, labels=request.labels), request, source, Manifest([]))
        return places

    def _mount(self, mount: Mount, place: str, session: Session, progress: Progress) -> MountSpec:
        """A mount as the agent takes it; its upload is brought to the machine first."""
        where = self._where(mount.resource, session, progress)
        return MountSpec(str(mount.resource), mount.path, place, ResourceRef.from_record(where))

    def _where(self, resource: Resource, session: Session, progress: Progress) -> dict[str, Any]:
        """How the agent calls a resource that is on its machine, or was brought there just now."""
        if resource.kind == "uploads":
            upload = bring(self._connections, resource.name, session, progress)
            where = {"kind": "upload", "name": upload.name, "version": upload.version, "sub": resource.sub}
            if resource.sub:
                manifest_of(session, where, resource)  # that it is there, before the run has a number
            return where
        run = self._connections.registry.run(resource.name)
        if run.home_id == session.home_id:
            where = {"kind": "run", "key": run.key, "number": run.number, "sub": resource.sub}
            _, about = manifest_of(session, where, resource)
            if about.live:
                raise _not_saved(resource, run)
            return where
        return self._bring_outputs(run, resource, session, progress)

    def _bring_outputs(self, run: Run, resource: Resource, session: Session, progress: Progress) -> dict[str, Any]:
        """Outputs that lie on another machine, as an upload of this one named after the run."""
        source = self._connections.session(run.machine)
        where = {"kind": "run", "key": run.key, "number": run.number, "sub": ""}
        manifest, about = transfer.fetch_manifest(source, where)
        if about.live:
            raise _not_saved(resource, run)
        transfer.relay(source, manifest, session, progress)
        name = f"run-{run.number}-{run.key[-8:]}"
        session.ask(api.commit_upload, api.UploadName(name), manifest.encode())
        return {"kind": "upload", "name": name, "sub": resource.sub}


def _source_tree(source: Source | None, stamps: Path) -> transfer.Reading:
    """Raises `TransferError` for files that can't be read."""
    if source is None:
        return transfer.read_entries([])
    found = []
    for file in source.files:
        if file.kind == "link":
            found.append((Entry("l", file.path, target=file.target), ""))
        else:
            found.append((Entry("f", file.path, 0, "", file.executable), file.origin))
    found += [(Entry("d", path), "") for path in source.empty_dirs]
    root = str(source.root)
    in_place = all(origin.startswith(root) for _, origin in found[:1] if origin)  # and not a commit's checkout
    return transfer.read_entries(found, root, stamps if in_place else None)


def _check_places(places: list[str], request: RunRequest) -> None:
    for number, place in enumerate(places):
        for other in places[:number]:
            if place == other or place.startswith(other + "/") or other.startswith(place + "/"):
                raise UsageError(
                    f"two mounts meet at `{show(place)}`", hint=f"-m {request.mounts[number].resource}:OTHER_PATH"
                )


def _check_engine(request: RunRequest, places: list[str], machine: MachineType) -> None:
    """Refuse what the machine's engine does not have. Where the machine chooses its engine, it refuses by itself."""
    absolute = [number for number, place in enumerate(places) if place.startswith("/")]
    lacking = lacks(machine.engine, request.image is not None, bool(request.apt), bool(absolute))
    if not lacking:
        return
    if lacking == "image":
        what, hint = "has no images", "leave out --image"
    elif lacking == "apt":
        what, hint = "can't install apt packages", "leave out --apt and install them there"
    else:
        first = absolute[0]
        what, hint = f"can't mount at `{show(places[first])}`", f"-m {request.mounts[first].resource}:data"
    raise UsageError(
        f"`{machine.name}` {what}: its runs use {CAPABILITIES[machine.engine].title}",
        hint=f"{hint}, or use a machine with Docker: -t NAME",
    )


def _not_saved(resource: Resource, run: Run) -> UsageError:
    return UsageError(
        f"{show(str(resource))} can't be mounted: its outputs are not saved", hint=f"remoterun info {run.number}"
    )


def _spec(
    run: Run, request: RunRequest, source: Source | None, tree: Manifest, mounts: Sequence[MountSpec] = ()
) -> RunSpec:
    """What the host keeps as spec.json. Raises `UsageError` for a request that can't be one."""
    machine = run.machine
    variables = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "REMOTERUN_RUN_ID": str(run.number),
        "REMOTERUN_RUN_KEY": run.key,
        "REMOTERUN_MACHINE": machine.name,
        "REMOTERUN_OUTPUTS": str(Resource("runs", str(run.number), source.workdir if source is not None else "")),
    }
    if request.options and len(request.options) < MOST_OPTIONS:
        variables["REMOTERUN_OPTIONS"] = request.options
    git = None
    if source is not None and source.commit is not None:
        diff = _sha256(source.diff) if source.diff else None
        git = GitState(source.commit, source.branch, source.remote, source.dirty, diff)
    environment = EnvironmentSpec(
        image=request.image,
        base=machine.base_image,
        variant="gpu" if machine.gpus else "cpu",
        context=context()[0].digest,
        apt=request.apt,
        pip=request.pip,
        requirements=request.requirements,
    )
    spec = RunSpec(
        key=run.key,
        number=run.number,
        created=run.created,
        machine=machine.name,
        command=request.command,
        environment=environment,
        workdir=source.workdir if source is not None else "",
        source=tree.digest,
        mounts=tuple(mounts),
        env=variables,
        asked_env=tuple(name for name, _ in request.env),
        engine=machine.engine,
        gpus=machine.gpus,
        slots=machine.slots,
        timeout=request.timeout,
        description=run.description,
        labels=run.labels,
        git=git,
    )
    try:
        check_variables(dict(request.env))
        spec.encode()
    except SpecError as error:
        raise UsageError(f"it can't be run so: {error}")
    return spec


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
