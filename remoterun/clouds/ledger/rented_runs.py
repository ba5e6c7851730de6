"""Runs on rented hosts. A run has one home for life, its host: whoever wants to know of it asks that, and where its
provider says that it is gone, reads the archive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.facts import RunEvent, RunStatus
from remoterun.agent.shared.states import ENDINGS, FINAL, Reason
from remoterun.archive.objects import Damaged, NoBucket
from remoterun.archive.runs import record_end
from remoterun.archive_store import ArchiveStore, place_of
from remoterun.clouds import ARCHIVE
from remoterun.clouds.base import LOST, Guards, Provider, ProviderError, RentedHost
from remoterun.clouds.ledger.archiving import archive_of, grant, machine_of, record_images
from remoterun.clouds.ledger.carrying import AT_A_GLANCE, carry, why_not
from remoterun.connections import Connections, check_home
from remoterun.errors import ConfigError, HostError, HostUnreachable, NoLogin, RemoterunError, UsageError
from remoterun.host_store import HostStore
from remoterun.model import HostUse, MachineType, Run, by_our_clock
from remoterun.session import Session
from remoterun.sizes import duration, hourly
from remoterun.stores import Answer, Store

SOON = 1.5
"""Seconds that a host has to answer before its provider is asked, too."""
BEFORE_IT_ENDS = 1800.0
"""Seconds before a grant ends from which on every client that is in touch makes a new one."""


def record_status(connections: Connections, run: Run, status: RunStatus) -> Run:
    """See `homes.record_status`."""
    registry = connections.registry
    if status.images and not run.archived:
        with contextlib.suppress(RemoterunError):  # the next client that is in touch records them
            run = record_images(connections, run, status)
    run = registry.update(run, status, time.time())
    if run.renting is None or not run.final:
        return run
    run = registry.run(run.number)  # another thread, or client, may have learnt of its hosts
    if run.renting is not None and run.renting.hosts and run.renting.hosts[-1].ended is None:
        run = registry.save_renting(run, run.renting.given_back_at(run.ended or time.time()))
    return run


def find_store(connections: Connections, run: Run) -> tuple[Run, Store]:
    """See `homes.find_store`."""
    machine = run.host
    if run.archived:
        return run, _copy_of(connections, run, machine if machine.bucket else machine_of(run))
    if machine.rental is not None:
        what = "never had a host" if run.final else "has no host yet"
        raise UsageError(f"run {run.number} {what}", hint=f"remoterun info {run.number}")
    if run.final and run.renting is not None and any(host.ended_by for host in run.renting.hosts[-1:]):
        copy = _copy_of(connections, run, machine_of(run))
        _how_it_ended(connections, run, None)  # its host may not have told the archive
        return connections.registry.run(run.number), copy
    answer = connections.ask_all({machine: partial(_connect, connections, machine)}, SOON, provider_wait=SOON)[machine]
    if not isinstance(answer, HostError):
        check_home(run, answer.home_id)
        return run, HostStore(answer)
    rented = ask_provider(connections, run)
    if rented is None or rented.state in LOST:
        status = _how_it_ended(connections, run, rented)
        run = connections.registry.run(run.number) if run.final else record_status(connections, run, status)
        return run, _copy_of(connections, run, machine_of(run))
    if run.final and not rented.alive:
        return run, _copy_of(connections, run, machine_of(run))
    if rented.alive:
        provider_of(connections, run).admit(rented)
    try:
        return run, HostStore(_connect(connections, machine))
    except HostUnreachable as error:
        raise HostUnreachable(
            f"{machine.name} does not answer; its host {rented.id} is {rented.state}",
            hint="remoterun machines rented   lists the hosts that are rented",
            evidence=error.message,
        )


def _copy_of(connections: Connections, run: Run, archive: MachineType) -> ArchiveStore:
    connections.need_login_for(archive, f"the copy of run {run.number} is")
    return ArchiveStore(connections, archive)


def statuses(connections: Connections, runs: Sequence[Run], ask: Callable[[], Answer]) -> Answer:
    """See `homes.statuses`."""
    first, store = runs[0], None
    with contextlib.suppress(NoBucket):  # of a run whose host is gone, too
        first, store = find_store(connections, first)
    if isinstance(store, HostStore):
        answer = ask()
        for run in runs:
            status = answer.get(run.key)
            known = status if isinstance(status, RunStatus) else None
            renew(connections, run, store.session, known)
            if known is not None and known.state not in FINAL and (why := why_not(connections, run)):
                answer[run.key] = known._replace(note=why)
        return answer
    rented = ask_provider(connections, first)
    return {run.key: _how_it_ended(connections, run, rented) for run in runs}


def provider_of(connections: Connections, run: Run) -> Provider:
    """The one that has rented a run its host. Raises `NoLogin`, `ConfigError`."""
    name = run.machine.rental.provider if run.machine.rental is not None else ARCHIVE
    connections.need_login("whether its host is there is asked of {}", name)
    return connections.provider(name)


def ask_provider(connections: Connections, run: Run) -> RentedHost | None:
    """The host of a run as its provider knows it. Raises `HostError` where that can't be asked."""
    try:
        provider = provider_of(connections, run)
        found = provider.find(run.host.rented or "")
        return None if found is None else met(connections, provider, found)
    except (ProviderError, NoLogin) as error:  # as for credentials that are over: it says nothing of the host
        raise HostUnreachable(f"{run.host.name} does not answer, and {error.message}", hint=error.hint)


