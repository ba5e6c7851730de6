"""Runs that have been handed over: as their machines know them, their logs, their ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.asked import HandedOn
from remoterun.agent.shared.facts import RunEvent, RunStatus
from remoterun.agent.shared.logs import read_part
from remoterun.agent.shared.measured import LogReading
from remoterun.agent.shared.records import options_in, to_json
from remoterun.agent.shared.spec import PortSpec, RunSpec, SpecError
from remoterun.agent.shared.states import ENDINGS, HAND_OVER, Reason, RunState
from remoterun.client.homes import find_store, record_status, statuses, unless_abandoned
from remoterun.client.runs.following import ALL, Follower, Following, Note, Wanted
from remoterun.client.runs.handover import launch
from remoterun.client.runs.preparing import Complete, Prepared, Take, Talk, opened, prepare
from remoterun.client.secrets import Tokens
from remoterun.client.webhooks import addresses
from remoterun.connections import Connections, check_home
from remoterun.errors import (
    HomeMissing,
    HostError,
    HostUnreachable,
    LinkLost,
    NoAnswerInTime,
    NotFound,
    RemoterunError,
    UsageError,
)
from remoterun.host_store import HostStore
from remoterun.log_cache import LogCache
from remoterun.model import EVERY_RUN, Line, MachineType, Resource, Run, RunFilter, RunRequest
from remoterun.parsing import parse_range
from remoterun.session import Session, understood
from remoterun.stores import Answer, Store, store_of, told
from remoterun.transfer import Progress

if TYPE_CHECKING:  # and on use, as few commands need them
    from remoterun.client.data.metrics import Curves
    from remoterun.client.live.live import RemoteProgram, RunUse
    from remoterun.client.live.ports import Forwarding, PortNews
    from remoterun.client.runs.comparing import Difference
    from remoterun.client.runs.reruns import OriginalRun
    from remoterun.client.sets.sets import SetRequest
    from remoterun.clouds.ledger.planning import AgreedPlan, Plan
    from remoterun.source import Source

WAIT_LEAST, WAIT_MOST = 0.1, 2.0
"""Seconds between two questions about runs that are waited for."""
ANSWER = 2.0
"""Seconds that a machine has to answer: one that is away must not hold up the news of the others."""
LATE = 10.0
"""Seconds after which a machine that does not answer is reported: to connect to one that is far takes some."""
AT_ONCE = 1000
"""Runs that one request asks about."""
MOST_PLACES = 100
"""Runs of which a list says where they stand in the line of their machine."""
QUIET = Talk()
A = TypeVar("A")
Keys = list[str]
Ends = dict[int, tuple[Run, bool] | RemoterunError]
"""By the numbers of runs: (the run, whether it could be asked), or why not."""


class Runs:
    """What a client does with runs."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.tokens = Tokens(connections.config.home)

    def prepare(
        self,
        request: RunRequest,
        source: Source | Take | None = None,
        machine: str | None = None,
        complete: Complete = lambda source, _: source,
        opening: Talk | None = None,
    ) -> Prepared:
        """Check a request and list the files of its source, for one run or for many. No run has a number yet.

        With `opening`, its machine is opened, or what is rented for it is planned, before the `source` is called for:
        one that can't be had is known before anything else is asked. Else nothing is opened. `complete` is called with
        the source, and returns the one that is sent. Raises `UsageError`, `TransferError`; with `opening` `HostError`
        and `ProviderError`.
        """
        type_ = self._connections.machine(machine)
        return prepare(self._connections, request, source, type_, complete=complete, opening=opening)

    def original(self, number: int | str, others: Collection[str] = ()) -> OriginalRun:
        """What a run was asked for and given, to be changed and run again; `others`: the paths of mounts in whose
        place others will be asked for. Opens the machine that has it.

        Raises `HostError`, `UsageError` where that is not saved.
        """
        from remoterun.client.runs.reruns import original_of, read_spec

        return original_of(self._connections, *read_spec(self._connections, number), others)

    def uncommitted(self, number: int | str) -> bytes:
        """What was not committed of the source of a run, as `git diff` shows it. Opens the machine that has it. Raises
        as `original`."""
        from remoterun.client.runs.reruns import uncommitted

        return uncommitted(self._connections, number)

    def prepare_again(self, kept: OriginalRun, request: RunRequest, machine: str | None = None) -> Prepared:
        """As `prepare`, for a run with the source of `kept` and, where `request` has the same mounts, with the very
        files that were mounted. `machine`: None for the one that it was for."""
        if machine not in (None, kept.run.machine.name):
            request = kept.elsewhere(request)
        machine = machine if machine is not None else kept.run.machine.name
        return prepare(self._connections, request, kept.source, self._connections.machine(machine), kept)

    def planned(self, prepared: Prepared, talk: Talk) -> Prepared:
        """`prepared`, with what will be rented for it, where its machine is rented. Asks the provider, and costs
        nothing. Raises `ProviderError`, `HostUnreachable`."""
        rented = prepared.machine.rental is not None
        return opened(self._connections, prepared, talk) if rented and prepared.plan is None else prepared

    def launch(
        self,
        prepared: Prepared,
        talk: Talk = QUIET,
        cast: Callable[[Run], None] = lambda _: None,
        plan: AgreedPlan | None = None,
        pay: float | None = None,
    ) -> Run:
        """Make a run and hand it over to the machine that it was prepared for; it needs this client no more then.

        `cast` is called as soon as the run has its number. For a machine that is rented, `plan` is what somebody agreed
        to (None: it is made now, and agreed to as `planning.agreed` has it). What goes wrong once the run has its
        number ends it: it is FAILED, with the reason. Each call makes another one. Raises `UsageError`, `HostError`,
        `TransferError`, `ProviderError`.
        """
        return launch(self._connections, prepared, talk, cast, plan, pay)

    def launch_set(
        self,
        prepared: Prepared,
        asked: SetRequest,
        talk: Talk = QUIET,
        cast: Callable[[Sequence[Run], int], None] = lambda *_: None,
    ) -> list[Run]:
        """Make a run for each combination of values and hand all of them over to the machine that they were prepared
        for; they need this client no more then. Of a set that has a name, what is missing is made and handed over.

        `cast` is called with all runs of the set, once they have their numbers, and how many of them are handed over
        now. What fails leaves the others as they are. Raises as `launch`.
        """
        from remoterun.client.sets.sets import launch_set

        return launch_set(self._connections, prepared, asked, talk, cast, self.again)

    def submit(
        self,
        request: RunRequest,
        source: Source | None = None,
        machine: str | None = None,
        progress: Progress | None = None,
        cast: Callable[[Run], None] = lambda _: None,
    ) -> Run:
        """Prepare a run and launch it."""
        return self.launch(self.prepare(request, source, machine), Talk(progress or Progress()), cast)

    def machine(self, name: str | None) -> MachineType:
        """The machine type that a name stands for (None: the default one). Raises `NotFound`."""
        return self._connections.machine(name)

    def known(self, number: int | str) -> Run:
        """A run as it was known here last. No machine is asked. Raises `NotFound`."""
        return self._connections.registry.run(number)

    def all_known(self, limit: int | None = None) -> Sequence[Run]:
        """The newest runs (None: all), oldest first, as they were known here last. No machine is asked."""
        return self._connections.registry.runs(limit)

    def changes_of_others(self) -> tuple[int, ...]:
        """Another value each time that another process has changed what is known here."""
        return self._connections.registry.changes_of_others()

    def numbers(self, words: Iterable[int | str]) -> list[int]:
        """The numbers of these runs, each once. A word is a number, `last`, or a range: `12-17` names those of its
        numbers that are a run's. No machine is asked. Raises `UsageError`, and `NotFound`, also for an empty range."""
        registry = self._connections.registry
        found: dict[int, None] = {}
        for word in words:
            among = parse_range(str(word))
            known = [registry.run(word).number] if among is None else registry.among(among)
            if not known:
                raise NotFound(f"there is no run among {word}", hint="remoterun ps -a")
            found.update(dict.fromkeys(known))
        return list(found)

    def of_each(self, numbers: Iterable[int], ask: Callable[[int], A]) -> dict[int, A | RemoterunError]:
        """What `ask` returns for each of these runs, or the error that it raises. All machines are asked at once, and
        each about several runs, in the order given; one that can't be reached is asked once."""
        from remoterun.threads import each

        def attempt(run: Run) -> A | RemoterunError:
            try:
                return ask(run.number)
            except RemoterunError as error:
                return error

        def of_place(runs: Sequence[Run]) -> dict[int, A | RemoterunError]:
            first = attempt(runs[0])
            others = [first] * len(runs[1:]) if isinstance(first, HostUnreachable) else each(attempt, runs[1:])
            return dict(zip((run.number for run in runs), (first, *others), strict=True))

        return self._of_places(numbers, of_place)

    def _of_places(
        self, numbers: Iterable[int | str], ask: Callable[[Sequence[Run]], dict[int, A | RemoterunError]]
    ) -> dict[int, A | RemoterunError]:
        """The answers of `ask` for the runs of each home, all homes at once, or the error of a run."""
        from remoterun.threads import each

        answers: dict[int, A | RemoterunError] = {}
        places: dict[tuple[MachineType, str | None], list[Run]] = {}
        for number in numbers:
            try:
                run = self._connections.registry.run(number)
                places.setdefault((run.host, run.home_id), []).append(run)
            except NotFound as error:
                answers[number if isinstance(number, int) else 0] = error
        for found in each(ask, places.values(), max(len(places), 1)):
            answers |= found
        return answers

    def numbered(self, resource: Resource) -> Resource:
        """A resource with the number of the run that it names in words. Raises `NotFound`."""
        return self._connections.registry.numbered(resource)

    def get(self, number: int | str, wait: float | None = None) -> Run:
        """A run as its machine knows it; `wait` as for `list`."""
        return self.again([self._connections.registry.run(number)], wait)[0]

    def list(self, limit: int | None = 50, wanted: RunFilter = EVERY_RUN, wait: float | None = None) -> Sequence[Run]:
        """The newest runs that are `wanted`, oldest first, as their machines know them. All machines are asked at once.

        Where one can't be reached, or takes longer than `wait` seconds (None: as long as connecting may take), its runs
        are as they were last seen, and `unreached` says why.
        """
        registry = self._connections.registry
        if replace(wanted, hidden=True) == EVERY_RUN:
            return self.again(registry.runs(limit, wanted.hidden), wait)
        fitting = self.again([run for run in registry.runs() if wanted.may_fit(run)], wait)
        chosen = [run for run in fitting if wanted.fits(run)]
        return chosen if limit is None else chosen[-limit:]

    def again(self, runs: Sequence[Run], wait: float | None = None) -> Sequence[Run]:
        """These runs as their machines know them now; `wait` as for `list`."""
        moving: dict[MachineType, list[Run]] = {}
        seen: dict[str, Run] = {}
        for run in runs:
            if run.state in HAND_OVER and run.placed is None:  # no machine has heard of it
                seen[run.key] = unless_abandoned(self._connections, run)
            elif not run.final:
                moving.setdefault(run.host, []).append(run)
        lines: dict[str, Line] = {}
        questions = {machine: self._question(machine, asked, lines) for machine, asked in moving.items()}
        for machine, answer in self._connections.ask_all(questions, wait).items():
            plain = machine.rented is None and machine.bucket is None and not isinstance(answer, HostError)
            with self._connections.registry.noting() if plain else contextlib.nullcontext():
                for run in moving[machine]:
                    seen[run.key] = self._corrected(run, answer)
                    if run.key in lines and seen[run.key].state is RunState.QUEUED:
                        seen[run.key] = seen[run.key]._replace(line=lines[run.key])
            if not isinstance(answer, HostError):
                same = [key for key, status in answer.items() if isinstance(status, Run)]
                self._connections.registry.seen(same, time.time())
        return [seen.get(run.key, run) for run in runs]

    def _located(self, number: int | str, wait: float | None = None) -> Run:
        """A run as it is known here, with the home that has it now. That is asked for where it may have changed: while
        the run is handed over, and on a rented host, which may be gone. `wait` as for `list`."""
        run = self._connections.registry.run(number)
        return self.again([run], wait)[0] if run.state in HAND_OVER or run.host.rented is not None else run

    def _question(self, machine: MachineType, runs: Sequence[Run], lines: dict[str, Line]) -> Callable[[], Answer]:
        ask = partial(self._statuses, machine, runs, lines)
        return partial(statuses, self._connections, machine, runs, ask)

    def _statuses(self, machine: MachineType, runs: Sequence[Run], lines: dict[str, Line]) -> Answer:
        """By key; why it can't be told, for one that the machine can't read, or that is of another home. Adds to
        `lines` where those stand that wait. Raises `HostError`."""
        store = store_of(self._connections, machine)
        statuses: Answer = {}
        for start in range(0, len(runs), AT_ONCE):
            asked = runs[start : start + AT_ONCE]
            waiting = [run.key for run in asked if run.state is RunState.QUEUED and not run.stopping]
            answer = store.statuses([run.key for run in asked], waiting)
            statuses |= {run.key: run for run in asked if run.key in answer.waiting}
            for status in answer.runs:
                try:
                    statuses[status.key] = told(store, status)
                except HostError as error:  # one that makes no sense hides no other
                    statuses[status.key] = error
            statuses.update((key, HostError(f"{machine.name}: {why}")) for key, why in answer.unreadable.items())
        queued = [run.key for run in runs if getattr(statuses.get(run.key), "state", None) is RunState.QUEUED]
        lines.update(self._lines(store, queued if len(queued) <= MOST_PLACES else ()))
        for run in runs:
            try:
                check_home(run, store.home_id)
            except HomeMissing as error:
                statuses[run.key] = error
        return statuses

    def _lines(self, store: Store, keys: Sequence[str]) -> dict[str, Line]:
        if not keys or not isinstance(store, HostStore):
            return {}
        from remoterun.client.occupancy import lines

        return lines(self._connections, store.session, keys)

    def _corrected(self, run: Run, answer: Answer | HostError) -> Run:
        status = answer if isinstance(answer, HostError) else answer.get(run.key)
        if isinstance(status, HostError):
            return run._replace(fault=status)
        if isinstance(status, Run):
            return run._replace(last_seen=time.time(), line=None, fault=None)
        if status is not None:
            return record_status(self._connections, run, status)
        if run.state in HAND_OVER:
            return unless_abandoned(self._connections, run._replace(fault=None))
        why = {"reason": Reason.HOST_LOST.value, "message": f"{run.host.name} no longer knows this run"}
        return self._connections.registry.change_state(run, ENDINGS[Reason.HOST_LOST].state, time.time(), **why)

    def info(self, number: int | str, wait: float | None = None) -> tuple[Run, dict[str, Any]]:
        """(run, {"spec", "folder", "events"} as its machine has them, None each if it never got the run; "again_of",
        the number of the run that it repeats, and "again_as", those of the runs that repeat it).

        The former are None, too, where the machine can't be reached within `wait` seconds; the run's `unreached` says
        why.
        """
        run = self._located(number, wait)
        again_of, again_as = self._connections.registry.repeats(run)
        nothing: dict[str, Any] = dict.fromkeys(("spec", "folder", "events"))
        nothing |= {"again_of": again_of, "again_as": again_as}
        if run.placed is None:
            return self.get(number, wait), nothing
        answer = self._connections.ask_all({run.host: partial(self._details, run)}, wait)[run.host]
        if isinstance(answer, HostError):
            return run._replace(fault=answer), nothing
        status, details = answer
        if status is None:
            return self.get(number, wait), nothing
        line = details.pop("line", None)
        return record_status(self._connections, run, status)._replace(line=line), {**nothing, **details}

    def _details(self, run: Run) -> tuple[RunStatus | None, dict[str, Any]]:
        _, store = find_store(self._connections, run)
        try:
            answer = store.run(run.key).details()
        except NotFound:
            return None, {}
        events = [_said(told(store, event)) for event in answer.events]
        queued = [run.key] if answer.status.state is RunState.QUEUED else []
        line = self._lines(store, queued).get(run.key)
        with understood(store.machine.name):
            asked = RunSpec.from_record(answer.spec)
            spec = (asked._replace(**answer.reading._asdict()) if answer.reading is not None else asked).to_record()
        details = {"spec": spec, "folder": answer.folder, "events": events, "line": line}
        return told(store, answer.status), details

    def follow(self, number: int | str, wanted: Wanted = ALL, values: Mapping[str, str] | None = None) -> Following:
        """The run's log and states, as far as they are wanted.

        Each byte of the log comes once, in order, whatever happens to the link: a lost connection is made again, for as
        long as it takes, and the log goes on where it stopped. The log of a run that has ended comes from here where it
        was followed to its end before, and its machine can't be reached.

        Where the rented host of a run that is followed live is taken away meanwhile, the run gets its next one, if it
        may have another; `values` as for `RunRequest.env`, which it needs again. Any thread may `close` the result.
        """
        find = partial(self._handed_over, number, wanted.wait)
        return Following(Follower(self._connections, find, wanted, values or {}))

    def _handed_over(self, number: int | str, wait: float | None) -> Run:
        run = self._located(number, wait)
        if run.state in HAND_OVER and not run.reachable:
            self._connections.session(run.host)  # says why
            raise HostError(f"{run.host.name} does not say what became of run {run.number}", hint="try again")
        if run.state in HAND_OVER:
            raise _still_handed_over(run)
        return run

    def metrics(self, number: int | str) -> Curves:
        """The points of a run, none yet: `Curves.update` fetches them. Raises `UsageError` for a run that no host has
        had."""
        from remoterun.client.data.metrics import Curves

        return Curves(self._connections, self._located(number))

    def read_again(self, number: int | str, reading: LogReading | None = None) -> Run:
        """Read the metrics of a run from its log once more, in place of those that it has from there, and let a rerun
        of it do so, too; None: as it was asked for. Of a run that goes on that takes a few seconds. Raises `UsageError`
        for what can't be read so, and for a run whose machine is gone; `HostError`."""
        for name, value in reading._asdict().items() if reading is not None else ():
            option = options_in(HandedOn)[name]
            if wrong := option.wrong(value):
                raise UsageError(
                    f"{option.flag}: {wrong}", hint=f"remoterun metrics {number} --again {option.flag} {option.example}"
                )
        run, store = find_store(self._connections, self._handed_over(number, None))
        if not isinstance(store, HostStore):
            raise UsageError(f"the machine of run {run.number} is gone", hint=f"remoterun logs {run.number}")
        status = self._connections.session(run.host).ask(api.read_again, api.ReadAgain(run.key, reading))
        return record_status(self._connections, run, told(store, status))

    def log_part(self, number: int | str, start: int, size: int, name: str = "log") -> tuple[int, int, bytes]:
        """(where the bytes begin, how many the log has by now, the bytes): `size` of them at most, from `start` on or,
        where that is below 0, so many before its end. `name`: "err" for stderr where it is apart. What an earlier host
        of the run wrote is in the archive only. Of a run that has ended and whose machine can't be reached, they come
        from the log that was saved here, if it was. Raises `HostError`."""
        try:
            run, store = find_store(self._connections, self._handed_over(number, None))
            begin, total, data = store.run(run.key).log_part(api.LogPart(run.key, start, size, name))
        except HostError:
            run, logs = self._connections.registry.run(number), LogCache(self._connections.config.home, 0)
            if not run.final or not logs.has(run.key):
                raise
            return read_part(logs.log_file(run.key, name), start, size)
        with understood(store.machine.name):
            if not 0 <= begin <= begin + len(data) <= total:
                raise ValueError("log: no place in a log")
        return begin, total, data

    def search_log(self, number: int | str, text: str, start: int = 0, most: int = 500, name: str = "log") -> api.Hits:
        """The lines of the log from byte `start` on that hold `text`, in any case of its letters, as the machine finds
        them. Blocks for 20 s at the most; `until` is where another search goes on. Raises `HostError`,
        `UsageError`."""
        if not text or "\n" in text:
            raise UsageError("a search is for a text of one line")
        run, store = find_store(self._connections, self._handed_over(number, None))
        return store.run(run.key).search_log(api.SearchLog(run.key, text, start, most, name))

    def wait(self, numbers: Iterable[int | str], timeout: float | None = None) -> Iterator[Run | Note]:
        """Each run once it has ended, in the order of their ends; ends when all have ended, or after `timeout` seconds.

        A machine that can't be reached is asked again for as long as it takes: a `Note` "lost" says so once, and one
        "back" when it answers. After an error that is not `passing` a run comes as it was known before, with its
        `fault`, and is not waited for any more. A run whose rented host is taken away comes as interrupted.
        """
        registry = self._connections.registry
        until = float("inf") if timeout is None else time.monotonic() + timeout
        going_on = list(dict.fromkeys(registry.run(number).number for number in numbers))
        lost: set[str] = set()
        silent: dict[str, float] = {}  # since when
        seconds = WAIT_LEAST
        while True:
            for run in self.again([registry.run(number) for number in going_on], ANSWER):
                name = run.host.name
                if run.fault is None:
                    silent.pop(name, None)
                    if name in lost and not run.final:
                        lost.discard(name)
                        yield Note("back", name)
                elif not run.fault.passing:
                    going_on.remove(run.number)
                    yield run
                    continue
                elif name not in lost:
                    late = isinstance(run.fault, NoAnswerInTime)
                    if not late or time.monotonic() > silent.setdefault(name, time.monotonic()) + LATE:
                        lost.add(name)
                        yield Note("lost", run.fault.message)
                if run.final:
                    going_on.remove(run.number)
                    yield run
            left = until - time.monotonic()
            if not going_on or left <= 0:
                return
            self._connections.closed.wait(min(seconds, left))
            seconds = min(seconds * 1.3, WAIT_MOST)

    def forward(
        self, number: int | str, ports: Sequence[PortSpec] = (), tell: Callable[[PortNews], None] = lambda _: None
    ) -> Forwarding:
        """Forward ports of a run (none: those of `run --port`) to 127.0.0.1 here, until the result is closed or the run
        ends. Returns at once; a run that has not started is waited for, and a lost connection is made again.

        `tell` is called on other threads, with each port that becomes ready here or is no longer.
        """
        from remoterun.client.live.ports import Forwarding

        return Forwarding(self._connections, self._with_ports(number), ports, tell)

    def ports(self, number: int | str) -> Sequence[PortSpec]:
        """The ports that `run --port` named. Raises `HostError`, and `UsageError` where the run has ended, or its
        machine names others."""
        from remoterun.client.live.ports import asked_ports

        return asked_ports(self._connections, self._with_ports(number))

    def _with_ports(self, number: int | str) -> Run:
        run = self._connections.registry.run(number)
        if run.final:
            raise UsageError(f"run {run.number} has ended, and its ports with it", hint=f"remoterun logs {run.number}")
        if run.placed is None:
            raise _still_handed_over(run)
        return run

    def diff(self, before: int | str, after: int | str, binary: bool = False) -> Difference:
        """What differs between two runs; with `binary` in such lines that what is not text can be made of them. Opens
        the machines that have them. Raises `HostError`, `UsageError` where what was asked of one is not saved."""
        from remoterun.client.runs.comparing import compare

        return compare(self._connections, before, after, binary)

    def adopt(self) -> Sequence[Run]:
        """Give a number here to each run of the archive that another client handed over: its log and outputs can then
        be had from here, too. The runs that are new here. Raises `NotFound` without a bucket, `HostError`."""
        registry, machine = self._connections.registry, self._connections.bucket()
        store = store_of(self._connections, machine)
        known = {run.key for run in registry.runs()}
        found = []
        for status in store.statuses(None).runs:
            if status.key in known:
                continue
            try:
                spec = RunSpec.from_record(store.run(status.key).details().spec)
            except (HostError, SpecError) as error:
                if isinstance(error, HostError) and error.passing:
                    raise
                continue  # it can't be read, which is no reason to leave out the others
            if spec.key != status.key:
                continue
            type_ = MachineType(spec.machine, bucket=machine.bucket)
            about = spec.created, spec.description, spec.labels, spec.again
            run = registry.add_run(spec.key, type_, spec.command, *about, params=spec.params)
            run = registry.set_host(run, machine, store.home_id)
            found.append(registry.update(run, told(store, status), time.time()))
        return found

    def plan_next(self, number: int | str, waiting: Callable[[str], None] = lambda _: None) -> Plan:
        """What a run that was interrupted on a rented host will be given if it is continued. Rents nothing; `waiting`
        as for `launch`. Raises `UsageError` for another run, `ProviderError`, `HostError`."""
        from remoterun.client.runs.attempts import plan_next

        return plan_next(self._connections, self.get(number), waiting)

    def continue_(self, number: int | str, plan: AgreedPlan, talk: Talk = QUIET) -> Run:
        """Give an interrupted run another rented host, as `plan_next` planned it, and hand it over; it goes on with
        what it had saved, under its number. Blocks for minutes. What goes wrong leaves it interrupted. Raises as
        `launch`, and `UsageError` where another client does so."""
        from remoterun.client.runs.attempts import start_next_attempt

        run = self._connections.registry.run(number)
        taken = start_next_attempt(self._connections, run, {}, talk, plan)
        if taken is None:
            raise UsageError(f"run {run.number} goes on already", hint=f"remoterun logs {run.number}")
        return taken

    def stop(self, number: int | str, grace: float = 10.0) -> tuple[Run, bool]:
        """Ask a run to end: SIGTERM, `grace` seconds, SIGKILL; its outputs are saved. (run, whether it could be asked).

        Returns at once; a run that has ended is left as it is.
        """
        return _only(self.end([number], grace))

    def kill(self, number: int | str) -> tuple[Run, bool]:
        """End a run now; its outputs are not saved. As `stop`."""
        return _only(self.end([number], None))

    def end(self, numbers: Iterable[int | str], grace: float | None) -> Ends:
        """`stop` each of these runs, or `kill` it where `grace` is None: what that returns, or the error that it
        raises, by its number. Each machine is asked once, and all of them at once."""
        if grace is not None and not 0 <= grace < 1e9:
            raise UsageError(f"a grace of {grace} s is not possible")
        ask = partial(self._ask_place, lambda session, keys: session.ask(api.end, api.EndRuns(keys, grace)))
        return self._of_places(numbers, ask)

    def notify(self, number: int | str, asked: Sequence[str] | None = None) -> Run:
        """Let addresses, or secrets that are one (None: those of config.toml), get word of a run that goes on, too.
        Raises `UsageError` where there is none, or for a run that has ended; `NotFound`, `HostError`."""
        config = self._connections.config
        found = addresses(config.home, config.notify if asked is None else asked)
        if not found:
            raise UsageError("no address is set up", hint='notify = ["https://…"] in config.toml')

        def ask(session: Session, keys: Keys) -> api.EndedRuns:
            return api.EndedRuns([session.ask(api.notify, api.Notify(keys[0], found))])

        run, noted = _only(self._of_places([number], partial(self._ask_place, ask)))
        if not noted:
            raise UsageError(f"run {run.number} has ended", hint=f"remoterun info {run.number}")
        return run

    @contextlib.contextmanager
    def exec(
        self, number: int | str, command: str | None = None, terminal: str = "", size: tuple[int, int] = (24, 80)
    ) -> Iterator[RemoteProgram]:
        """A program beside the command of a run that is RUNNING: with its folder, its variables, its environment.

        `command` is a line for the shell; None: a shell, bash where there is one. `terminal`: the kind of terminal
        (TERM) that the program gets, with `size`, rows and columns; "": none. It ends when the block is left. Raises
        `UsageError` for a run that is not RUNNING, `LinkLost` inside the block where the program ended with its link.
        """
        from remoterun.client.live.live import program

        run = self._located(number)
        if run.final or run.placed is None:
            raise _not_running(run)
        started = False
        try:
            session = self._connections.session_where(run)
            with program(session, api.Execute(run.key, command, terminal, list(size))) as begun:
                started = True
                yield begun
        except UsageError:
            if not started and (known := self.get(number)).state is not RunState.RUNNING:
                raise _not_running(known) from None
            raise
        except LinkLost as error:
            raise LinkLost(f"{error.message}; run {run.number} goes on")

    def top(self, numbers: Iterable[int | str], every: float = 0.5, once: bool = False) -> Iterator[Sequence[RunUse]]:
        """How much each of these runs uses of its machine: a list again and again until all have ended, or `once`.
        `every`: seconds between two of them.

        Raises `UsageError` for a run that has ended, `HostError` where no machine of them can be reached.
        """
        runs = [self.get(number) for number in numbers]
        for run in runs:
            if run.fault is not None and not run.fault.passing:
                raise run.fault
            if run.final:
                raise UsageError(
                    f"run {run.number} has ended", hint=f"remoterun info {run.number}   shows what it used"
                )
            if run.placed is None:
                raise _not_running(run)
        from remoterun.client.live.live import use

        return use(self._connections, runs, every, once)

    def _ask_place(self, ask: Callable[[Session, Keys], api.EndedRuns], runs: Sequence[Run]) -> Ends:
        """`ask` their home about the keys of those that may go on; see `end`."""
        ends: Ends = {}
        going_on: list[Run] = []
        asked = api.EndedRuns([])
        try:
            for run in map(self._located, (run.number for run in runs)):
                if run.final and (run.archived or run.reason is not Reason.HOST_LOST):
                    ends[run.number] = run, False  # else a host that had lost it may have found it again
                elif run.archived:
                    hint = "remoterun machines rented"
                    raise UsageError(f"the host of run {run.number} is another client's", hint=hint)
                else:
                    going_on.append(run)
            if going_on and going_on[0].placed is not None:
                session = self._connections.session_of(going_on[0])
                asked = ask(session, [run.key for run in going_on])
        except NotFound:
            pass
        except RemoterunError as error:
            lost = isinstance(error, HomeMissing)
            return {run.number: (run, False) if lost and run.final else error for run in runs} | ends
        known = {each.status.key: each for each in asked.runs}
        with self._connections.registry.noting():
            for run in (run for run in going_on if run.key in known):
                status = told(session, known[run.key].status)
                ends[run.number] = record_status(self._connections, run, status), known[run.key].asked
        for run in (run for run in going_on if run.key not in known):
            if run.key in asked.failed:
                ends[run.number] = HostError(f"{run.host.name}: {asked.failed[run.key]}")
            elif run.state in HAND_OVER and not self._connections.registry.abandoned(run):
                ends[run.number] = _still_handed_over(run)
            else:
                ends[run.number] = self.get(run.number), False
        return ends

    def label(self, number: int | str, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Run:
        """Add labels to a run, after those that it has, and take some away; the run with the labels that it has then.
        No machine is asked. Raises `NotFound`."""
        run = self._connections.registry.run(number)
        return self._connections.registry.label(run, add, remove) if add or remove else run

    def annotate(self, number: int | str, **facts: Any) -> Run:
        """Save what a person says of a run, such as a remark. No machine is asked. Raises `NotFound`."""
        registry = self._connections.registry
        return registry.annotate(registry.run(number), **facts)

    def remove(self, number: int | str) -> str | None:
        """Delete an ended run, there and from the registry; the name of the machine that has it no more, if one had it.
        Raises `UsageError` for one that has not ended, `HostError`."""
        run = self._located(number)
        host: MachineType | None = run.host
        if run.host.rental is not None and not run.final:
            raise _still_handed_over(run)
        if run.host.rental is not None or run.host.rented is not None:  # its host ends by itself
            if not run.final:
                raise _goes_on(run, f"the run is {run.state.value}")
            from remoterun.clouds.ledger.archiving import machine_of

            host = machine_of(run) if run.renting is not None else None
        if host is not None:
            try:
                store = store_of(self._connections, host)
                if host == run.host:
                    check_home(run, store.home_id)
                store.run(run.key).remove()
            except UsageError as error:
                raise _goes_on(run, error.message)
        self.forget(run)
        return None if host is None or host.rented is not None else host.name

    def forget(self, run: Run) -> None:
        """Delete what is recorded here of a run. Its machine is not asked."""
        self._connections.registry.remove_run(run)
        LogCache(self._connections.config.home, 0).remove(run.key)
        self.tokens.remove(run.key)

    def forget_machine(self, machine: MachineType) -> None:
        """Delete what is recorded here of a machine: its runs, and its copies of uploads. It is not asked."""
        registry = self._connections.registry
        for run in (run for run in registry.runs() if run.host.place == machine.place):
            self.forget(run)
        for upload in (upload for upload, there in registry.uploads.versions() if there.place == machine.place):
            registry.uploads.forget_copy(upload.name, upload.home_id)


def _only(ends: Ends) -> tuple[Run, bool]:
    """The answer about the one run that was asked about. Raises what it is."""
    (answer,) = ends.values()
    if isinstance(answer, RemoterunError):
        raise answer
    return answer


def _goes_on(run: Run, why: str) -> UsageError:
    return UsageError(
        f"run {run.number} can't be removed: {why}",
        hint=f"first `remoterun stop {run.number}`, or `remoterun kill {run.number}`",
    )


def _not_running(run: Run) -> UsageError:
    again = f"remoterun rerun {run.number}   runs it again" if run.final else f"remoterun logs {run.number}"
    return UsageError(
        f"run {run.number} is {run.state.value}, and not running",
        hint=f"remoterun ls runs/{run.number}   lists its files\n{again}",
    )


def _still_handed_over(run: Run) -> UsageError:
    return UsageError(f"run {run.number} is still being handed over to {run.machine.name}", hint="try again")


def _said(event: RunEvent) -> dict[str, Any]:
    """What an event says, without the fields that it does not have."""
    return {name: value for name, value in to_json(event).items() if value is not None}
