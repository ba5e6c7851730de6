"""Runs on rented hosts that were handed over: what they leave is found in their bucket, also when the host is gone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.states import ENDINGS, Reason, RunEvent, RunStatus
from remoterun.client import bucket
from remoterun.client.connections import Connections
from remoterun.errors import ConfigError, HostError, HostUnreachable, RemoterunError, UsageError
from remoterun.model import MachineType, Placement, Run, by_our_clock
from remoterun.providers.base import ProviderError, Rented
from remoterun.session import Session

Answer = dict[str, RunStatus | HostError]
"""By the keys of runs: what their machine says, or why it can't be told."""

RENEW_EVERY = 600.0
SOON = 1.5
"""Seconds that a host has to answer before its provider is asked, too."""
BEFORE_IT_ENDS = 1800.0
"""Seconds before a grant ends from which on there is a new one for every client that is in touch."""


def record_status(connections: Connections, run: Run, status: RunStatus) -> Run:
    """Correct a run by what its home says, as `Registry.see`. One whose bucket has all of it is found there from now
    on."""
    registry = connections.registry
    run = registry.see(run, status, time.time())
    if run.renting is None or not run.final:
        return run
    if run.renting.hosts and run.renting.hosts[-1].ended is None:
        run = registry.rent(run, run.renting.left_at(run.ended or time.time()))
    if status.kept and run.host.bucket is None and run.renting is not None:
        run = registry.place(run, Placement(bucket.machine_of(run), run.renting.bucket_home))
    return run


def find_home(connections: Connections, run: Run) -> tuple[Run, Session]:
    """A run, and a conversation with the home that has it now: of a rented host that is gone, with its bucket.

    Raises `HostError` where a host should be there and does not answer, or its provider does not, `UsageError` for a
    run that no host has had.
    """
    machine = run.host
    if machine.rental is not None:
        what = "never had a host" if run.final else "has no host yet"
        raise UsageError(f"run {run.number} {what}", hint=f"remoterun info {run.number}")
    if machine.rented is None:
        return run, connections.session_of(run)
    answer = connections.ask_all({machine: partial(_connect, connections, machine)}, SOON, provider_wait=SOON)[machine]
    if not isinstance(answer, HostError):
        return run, answer
    rented = ask_provider(connections, run)
    if rented is None or rented.state == "gone":
        run = record_lost_host(connections, run)
        return run, connections.session(run.host)
    if rented.alive:
        connections.provider(_provider(run)).admit(rented)
    try:
        return run, _connect(connections, machine)
    except HostUnreachable as error:
        raise HostUnreachable(
            f"{machine.name} does not answer; its host {rented.id} is {rented.state}",
            hint="remoterun machines rented   lists the hosts that are rented",
            evidence=error.message,
        )


def statuses(connections: Connections, machine: MachineType, runs: Sequence[Run], ask: Callable[[], Answer]) -> Answer:
    """What is known of runs on a rented host: what `ask` is told by it, or, if it is gone, what their bucket has.

    Raises as `find_home`.
    """
    first, session = find_home(connections, runs[0])
    if first.host.bucket is None:
        for run in runs:
            renew(connections, run, session)
        return ask()
    return dict(_ended(connections, runs, ask_provider(connections, runs[0])))


def record_lost_host(connections: Connections, run: Run) -> Run:
    """A run whose host is gone, as it ended: as its bucket has it. Raises `HostError`."""
    return record_status(connections, run, _ended(connections, [run], ask_provider(connections, run))[run.key])


@contextlib.contextmanager
def renewing(connections: Connections, run: Run) -> Iterator[None]:
    """Meanwhile the run's host gets a new grant when its own ends soon."""
    done = threading.Event()

    def renew_now_and_then() -> None:
        while not done.wait(RENEW_EVERY):
            with contextlib.suppress(RemoterunError):
                known = connections.registry.run(run.number)
                if known.host.rented is not None:
                    renew(connections, known, connections.session(known.host))

    threading.Thread(target=renew_now_and_then, name="remoterun renews", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def ask_provider(connections: Connections, run: Run) -> Rented | None:
    """The host of a run as its provider knows it. Raises `HostError` where that can't be asked."""
    try:
        return connections.provider(_provider(run)).find(run.host.rented or "")
    except ProviderError as error:  # as for credentials that are over: it says nothing of the host
        raise HostUnreachable(f"{run.host.name} does not answer, and {error.message}", hint=error.hint)


def host_is_gone(connections: Connections, run: Run) -> bool:
    """Whether the host of a run is surely gone. Asks its provider."""
    try:
        rented = ask_provider(connections, run)
    except HostError:
        return False
    return rented is None or rented.state == "gone"


def renew(connections: Connections, run: Run, session: Session) -> None:
    """Give a run's host a new grant if its own ends soon and before the run's deadline. What fails is tried again by
    the next client that is in touch."""
    renting = run.renting
    if renting is None or run.final or renting.grant_ends > min(time.time() + BEFORE_IT_ENDS, renting.deadline):
        return
    try:
        grant = bucket.grant(connections, run)
        if grant.expires > renting.grant_ends + 1:
            session.ask(api.renew, api.Renewal(run.key, grant))
            connections.registry.rent(run, replace(renting, grant_ends=grant.expires))
    except RemoterunError:
        pass


def _connect(connections: Connections, machine: MachineType) -> Session:
    try:
        return connections.session(machine)
    except ConfigError as error:  # our key for it was removed with its folder
        raise HostUnreachable(f"{machine.name} can't be reached any more: {error.message}")


def _provider(run: Run) -> str:
    """Of a run whose host is rented."""
    assert run.machine.rental is not None
    return run.machine.rental.provider


def _ended(connections: Connections, runs: Sequence[Run], rented: Rented | None) -> dict[str, RunStatus]:
    """Of runs whose host is gone: as it had ended them, or as its own end did, which their bucket says from now on.
    One whose host the user has ended gets no other one: who ends a host wants to pay no more."""
    reason = Reason.HOST_LOST
    if rented is not None and rented.preempted:
        reason = Reason.PREEMPTED
    elif rented is not None and rented.was_ended:
        reason = Reason.KILLED
    why = f": {rented.why}" if rented is not None and rented.why else ""
    id = rented.id if rented is not None else runs[0].host.name
    event = RunEvent(t=time.time(), state=ENDINGS[reason].state, reason=reason, message=f"its host {id} is gone{why}")
    found = {}
    signer = bucket.signer_of(connections, bucket.machine_of(runs[0]))
    for run in runs:
        found[run.key] = by_our_clock(signer.settle(run.key, event).status)._replace(kept=True)
    return found
