"""A run goes to its machine: for the first time, after its rented host was lost, or from another machine.

    launch    a new run, of a source or of what another run was given
    move      the same for a run that waits elsewhere, which is withdrawn just before
    hand_over what both do, and `attempts` for a further host: the host, mounts, source, credentials, `submit`

The row of a run exists before its host is rented, and before anything is sent: what is refused before has no number.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from remoterun import archive as archives
from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.spec import MOST_BYTES, MountSpec, ResourceRef, RunSpec
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest, show
from remoterun.agent.shared.webhooks import place_of
from remoterun.client.data.upload_copies import archive_upload, check_known, restore_upload, restore_version
from remoterun.client.runs import placement
from remoterun.client.runs.preparing import Prepared, prepare
from remoterun.client.runs.reruns import OriginalRun, SavedTree, another_was_asked, find_original, not_known_here
from remoterun.client.runs.specs import digests_of_asked, spec_of
from remoterun.client.secrets import Secrets
from remoterun.client.webhooks import addresses_again, addresses_of_run, webhooks_of
from remoterun.clouds.base import NoCapacity
from remoterun.clouds.ledger import archiving, renting
from remoterun.clouds.ledger.rented_runs import find_store, record_status
from remoterun.connections import Connections
from remoterun.environments import context
from remoterun.errors import AgentError, LinkLost, NotFound, RemoterunError, UsageError
from remoterun.model import MachineType, Mount, Resource, Run, new_key
from remoterun.session import Session
from remoterun.stores import HostStore, Store, manifest_of, pass_on, told
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.source import Source


@dataclass(frozen=True)
class Talk:
    """Where a hand-over reports what it does."""

    progress: Progress = field(default_factory=Progress)
    waiting: Callable[[str], None] = lambda _: None
    """Called with a few words for what is waited for, and with "" at the end of that."""
    note: Callable[[str], None] = lambda _: None
    """Called with a line about machines of a pool that were passed over."""


@dataclass(frozen=True)
class Private:
    """What is saved nowhere but on the host of the run, as long as that needs it."""

    values: Mapping[str, str]
    """Of the variables that the user set, by their names."""
    addresses: Mapping[str, str]
    """Addresses that are notified, by what may be shown of each."""


@dataclass(frozen=True)
class Earlier:
    """What earlier attempts of a run made, for its next host."""

    outputs: SavedTree | None
    """Lies over the source in the work tree."""
    log: int
    """Bytes of the log that they wrote."""
    err: int
    """Bytes of stderr, where that is apart."""
    until: float
    """When the command must end by the run's time limit, in seconds since 1970."""


@dataclass(frozen=True)
class HandOver:
    """How a run is handed over."""

    prepared: Prepared
    notify: tuple[str, ...]
    """The names of the addresses that are notified."""
    private: Callable[[Session, RunSpec], Private]
    """Called last, when the host has all else that the run needs."""
    failed: Callable[[BaseException], object]
    """Called where the run was surely not handed over."""
    plan: renting.Plan | None = None
    """For a run on a rented host."""
    session: Session | None = None
    """The machine, where that is chosen already."""
    earlier: Earlier | None = None


def launch(
    connections: Connections,
    prepared: Prepared,
    talk: Talk,
    cast: Callable[[Run], None] = lambda _: None,
    plan: renting.Plan | None = None,
    pay: float | None = None,
) -> Run:
    """See `Runs.launch`."""
    request, machine = prepared.request, prepared.machine
    values = {**dict(request.env), **Secrets(connections.config.home).variables(dict(request.secrets))}
    addresses = addresses_of_run(connections, request)
    if machine.rental is not None:
        plan = plan or renting.agreed(renting.plan(connections, machine), pay)
        if request.gpus is None:
            machine = replace(machine, gpus=machine.gpus or plan.offers[0].gpus)
            prepared = replace(prepared, machine=machine)
    session = placement.fitting(connections, machine, request, talk.note) if plan is None else None
    prepared = _saved_at(prepared, session)
    for mount in (each for each in request.mounts if each not in prepared.saved):
        if mount.resource.kind == "runs":
            find_store(connections, connections.registry.run(mount.resource.name))
        else:
            check_known(connections, mount.resource, session)
    run = _add(connections, prepared)

    def failed(error: BaseException) -> None:
        if plan is not None:
            renting.give_back(connections, connections.registry.run(run.number))
        record_failure(connections, run, error)

    how = HandOver(
        prepared, tuple(addresses), lambda *_: Private(values, addresses), failed, plan=plan, session=session
    )
    return hand_over(connections, run, how, talk, partial(cast, run))


