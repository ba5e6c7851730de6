"""What a hand-over does besides where the host of a run is rented."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from remoterun.agent.shared.states import Reason
from remoterun.agent.shared.submission import Submission
from remoterun.archive.runs import put_run_tree
from remoterun.client.data.upload_copies import archive_upload
from remoterun.client.runs.mounts import saved_outputs
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.clouds.base import NoCapacity, NotListedYet
from remoterun.clouds.ledger import archiving, planning, renting
from remoterun.clouds.ledger.planning import AgreedPlan
from remoterun.connections import Connections
from remoterun.model import Renting, Run
from remoterun.session import Session
from remoterun.transfer import Progress


def planned(connections: Connections, prepared: Prepared, talk: Talk) -> Prepared:
    """`prepared`, with what will be rented for it. Asks the provider, and costs nothing."""
    plan = planning.plan(connections, prepared.machine, waiting=talk.waiting)
    return replace(prepared, plan=replace(plan, wait=prepared.request.wait_for_login or plan.wait))


def agreed(
    connections: Connections, prepared: Prepared, plan: AgreedPlan | None, talk: Talk, pay: float | None
) -> Prepared:
    """`prepared`, with the `plan` that somebody agreed to, or with one that holds by the rule of `planning.agreed`."""
    if plan is None:
        prepared = prepared if prepared.plan is not None else planned(connections, prepared, talk)
        assert prepared.plan is not None
        plan = planning.agreed(prepared.plan, pay)
    machine = prepared.machine
    if prepared.request.gpus is None:
        machine = replace(machine, gpus=machine.gpus or plan.offers[0].gpus)
    return replace(prepared, machine=machine, plan=plan, agreed=plan)


def rent(
    connections: Connections, run: Run, prepared: Prepared, talk: Talk, held: contextlib.ExitStack
) -> tuple[Run, Session]:
    """The host that a run goes to. What that mounts is in the archive before the host has to be paid for."""
    assert prepared.agreed is not None
    if run.renting is None:  # what it may have of rented hosts, before there is any
        plan, bucket = prepared.agreed, connections.bucket().bucket or ""
        ends, timeout = time.time() + plan.hours * 3600, prepared.request.timeout
        allowed = Renting(ends, plan.attempts, bucket=bucket, timeout=timeout, pay=plan.price)
        run = connections.registry.save_renting(run, allowed)
    for resource in (mount.resource for mount in prepared.request.mounts):
        if resource.kind == "uploads":
            archive_upload(connections, resource.name, talk.progress, resource.version)
        else:
            saved_outputs(connections, resource)
    run, session = renting.rent(connections, run, prepared.agreed, talk.waiting, held)
    talk.waiting("")
    return run, session


def give_back(connections: Connections, run: Run, error: BaseException) -> Reason:
    """End the host of a run that was not handed over; the reason of its end."""
    with contextlib.suppress(NotListedYet):  # it was ended, or that it may be there was said
        renting.give_back(connections, connections.registry.run(run.number))
    return Reason.NO_CAPACITY if isinstance(error, NoCapacity) else Reason.START_FAILED


def with_archive(
    connections: Connections, run: Run, prepared: Prepared, asked: Submission, session: Session, progress: Progress
) -> tuple[Run, Submission]:
    """What is handed over with a run, besides, for the archive: its source is stored there, and its host may write."""
    assert run.renting is not None
    spec, left = asked.spec, b""
    if run.attempt == 1:  # for another host, and for a rerun when this host is gone
        with prepared.tree.reading(progress) as files:
            put_run_tree(archiving.archive_of(connections, run), run.key, "source", files, progress)
    elif prepared.outputs is not None:
        left = prepared.outputs.send(session, progress).encode()
    spec = spec._replace(
        until=min(renting.until(run.renting, session, time.time()), prepared.until),
        log_before=prepared.log_before,
        err_before=prepared.err_before,
    )
    run, grant, images = archiving.access(connections, run, spec, session)
    return run, asked._replace(spec=spec, left=left, grant=grant, images=images)