def hosts_at(connections: Connections, note: Callable[[str], None], provider: Provider) -> list[RentedHost]:
    """The hosts of ours at a provider, as `met` has them; `note` as for `Provider.hosts`."""
    return [met(connections, provider, host) for host in provider.hosts(note)]


def met(connections: Connections, provider: Provider, host: RentedHost) -> RentedHost:
    """Inspect a host of which the provider has just told: warn, once a command, of one that should have ended, with its
    price; give one of this home that has no guard a new one, or warn why that can't be. Returns the host as it is
    then."""
    says, now = "", time.time()
    if host.late(now):
        ago, costs = duration(now - host.deadline), "" if host.hourly is None else f" and costs {hourly(host.hourly)}"
        says = f"should have ended {ago} ago{costs}: `remoterun machines rm {host.id}` ends it"
        change_use(connections, host, lambda use: replace(use, deadline=now))
    elif host.ours and host.alive and not host.guarded and isinstance(provider, Guards):
        try:
            host = provider.guard(host)
            change_use(connections, host, lambda use: replace(use, guarded=host.guarded))
        except RemoterunError as error:
            says = f"is ended by its own clock alone: {error.message}"
    if says and host.id not in connections.warned_of:
        connections.warned_of.add(host.id)
        connections.warn(f"the host {host.id} {says}")
    return host


def change_use(connections: Connections, host: RentedHost, change: Callable[[HostUse], HostUse]) -> None:
    """Change what is known of a host, for each run that had it."""
    for run in connections.registry.runs():
        if run.renting is not None and any(use.token == host.token for use in run.renting.hosts):
            connections.registry.save_renting(run, run.renting.with_host(host.token, change))


def renew(connections: Connections, run: Run, session: Session, status: RunStatus | None = None) -> Run:
    """Give a run's host a new grant if its own ends soon and before the run's deadline; or if by its `status` it waits
    for one, since its own was refused, whatever we think of that. What fails is tried again by the next client that is
    in touch."""
    renting, refused = run.renting, status is not None and bool(status.refused)
    if renting is None or run.final:
        return run
    if renting.carried:
        with contextlib.suppress(RemoterunError):
            if refused:  # it waits, and is told that somebody is here
                session.ask(api.renew, api.Renewal(run.key, grant(connections, run)))
                until = time.monotonic() + AT_A_GLANCE
                carry(connections, run, session, lambda: time.monotonic() > until)
        return run
    if not refused and renting.grant_ends > min(time.time() + BEFORE_IT_ENDS, renting.deadline):
        return run
    with contextlib.suppress(RemoterunError):
        allowed = grant(connections, run)
        if refused or allowed.expires > renting.grant_ends + 1:
            session.ask(api.renew, api.Renewal(run.key, allowed))
            return connections.registry.save_renting(run, replace(renting, grant_ends=allowed.expires))
    return run


def _connect(connections: Connections, machine: MachineType) -> Session:
    try:
        return connections.session(machine)
    except ConfigError as error:  # our key for it was removed with its folder
        raise HostUnreachable(f"{machine.name} can't be reached any more: {error.message}")


def _how_it_ended(connections: Connections, run: Run, rented: RentedHost | None) -> RunStatus:
    """A run whose host is gone, which is noted: as that had ended it, or as its own end did, which the archive has from
    now on. One whose host a person has ended gets no other one: who ends a host wants to pay no more."""
    reason, now = Reason.HOST_LOST, time.time()
    id, why, by = run.host.name, "is gone", ""
    if rented is not None:
        by = "by itself"
        id, why = rented.id, f"is gone: {rented.why}" if rented.why else "is gone"
        late = rented.ended is not None and rented.ended >= rented.deadline  # nobody but the provider's own guard
        if rented.preempted:
            reason, by = Reason.PREEMPTED, "by its provider, which took it away"
        elif late:
            by = "by its provider, at its deadline"
            why = f"was ended by its provider at its deadline ({rented.why})"
        elif rented.was_ended:
            reason, by = Reason.KILLED, "by hand, or from another machine"
        if rented.state == "stopped":
            why = f"was stopped: {rented.why}; its disk costs until `remoterun machines rm {id}`"
    if run.renting is not None and run.renting.carried and not run.final:
        why = f"{why}; what the run had left there was not fetched before"
    if run.renting is not None and run.renting.hosts:
        ended = rented.ended if rented is not None else run.renting.hosts[-1].deadline
        now = min(now, ended or now)
    event = RunEvent(t=now, state=ENDINGS[reason].state, reason=reason, message=f"its host {id} {why}")
    if run.final:  # its host has told us, and could not tell the archive
        event = RunEvent(t=run.ended or now, state=run.state, reason=run.reason, code=run.code, message=run.message)
    try:
        status = record_end(archive_of(connections, run), place_of(run), event, run.attempt).status
    except (NoBucket, Damaged) as error:
        message = f"{event.message}; {error.message}"
        known = RunStatus(run.key, ENDINGS[reason].state, reason=reason, created=run.created, started=run.started)
        status = known._replace(ended=now, message=message)
    run = connections.registry.run(run.number)
    if run.renting is not None and (rented is None or rented.state in LOST):
        connections.registry.save_renting(
            run, run.renting.with_host(run.host.rented or "", partial(replace, gone=True))
        )
        if rented is not None:
            change_use(connections, rented, lambda use: use.until(rented.ended, by))
    return by_our_clock(status)._replace(images=())