def move(connections: Connections, run: Run, machine: str, talk: Talk) -> Run:
    """See `Runs.move`. `run` as its machine knows it."""
    registry, asked = connections.registry, connections.machine(machine)
    _check_waits(run, asked)
    original, home = find_original(connections, run.number), connections.session_of(run)
    if not original.trusted:
        raise another_was_asked(run)
    numbers = registry.numbers(awaited.key for awaited in original.spec.after)
    answer = home.ask(api.runs, api.RunKeys(list(numbers))).runs
    for status in (each for each in answer if each.key in numbers):
        with contextlib.suppress(AgentError):  # one that makes no sense
            record_status(connections, registry.run(numbers[status.key]), told(home, status))
    request = original.request._replace(
        env=tuple((name, "") for name in original.variables),  # their values are on its host
        after=tuple(numbers[each.key] for each in original.spec.after if each.key in numbers and not each.any),
        after_any=tuple(numbers[each.key] for each in original.spec.after if each.key in numbers and each.any),
    )
    prepared = prepare(connections, request, original.source, asked, original)
    session = placement.choose_machine(connections, asked, request, talk.note)
    if session.home_id == home.home_id:
        raise UsageError(f"run {run.number} is on {session.machine.name} already", hint="remoterun machines status")
    prepared = _saved_at(prepared, session)
    successor = _add(connections, prepared)
    withdrawn = False

    def withdraw(target: Session, spec: RunSpec) -> Private:
        nonlocal withdrawn
        lacks = target.ask(api.occupancy, api.Demand(spec.gpus, spec.slots)).lacks
        if lacks is not None:
            raise UsageError(f"run {run.number} can't go to {target.machine.name}: {lacks}")
        private = _withdraw(connections, original, successor, home, asked.name)
        withdrawn = True
        return private

    def failed(error: BaseException) -> None:
        if withdrawn:
            record_failure(connections, successor, error)
        else:
            registry.remove_run(successor)

    how = HandOver(prepared, original.spec.notify, withdraw, failed, session=session)
    return hand_over(connections, successor, how, talk)


def hand_over(
    connections: Connections, run: Run, how: HandOver, talk: Talk, begun: Callable[[], None] = lambda: None
) -> Run:
    """Hand over a run that has its row; it needs this client no more then.

    Where it fails before `submit` is sent, `how.failed` is called. A submission without an answer may have arrived:
    the next command that asks the machine learns that.
    """
    registry = connections.registry
    asked = False
    try:
        with contextlib.ExitStack() as held:
            begun()
            run = registry.change_state(run, RunState.PROVISIONING, time.time())
            run, session = _host(connections, run, how, talk, held)
            run = registry.set_host(run, session.machine, session.home_id)
            run, spec, manifest = _send_all(connections, run, how, session, talk.progress)
            submission = Submission(spec, {}, manifest.encode())
            if run.renting is not None:
                run, grant, images = archiving.access(connections, run, spec, session)
                submission = submission._replace(grant=grant, images=images)
            if how.earlier is not None and how.earlier.outputs is not None:
                submission = submission._replace(left=how.earlier.outputs.manifest.encode())
            registry.save_digest(run, digests_of_asked(spec)[0])
            private = how.private(session, spec)
            submission = submission._replace(values=private.values, webhooks=webhooks_of(run, private.addresses))
            body = submission.encode()
            asked = True
            result = session.ask(api.submit, api.Nothing(), body)
    except BaseException as error:
        if asked and (isinstance(error, LinkLost) or not isinstance(error, RemoterunError)):  # it may have arrived
            registry.mark_abandoned(run)
            raise
        how.failed(error)
        raise
    return record_status(connections, run, told(session, result.status))


