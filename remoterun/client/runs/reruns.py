"""A run once more: what it was given, from the home that keeps it, to any other."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from remoterun import transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.measured import LogReading
from remoterun.agent.shared.spec import ResolvedMount, ResourceRef, RunSpec, SpecError
from remoterun.agent.shared.tree import Manifest, show
from remoterun.client.homes import find_store, record_status
from remoterun.client.runs.specs import PARAMETER, digest_of_asked, request_of
from remoterun.connections import Connections
from remoterun.errors import HostError, HostUnreachable, NotFound, UsageError
from remoterun.host_store import HostStore, HostTree, ResourceTree, digests_of
from remoterun.model import Mount, Resource, Run, RunRequest
from remoterun.session import Session
from remoterun.stores import Store, told
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.source import Source


@dataclass(frozen=True)
class SavedTree:
    """A tree that a store has. `hint`: what to type where it is gone; `file`: the name of the one file that is
    meant."""

    tree: ResourceTree
    title: str
    hint: str
    file: str = ""
    recorded: bool = True
    """Whether this client's own records say what it is: any other home gets it by these, and never by what its store
    says."""

    @property
    def manifest(self) -> Manifest:
        return self.tree.manifest

    def send(self, target: Session, progress: Progress, extra: Mapping[str, bytes] | None = None) -> Manifest:
        """Let the home `target` have its files, its list of files, and `extra` (digest to content). Raises
        `UsageError` where they are gone, `TransferError`, `HostError`."""
        transfer.send_blobs(target, {self.manifest.digest: self.manifest.encode(), **(extra or {})}, progress)
        digests = {entry.digest for entry in self.manifest.files}
        missing = [digest for digest, _ in transfer.missing_blobs(target, list(digests))]
        if not missing:
            return self.manifest
        tree = self.tree
        gone: Sequence[object] = missing if target.home_id == tree.home_id else ()
        if not gone and isinstance(tree, HostTree) and tree.resource.kind != "run":
            gone = transfer.missing_blobs(tree.session, missing)
        if gone:
            count = "1 file is" if len(gone) == 1 else f"{len(gone)} files are"
            name = tree.machine.name
            raise UsageError(f"{self.title} is not whole on {name} any more: {count} missing", hint=self.hint)
        tree.pass_on(target, progress)
        return self.manifest

    def reading(self, progress: Progress) -> AbstractContextManager[transfer.Reading]:
        """Its files, on this machine's disk meanwhile."""
        return self.tree.saved(set(digests_of(self.manifest)), progress)


@dataclass(frozen=True)
class OriginalRun:
    """What a run was asked for and given, as its host or the archive has it."""

    run: Run
    spec: RunSpec
    request: RunRequest
    """Without the values of `variables`."""
    variables: tuple[str, ...]
    """Those that the user set; only the values of parameters are saved."""
    source: Source
    """Where the source came from; its files are those of `tree`."""
    tree: SavedTree
    mounts: Mapping[Mount, SavedTree]
    """The very files that its host found for it, for a run on that same home, as far as it has them and no others are
    asked for in their place."""
    trusted: bool = True
    """Whether this client knows that nothing else was asked for. If not, a secret or a variable of this process is not
    given because its host names it."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How its log was to be read when it was asked for: what its host says of that now counts on that host alone."""

    def elsewhere(self, request: RunRequest) -> RunRequest:
        """For another machine: its log is read as was asked for, but for what is changed in the `request` itself."""
        kept = [name for name in self.reading if getattr(request, name) == getattr(self.request, name)]
        return request._replace(**{name: self.reading[name] for name in kept})

    def values(
        self, names: Iterable[str], given: Iterable[tuple[str, str]], goes_on: bool = False
    ) -> tuple[tuple[str, str], ...]:
        """Variables with their values: of `names` those that are set here, and those `given`. Raises `UsageError`."""
        known = {**os.environ, **{PARAMETER + name: value for name, value in self.spec.params.items()}}
        values = {name: known.get(name) if self.trusted else None for name in names} | dict(given)
        missing = [name for name, value in values.items() if value is None]
        if missing:
            typed = " ".join(f"-e {name}=…" for name in missing)
            again = f"remoterun rerun {self.run.number} {typed}"
            if not self.trusted:
                raise UsageError(
                    f"{self.run.host.name} says that run {self.run.number} has {', '.join(missing)}, which is not known"
                    " here: values are given to it only if you say so",
                    hint=f"{again}\n--secret NAME={missing[0]}   if the value is a secret",
                )
            on = f"export {' '.join(f'{name}=…' for name in missing)} && remoterun continue {self.run.number}"
            what = f"the values of {', '.join(missing)} are not set here"
            raise UsageError(
                f"{what}, and those of run {self.run.number} are saved nowhere",
                hint=on if goes_on else f"{again}\nexport {missing[0]}=…   and the same command again",
            )
        return tuple((name, value) for name, value in values.items() if value is not None)


