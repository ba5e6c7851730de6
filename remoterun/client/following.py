"""Following a run: its log and its states, as they come, or as they were kept here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.records import from_json
from remoterun.agent.shared.states import FINAL, Reason, RunEvent, RunState
from remoterun.client.bucket import machine_of
from remoterun.client.connections import RECONNECT_LEAST, RECONNECT_MOST, Connections
from remoterun.client.log_cache import LogCache, LogWriter, content
from remoterun.client.occupancy import line_of
from remoterun.client.rented_runs import host_is_gone, record_lost_host, record_status, renew, renewing
from remoterun.errors import HostError, NotFound
from remoterun.model import Run, check_time, event_fields
from remoterun.session import Session

LOOK_AGAIN = 5.0
"""Seconds between two questions to a provider whether a host that does not answer is still there."""
MOVE_LOOK = 0.25
MOVE_WAIT, REMOVED_WAIT = 60.0, 5.0
"""Seconds in which a run that was taken from its machine is handed over to another one, and in which one that is there
no more is put back."""
KEPT_WAIT = 2.0
"""Seconds that a machine has to answer where the log is kept here, too."""


@dataclass(frozen=True)
class LogBytes:
    """A piece of a run's log, from byte `offset` on; `time` (seconds since 1970) only when times were asked for.
    `stderr`: a piece of what the command of a run with `split` wrote there, which has offsets of its own."""

    offset: int
    data: bytes
    time: float | None = None
    stderr: bool = False


@dataclass(frozen=True)
class StateChange:
    """A state the run has reached; `event` as the run folder holds it, `run` as it was then, `past` whether a later
    state had followed when `follow` was called."""

    state: RunState
    event: RunEvent
    run: Run
    past: bool = False


@dataclass(frozen=True)
class Note:
    """Something worth reading that is not a change of state. `kind`: "note" from the supervisor, "build" for the last
    line of the environment's build, "lost" and "back" for the link, "kept" for a log that is read from this machine,
    "attempt" when the run gets another host, "moved" with the machine on which it waits from now on, "waiting" for what
    is waited for meanwhile ("" at the end of that), and "line" for where the run stands while it waits for its turn."""

    kind: str
    text: str


Item = LogBytes | StateChange | Note


@dataclass(frozen=True)
class Wanted:
    """What of a run is followed; see `Runs.follow`."""

    live: bool
    tail: int | None
    since: float | None
    timed: bool
    patient: bool
    wait: float | None
    log: bool = True
    onward: bool = False
    """What earlier attempts of the run wrote is known."""


def follow(connections: Connections, run: Run, wanted: Wanted) -> Iterator[Item]:
    """See `Runs.follow`."""
    logs = LogCache(connections.config.home, connections.config.keep_logs)
    kept = logs.find(run.key) if run.final and wanted.since is None else None
    wait = wanted.wait if run.final or not wanted.live else None
    lost = False
    try:
        _open(connections, run, KEPT_WAIT if kept is not None and wait is None else wait)
    except HostError as error:
        if kept is not None:
            yield from _from_here(run, kept, wanted, error)
            return
        if run.final or not wanted.live or not wanted.patient or not error.passing:
            raise
        yield Note("lost", error.message)
        lost = True
    whole = wanted.tail is None and wanted.since is None and wanted.log
    with contextlib.ExitStack() as stack:
        if run.host.rented is not None:
            stack.enter_context(renewing(connections, run))
        writer = stack.enter_context(logs.writer(run.key)) if whole and kept is None else None
        if whole and any(written_before(run)) and not wanted.onward:
            yield from _earlier(connections, run)
        yield from _live(connections, run, wanted, lost, writer)


def written_before(run: Run) -> tuple[int, int]:
    """Bytes of the log, and of stderr where it is apart, that earlier attempts wrote, which the host of a run does not
    have."""
    if run.renting is None or run.host.rented is None:
        return 0, 0
    return run.renting.log_before, run.renting.err_before


def _earlier(connections: Connections, run: Run) -> Iterator[Item]:
    """The log of earlier attempts, from the bucket."""
    session, most = connections.session(machine_of(run)), written_before(run)
    with session.stream(api.follow, api.Follow(run.key, follow=False)) as stream:
        stream.end()
        for frame in stream:
            if "event" in frame.header:
                continue  # it may be one of an earlier attempt
            item = _item(connections, run, frame, session)
            if isinstance(item, LogBytes) and item.offset < most[item.stderr]:
                yield replace(item, data=item.data[: most[item.stderr] - item.offset])


def _open(connections: Connections, run: Run, wait: float | None) -> None:
    """Connect to the machine of a run. Raises `HostError`."""
    answer = connections.ask_all({run.host: lambda: connections.session_of(run)}, wait)[run.host]
    if isinstance(answer, HostError):
        raise answer


def _from_here(run: Run, kept: Path, wanted: Wanted, error: HostError) -> Iterator[Item]:
    """The log that was kept here, and the end of the run as it is recorded. Raises `error` if it can't be read."""
    yield Note("kept", error.message)
    try:
        pieces = [LogBytes(0, data, stderr=stderr) for data, stderr in content(kept, wanted.tail)]
    except OSError:
        raise error from None
    if wanted.log:
        yield from pieces
    yield _end(run)


