"""A run whose rented host was lost goes on under its number on another one, with what it had made by then."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from remoterun.agent.shared.spec import ResourceRef, RunSpec, SpecError
from remoterun.agent.shared.states import Reason, RunState
from remoterun.archive.runs import log_sizes
from remoterun.archive_store import place_of
from remoterun.client.runs.following import WORTH_IT
from remoterun.client.runs.handover import hand_over, why_not_handed_over
from remoterun.client.runs.packages import Choice
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.client.runs.reruns import OriginalRun, SavedTree, another_was_asked, original_of
from remoterun.client.secrets import Secrets
from remoterun.client.webhooks import addresses_again
from remoterun.clouds.base import NoCapacity, NotListedYet
from remoterun.clouds.ledger import archiving, planning, renting
from remoterun.clouds.ledger.planning import AgreedPlan, Plan
from remoterun.connections import Connections
from remoterun.errors import HostUnreachable, NotFound, UsageError
from remoterun.model import Run
from remoterun.stores import Store, archive_store


def plan_next(connections: Connections, run: Run, waiting: Callable[[str], None]) -> Plan:
    """What a run that was interrupted will be given if it is continued, as a new run would be: asks its provider, and
    costs nothing. Raises `UsageError` for a run that can't be continued, `ProviderError`."""
    if not run.continuable:
        again = f"remoterun rerun {run.number}" if run.final else f"remoterun logs {run.number}"
        raise UsageError(
            f"run {run.number} is {run.state.value}: only one that is interrupted on a rented host can go on",
            hint=again,
        )
    plan = planning.plan(connections, run.machine, _had(run), True, waiting)
    return replace(plan, had=run.cost(time.time()))


def start_next_attempt(
    connections: Connections, run: Run, values: Mapping[str, str], talk: Talk, agreed: AgreedPlan | None = None
) -> Run | None:
    """Give an interrupted run its next host, and hand it over; None where another client does so.

    `agreed`: what a person agreed to just now, with limits of its own; else those count that were agreed to for the
    run. `values`: of the variables that the user set, which are saved nowhere; those that are missing are taken from
    this process's own, those of secrets from where these are saved, and so are addresses that are notified. What goes
    wrong leaves the run INTERRUPTED, with the reason. Blocks for minutes. Raises `ProviderError`, `HostError`,
    `UsageError`.
    """
    if run.renting is None:
        return None
    archive = archive_store(connections, archiving.machine_of(run))
    original = _original(connections, run, archive)
    spec = original.spec
    given = [(name, values[name]) for name in original.variables if name in values]
    typed = original.values(original.variables, given, goes_on=True)
    secrets = Secrets(connections.config.home).variables(spec.secrets)
    log, err = log_sizes(archive.archive, place_of(run))
    plan = agreed or planning.agreed_before(planning.plan(connections, run.machine, _had(run)), run.renting.pay)
    now = time.time()
    ends = planning.deadline(run, plan, now) if agreed is None else now + plan.hours * 3600
    if ends < now + WORTH_IT:
        raise UsageError(f"run {run.number} has cost what it may", hint=f"remoterun continue {run.number}")
    limit = _time_limit(run, spec)
    if limit < now + WORTH_IT:
        raise UsageError(f"run {run.number} has had the time of its --timeout", hint=f"remoterun rerun {run.number}")
    outputs, addresses = _outputs(run, archive), addresses_again(connections, spec.notify, values)
    attempt = run.renting.attempt + 1
    later = replace(run.renting, attempt=attempt, attempts=max(attempt, run.renting.attempts), deadline=ends)
    later = later if agreed is None else replace(later, pay=agreed.price)
    taken = connections.registry.next_attempt(run, later, now)
    if taken is None:
        return None
    prepared = Prepared(
        original.request._replace(env=tuple((name, "") for name in original.variables)),
        original.source,
        run.machine,
        tuple(mount.place for mount in spec.mounts),
        original.tree,
        Choice(original.request.framework),
        spec.notify,
        addresses,
        again=spec.again,
        plan=plan,
        agreed=plan,
        values={**dict(typed), **secrets},
        outputs=outputs,
        log_before=log,
        err_before=err,
        until=limit,
    )
    return hand_over(connections, taken, prepared, talk, lambda _, error: _give_up(connections, run, error))


def _had(run: Run) -> set[str]:
    """The tokens of hosts that it had: one that is there yet knows this run as one that has ended."""
    return {host.token for host in run.renting.hosts} if run.renting is not None else set()


def _time_limit(run: Run, spec: RunSpec) -> float:
    """When the command must end by the run's time limit, which counts from its first start; inf without one. `spec`:
    of the last attempt, whose `until` says so where an earlier one had started."""
    if spec.timeout is None:
        return math.inf
    earlier = spec.until if spec.attempt > 1 and spec.until is not None else math.inf
    return min(earlier, math.inf if run.started is None else run.started + spec.timeout)


def _give_up(connections: Connections, before: Run, error: BaseException) -> None:
    """The run is as it was; what was tried counts as an attempt, unless nothing was to be had."""
    registry = connections.registry
    with contextlib.suppress(NotListedYet):  # it was ended, or that it may be there was said
        renting.give_back(connections, registry.run(before.number))
    now = registry.run(before.number)
    if isinstance(error, (NoCapacity, HostUnreachable)) and before.renting is not None:
        hosts = now.renting.hosts if now.renting is not None else ()  # what they cost counts all the same
        registry.save_renting(now, replace(before.renting, hosts=hosts))
        now = registry.run(before.number)
    if before.placed is not None:
        registry.set_host(now, before.placed, before.home_id)
    reason = before.reason or Reason.HOST_LOST
    message = f"no other host yet: {why_not_handed_over(error)}"
    registry.change_state(now, RunState.INTERRUPTED, time.time(), reason=reason.value, message=message)


def _original(connections: Connections, run: Run, archive: Store) -> OriginalRun:
    """What was asked for, as the archive has it. Raises `UsageError` where that is not what this client asked for."""
    try:
        details = archive.run(run.key).details()
        original = original_of(connections, run, archive, RunSpec.from_record(details.spec), details)
    except (NotFound, SpecError) as error:
        raise UsageError(f"run {run.number} can't go on: the archive does not have all of it ({error})")
    if not original.trusted:
        raise another_was_asked(run)
    return original


def _outputs(run: Run, archive: Store) -> SavedTree | None:
    """What earlier attempts saved; None where they did not."""
    try:
        tree = archive.tree(ResourceRef("run", key=run.key))
    except UsageError:
        return None
    return SavedTree(tree, f"what run {run.number} has made", f"remoterun machines check {archive.machine.name}")
