"""Runs that have been handed over: as their machines know them, their logs, their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Frame
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.shared.states import Reason, RunEvent, RunState, RunStatus
from remoterun.client.submitting import Submitting
from remoterun.errors import HostError, HostUnreachable, LinkLost, NotFound, UsageError
from remoterun.model import MachineType, Run, check_time

RECONNECT_LEAST, RECONNECT_MOST = 0.25, 5.0
AT_ONCE = 1000
"""Runs that one request asks about."""
A = TypeVar("A")
HAND_OVER = (RunState.REQUESTED, RunState.PROVISIONING, RunState.UPLOADING)


@dataclass(frozen=True)
class LogBytes:
    """A piece of a run's log, from byte `offset` on; `time` (seconds since 1970) only when times were asked for."""

    offset: int
    data: bytes
    time: float | None = None


@dataclass(frozen=True)
class StateChange:
    """A state the run has reached; `event` as the run folder holds it, `run` as it was then, `past` whether a later
    state had followed when `follow` was called."""

    state: RunState
    event: dict[str, Any]
    run: Run
    past: bool = False


@dataclass(frozen=True)
class Note:
    """Something worth reading that is no change of state. `kind`: "note" from the supervisor, "build" for the last
    line of the environment's build, "lost" and "back" for the link."""

    kind: str
    text: str


Item = LogBytes | StateChange | Note