def _end(run: Run) -> StateChange:
    return StateChange(run.state, RunEvent(t=run.ended or 0.0, state=run.state, message=run.message), run)


@dataclass
class _Position:
    """How far a run was followed: bytes of its log and of its stderr apart, events. `started`: it is known where the
    log starts that was asked for; `ended`: the run's end was told."""

    log: int
    err: int = 0
    events: int = 0
    started: bool = False
    ended: bool = False
    taken: bool = False

    def rest(self, run: Run, wanted: Wanted, session: Session) -> api.Follow:
        """The request for what has not come yet."""
        log, err = (max(at - before, 0) for at, before in zip((self.log, self.err), written_before(run), strict=True))
        asked = api.Follow(run.key, log, self.events, wanted.live, timed=wanted.timed, log=wanted.log, err=err)
        if self.started:
            return asked
        since = None if wanted.since is None else wanted.since + session.clock_skew
        return asked._replace(tail=wanted.tail, since=since)

    def after(self, run: Run, frame: Frame, item: Item | None, session: Session) -> Item | None:
        """Go on behind a frame; its item, with the offset in the log of all attempts."""
        if "starts" in frame.header:
            with session.understood():
                starts = from_json(dict[str, int], frame.header["starts"])
                log, err = written_before(run)
                self.log, self.err = max(starts["log"], 0) + log, max(starts["err"], 0) + err
                self.started = True
        if "event" in frame.header:
            self.events += 1
            self.taken = frame.header["event"].get("reason") == Reason.MOVED.value
        if isinstance(item, StateChange):
            self.ended = item.state in FINAL
        if isinstance(item, LogBytes):
            item = replace(item, offset=item.offset + written_before(run)[item.stderr])
            if item.stderr:
                self.err = item.offset + len(item.data)
            else:
                self.log = item.offset + len(item.data)
        return item


