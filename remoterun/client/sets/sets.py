"""A set of runs: one ordinary run for each combination of values, made and handed over in one go.

All rows of a set are made at once, or none; a run has its key from then on, by which its machine takes it once only,
however often it is handed over. So whoever makes a set of the same name again hands over what no machine has yet.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from remoterun.agent.shared import api
from remoterun.agent.shared.spec import UPLOAD_NAME
from remoterun.agent.shared.states import HAND_OVER, Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import show
from remoterun.client.homes import record_status
from remoterun.client.runs.handover import ready, send_files, why_not_handed_over
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.client.runs.specs import PARAMETER, check_words, digest_of_asked, params_of
from remoterun.client.sets.parameters import Parameter, check_command, combinations, filled
from remoterun.client.webhooks import webhooks_of
from remoterun.connections import Connections
from remoterun.errors import LinkLost, RemoterunError, UsageError
from remoterun.model import MachineType, Run, RunRequest, SetMember, new_key
from remoterun.session import Session
from remoterun.stores import told

IN_FLIGHT = 16
"""Runs that are being handed over at a time: each is a question over the same link."""
BATCH = 100
"""Runs that are recorded in one change."""


@dataclass(frozen=True)
class SetRequest:
    """What is asked for besides the request of each run, whose command has `:NAME:` for the values."""

    parameters: tuple[Parameter, ...]
    random: int | None = None
    """How many combinations to draw; None for all."""
    at_once: int = 0
    """How many runs may be at work at the same time; 0 for as many as the machine has room for."""
    name: str = ""

    def check(self, request: RunRequest, machine: MachineType) -> None:
        """Refuse what can't be made, before anything is asked. Raises `UsageError`."""
        if machine.rental is not None:
            raise UsageError(
                f"a set of runs needs a machine of your own, and `{machine.name}` is rented",
                hint="-t NAME   names another one; `remoterun machines` lists them",
            )
        if self.name and not UPLOAD_NAME.match(self.name):
            raise UsageError(f"`{show(self.name)}` is not the name of a set", hint="--set night")
        check_command(request.command, [each.name for each in self.parameters])
        combinations(self.parameters, self.random, "")

    @property
    def words(self) -> str:
        """`lr × units`."""
        return " × ".join(each.name for each in self.parameters)

    @property
    def count(self) -> int:
        return len(combinations(self.parameters, self.random, ""))

    def digest(self, request: RunRequest) -> str:
        """Of the command and the values; a repeated line may draw more."""
        asked = [request.command, self.random is None, sorted((each.name, each.typed) for each in self.parameters)]
        return hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def launch_set(
    connections: Connections,
    prepared: Prepared,
    asked: SetRequest,
    talk: Talk,
    cast: Callable[[Sequence[Run], int], None],
    known: Callable[[Sequence[Run]], Sequence[Run]],
) -> list[Run]:
    """See `Runs.launch_set`. `known`: runs as their machines know them."""
    prepared = ready(connections, prepared, talk)
    session = prepared.session
    assert session is not None  # as it is not rented
    made, taken = _rows(connections, prepared, asked, known)
    cast(made, len(taken))
    waiting = {run.key: run for run in taken}
    try:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            try:
                if taken:
                    _hand_over(connections, prepared, session, waiting, talk, pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BaseException as error:
        with connections.registry.together():
            for run in waiting.values():
                _give_up(connections, run, error)
        raise
    return [connections.registry.run(run.number) for run in made]


def _rows(
    connections: Connections,
    prepared: Prepared,
    asked: SetRequest,
    known: Callable[[Sequence[Run]], Sequence[Run]],
) -> tuple[list[Run], list[Run]]:
    """(all runs of the set, those that this client hands over), each with its row. Raises `UsageError`."""
    registry, request = connections.registry, prepared.request
    known([run for run in registry.set_named(asked.name) if not run.final])  # some may have arrived
    with registry.together():
        before, now, digest = registry.set_named(asked.name), time.time(), asked.digest(request)
        other = next((run.number for run in before if run.of is not None and run.of.asked != digest), None)
        if other is not None:
            raise UsageError(
                f"the set `{asked.name}` was begun with another command or other values",
                hint=f"remoterun info {other}   shows its command\n--set OTHER   begins another set",
            )
        key = before[0].of.key if before and before[0].of is not None else new_key(now)
        found = {tuple(run.of.params.items()): run for run in before if run.of is not None}
        taken = [run for run in before if _is_left(connections, run) and registry.take_up(run)]
        description = request.description or (prepared.source.subject if prepared.source is not None else None)
        for values in combinations(asked.parameters, asked.random, asked.name or key):
            place = tuple(values.items())
            if place not in found:
                of = SetMember(key, asked.name, values, asked.at_once, digest)
                command = filled(request.command, values)
                first = key if not found else new_key(now)
                params = {**params_of(request), **values}
                found[place] = registry.add_run(
                    first, prepared.machine, command, now, description, request.labels, prepared.again, of, params
                )
                taken.append(found[place])
        return list(found.values()), [registry.run(run.number) for run in taken]


def _is_left(connections: Connections, run: Run) -> bool:
    """Whether no machine has the run, and no client hands it over."""
    if run.state in HAND_OVER:
        return connections.registry.abandoned(run)
    return run.reason is Reason.START_FAILED and run.queued is None


def _hand_over(
    connections: Connections,
    prepared: Prepared,
    session: Session,
    waiting: dict[str, Run],
    talk: Talk,
    pool: ThreadPoolExecutor,
) -> None:
    """Hand all runs over that are `waiting`, by their keys; those that have arrived are taken from there."""
    registry, runs = connections.registry, list(waiting.values())
    with registry.together():
        for run in runs:
            run = registry.change_state(run, RunState.PROVISIONING, time.time())
            waiting[run.key] = registry.set_host(run, session.machine, session.home_id)
    first, files = send_files(connections, next(iter(waiting.values())), prepared, session, talk.progress)
    for start in range(0, len(runs), BATCH):
        sent: dict[Future[api.Status], Run] = {}
        with registry.together():
            for run in (waiting[run.key] for run in runs[start : start + BATCH]):
                params = tuple((PARAMETER + name, value) for name, value in (run.of.params if run.of else {}).items())
                request = prepared.request._replace(command=run.command, env=(*prepared.request.env, *params))
                check_words(request)
                run = registry.change_state(run, RunState.UPLOADING, time.time())
                registry.uploads.record_same_reads(run, first)
                spec = files.spec(run, request, prepared)
                registry.save_digest(run, digest_of_asked(spec))
                body = Submission(spec, {**prepared.values, **dict(params)}, files.manifest.encode())
                body = body._replace(webhooks=webhooks_of(run, prepared.addresses))
                waiting[run.key] = run
                sent[pool.submit(session.ask, api.submit, api.Nothing(), body.encode())] = run
        fault, done = None, []
        for each in as_completed(sent):
            try:
                done.append((sent[each], each.result()))
            except RemoterunError as error:
                fault = error
        with registry.together():
            for run, result in done:
                record_status(connections, run, told(session, result.status))
                del waiting[run.key]
        if fault is not None:
            raise fault


def _give_up(connections: Connections, run: Run, error: BaseException) -> None:
    """Record that a run was not handed over, as far as that is known: it may have arrived."""
    registry, run = connections.registry, connections.registry.run(run.number)
    if isinstance(error, LinkLost) or not isinstance(error, RemoterunError):
        registry.mark_abandoned(run)
    else:
        why = {"reason": Reason.START_FAILED.value, "message": why_not_handed_over(error)}
        registry.change_state(run, RunState.FAILED, time.time(), **why)