class Runs(Submitting):
    """What a client does with runs."""

    def get(self, number: int | str) -> Run:
        """A run as its machine knows it; if that can't be reached, as it was last seen (`reachable` is False)."""
        return self._ask([self._connections.registry.run(number)])[0]

    def list(self, limit: int | None = 50, labels: Iterable[str] = ()) -> Sequence[Run]:
        """The newest runs, oldest first; those that may have moved are asked for, machine by machine, all at once."""
        return self._ask(self._connections.registry.runs(limit, labels))

    def _ask(self, runs: Sequence[Run]) -> Sequence[Run]:
        moving: dict[MachineType, list[Run]] = {}
        for run in runs:
            if not run.final:
                moving.setdefault(run.machine, []).append(run)
        if not moving:
            return runs
        seen: dict[str, Run] = {}
        with ThreadPoolExecutor(max_workers=8) as pool:
            for machine, answer in zip(moving, pool.map(self._statuses, moving, moving.values()), strict=True):
                for run in moving[machine]:
                    seen[run.key] = self._corrected(run, answer)
        return [seen.get(run.key, run) for run in runs]

    def _statuses(self, machine: MachineType, runs: Sequence[Run]) -> dict[str, RunStatus | None] | None:
        """By key, None for a run that can't be read there; None when the machine can't be asked."""
        try:
            session = self._connections.session(machine)
            statuses: dict[str, RunStatus | None] = {}
            for start in range(0, len(runs), AT_ONCE):
                answer = session.ask(api.runs, api.RunKeys([run.key for run in runs[start : start + AT_ONCE]]))
                statuses.update((status.key, status) for status in answer.runs)
                statuses.update(dict.fromkeys(answer.unreadable))
        except HostError:
            return None
        for run in runs:  # of another home than the one that answers now: its disk may not be mounted
            if run.home_id not in (None, session.home_id):
                statuses.setdefault(run.key)
        return statuses

    def _corrected(self, run: Run, answer: dict[str, RunStatus | None] | None) -> Run:
        if answer is None or answer.get(run.key, ...) is None:
            return replace(run, reachable=False)
        status = answer.get(run.key)
        if status is not None:
            try:
                return self._connections.registry.see(run, status, time.time())
            except HostError:
                return replace(run, reachable=False)
        if run.state in HAND_OVER:
            if self._connections.registry.abandoned(run):
                return self._connections.registry.move(
                    run,
                    RunState.FAILED,
                    time.time(),
                    reason=Reason.START_FAILED.value,
                    message="remoterun was ended before the run was handed over",
                )
            return run
        return self._connections.registry.move(
            run,
            RunState.INTERRUPTED,
            time.time(),
            reason=Reason.HOST_LOST.value,
            message=f"{run.machine.name} knows this run no more",
        )

    def info(self, number: int | str) -> tuple[Run, dict[str, Any]]:
        """(run, {"spec", "folder", "events"} as its machine has them; None each if it never got the run).

        Raises `HostError`, `NotFound`.
        """
        run = self._connections.registry.run(number)
        try:
            answer = self._connections.session(run.machine).ask(api.run, api.RunKey(run.key))
        except NotFound:
            return self.get(number), {"spec": None, "folder": None, "events": None}
        events = [_told(event) for event in answer.events]
        details = {"spec": answer.spec, "folder": answer.folder, "events": events}
        return self._connections.registry.see(run, answer.status, time.time()), details

    def follow(
        self,
        number: int | str,
        *,
        live: bool = True,
        tail: int | None = None,
        since: float | None = None,
        timed: bool = False,
        patient: bool = True,
    ) -> Iterator[Item]:
        """The run's log and states, from the start; `live` waits for more until the run has ended.

        Each byte of the log comes once, in order, whatever happens to the link: with `patient`, a lost connection is
        made again, for as long as it takes, and the log goes on where it stopped.
        """
        run = self._connections.registry.run(number)
        if run.state in HAND_OVER:
            run = self.get(number)
            if not run.reachable:
                self._connections.session(run.machine)  # says why
                raise HostError(f"{run.machine.name} does not say what became of run {run.number}", hint="try again")
        if run.final and run.started is None and run.ended is None:  # its machine never got it
            yield StateChange(run.state, {"state": run.state.value, "message": run.message}, run)
            return
        offset = events = 0
        started = False
        pause = RECONNECT_LEAST
        while True:
            asked = api.Follow(run.key, offset, events, live, timed=timed)
            try:
                session = self._connections.session(run.machine)
                if not started:
                    asked = asked._replace(tail=tail, since=None if since is None else since + session.clock_skew)
                with session.stream(api.follow, asked) as stream:
                    stream.end()
                    for frame in stream:
                        if pause > RECONNECT_LEAST:
                            pause = RECONNECT_LEAST
                            yield Note("back", "")
                        item = self._item(run, frame)
                        if isinstance(item, LogBytes):
                            started = True
                            offset = item.offset + len(item.data)
                        if "event" in frame.header:
                            events += 1
                        if item is not None:
                            yield item
                    status = session.result(api.follow, stream).status
                    run = self._connections.registry.see(run, status, time.time())
                    return
            except HostError as error:
                if not live or not patient or not isinstance(error, (LinkLost, HostUnreachable)):
                    raise
                if pause == RECONNECT_LEAST:
                    yield Note("lost", error.message)
                time.sleep(pause)
                pause = min(pause * 2, RECONNECT_MOST)

    def _item(self, run: Run, frame: Frame) -> Item | None:
        """What a frame of `follow` says. Raises `HostError` for what makes no sense."""
        said = frame.header
        try:
            if "log" in said:
                moment, offset = said.get("t"), int(said["log"])
                if offset < 0:
                    raise ValueError(f"log: {offset}")
                return LogBytes(offset, bytes(frame.body), None if moment is None else check_time(moment))
            if "build" in said:
                return Note("build", str(said["build"]))
            if "event" not in said:
                return None
            event, past = _told(from_json(RunEvent, said["event"])), bool(said.get("past"))
            if "state" not in event:
                return None if past else Note("note", str(event.get("note", "")))
            _, told = run.with_event(event)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise HostError(f"{run.machine.name} says of run {run.number} what makes no sense: {error}"[:300])
        known = self._connections.registry.move(run, RunState(event["state"]), time.time(), **told)
        return StateChange(RunState(event["state"]), event, known.with_event(event)[0], past)

    def stop(self, number: int | str, grace: float = 10.0) -> tuple[Run, bool]:
        """Ask a run to end: SIGTERM, `grace` seconds, SIGKILL; its outputs are saved. (run, whether it could be asked).

        Returns at once; a run that has ended is left as it is.
        """
        return self._request_end(number, api.stop, lambda key: api.EndRun(key, grace))

    def kill(self, number: int | str) -> tuple[Run, bool]:
        """End a run now; its outputs are not saved. As `stop`."""
        return self._request_end(number, api.kill, api.RunKey)

    def _request_end(
        self, number: int | str, request: api.Request[A, api.Asked], asked: Callable[[str], A]
    ) -> tuple[Run, bool]:
        run = self._connections.registry.run(number)
        if run.final and run.reason is not Reason.HOST_LOST:  # a host that had lost it may have found it again
            return run, False
        try:
            answer = self._connections.session(run.machine).ask(request, asked(run.key))
        except NotFound:
            if run.state in HAND_OVER and not self._connections.registry.abandoned(run):
                raise UsageError(f"run {run.number} is still being handed over to {run.machine.name}", hint="try again")
            return self.get(number), False
        return self._connections.registry.see(run, answer.status, time.time()), answer.asked

    def remove(self, number: int | str) -> None:
        """Delete an ended run, there and from the registry. Raises `UsageError` for one that has not ended."""
        run = self._connections.registry.run(number)
        try:
            self._connections.session(run.machine).ask(api.remove_run, api.RunKey(run.key))
        except UsageError as error:
            raise UsageError(
                f"run {run.number} can't be removed: {error.message}",
                hint=f"remoterun stop {run.number} or remoterun kill {run.number} first",
            )
        self._connections.registry.remove_run(run)


def _told(event: RunEvent) -> dict[str, Any]:
    """What an event says, without the fields that it does not have."""
    return {name: value for name, value in to_json(event).items() if value is not None}