def _live(connections: Connections, run: Run, wanted: Wanted, lost: bool, writer: LogWriter | None) -> Iterator[Item]:
    """The run as its machine tells it. A connection that is `lost` is made again, for as long as it takes."""
    at = _Position(*written_before(run))
    pause, look_at = RECONNECT_LEAST, 0.0
    moved: Run | None = None
    while True:
        if moved is not None:
            run, moved, at = moved, None, _Position(0, started=at.started, ended=at.ended)
            yield Note("moved", run.host.name)
        try:
            if lost:
                connections.closed.wait(pause)
                pause = min(pause * 2, RECONNECT_MOST)
            session = connections.session_of(run)
            if run.host.rented is not None:
                renew(connections, run, session)
            with session.stream(api.follow, at.rest(run, wanted, session)) as stream:
                stream.end()
                for frame in stream:
                    if lost:
                        lost, pause = False, RECONNECT_LEAST
                        yield Note("back", "")
                    item = at.after(run, frame, _item(connections, run, frame, session), session)
                    if isinstance(item, LogBytes) and writer is not None:
                        writer.add(item.offset, item.data, item.stderr)
                    if item is not None:
                        yield item
                status = session.told(session.result(api.follow, stream).status)
            if at.taken and wanted.live:  # it may have been put back since
                moved = _moved(connections, run, (status.ended or time.time()) + MOVE_WAIT)
                if moved is not None:
                    continue
            run = record_status(connections, run, status)
            # It was taken from its machine and not handed over, or a host that is gone had told its bucket less.
            if run.final and not at.ended and (wanted.live or run.reason is Reason.MOVED):
                yield _end(run)
            if writer is not None and run.final and (run.renting is None or run.renting.attempts == 1):
                writer.finish()
            return
        except NotFound:
            moved = _moved(connections, run, time.time() + REMOVED_WAIT) if wanted.live else None
            if moved is None:
                raise
        except HostError as error:
            if not wanted.live or not wanted.patient or not (error.passing or run.host.rented):
                raise
            if not lost:
                yield Note("lost", error.message)
            lost = True
            moved = _elsewhere(connections, run)
            if run.host.rented is not None and time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_AGAIN
                if host_is_gone(connections, run):
                    run = record_lost_host(connections, run)
                elif not error.passing:
                    raise


def is_moving(run: Run, now: float) -> bool:
    """Whether a run was taken from its machine just now, to be handed over to another one."""
    return run.reason is Reason.MOVED and now < (run.ended or 0.0) + MOVE_WAIT


def _moved(connections: Connections, run: Run, until: float) -> Run | None:
    """A run that was taken from its machine, as soon as it waits on another one, or there again; None if it does
    not by the time `until`."""
    while (elsewhere := _elsewhere(connections, run)) is None:
        with contextlib.suppress(HostError):
            there = connections.session(run.host).ask(api.runs, api.RunKeys([run.key])).runs
            if any(status.reason is not Reason.MOVED for status in there):
                return connections.registry.run(run.number)
        if time.time() > until:
            return None
        connections.closed.wait(MOVE_LOOK)
    return elsewhere


def _elsewhere(connections: Connections, run: Run) -> Run | None:
    """The run on the machine of one's own to which it was moved meanwhile."""
    now = connections.registry.run(run.number)
    return now if run.renting is None and now.home_id not in (None, run.home_id) else None


def _item(connections: Connections, run: Run, frame: Frame, session: Session) -> Item | None:
    """What a frame of `follow` says. Raises `HostError` for what makes no sense."""
    said = frame.header
    with session.understood():
        if "log" in said or "err" in said:
            stderr = "log" not in said
            moment, offset = said.get("t"), int(said["err" if stderr else "log"])
            if offset < 0:
                raise ValueError(f"log: {offset}")
            when = None if moment is None else check_time(moment) - session.clock_skew
            return LogBytes(offset, bytes(frame.body), when, stderr)
        if "line" in said:
            there = from_json(api.Occupancy, said["line"])
            line = line_of(there, run.key, run.host.name, connections.registry.numbers(one.key for one in there.runs))
            return None if line is None else Note("line", str(line))
        if "build" in said:
            return Note("build", str(said["build"]))
        if "event" not in said:
            return None
        event, past = session.told(from_json(RunEvent, said["event"])), bool(said.get("past"))
    if event.state is None:
        return None if past else Note("note", event.note or "")
    if event.reason is Reason.MOVED:  # no end, if another machine has it then
        return None
    known = connections.registry.move(run, event.state, time.time(), **event_fields(event))
    return StateChange(event.state, event, known.with_event(event), past)