def why_not_handed_over(error: BaseException) -> str:
    return error.message if isinstance(error, RemoterunError) else "interrupted before it was handed over"


def record_failure(connections: Connections, run: Run, error: BaseException) -> None:
    reason = Reason.NO_CAPACITY if isinstance(error, NoCapacity) else Reason.START_FAILED
    message = why_not_handed_over(error)
    now = connections.registry.run(run.number)
    connections.registry.change_state(now, RunState.FAILED, time.time(), reason=reason.value, message=message)


def _add(connections: Connections, prepared: Prepared) -> Run:
    request, source = prepared.request, prepared.source
    description = request.description or (source.subject if source is not None else None)
    return connections.registry.add_run(
        new_key(), prepared.machine, request.command, time.time(), description, request.labels, prepared.again
    )


def _saved_at(prepared: Prepared, session: Session | None) -> Prepared:
    """Without what other homes than that of `session` found for mounts: these are resolved by our own records. Raises
    `UsageError` for one that has none."""
    here = {each: tree for each, tree in prepared.saved.items() if session and tree.store.home_id == session.home_id}
    for mount, tree in prepared.saved.items():
        if mount not in here and not tree.recorded:
            raise not_known_here(tree.title, tree.hint)
    return replace(prepared, saved=here)


def _host(
    connections: Connections, run: Run, how: HandOver, talk: Talk, held: contextlib.ExitStack
) -> tuple[Run, Session]:
    """The machine that a run goes to. What a rented host mounts is in the archive before that has to be paid for."""
    prepared = how.prepared
    if how.session is not None:
        return run, how.session
    assert how.plan is not None
    if run.renting is None:
        run = renting.begin(connections, run, how.plan, prepared.request.timeout)
    for resource in (mount.resource for mount in prepared.request.mounts):
        if resource.kind == "uploads":
            archive_upload(connections, resource.name, talk.progress, resource.version)
        else:
            _saved_outputs(connections, resource)
    run, session = renting.rent(connections, run, how.plan, talk.waiting, held)
    talk.waiting("")
    return run, session


def _send_all(
    connections: Connections, run: Run, how: HandOver, session: Session, progress: Progress
) -> tuple[Run, RunSpec, Manifest]:
    """Send all that a run needs to the machine of `session`: (the run, what is asked of it there, its source)."""
    prepared, earlier = how.prepared, how.earlier
    request, source, tree = prepared.request, prepared.source, prepared.tree
    settings = placement.settings(prepared.machine, request, session)
    after = placement.after(connections, request, session)
    mounts = [
        _mount(connections, run, mount, place, prepared.saved, session, progress)
        for mount, place in zip(request.mounts, prepared.places, strict=True)
    ]
    run = connections.registry.change_state(run, RunState.UPLOADING, time.time())
    manifest = tree.send(session, progress, _extra_blobs(source))
    spec = spec_of(run, request, source, manifest, settings, mounts, prepared.again)
    spec = spec._replace(after=after, notify=how.notify)
    if run.renting is not None:
        if earlier is None:  # for another host, and for a rerun when this host is gone
            with tree.reading(progress) as files:
                archive = archiving.archive_of(connections, run)
                archives.runs.put_run_tree(archive, run.key, "source", files, progress)
        spec = spec._replace(until=renting.until(run.renting, session, time.time()))
    if earlier is not None:
        if earlier.outputs is not None:
            earlier.outputs.send(session, progress)
        until = min(spec.until or earlier.until, earlier.until)
        spec = spec._replace(log_before=earlier.log, err_before=earlier.err, until=until)
    return run, spec, manifest


