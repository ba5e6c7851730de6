"""Which home keeps a run, and what reads it there: its host, or the archive. Only a run that has, or had, a rented host
loads the ledger of those."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from remoterun.agent.shared.facts import RunStatus
from remoterun.connections import Connections
from remoterun.errors import RemoterunError
from remoterun.host_store import HostStore
from remoterun.model import MachineType, Run
from remoterun.session import Session
from remoterun.stores import Answer, Store

AGAIN = 3.0
"""Seconds after which is tried again what went wrong."""


def find_store(connections: Connections, run: Run) -> tuple[Run, Store]:
    """A run, and where it is read: its host, or the archive if that is gone.

    Raises `HostError` where a host should answer and does not, or its provider does not, `UsageError` for a run that no
    host has had.
    """
    if run.archived or run.host.rental is not None or run.host.rented is not None:
        from remoterun.clouds.ledger import rented_runs

        return rented_runs.find_store(connections, run)
    return run, HostStore(connections.session_of(run))


def record_status(connections: Connections, run: Run, status: RunStatus) -> Run:
    """Update the row of a run from what its host, or the archive, reports."""
    if run.renting is not None:
        from remoterun.clouds.ledger import rented_runs

        return rented_runs.record_status(connections, run, status)
    return connections.registry.update(run, status, time.time())


def statuses(connections: Connections, machine: MachineType, runs: Sequence[Run], ask: Callable[[], Answer]) -> Answer:
    """What is known of runs on a machine: what `ask` learns from it, or, of a rented host that is gone, from the
    archive. Raises as `find_store`."""
    if machine.rented is not None:
        from remoterun.clouds.ledger import rented_runs

        return rented_runs.statuses(connections, runs, ask)
    return ask()


def renew(connections: Connections, run: Run, session: Session, status: RunStatus | None = None) -> Run:
    """Let the host of a run write to the archive for longer, where it is rented and needs that."""
    if run.renting is not None:
        from remoterun.clouds.ledger import rented_runs

        return rented_runs.renew(connections, run, session, status)
    return run


@contextlib.contextmanager
def carrying(connections: Connections, run: Run, session: Session) -> Iterator[None]:
    """Carry what a run leaves, meanwhile, where its host can't reach the archive. What prevents that is said, once, and
    tried again."""
    over = connections.event()
    if run.renting is not None and run.renting.carried and not run.final:
        from remoterun.clouds.ledger.carrying import carry, why_not

        def work() -> None:
            while session.alive and not over.is_set():
                why = why_not(connections, run)  # also where another process carries
                if why and why not in connections.warned_of:
                    connections.warned_of.add(why)
                    connections.warn(f"run {run.number} goes on, but {why}")
                with contextlib.suppress(RemoterunError):
                    carry(connections, run, session, over.is_set, patient=True)
                over.wait(AGAIN)

        threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def unless_abandoned(connections: Connections, run: Run) -> Run:
    """A run that is still handed over, or the end of one whose client is gone."""
    if connections.registry.abandoned(run):
        from remoterun.clouds.ledger import renting

        return renting.unless_abandoned(connections, run)
    return run
