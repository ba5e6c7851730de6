"""A run that waits goes to another machine: all it needs is brought there, then it is taken from where it waits."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable

from remoterun.agent.shared import api
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.states import Reason, RunState, RunStatus
from remoterun.agent.shared.submission import Submission
from remoterun.client import placement, submitting, webhooks
from remoterun.client.connections import Connections
from remoterun.client.rented_runs import record_status
from remoterun.client.reruns import OriginalRun, find_original
from remoterun.client.secrets import variables_of
from remoterun.client.specs import digest_of_asked
from remoterun.errors import LinkLost, NotFound, RemoterunError, UsageError
from remoterun.model import MachineType, Placement, Run, listed
from remoterun.session import Session
from remoterun.transfer import Progress

REMOVAL = 8.0
"""Seconds that the machine where it waited has to end its supervisor."""
TURN = 0.1
STATUS = "remoterun machines status"


def move(connections: Connections, run: Run, machine: str, progress: Progress, note: Callable[[str], None]) -> Run:
    """See `Runs.move`. `run` as its machine knows it."""
    withdrawn = run.reason is Reason.MOVED  # by a command that was ended before it had handed it over
    asked = connections.machine(machine)
    _check(run, asked, withdrawn)
    kept = find_original(connections, run.number)
    home = connections.session_of(run)
    with home.understood():
        before = RunSpec.from_record(home.ask(api.run, api.RunKey(run.key)).spec)
    _check_others(connections, run, before, home, asked.name)
    session = placement.choose_machine(connections, asked, kept.request, note)
    if session.home_id == home.home_id and not withdrawn:
        raise UsageError(f"run {run.number} is on {session.machine.name} already", hint=STATUS)
    there, digest = _found_there(session, home, run), ""
    if there is None:
        settings = placement.settings(session.machine, kept.request, session)
        _check_room(run, settings, session)
        spec = submitting.bring_again(connections, run, kept, before, settings, session, progress)
        taken = _withdrawn_before(connections, run, kept, before) if withdrawn else _withdraw(run, asked.name, home)
        there = _hand_over(connections, session, home, run, taken, spec, put_back=not withdrawn)
        digest = digest_of_asked(spec)
    moved = connections.registry.moved(run, asked, Placement(session.machine, session.home_id), digest)
    if moved is None:
        session.ask(api.kill, api.RunKey(run.key))
        raise UsageError(f"another command has moved run {run.number} meanwhile", hint=f"remoterun info {run.number}")
    if session.home_id != home.home_id:
        with contextlib.suppress(RemoterunError):  # it never starts there
            _remove(connections, home, run.key)
    return record_status(connections, moved, session.told(there))


def _check(run: Run, asked: MachineType, withdrawn: bool) -> None:
    """Refuse what does not wait, and where it can't go."""
    number = run.number
    if run.final and not withdrawn:
        raise UsageError(f"run {number} has ended already", hint=f"remoterun rerun {number} -t {asked.name}")
    if asked.rental is not None or run.machine.rental is not None or asked.bucket is not None:
        raise UsageError(
            "a run moves between machines of your own, not to or from one that is rented",
            hint=_instead(run, asked.name),
        )
    if run.unreached is not None:
        raise UsageError(f"{run.unreached}, and run {number} waits there", hint=f"remoterun doctor {run.host.name}")
    if run.placement is None:
        raise UsageError(f"run {number} is still being handed over to {run.machine.name}", hint="try again")
    if run.state is not RunState.QUEUED and not withdrawn:
        raise _started(run, asked.name)


