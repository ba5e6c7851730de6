"""A run on its way to its machine: what is checked before it has a number, and what is brought once it has one."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.engine_names import CAPABILITIES, lacks
from remoterun.agent.shared.spec import MountSpec, ResourceRef, RunSpec
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Entry, Manifest, show
from remoterun.client import bucket, placement, renting
from remoterun.client.connections import Connections
from remoterun.client.files import manifest_of
from remoterun.client.packages import Choice, choose
from remoterun.client.rented_runs import find_home, record_status
from remoterun.client.reruns import KeptTree, OriginalRun
from remoterun.client.secrets import check_known, variables_of
from remoterun.client.specs import STDIN, digest_of_asked, spec_of
from remoterun.client.upload_copies import bring_upload, bring_upload_to_rented
from remoterun.client.webhooks import addresses_of_run, webhooks_of
from remoterun.environments import context
from remoterun.errors import LinkLost, NotFound, RemoterunError, UsageError
from remoterun.model import MachineType, Mount, Placement, Resource, Run, RunRequest, new_key
from remoterun.providers.base import NoCapacity
from remoterun.session import Session
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.source import Source


NO_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file's name."""


@dataclass(frozen=True)
class Prepared:
    """A run that may be launched, any number of times: its request was checked and its files were listed.

    `places`: where each mount goes; `choice`: what its environment will hold, which the request names now. The source
    must stay open until the last launch.
    """

    request: RunRequest
    source: Source | None
    machine: MachineType
    places: tuple[str, ...]
    tree: SourceTree | KeptTree
    choice: Choice
    kept: Mapping[Mount, KeptTree] = field(default_factory=dict)
    """Mounts of the run that this one repeats: what that one read is mounted."""
    again: str = ""
    """The key of that run."""


class SourceTree:
    """The files of a source, which are read once: the first launch hashes what it reads, and the others know it."""

    def __init__(self, source: Source | None, stamps: Path, stdin: Path | None = None) -> None:
        """Lists the files, with the one for the command's stdin. Raises `TransferError` for one that can't be read."""
        self._files, self._root = _listed(source, stdin)
        self._stamps: Path | None = stamps
        transfer.read_entries(self._files)

    def send(self, session: Session, extra: dict[str, bytes], progress: Progress) -> Manifest:
        """Let a home have the files, and `extra` (digest to content)."""
        reading = transfer.read_entries(self._files, self._root, self._stamps)
        manifest, _ = transfer.send_tree(session, reading, extra, progress)
        known = {entry.path: entry for entry in manifest.entries}
        self._stamps = None  # its rows would be taken for those of files that are gone
        self._files = [(known.get(entry.path, entry), path) for entry, path in self._files]
        return manifest


def prepare(
    connections: Connections,
    request: RunRequest,
    source: Source | None,
    machine: MachineType,
    again: OriginalRun | None = None,
) -> Prepared:
    """See `Runs.prepare`. `again`: the run that is repeated, whose source it is."""
    kept = again.mounts if again is not None else {}
    if again is not None and machine.rental is None:  # what it asked for of rented machines
        request = request._replace(spot=False, max_hours=None, max_cost=None)
    machine = placement.rented_with(connections, renting.asked(machine, request), request.gpus)
    places = tuple(mount.place(source.workdir if source is not None else "") for mount in request.mounts)
    _check_places(places, request)
    numbered = connections.registry.numbered
    request = request._replace(
        mounts=tuple(
            mount if mount in kept else replace(mount, resource=numbered(mount.resource)) for mount in request.mounts
        ),
    )
    _check_engine(request, places, machine)
    _check_variables(request)
    check_known(connections.config.home, (name for _, name in request.secrets))
    addresses_of_run(connections, request)
    placement.check_after(connections, request, machine)
    if request.command == "" or str(request.command).isspace():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    draft = Run(
        0,
        new_key(),
        machine,
        RunState.REQUESTED,
        request.command,
        0.0,
        description=request.description,
        labels=request.labels,
    )
    spec_of(draft, request._replace(framework=None), source, Manifest([]), machine)
    texts = (request.command, request.description or "", *request.labels, *(value for _, value in request.env))
    if any(NO_CHARACTER.search(text) for text in texts):
        raise UsageError(
            "the command, its description, a label or a variable holds what is neither a character nor a byte"
        )
    choice = choose(request, source) if again is None else Choice(request.framework)
    request = request._replace(framework=choice.framework)
    if again is not None:
        return Prepared(request, source, machine, places, again.tree, choice, kept, again.run.key)
    tree = SourceTree(source, connections.config.home / "stamps.db", request.stdin)
    return Prepared(request, source, machine, places, tree, choice)


