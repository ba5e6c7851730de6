"""The public API: what the command line calls, and a program may. Blocking; one `Client` per thread.

    with Client() as client:
        client.upload(Path("data/input.txt"), name="doom")
        run = client.submit(RunRequest("python -m trainer.train --data_dir=./data",
                                       mounts=(Mount.parse("uploads/doom:data"),)), source=client.source())
        for item in client.follow(run.number):
            ...
        client.copy("runs/last/models", Path("."))

Nothing here prints or asks; questions come as exceptions or through the callbacks that are passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun import config as configuration
from remoterun import machines, transfer, upkeep
from remoterun.agent.runs import FINAL, Reason, RunState
from remoterun.agent.tree import Entry, Manifest, TreeError, show
from remoterun.environments import context
from remoterun.errors import HostError, LinkLost, NotFound, RemoterunError, TransferError, UsageError
from remoterun.model import (
    MachineType,
    Resource,
    Run,
    RunRequest,
    Upload,
    check_upload_name,
    did_you_mean,
    new_key,
)
from remoterun.registry import Registry
from remoterun.session import Prompts, Session, host_of
from remoterun.transfer import Conflict, Fetched, Progress, Sent
from remoterun.upkeep import Checked, Collected, Usage

if TYPE_CHECKING:
    from remoterun.hosts.base import Host
    from remoterun.page import Model, Page
    from remoterun.source import Source

RECONNECT_LEAST, RECONNECT_MOST = 0.25, 5.0
HAND_OVER = (RunState.REQUESTED, RunState.PROVISIONING, RunState.UPLOADING)


@dataclass(frozen=True)
class Uploaded:
    """What `upload` did. `created` is False when the newest version had this content already."""

    upload: Upload
    created: bool
    sent: Sent
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogBytes:
    """A piece of a run's log, from byte `offset` on; `time` (seconds since 1970) only when times were asked for."""

    offset: int
    data: bytes
    time: float | None = None


@dataclass(frozen=True)
class StateChange:
    """A state the run has reached; `event` as the run folder holds it, `run` as it was then, `past` whether a later
    state had followed when `follow` was called."""

    state: RunState
    event: dict[str, Any]
    run: Run
    past: bool = False


@dataclass(frozen=True)
class Note:
    """Something worth reading that is no change of state. `kind`: "note" from the supervisor, "build" for the last
    line of the environment's build, "lost" and "back" for the link."""

    kind: str
    text: str


Item = LogBytes | StateChange | Note


