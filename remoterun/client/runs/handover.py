"""A run goes to its machine: for the first time, or after its rented host was lost.

    launch    a new run, of a source or of what another run was given
    hand_over the same, and what `attempts` does for a further host: the host, mounts, source, credentials, `submit`

The row of a run exists before its host is rented, and before anything is sent: what is refused before has no number.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from remoterun.agent.shared import api
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.client.homes import record_status
from remoterun.client.runs import placement
from remoterun.client.runs.preparing import Prepared, Talk, opened
from remoterun.client.runs.specs import digest_of_asked, params_of, spec_of
from remoterun.client.secrets import Secrets
from remoterun.client.webhooks import webhooks_of
from remoterun.connections import Connections
from remoterun.environments import context
from remoterun.errors import LinkLost, RemoterunError
from remoterun.model import Run, RunRequest, new_key
from remoterun.session import Session
from remoterun.stores import told
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.clouds.ledger.planning import AgreedPlan
    from remoterun.source import Source

Make = Callable[[Run, RunRequest], Submission]


def launch(
    connections: Connections,
    prepared: Prepared,
    talk: Talk,
    cast: Callable[[Run], None] = lambda _: None,
    plan: AgreedPlan | None = None,
    pay: float | None = None,
) -> Run:
    """See `Runs.launch`."""
    prepared = ready(connections, prepared, talk, plan, pay)
    request = prepared.request
    description = request.description or (prepared.source.subject if prepared.source is not None else None)
    again, params = prepared.again, params_of(request)
    run = connections.registry.add_run(
        new_key(), prepared.machine, request.command, time.time(), description, request.labels, again, params=params
    )
    return hand_over(connections, run, prepared, talk, partial(record_failure, connections), partial(cast, run))


def ready(
    connections: Connections, prepared: Prepared, talk: Talk, plan: AgreedPlan | None = None, pay: float | None = None
) -> Prepared:
    """`prepared` with its values, and its machine open, or agreed to. Raises for what is refused before a run has its
    row."""
    request, session = prepared.request, prepared.session
    secrets = Secrets(connections.config.home).variables(dict(request.secrets))
    prepared = replace(prepared, values={**dict(request.env), **secrets})
    if prepared.machine.rental is not None:
        from remoterun.client.runs import rented

        prepared = rented.agreed(connections, prepared, plan, talk, pay)
    elif session is None or prepared.machine.pool or not session.alive:
        prepared = opened(connections, prepared, talk)
    prepared = _saved_at(prepared, prepared.session)
    for mount in (each for each in request.mounts if each not in prepared.saved):
        from remoterun.client.runs.mounts import check_there

        check_there(connections, mount.resource, prepared.session)
    return prepared


def hand_over(
    connections: Connections,
    run: Run,
    prepared: Prepared,
    talk: Talk,
    failed: Callable[[Run, BaseException], object],
    begun: Callable[[], None] = lambda: None,
) -> Run:
    """Hand over a run that has its row; it needs this client no more then.

    Where it fails before `submit` is sent, `failed` is called. A submission without an answer may have arrived: the
    next command that asks the machine learns that.
    """
    registry, first = connections.registry, run
    was_sent = False
    try:
        with contextlib.ExitStack() as held:
            begun()
            run = registry.change_state(run, RunState.PROVISIONING, time.time())
            session = prepared.session
            if session is None:
                from remoterun.client.runs import rented

                run, session = rented.rent(connections, run, prepared, talk, held)
            run = registry.set_host(run, session.machine, session.home_id)
            run, submission = _send_all(connections, run, prepared, session, talk.progress)
            registry.save_digest(run, digest_of_asked(submission.spec))
            webhooks = webhooks_of(run, prepared.addresses)
            body = submission._replace(values=prepared.values, webhooks=webhooks).encode()
            was_sent = True
            result = session.ask(api.submit, api.Nothing(), body)
    except BaseException as error:
        if was_sent and (isinstance(error, LinkLost) or not isinstance(error, RemoterunError)):  # it may have arrived
            registry.mark_abandoned(run)
            raise
        failed(first, error)
        raise
    return record_status(connections, run, told(session, result.status))


def why_not_handed_over(error: BaseException) -> str:
    return error.message if isinstance(error, RemoterunError) else "interrupted before it was handed over"


def record_failure(connections: Connections, run: Run, error: BaseException) -> None:
    reason = Reason.START_FAILED
    if run.machine.rental is not None:
        from remoterun.client.runs import rented

        reason = rented.give_back(connections, run, error)
    message = why_not_handed_over(error)
    now = connections.registry.run(run.number)
    connections.registry.change_state(now, RunState.FAILED, time.time(), reason=reason.value, message=message)


def _saved_at(prepared: Prepared, session: Session | None) -> Prepared:
    """Without what other homes than that of `session` found for mounts: these are resolved by our own records. Raises
    `UsageError` for one that has none."""
    here = {each: tree for each, tree in prepared.saved.items() if session and tree.tree.home_id == session.home_id}
    for mount, tree in prepared.saved.items():
        if mount not in here and not tree.recorded:
            from remoterun.client.runs.reruns import not_known_here

            raise not_known_here(tree.title, tree.hint)
    return replace(prepared, saved=here)


def _send_all(
    connections: Connections, run: Run, prepared: Prepared, session: Session, progress: Progress
) -> tuple[Run, Submission]:
    """Send all that a run needs to the machine of `session`: (the run, what is asked of it there)."""
    run, make = send_files(connections, run, prepared, session, progress)
    submission = make(run, prepared.request)
    if run.renting is not None:
        from remoterun.client.runs import rented

        return rented.with_archive(connections, run, prepared, submission, session, progress)
    return run, submission


def send_files(
    connections: Connections, run: Run, prepared: Prepared, session: Session, progress: Progress
) -> tuple[Run, Make]:
    """Send the files that a run reads to the machine of `session`: (the run, what makes the submission of any run that
    reads the same)."""
    request = prepared.request
    settings = prepared.settings or placement.settings(prepared.machine, request, session)
    after = placement.after(connections, request, session)
    mounts = []
    for mount, place in zip(request.mounts, prepared.places, strict=True):
        from remoterun.client.runs.mounts import send_mount

        mounts.append(send_mount(connections, run, mount, place, prepared.saved, session, progress))
    run = connections.registry.change_state(run, RunState.UPLOADING, time.time())
    manifest = prepared.tree.send(session, progress, _extra_blobs(prepared.source))
    tree = manifest.encode()

    def make(run: Run, request: RunRequest) -> Submission:
        spec = spec_of(run, request, prepared.source, manifest, settings, mounts, prepared.again)
        return Submission(spec._replace(after=after, notify=prepared.notify), {}, tree)

    return run, make


def _extra_blobs(source: Source | None) -> dict[str, bytes]:
    """What is sent beside the source, by digest."""
    build, blobs = context()
    extra = {**blobs, build.digest: build.encode()}
    if source is not None and source.commit is not None and source.diff:  # `spec_of` names it
        extra[hashlib.sha256(source.diff).hexdigest()] = source.diff
    return extra