def uncommitted(connections: Connections, number: int | str) -> bytes:
    """See `Runs.uncommitted`."""
    run, store, spec, _ = read_spec(connections, number)
    return _source(store.tree(source_of(run)), spec).diff


def original_of(
    connections: Connections, run: Run, store: Store, spec: RunSpec, about: api.RunDetails, others: Collection[str] = ()
) -> OriginalRun:
    """What a run was asked for, as `store` has it; its mounts at the paths `others` are not wanted. Raises
    `UsageError` where it is not what this client asked for."""
    source = store.tree(source_of(run))
    recorded = connections.registry.asked(run)
    if spec.key != run.key or source.manifest.digest != spec.source or recorded not in ("", digest_of_asked(spec)):
        raise another_was_asked(run)
    asked = [Mount(Resource.parse(mount.typed), mount.path) for mount in spec.mounts]
    mounts = {
        each: tree
        for each, found in zip(asked, [*about.mounts, *[None] * len(asked)], strict=False)
        if each.path not in others and (tree := _found(connections, run, store, each, found, bool(recorded)))
    }
    request = request_of(run, spec, tuple(asked), trusted=bool(recorded))
    reading = {name: getattr(request, name) for name in LogReading._fields}
    if about.reading is not None:
        request = request._replace(**about.reading._asdict())
    hint = f"remoterun machines check {store.machine.name}"
    tree = SavedTree(source, f"the source of run {run.number}", hint)
    variables = tuple(name for name in spec.asked_env if not recorded or name not in spec.secrets)
    return OriginalRun(run, spec, request, variables, _source(source, spec), tree, mounts, bool(recorded), reading)


def not_known_here(title: str, hint: str) -> UsageError:
    return UsageError(f"{title} is not known here: only the machine of that run may have it", hint=hint)


def another_was_asked(run: Run) -> UsageError:
    return UsageError(
        f"{run.host.name} has another command, source or mounts for run {run.number} than you asked for",
        hint=f"remoterun info {run.number}",
    )


def read_spec(connections: Connections, number: int | str) -> tuple[Run, Store, RunSpec, api.RunDetails]:
    """(a run, where it is read, what was asked for, what else is known there). Raises `HostError`, `UsageError` where
    that is not saved."""
    run = connections.registry.run(number)
    try:
        run, store = find_store(connections, run)
        details = store.run(run.key).details()
    except NotFound:
        raise UsageError(
            f"{run.host.name} does not have run {run.number}, so what it was given is not known",
            hint=f"remoterun info {run.number}",
        )
    except HostUnreachable as error:
        raise HostUnreachable(
            f"what run {run.number} was given is on {run.host.name}: {error.message}",
            hint=f"remoterun doctor {run.host.name}   shows why",
            evidence=error.evidence,
        )
    try:
        spec = RunSpec.from_record(details.spec)
    except SpecError as error:
        raise HostError(f"what was asked of run {run.number} can't be read: {error}", hint=f"remoterun info {number}")
    return record_status(connections, run, told(store, details.status)), store, spec, details


def _found(
    connections: Connections, run: Run, store: Store, mount: Mount, found: ResolvedMount | None, trusted: bool
) -> SavedTree | None:
    """The tree that the host of a run `found` for a mount. None where the host has it no more, or the archive is read:
    then the mount is resolved anew, as on any other home, by the records of this client: the version of an upload of
    ours that the run read, or a run. Raises `UsageError` where there is no such record."""
    typed, uploads = mount.resource, connections.registry.uploads
    versions = uploads.versions(typed.name, typed.version) if typed.kind == "uploads" else []
    read = any(
        version.ours and run.number in uploads.readers(typed.name).get(version.digest, ()) for version, _ in versions
    )
    recorded = trusted and (typed.kind == "runs" or read)
    title = f"{show(str(typed))} as run {run.number} read it"
    hint = f"remoterun rerun {run.number} -m {replace(typed, version=None)}:{mount.path}   mounts what is there now"
    if found is not None and isinstance(store, HostStore):
        where = ResourceRef("tree", key=run.key, digest=found.tree)
        with suppress(NotFound):
            return SavedTree(store.tree(where), title, hint, found.file, recorded)
    if not recorded:
        raise not_known_here(title, hint)
    return None


def source_of(run: Run) -> ResourceRef:
    return ResourceRef("source", key=run.key, number=run.number)


def _source(source: ResourceTree, spec: RunSpec) -> Source:
    """What is recorded of where the source came from; its files are those of the tree that is saved."""
    from remoterun.source import DIFF_LIMIT, Source

    git = spec.git
    if git is None:
        return Source(None, spec.workdir)
    diff = source.contents([git.diff], 2 * DIFF_LIMIT).get(git.diff, b"") if git.diff else b""
    return Source(
        None, spec.workdir, commit=git.commit, branch=git.branch, remote=git.remote, dirty=git.dirty, diff=diff
    )