def _check_others(connections: Connections, run: Run, before: RunSpec, home: Session, machine: str) -> None:
    """Refuse a run that still waits for another one, and one for which others wait: only on its machine is it known
    how a run ends. Raises `UsageError`."""
    known = {each.key: each for each in connections.registry.runs()}
    for awaited in before.after:
        other = known.get(awaited.key)
        found = home.ask(api.runs, api.RunKeys([awaited.key])).runs
        state = found[0].state if found else other.state if other is not None else RunState.QUEUED
        if not state.final or not (awaited.any or state is RunState.COMPLETE):
            raise UsageError(
                f"run {run.number} waits for run {awaited.number} on {run.host.name}", hint=_instead(run, machine)
            )
    there = [each.key for each in known.values() if each.home_id == run.home_id and not each.final]
    queued = {each.key for each in home.ask(api.runs, api.RunKeys(there)).runs if _waits(each)}
    awaited_here, waiting = {run.key}, list[str]()
    for other in sorted(known.values(), key=lambda each: each.number):  # a run waits for earlier ones
        if other.key not in queued:
            continue
        with contextlib.suppress(NotFound), home.understood():
            spec = RunSpec.from_record(home.ask(api.run, api.RunKey(other.key)).spec)
            if awaited_here.intersection(awaited.key for awaited in spec.after):
                awaited_here.add(other.key)
                waiting.append(str(other.number))
    if waiting:
        runs, them = ("run", "that one") if len(waiting) == 1 else ("runs", "those")
        raise UsageError(
            f"{runs} {listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for run {run.number} on "
            f"{run.host.name}, and would fail without it there",
            hint=f"remoterun stop {' '.join(waiting)} && remoterun machines move {run.number} -t {machine}\n"
            f"then start {them} again with `remoterun run -t {machine} --after {run.number} …`",
        )


def _waits(status: RunStatus) -> bool:
    return status.state is RunState.QUEUED and not status.stopping


def _started(run: Run, machine: str) -> UsageError:
    return UsageError(
        f"run {run.number} has started on {run.host.name}, and only a run that waits can be moved",
        hint=_instead(run, machine),
    )


def _instead(run: Run, machine: str) -> str:
    return f"remoterun stop {run.number} && remoterun rerun {run.number} -t {machine}"


def _found_there(session: Session, home: Session, run: Run) -> RunStatus | None:
    """The run on the machine where it goes, if an earlier command has handed it over there."""
    if session.home_id == home.home_id:
        return None
    found = session.ask(api.runs, api.RunKeys([run.key])).runs
    return next((status for status in found if status.reason is not Reason.MOVED), None)


def _check_room(run: Run, settings: MachineType, session: Session) -> None:
    """Refuse a machine on which it could never start."""
    lacks = session.ask(api.occupancy, api.Demand(settings.gpus, settings.slots)).lacks
    if lacks is not None:
        raise UsageError(f"run {run.number} can't go to {session.machine.name}: {lacks}", hint=STATUS)


def _withdraw(run: Run, machine: str, home: Session) -> Submission:
    """What was handed over to the machine where it waits, which never starts it from now on."""
    with home.stream(api.withdraw, api.Withdrawal(run.key, secrets.token_hex(8))) as stream:
        stream.end()
        body = b"".join(bytes(frame.body) for frame in stream)
        if not home.result(api.withdraw, stream).withdrawn:
            raise _started(run, machine)
    with home.understood():
        return Submission.decode(body)


def _withdrawn_before(connections: Connections, run: Run, kept: OriginalRun, before: RunSpec) -> Submission:
    """What to hand over of a run that an earlier, interrupted command has withdrawn. Its values are looked up again."""
    values = {**dict(kept.values(kept.variables, ())), **variables_of(connections.config.home, before.secrets)}
    known = webhooks.addresses_again(connections, before.notify, {})
    return Submission(before, values, kept.tree.manifest.encode(), webhooks=webhooks.webhooks_of(run, known))


def _hand_over(
    connections: Connections,
    session: Session,
    home: Session,
    run: Run,
    taken: Submission,
    spec: RunSpec,
    put_back: bool,
) -> RunStatus:
    """The run on its new machine. Where that refuses it, it is put back where it waited."""
    try:
        session.ask(api.remove_run, api.RunKey(spec.key))  # what it left when it was there before
        return session.ask(api.submit, api.Nothing(), taken._replace(spec=spec).encode()).status
    except RemoterunError as error:
        if put_back and not isinstance(error, LinkLost):
            _remove(connections, home, spec.key)
            home.ask(api.submit, api.Nothing(), taken.encode())
            if run.placement is not None:  # another client may have seen it end
                connections.registry.moved(run, run.machine, run.placement, connections.registry.asked(run))
        raise


def _remove(connections: Connections, home: Session, key: str) -> None:
    deadline = time.monotonic() + REMOVAL
    while True:
        try:
            home.ask(api.remove_run, api.RunKey(key))
            return
        except UsageError:  # its supervisor has not seen yet that it was taken back
            if time.monotonic() > deadline:
                raise
        connections.closed.wait(TURN)