class Client:
    """Everything a user can do. Sessions are opened when needed and kept until `close`."""

    def __init__(self, config: configuration.Config | None = None, prompts: Prompts | None = None) -> None:
        self.config = config or configuration.load()
        self._prompts = prompts or Prompts()
        self._sessions: dict[MachineType, Session] = {}
        self._registry: Registry | None = None
        self._hosts: list[Host] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection. Runs go on. May be called twice."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        for host in self._hosts:
            host.close()
        self._hosts.clear()
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    @property
    def registry(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self.config.home / "registry.db")
        return self._registry

    def machine(self, name: str | None) -> MachineType:
        """Raises `NotFound`."""
        return machines.resolve(name, self.config)

    def session(self, machine: MachineType) -> Session:
        """The open session with a machine, or a new one. Raises `HostError`."""
        known = self._sessions.get(machine)
        if known is not None and known.alive:
            return known
        if known is not None:
            known.close()
        session = Session(
            machine, host_of(machine, self.config, self._prompts), lambda: host_of(machine, self.config, Prompts())
        )
        self._sessions[machine] = session
        return session

    # -- uploads

    def upload(self, path: Path, name: str, to: str | None = None, progress: Progress | None = None) -> Uploaded:
        """Make the content of `path` the newest version of the upload `name` on a machine (default: the default one).

        Repeat it after a cut: what has arrived is not sent again. Raises `UsageError`, `TransferError`, `HostError`.
        """
        check_upload_name(name)
        progress = progress or Progress()
        machine = self.machine(to)
        with ThreadPoolExecutor(1) as pool:  # listing and connecting take as long as the longer of the two
            reading = pool.submit(transfer.read_tree, path, self.config.home / "digests")
            try:
                session = self.session(machine)
            finally:
                tree = reading.result()
        source = str(path.resolve())
        if tree.hashed:
            same = self._unchanged(session, name, tree, source)
            if same is not None:
                return same
        manifest, sent = transfer.send_tree(session, tree, {}, progress, name)
        upload, created = self._commit(session, name, manifest, source)
        return Uploaded(upload, created, sent, (*tree.warnings, *_of_git(manifest)))

    def _unchanged(self, session: Session, name: str, tree: transfer.Reading, path: str) -> Uploaded | None:
        """What is to be said if nothing needs to be read or sent: the newest version has this content."""
        manifest = Manifest(tree.entries())
        versions = session.call("upload", name=name, newest=True)["versions"]
        if not versions or versions[-1]["digest"] != manifest.digest or versions[-1].get("damaged"):
            return None
        tree.close(complete=True)
        return Uploaded(
            self._record(session, name, versions[-1], path), False, Sent(0, 0, manifest.size), tuple(tree.warnings)
        )

    def _commit(self, session: Session, name: str, manifest: Manifest, path: str | None) -> tuple[Upload, bool]:
        result, _ = session.request("commit_upload", manifest.encode(), name=name)
        return self._record(session, name, result["version"], path), bool(result["created"])

    def _record(self, session: Session, name: str, version: dict[str, Any], path: str | None) -> Upload:
        upload = Upload(
            name,
            version["version"],
            version["digest"],
            version["size"],
            version["files"],
            version["created"],
            session.machine.name,
            session.home_id,
            path,
        )
        self.registry.record_upload(upload, session.machine, time.time())
        return upload

    def uploads(self) -> list[Upload]:
        """The newest of each upload that this client knows, or that the default machine has."""
        found: dict[str, Upload] = {}
        for upload, _ in self.registry.uploads():
            found.setdefault(upload.name, upload)
        machine = self.machine(None)
        try:
            session = self.session(machine)
            for item in session.call("uploads")["uploads"]:
                known = found.get(item["name"])
                if known is None or known.home_id == session.home_id or known.digest == item["digest"]:
                    found[item["name"]] = _upload(item, session)
        except HostError:
            if not found:
                raise
        return sorted(found.values(), key=lambda upload: upload.name)

    def _bring(self, name: str, session: Session, progress: Progress) -> Upload:
        """The newest version of an upload, on the machine of `session`: there already, or passed on to it."""
        known = self.registry.uploads(name)
        here = session.call("upload", name=name)["versions"]
        if known:
            newest, machine = known[0]
            if newest.home_id == session.home_id and here:  # somebody else may have made a newer one there
                return _upload(dict(here[-1], name=name), session)
            for version in here:
                if version["digest"] == newest.digest:
                    return _upload(dict(version, name=name), session)
            if newest.home_id != session.home_id:
                return self._pass_on(name, newest, machine, session, progress)
        if here:
            return _upload(dict(here[-1], name=name), session)
        close = did_you_mean(name, {upload.name for upload, _ in self.registry.uploads()})
        hint = f"did you mean uploads/{close}?" if close else f"remoterun upload PATH --name {name}"
        raise NotFound(f"there is no upload `{name}`", hint=hint)

    def _pass_on(self, name: str, upload: Upload, machine: MachineType, target: Session, progress: Progress) -> Upload:
        source = self.session(machine)
        resource = {"kind": "upload", "name": name, "digest": upload.digest, "sub": ""}
        manifest, _ = transfer.fetch_manifest(source, resource)
        transfer.relay(source, manifest, target, progress)
        result, _ = target.request("commit_upload", manifest.encode(), name=name)
        copied = _upload(dict(result["version"], name=name), target)
        self.registry.record_upload(replace(copied, path=upload.path), target.machine, None)  # the original comes first
        return copied

    # -- runs

    def source(
        self,
        folder: Path | None = None,
        *,
        commit_ref: str | None = None,
        include_untracked: bool = False,
        no_git: bool = False,
    ) -> Source:
        """The snapshot of the work tree around `folder` (default: the current one). Raises `SourceError`."""
        from remoterun.source import snapshot

        return snapshot(folder or Path.cwd(), commit_ref=commit_ref, include_untracked=include_untracked, no_git=no_git)

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
        type_ = self.machine(machine)
        places = self.check(request, source, type_)
        tree = _source_tree(source, self.config.home / "digests")
        session = self.session(type_)
        mounts = [
            self._mount(mount, place, session, progress) for mount, place in zip(request.mounts, places, strict=True)
        ]
        key = new_key()
        description = request.description or (source.subject if source is not None else None)
        run = self.registry.add_run(
            key, type_, session.home_id, request.command, time.time(), description, request.labels
        )
        cast(run)
        asked = False
        try:
            build, blobs = context()
            extra = {**blobs, build.digest: build.encode()}
            if source is not None and source.commit is not None and source.diff:  # as `_spec` refers to it
                extra[_sha256(source.diff)] = source.diff
            run = self.registry.move(run, RunState.UPLOADING, time.time())
            manifest, _ = transfer.send_tree(session, tree, extra, progress)
            spec = _spec(run, request, source, manifest, mounts)
            asked = True
            result, _ = session.request("submit", manifest.encode(), spec=spec)
        except BaseException as error:
            if asked and (isinstance(error, LinkLost) or not isinstance(error, RemoterunError)):
                self.registry.give_up(run)
                raise  # it may have been handed over; whoever looks next learns it from the machine
            message = error.message if isinstance(error, RemoterunError) else "interrupted before it was handed over"
            self.registry.move(run, RunState.FAILED, time.time(), reason=Reason.START_FAILED.value, message=message)
            raise
        return self.registry.see(run, result["status"], time.time())

    def check(self, request: RunRequest, source: Source | None, machine: MachineType) -> list[str]:
        """Where each mount goes. Raises `UsageError` for what is refused without asking the machine."""
        places = [mount.place(source.workdir if source is not None else "") for mount in request.mounts]
        _check_places(places, request)
        for mount in request.mounts:
            if mount.resource.kind == "runs":
                self.registry.run(mount.resource.name)
        if machine.engine == "process":
            _check_for_process(request, places, machine)
        return places

    def _mount(self, mount: Any, place: str, session: Session, progress: Progress) -> dict[str, Any]:
        """A mount as the agent resolves it; its upload is brought to the machine first."""
        resource: Resource = mount.resource
        described = {"typed": str(resource), "path": mount.path, "place": place}
        if resource.kind == "uploads":
            upload = self._bring(resource.name, session, progress)
            where = {"kind": "upload", "name": upload.name, "version": upload.version, "sub": resource.sub}
            if resource.sub:
                self._manifest(session, where, resource)  # that it is there, before the run has a number
            return {**described, "resource": where}
        run = self.registry.run(resource.name)
        if run.home_id == session.home_id:
            where = {"kind": "run", "key": run.key, "number": run.number, "sub": resource.sub}
            _, about = self._manifest(session, where, resource)
            if about.get("live"):
                raise _not_saved(resource, run)
            return {**described, "resource": where}
        return {**described, "resource": self._bring_outputs(run, resource, session, progress)}

    def _bring_outputs(self, run: Run, resource: Resource, session: Session, progress: Progress) -> dict[str, Any]:
        """Outputs that lie on another machine, as an upload of this one named after the run."""
        source = self.session(run.machine)
        where = {"kind": "run", "key": run.key, "number": run.number, "sub": ""}
        manifest, about = transfer.fetch_manifest(source, where)
        if about.get("live"):
            raise _not_saved(resource, run)
        transfer.relay(source, manifest, session, progress)
        name = f"run-{run.number}-{run.key[-8:]}"
        session.request("commit_upload", manifest.encode(), name=name)
        return {"kind": "upload", "name": name, "sub": resource.sub}

    def run(self, number: int | str) -> Run:
        """A run as its machine knows it; if that can't be reached, as it was last seen (`reachable` is False)."""
        return self._ask([self.registry.run(number)])[0]

    def runs(self, limit: int | None = 50, labels: Iterable[str] = ()) -> list[Run]:
        """The newest runs, oldest first; those that may have moved are asked for, machine by machine, all at once."""
        return self._ask(self.registry.runs(limit, labels))

    def _ask(self, runs: list[Run]) -> list[Run]:
        moving: dict[MachineType, list[Run]] = {}
        for run in runs:
            if not run.final:
                moving.setdefault(run.machine, []).append(run)
        if not moving:
            return runs
        seen: dict[str, Run] = {}
        with ThreadPoolExecutor(max_workers=8) as pool:
            for machine, answer in zip(moving, pool.map(self._statuses, moving, moving.values()), strict=True):
                for run in moving[machine]:
                    seen[run.key] = self._corrected(run, answer)
        return [seen.get(run.key, run) for run in runs]

    def _statuses(self, machine: MachineType, runs: list[Run]) -> dict[str, dict[str, Any]] | None:
        """By key; None when the machine can't be asked."""
        try:
            session = self.session(machine)
            answer = session.call("runs", keys=[run.key for run in runs])
        except HostError:
            return None
        statuses = {status["key"]: status for status in answer["runs"]}
        for run in runs:  # of another home than the one that answers now: its disk may not be mounted
            if run.home_id not in (None, session.home_id):
                statuses.setdefault(run.key, {})
        return statuses

    def _corrected(self, run: Run, answer: dict[str, dict[str, Any]] | None) -> Run:
        if answer is None:
            return replace(run, reachable=False)
        status = answer.get(run.key)
        if status is not None:
            try:
                return self.registry.see(run, status, time.time())
            except HostError:
                return replace(run, reachable=False)
        if run.state in HAND_OVER:
            if self.registry.abandoned(run):
                return self.registry.move(
                    run,
                    RunState.FAILED,
                    time.time(),
                    reason=Reason.START_FAILED.value,
                    message="remoterun was ended before the run was handed over",
                )
            return run
        return self.registry.move(
            run,
            RunState.INTERRUPTED,
            time.time(),
            reason=Reason.HOST_LOST.value,
            message=f"{run.machine.name} knows this run no more",
        )

    def details(self, number: int | str) -> tuple[Run, dict[str, Any]]:
        """(run, {"spec", "folder", "events"} as its machine has them; None each if it never got the run).

        Raises `HostError`, `NotFound`.
        """
        run = self.registry.run(number)
        try:
            answer = self.session(run.machine).call("run", key=run.key)
        except NotFound:
            return self.run(number), {"spec": None, "folder": None, "events": None}
        return self.registry.see(run, answer["status"], time.time()), answer

    def follow(
        self,
        number: int | str,
        *,
        live: bool = True,
        tail: int | None = None,
        since: float | None = None,
        timed: bool = False,
        patient: bool = True,
    ) -> Iterator[Item]:
        """The run's log and states, from the start; `live` waits for more until the run has ended.

        Each byte of the log comes once, in order, whatever happens to the link: with `patient`, a lost connection is
        made again, for as long as it takes, and the log goes on where it stopped.
        """
        run = self.registry.run(number)
        if run.state in HAND_OVER:
            run = self.run(number)
            if not run.reachable:
                self.session(run.machine)  # says why
                raise HostError(f"{run.machine.name} does not say what became of run {run.number}", hint="try again")
        if run.final and run.started is None and run.ended is None:  # its machine never got it
            yield StateChange(run.state, {"state": run.state.value, "message": run.message}, run)
            return
        offset = events = 0
        started = False
        pause = RECONNECT_LEAST
        while True:
            arguments: dict[str, Any] = {"offset": offset, "events": events, "follow": live, "timed": timed}
            try:
                session = self.session(run.machine)
                if not started:
                    arguments.update(tail=tail, since=None if since is None else since + session.ahead)
                with session.stream("follow", key=run.key, **arguments) as stream:
                    stream.end()
                    for frame in stream:
                        if pause > RECONNECT_LEAST:
                            pause = RECONNECT_LEAST
                            yield Note("back", "")
                        header = frame.header
                        if "log" in header:
                            started = True
                            offset = header["log"] + len(frame.body)
                            yield LogBytes(header["log"], bytes(frame.body), header.get("t"))
                        elif "event" in header:
                            events = header["n"] + 1
                            yield from self._event(run, header["event"], bool(header.get("past")))
                        elif "build" in header:
                            yield Note("build", str(header["build"]))
                    run = self.registry.see(run, stream.result["status"], time.time())
                    return
            except HostError as error:
                if not live or not patient or not isinstance(error, _PASSING):
                    raise
                if pause == RECONNECT_LEAST:
                    yield Note("lost", error.message)
                time.sleep(pause)
                pause = min(pause * 2, RECONNECT_MOST)

    def _event(self, run: Run, event: dict[str, Any], past: bool) -> Iterator[Item]:
        if "state" not in event:
            if not past:
                yield Note("note", str(event.get("note", "")))
            return
        state = RunState(event["state"])
        names = ("reason", "code", "message", "outputs", "engine")
        fields: dict[str, Any] = {name: event[name] for name in names if name in event}
        if state is RunState.RUNNING:
            fields["started"] = event["t"]
        if state in FINAL:
            fields["ended"] = event["t"]
        known = self.registry.move(run, state, time.time(), **fields)
        reason = Reason(fields["reason"]) if fields.get("reason") else None
        yield StateChange(state, event, replace(known, **{**fields, "state": state, "reason": reason}), past)

    def stop(self, number: int | str, grace: float = 10.0) -> tuple[Run, bool]:
        """Ask a run to end: SIGTERM, `grace` seconds, SIGKILL; its outputs are saved. (run, whether it could be asked).

        Returns at once; a run that has ended is left as it is.
        """
        return self._request_end("stop", number, grace=grace)

    def kill(self, number: int | str) -> tuple[Run, bool]:
        """End a run now; its outputs are not saved. As `stop`."""
        return self._request_end("kill", number)

    def _request_end(self, op: str, number: int | str, **arguments: Any) -> tuple[Run, bool]:
        run = self.registry.run(number)
        if run.final and run.reason is not Reason.HOST_LOST:  # a host that had lost it may have found it again
            return run, False
        try:
            answer = self.session(run.machine).call(op, key=run.key, **arguments)
        except NotFound:
            if run.state in HAND_OVER and not self.registry.abandoned(run):
                raise UsageError(f"run {run.number} is still being handed over to {run.machine.name}", hint="try again")
            return self.run(number), False
        return self.registry.see(run, answer["status"], time.time()), bool(answer["asked"])

    # -- files

    def list_files(self, resource: Resource) -> tuple[Manifest, dict[str, Any]]:
        """(what is below a resource, {"live", "folder", "about"}). Raises `NotFound`."""
        session, where = self._locate(resource)
        return self._manifest(session, where, resource)

    def _manifest(self, session: Session, where: dict[str, Any], resource: Resource) -> tuple[Manifest, dict[str, Any]]:
        """As `transfer.fetch_manifest`; what is missing is named as it was typed."""
        try:
            return transfer.fetch_manifest(session, where)
        except NotFound as error:
            if not resource.sub or error.hint:
                raise
            raise NotFound(f"there is no `{show(str(resource))}`", hint=f"remoterun ls {resource.kind}/{resource.name}")

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
        to be one (`into`).
        """
        resource = Resource.parse(source)
        session, where = self._locate(resource)
        try:
            return transfer.fetch(session, where, target, conflict, progress or Progress(), into=into)
        except NotFound as error:
            if resource.sub and not error.hint:
                error.hint = f"remoterun ls {resource.kind}/{resource.name}"
            raise

    def page(
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
        from remoterun import page as pages

        if Resource.is_one(source):
            model = self._fetch_model(Resource.parse(source), progress or Progress())
        else:
            model = pages.local_model(Path(source))
        return pages.Page(model, pages.libraries(self.config.home, note), port)

    def _fetch_model(self, resource: Resource, progress: Progress) -> Model:
        from remoterun import page as pages

        session, where = self._locate(resource)
        listed, about = self._manifest(session, where, resource)
        live = bool(about.get("live"))
        again = f"remoterun ls {resource}"
        try:
            sub = pages.find((entry.path for entry in listed.entries if entry.kind == "f"), str(resource), again)
        except NotFound as error:
            if live:
                error.hint = f"run {resource.name} goes on and may write one yet: remoterun logs {resource.name}"
            raise
        where["sub"] = "/".join(part for part in (resource.sub, sub) if part)
        name = str(Resource(resource.kind, str(where.get("number", resource.name)), where["sub"]))
        folder = self.config.home / "page" / name

        def fetch(names: frozenset[str]) -> None:
            transfer.fetch(session, where, folder, lambda _: True, progress, only=names)

        return pages.refresh(name, folder, fetch, live=live)

    def copy_up(
        self, path: Path, target: Resource, to: str | None = None, progress: Progress | None = None
    ) -> Uploaded:
        """Add a file or a folder's contents to an upload, below `target.sub`: a new version of it.

        The upload stays where it is; a new one is made on `to`. Raises `UsageError` for a run.
        """
        if target.kind != "uploads":
            raise UsageError(
                f"{target} can't be written: a run's outputs stay as they were",
                hint="remoterun cp PATH uploads/NAME/",
            )
        progress = progress or Progress()
        added = transfer.read_tree(path, self.config.home / "digests")
        single = path.is_file()
        known = self.registry.uploads(target.name)
        session = self.session(self.machine(to) if to or not known else known[0][1])
        entries = {}
        versions = session.call("upload", name=target.name, newest=True)["versions"]
        if versions:
            base, _ = transfer.fetch_manifest(session, {"kind": "upload", "name": target.name, "sub": ""})
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

    def remove(self, resource: Resource) -> bool:
        """Delete an upload or an ended run, there and from the registry; whether there was one.

        Raises `UsageError` for a path inside one, or a run that has not ended.
        """
        if resource.sub:
            raise UsageError(
                f"{show(str(resource))} is inside one: only a whole upload or run can be removed",
                hint=f"remoterun rm {resource.kind}/{resource.name}",
            )
        if resource.kind == "runs":
            run = self.registry.run(resource.name)
            try:
                self.session(run.machine).call("remove_run", key=run.key)
            except UsageError as error:
                raise UsageError(
                    f"run {run.number} can't be removed: {error.message}",
                    hint=f"remoterun stop {run.number} or remoterun kill {run.number} first",
                )
            self.registry.remove_run(run)
            return True
        known = self.registry.uploads(resource.name)
        where = [machine for _, machine in known] or [self.machine(None)]
        removed = False
        for machine in where:
            session = self.session(machine)
            removed = session.call("remove_upload", name=resource.name)["removed"] or removed
            self.registry.forget_upload(resource.name, session.home_id)
        return removed or bool(known)

    def _locate(self, resource: Resource) -> tuple[Session, dict[str, Any]]:
        """The session of the machine that holds a resource, and how the agent calls it."""
        if resource.kind == "runs":
            run = self.registry.run(resource.name)
            where = {"kind": "run", "key": run.key, "number": run.number, "sub": resource.sub}
            return self.session(run.machine), where
        known = self.registry.uploads(resource.name)
        machine = known[0][1] if known else self.machine(None)
        session = self.session(machine)
        if not known and not session.call("upload", name=resource.name)["versions"]:
            names = {upload.name for upload, _ in self.registry.uploads()}
            close = did_you_mean(resource.name, names)
            hint = f"did you mean uploads/{close}?" if close else "remoterun ls uploads"
            raise NotFound(f"there is no upload `{resource.name}`", hint=hint)
        where = {"kind": "upload", "name": resource.name, "sub": resource.sub}
        if known:
            where["digest"] = known[0][0].digest
        return session, where

    # -- machines

    def fabric(self, name: str) -> Any:
        """A `fabric.Connection` to a machine, for what remoterun has no command for; its host key is checked and the
        ssh configuration honoured, which fabric alone does not do. It lives until this client is closed.

        Raises `UsageError` for the machine in front of us, and `HostError`.
        """
        from remoterun.hosts.ssh import SSHHost

        machine = self.machine(name)
        host = host_of(machine, self.config, self._prompts)
        if not isinstance(host, SSHHost):
            raise UsageError(f"`{machine.name}` is the machine in front of us", hint="use subprocess")
        self._hosts.append(host)
        return host.fabric()

    def examine(self, machine: MachineType) -> list[dict[str, Any]]:
        """The agent's part of `doctor`: checks with name, ok, detail, fix."""
        session = self.session(machine)
        answer = session.call("doctor", engine=machine.engine, gpus=machine.gpus, base=machine.base_image)
        checks: list[dict[str, Any]] = answer["checks"]
        return checks

    # -- upkeep

    def verify(
        self,
        machine: str | None = None,
        *,
        repair: bool = True,
        progress: Progress | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Checked:
        """Verify everything a machine's home holds; with `repair`, mend it: from its own copies, from the paths of this
        machine that were uploaded, from other machines. `note` is called with what could not be asked. Blocks for as
        long as it takes to read all of it. Raises `HostError`.
        """
        type_ = self.machine(machine)
        known = [found for _, found in self.registry.uploads()] + [run.machine for run in self.registry.runs()]
        others = upkeep.others([*machines.listing(self.config), *known], type_)
        elsewhere = upkeep.Elsewhere(self.registry, others, self.session)
        return upkeep.verify(self.session(type_), elsewhere, repair, progress or Progress(), note)

    def collect(
        self,
        machine: str | None = None,
        *,
        keep: int | None = None,
        envs: bool = False,
        unused: float | None = None,
        dry_run: bool = False,
    ) -> Collected:
        """Free what nothing of a machine's home needs: also versions of uploads but the newest `keep` (None: none), and
        with `envs` environments that nothing has used for `unused` seconds (default: a week). Safe at any moment.
        Raises `HostError`, `TransferError` for a home that is damaged, `UsageError` while another one is at work.
        """
        session = self.session(self.machine(machine))
        return upkeep.collect(session, self.registry, keep, envs, unused, dry_run)

    def usage(self, machine: str | None = None) -> Usage:
        """Who uses how much of a machine's home. Raises `HostError`."""
        return upkeep.usage(self.session(self.machine(machine)), self.registry)


def _passing() -> tuple[type[HostError], ...]:
    from remoterun.errors import HostUnreachable

    return (LinkLost, HostUnreachable)


_PASSING = _passing()


def _of_git(tree: Manifest) -> list[str]:
    """What most people do not mean to upload; a data set may be a repository, though."""
    count = sum(1 for entry in tree.files if entry.path.startswith(".git/"))
    return [f"{count:,} of its files are git's own, in .git"] if count else []


def _upload(item: dict[str, Any], session: Session) -> Upload:
    return Upload(
        item["name"],
        item["version"],
        item["digest"],
        item["size"],
        item["files"],
        item["created"],
        session.machine.name,
        session.home_id,
    )


def _source_tree(source: Source | None, digests: Path) -> transfer.Reading:
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
    return transfer.read_entries(found, root, digests if in_place else None)


def _check_places(places: list[str], request: RunRequest) -> None:
    for number, place in enumerate(places):
        for other in places[:number]:
            if place == other or place.startswith(other + "/") or other.startswith(place + "/"):
                raise UsageError(
                    f"two mounts meet at `{show(place)}`", hint=f"-m {request.mounts[number].resource}:OTHER_PATH"
                )


def _check_for_process(request: RunRequest, places: list[str], machine: MachineType) -> None:
    """Refuse what needs a container, where the engine is known to be `process`."""
    elsewhere = "or use a machine with Docker: -t NAME"
    if request.image:
        raise UsageError(
            f"`{machine.name}` has no images: its engine is `process`", hint=f"leave out --image, {elsewhere}"
        )
    if request.apt:
        raise UsageError(
            f"`{machine.name}` can't install apt packages: its engine is `process`",
            hint=f"leave out --apt and install them there, {elsewhere}",
        )
    for mount, place in zip(request.mounts, places, strict=True):
        if place.startswith("/"):
            raise UsageError(
                f"`{machine.name}` can't mount at `{show(place)}`: its engine is `process`",
                hint=f"-m {mount.resource}:data, {elsewhere}",
            )


def _not_saved(resource: Resource, run: Run) -> UsageError:
    return UsageError(
        f"{show(str(resource))} can't be mounted: its outputs are not saved", hint=f"remoterun info {run.number}"
    )


def _spec(
    run: Run, request: RunRequest, source: Source | None, tree: Manifest, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    """The spec, frozen: what the host keeps as spec.json."""
    machine = run.machine
    variables = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "REMOTERUN_RUN_ID": str(run.number),
        "REMOTERUN_RUN_KEY": run.key,
        "REMOTERUN_MACHINE": machine.name,
    }
    variables.update(request.env)
    git = None
    if source is not None and source.commit is not None:
        git = {
            "commit": source.commit,
            "branch": source.branch,
            "remote": source.remote,
            "dirty": source.dirty,
            "diff": _sha256(source.diff) if source.diff else None,
        }
    return {
        "format": 1,
        "key": run.key,
        "number": run.number,
        "created": run.created,
        "machine": machine.name,
        "command": request.command,
        "workdir": source.workdir if source is not None else "",
        "source": tree.digest,
        "mounts": mounts,
        "env": variables,
        "asked_env": [name for name, _ in request.env],
        "environment": {
            "image": request.image,
            "base": machine.base_image,
            "variant": "gpu" if machine.gpus else "cpu",
            "context": context()[0].digest,
            "apt": list(request.apt),
            "pip": list(request.pip),
            "requirements": request.requirements,
        },
        "engine": machine.engine,
        "gpus": machine.gpus,
        "slots": machine.slots,
        "timeout": request.timeout,
        "description": run.description,
        "labels": list(run.labels),
        "git": git,
    }


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


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


__all__ = [
    "Checked",
    "Client",
    "Collected",
    "Fetched",
    "Item",
    "LogBytes",
    "Note",
    "StateChange",
    "TransferError",
    "Uploaded",
    "Usage",
]