def launch(
    connections: Connections,
    prepared: Prepared,
    machine: MachineType,
    progress: Progress,
    cast: Callable[[Run], None],
    plan: renting.Plan | None = None,
    waiting: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Run:
    """See `Runs.launch`. The row of the run exists before its host is opened, and before anything is sent."""
    request, source, registry = prepared.request, prepared.source, connections.registry
    machine = placement.rented_with(connections, renting.asked(machine, request), request.gpus)
    _check_engine(request, prepared.places, machine)
    values = {**dict(request.env), **variables_of(connections.config.home, dict(request.secrets))}
    told = addresses_of_run(connections, request)
    if machine.rental is not None:
        plan = plan or renting.plan(connections, machine)
        if request.gpus is None:
            machine = replace(machine, gpus=machine.gpus or plan.offers[0].gpus)
    fitting = placement.fitting(connections, machine, request, note) if plan is None else None
    description = request.description or (source.subject if source is not None else None)
    run = registry.add_run(
        new_key(), machine, request.command, time.time(), description, request.labels, prepared.again
    )
    asked = False
    try:
        with contextlib.ExitStack() as held:
            cast(run)
            run = registry.move(run, RunState.PROVISIONING, time.time())
            if plan is None:
                session = fitting or placement.choose_machine(connections, machine, request, note)
            else:
                run = renting.begin(connections, run, plan)
                for mount in request.mounts:
                    _put_into_bucket(connections, mount, prepared.kept, progress)
                run, session = renting.rent(connections, run, plan, waiting, held)
                waiting("")
            run = registry.place(run, Placement(session.machine, session.home_id))
            run, spec, manifest = _bring(connections, run, prepared, machine, session, progress)
            spec = spec._replace(notify=tuple(told))
            submission = Submission(spec, values, manifest.encode())
            if run.renting is not None:
                grant, images = bucket.introduce(connections, run, spec, manifest, session)
                run = registry.rent(run, replace(run.renting, grant_ends=grant.expires, asked=digest_of_asked(spec)))
                submission = submission._replace(grant=grant, images=images)
            body = submission._replace(webhooks=webhooks_of(run, told)).encode()
            registry.ask(run, digest_of_asked(spec))
            asked = True
            result = session.ask(api.submit, api.Nothing(), body)
    except BaseException as error:
        if asked and may_have_arrived(error):
            registry.give_up(run)
            raise  # the next command that asks its machine learns whether it was handed over
        if plan is not None:
            renting.give_back(connections, registry.run(run.number))
        reason = Reason.NO_CAPACITY if isinstance(error, NoCapacity) else Reason.START_FAILED
        registry.move(run, RunState.FAILED, time.time(), reason=reason.value, message=why_not_handed_over(error))
        raise
    return record_status(connections, run, session.told(result.status))


def _bring(
    connections: Connections,
    run: Run,
    prepared: Prepared,
    machine: MachineType,
    session: Session,
    progress: Progress,
) -> tuple[Run, RunSpec, Manifest]:
    """Bring all that a run needs to the machine of `session`: (the run, what is asked of it there, its source)."""
    request, source = prepared.request, prepared.source
    settings = placement.settings(machine, request, session)
    after = placement.after(connections, request, session)
    mounts = [
        _mount(connections, run, mount, place, prepared.kept, session, progress)
        for mount, place in zip(request.mounts, prepared.places, strict=True)
    ]
    run = connections.registry.move(run, RunState.UPLOADING, time.time())
    manifest = _send(connections, prepared.tree, session, _extra_blobs(source), progress)
    if run.renting is not None:  # for another host, and for who runs it again when its host is gone
        _send(connections, prepared.tree, connections.session(connections.bucket()), {}, progress)
    spec = spec_of(run, request, source, manifest, settings, mounts, prepared.again)
    until = None if run.renting is None else renting.until(run.renting, session, time.time())
    return run, spec._replace(after=after, until=until), manifest


def may_have_arrived(error: BaseException) -> bool:
    """Whether the request that hands a run over may have arrived although it failed."""
    return isinstance(error, LinkLost) or not isinstance(error, RemoterunError)


def why_not_handed_over(error: BaseException) -> str:
    return error.message if isinstance(error, RemoterunError) else "interrupted before it was handed over"


def bring_again(
    connections: Connections,
    run: Run,
    kept: OriginalRun,
    before: RunSpec,
    settings: MachineType,
    session: Session,
    progress: Progress,
) -> RunSpec:
    """The spec of a run that waits, for another machine than that of `before`, which has all that it needs then."""
    places = {(mount.typed, mount.path): mount.place for mount in before.mounts}
    mounts = [
        _mount(connections, run, mount, places[str(mount.resource), mount.path], kept.mounts, session, progress)
        for mount in kept.request.mounts
    ]
    manifest = _send(connections, kept.tree, session, _extra_blobs(kept.source), progress)
    spec = spec_of(run, kept.request, kept.source, manifest, settings, mounts, before.again)
    return spec._replace(asked_env=before.asked_env, secrets=before.secrets, notify=before.notify, ports=before.ports)


def _extra_blobs(source: Source | None) -> dict[str, bytes]:
    """What is sent beside the source, by digest."""
    build, blobs = context()
    extra = {**blobs, build.digest: build.encode()}
    if source is not None and source.commit is not None and source.diff:  # `spec_of` names it
        extra[hashlib.sha256(source.diff).hexdigest()] = source.diff
    return extra


def _send(
    connections: Connections,
    tree: SourceTree | KeptTree,
    session: Session,
    extra: dict[str, bytes],
    progress: Progress,
) -> Manifest:
    if isinstance(tree, SourceTree):
        return tree.send(session, extra, progress)
    tree.bring(connections, session, progress, extra)
    return tree.manifest


def _mount(
    connections: Connections,
    run: Run,
    mount: Mount,
    place: str,
    kept: Mapping[Mount, KeptTree],
    session: Session,
    progress: Progress,
) -> MountSpec:
    """A mount as the agent takes it, with the number of the version that it is; what it reads is brought to the machine
    first."""
    if mount in kept:
        where = _kept_in_place(connections, mount.resource, kept[mount], session, progress)
    else:
        where = bring_resource(connections, mount.resource, session, progress)
    typed = mount.resource
    if typed.kind == "uploads":
        registry = connections.registry
        for version, _ in registry.uploads.versions(typed.name, typed.version):
            if typed.version is not None or version.digest == where.digest:
                registry.uploads.record_read(run, typed.name, version.digest)
                typed = replace(typed, version=version.version)
                break
    return MountSpec(str(typed), mount.path, place, where)


def _kept_in_place(
    connections: Connections, resource: Resource, tree: KeptTree, session: Session, progress: Progress
) -> ResourceRef:
    """What a run had mounted. Outputs stay as they are: those that `gc` has freed there come from their run again."""
    try:
        tree.bring(connections, session, progress)
    except UsageError:
        if resource.kind != "runs":
            raise
        try:
            return bring_resource(connections, resource, session, progress)
        except NotFound:
            pass
        raise
    return tree.where


def _put_into_bucket(
    connections: Connections, mount: Mount, kept: Mapping[Mount, KeptTree], progress: Progress
) -> None:
    """What a run on a rented host mounts, before there is a host that has to be paid for."""
    resource = mount.resource
    if mount in kept:
        kept[mount].bring(connections, connections.session(connections.bucket()), progress)
    elif resource.kind == "uploads":
        bring_upload(connections, resource.name, connections.session(connections.bucket()), progress, resource.version)
    else:
        run = connections.registry.run(resource.name)
        _, about = transfer.fetch_manifest(find_home(connections, run)[1], ResourceRef("run", key=run.key))
        if about.live:
            raise _not_saved(resource, run)


def bring_resource(connections: Connections, resource: Resource, session: Session, progress: Progress) -> ResourceRef:
    """How the agent calls a resource that is on its machine, or was brought there just now: an upload by its digest."""
    if resource.kind == "uploads":
        if session.machine.rented is not None:
            upload = bring_upload_to_rented(connections, resource.name, session, progress, resource.version)
        else:
            upload = bring_upload(connections, resource.name, session, progress, resource.version)
        where = ResourceRef("upload", upload.name, sub=resource.sub, digest=upload.digest)
        if resource.sub:
            manifest_of(session, where, resource)  # that it is there
        return where
    run = connections.registry.run(resource.name)
    if run.home_id == session.home_id:
        where = ResourceRef("run", key=run.key, number=run.number, sub=resource.sub)
        _, about = manifest_of(session, where, resource)
        if about.live:
            raise _not_saved(resource, run)
        return where
    return _bring_outputs(connections, run, resource, session, progress)


def _bring_outputs(
    connections: Connections, run: Run, resource: Resource, session: Session, progress: Progress
) -> ResourceRef:
    """Outputs that lie on another machine, as an upload of this one named after the run."""
    run, source = find_home(connections, run)
    where = ResourceRef("run", key=run.key, number=run.number)
    manifest, about = transfer.fetch_manifest(source, where)
    if about.live:
        raise _not_saved(resource, run)
    bucket.copy_contents(connections, source, manifest, session, progress, run.key)
    name = f"run-{run.number}-{run.key[-8:]}"
    session.ask(api.commit_upload, api.CommitUpload(name, brought=True), manifest.encode())
    return ResourceRef("upload", name, sub=resource.sub, digest=manifest.digest)


def _listed(source: Source | None, stdin: Path | None) -> tuple[list[tuple[Entry, str]], str]:
    """(the entries of a source, and of what its command reads, with the paths to read them from, the folder that they
    are of; "" for a checkout)."""
    found = [(Entry("f", STDIN, 0, "", False), str(stdin))] if stdin is not None else []
    if source is None:
        return found, ""
    if found and any(file.path == STDIN for file in source.files):
        raise UsageError(f"--stdin needs the name `{STDIN}`, which a file here has", hint=f"git mv {STDIN} OTHER")
    for file in source.files:
        if file.kind == "link":
            found.append((Entry("l", file.path, target=file.target), ""))
        else:
            found.append((Entry("f", file.path, 0, "", file.executable), file.origin))
    found += [(Entry("d", path), "") for path in source.empty_dirs]
    root = str(source.root)
    in_place = stdin is None and all(origin.startswith(root) for _, origin in found[:1] if origin)
    return found, root if in_place else ""


def _check_places(places: Sequence[str], request: RunRequest) -> None:
    for number, place in enumerate(places):
        for other in places[:number]:
            if place == other or place.startswith(other + "/") or other.startswith(place + "/"):
                raise UsageError(
                    f"two mounts meet at `{show(place)}`", hint=f"-m {request.mounts[number].resource}:OTHER_PATH"
                )


def _check_engine(request: RunRequest, places: Sequence[str], machine: MachineType) -> None:
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
        hint=f"{hint}, or use a machine with Docker: `-t NAME`",
    )


def _check_variables(request: RunRequest) -> None:
    names = [variable for variable, _ in request.secrets]
    for name in names:
        if name in dict(request.env) or names.count(name) > 1:
            raise UsageError(f"the variable `{name}` is asked for twice", hint=f"--secret NAME={name}_2")


def _not_saved(resource: Resource, run: Run) -> UsageError:
    return UsageError(
        f"{show(str(resource))} can't be mounted: its outputs are not saved", hint=f"remoterun info {run.number}"
    )
