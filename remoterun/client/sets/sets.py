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
from remoterun.client.runs.handover import Make, ready, record_failure, send_files
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.client.runs.specs import PARAMETER, check_words, digest_of_asked, params_of
from remoterun.client.sets.parameters import Parameter, check_command, combinations, filled
from remoterun.client.webhooks import webhooks_of
from remoterun.connections import Connections
from remoterun.errors import LinkLost, RemoterunError, UsageError
from remoterun.model import MachineType, Run, RunRequest, SetMember, new_key
from remoterun.stores import told

IN_FLIGHT = 16
"""Runs that are being handed over at a time: each is a question over the same link."""


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
    registry = connections.registry
    fault: BaseException | None = None
    sent: dict[str, Future[api.Status]] = {}

    def submit(submission: Submission) -> api.Status:
        return session.ask(api.submit, api.Nothing(), submission.encode())

    try:
        with registry.together():
            for run in taken:
                registry.change_state(run, RunState.PROVISIONING, time.time())
                registry.set_host(run, session.machine, session.home_id)
        submissions = []
        if taken:
            first, make = send_files(connections, registry.run(taken[0].number), prepared, session, talk.progress)
            with registry.together():
                submissions = [_submission(connections, run, prepared, first, make) for run in taken]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            try:
                sent |= {each.spec.key: pool.submit(submit, each) for each in submissions}
                for each in as_completed(sent.values()):
                    each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BaseException as error:  # noqa: BLE001 - raised below
        fault = error
    with registry.noting():
        for run in map(registry.run, (run.number for run in taken)):
            answer, why = sent.get(run.key), fault
            if answer is not None and answer.done() and not answer.cancelled():
                why = answer.exception()
                if why is None:
                    record_status(connections, run, told(session, answer.result().status))
                    continue
            if isinstance(why, RemoterunError) and not isinstance(why, LinkLost):
                record_failure(connections, run, why)
            else:
                registry.mark_abandoned(run)  # it may have arrived
    if fault is not None:
        raise fault
    return [registry.run(run.number) for run in made]


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


def _submission(connections: Connections, run: Run, prepared: Prepared, first: Run, make: Make) -> Submission:
    """The submission of one run of a set. `first`: the run for which the files were sent."""
    registry = connections.registry
    params = {PARAMETER + name: value for name, value in (run.of.params if run.of is not None else {}).items()}
    request = prepared.request._replace(command=run.command, env=(*prepared.request.env, *params.items()))
    check_words(request)
    run = registry.change_state(run, RunState.UPLOADING, time.time())
    registry.uploads.record_same_reads(run, first)
    submission = make(run, request)
    registry.save_digest(run, digest_of_asked(submission.spec))
    webhooks = webhooks_of(run, prepared.addresses)
    return submission._replace(values={**prepared.values, **params}, webhooks=webhooks)