def _extra_blobs(source: Source | None) -> dict[str, bytes]:
    """What is sent beside the source, by digest."""
    build, blobs = context()
    extra = {**blobs, build.digest: build.encode()}
    if source is not None and source.commit is not None and source.diff:  # `spec_of` names it
        extra[hashlib.sha256(source.diff).hexdigest()] = source.diff
    return extra


def _mount(
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
            manifest_of(HostStore(session), where, resource)  # that it is there
        return where
    run = connections.registry.run(resource.name)
    if run.home_id == session.home_id:
        where = ResourceRef("run", key=run.key, number=run.number, sub=resource.sub)
        _, about = manifest_of(HostStore(session), where, resource)
        if about.live:
            raise _not_saved(resource, run)
        return where
    # On another machine: they become a tree of this one, of which no upload is made.
    source, where, manifest = _saved_outputs(connections, resource)
    pass_on(source, where, manifest, session, progress)
    transfer.send_blobs(session, {manifest.digest: manifest.encode()}, progress)
    return ResourceRef("tree", digest=manifest.digest, sub=resource.sub)


def _saved_outputs(connections: Connections, resource: Resource) -> tuple[Store, ResourceRef, Manifest]:
    run, store = find_store(connections, connections.registry.run(resource.name))
    where = ResourceRef("run", key=run.key, number=run.number)
    manifest, about = store.manifest(where)
    if about.live:
        raise _not_saved(resource, run)
    return store, where, manifest


def _not_saved(resource: Resource, run: Run) -> UsageError:
    return UsageError(
        f"{show(str(resource))} can't be mounted: its outputs are not saved", hint=f"remoterun info {run.number}"
    )


def _check_waits(run: Run, asked: MachineType) -> None:
    """Refuse to move what does not wait, and where it can't go."""
    number = run.number
    if asked.rental is not None or run.machine.rental is not None or asked.bucket is not None:
        raise UsageError(
            "a run moves between machines of your own, not to or from one that is rented",
            hint=_instead(run, asked.name),
        )
    if run.unreached is not None:
        raise UsageError(f"{run.unreached}, and run {number} waits there", hint=f"remoterun doctor {run.host.name}")
    if run.state is not RunState.QUEUED:
        raise _not_waiting(run, asked.name)


def _withdraw(connections: Connections, original: OriginalRun, successor: Run, home: Session, machine: str) -> Private:
    """Take a run from the machine where it waits, which never starts it from now on. Returns the values that only that
    had of it: of variables that were asked for, and of addresses that were typed."""
    run, spec = original.run, original.spec
    secrets = Secrets(connections.config.home).variables(spec.secrets)
    asked = api.Withdrawal(run.key, successor.key, f"it goes on as run {successor.number}")
    with home.stream(api.withdraw, asked) as stream:
        stream.end()
        body = stream.read(2 * MOST_BYTES)
        if not home.result(api.withdraw, stream).withdrawn:
            raise _not_waiting(run, machine)
    with home.understood():
        taken = Submission.decode(body)
    values = {name: taken.values[name] for name in original.variables if name in taken.values}
    typed = {name: url for name, url in taken.webhooks.addresses.items() if place_of(url) == name.partition(" ")[0]}
    return Private(values | secrets, addresses_again(connections, spec.notify, typed))


def _not_waiting(run: Run, machine: str) -> UsageError:
    now = f"is {run.state.value}" if run.state is not RunState.QUEUED else f"has started on {run.host.name}"
    return UsageError(f"run {run.number} {now}, and only a run that waits can be moved", hint=_instead(run, machine))


def _instead(run: Run, machine: str) -> str:
    stop = "" if run.final else f"remoterun stop {run.number} && "
    return f"{stop}remoterun rerun {run.number} -t {machine}"
