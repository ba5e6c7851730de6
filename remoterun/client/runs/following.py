"""Following a run: its log and its states, as they come, or as they were saved here; and waiting for runs to end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace

from remoterun.agent.shared import api
from remoterun.agent.shared.facts import RunEvent
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.logs import LogReader, offset_of_tail
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.records import INTEGERS, from_json
from remoterun.agent.shared.states import FINAL, HAND_OVER, Reason, RunState
from remoterun.client.homes import carrying, find_store, record_status, renew
from remoterun.client.runs.preparing import Talk
from remoterun.connections import RECONNECT_LEAST, RECONNECT_MOST, Connections
from remoterun.errors import HostError, HostUnreachable, RemoterunError
from remoterun.host_store import HostStore
from remoterun.log_cache import LogCache, LogWriter
from remoterun.model import Run, check_time, event_fields
from remoterun.session import understood
from remoterun.stores import Store, archive_store, told

SAVED_LOG_WAIT = 2.0
"""Seconds that a machine has to answer where the log is saved here, too."""
TURN = 0.25
"""Seconds between two checks whether another client has handed a run over."""
CAPACITY_WAIT = 60.0
"""Seconds until a host is asked for again where there was none."""
WORTH_IT = 120.0
"""Seconds before a run's deadline from which on it is not given another host."""


@dataclass(frozen=True)
class LogBytes:
    """A piece of a run's log."""

    offset: int
    """Of its first byte."""
    data: bytes
    time: float | None = None
    """In seconds since 1970; None where times were not asked for."""
    stderr: bool = False
    """Whether the command of a run with `split` wrote it there, which has offsets of its own."""


@dataclass(frozen=True)
class StateChange:
    """A state that the run has reached."""

    state: RunState
    event: RunEvent
    """As the run's folder has it."""
    run: Run
    """As it was then."""
    past: bool = False
    """Whether a later state had followed when `follow` was called."""


@dataclass(frozen=True)
class Note:
    """Something worth reading that is not a change of state. `kind`: "note" from the supervisor, "build" for the last
    line of the environment's build, "lost" and "back" for the link, "kept" for a log that is read from this machine,
    "attempt" when the run gets another host, "waiting" for what is waited for meanwhile ("" at the end of that), and
    "line" for where the run stands while it waits for its turn."""

    kind: str
    text: str


Item = LogBytes | StateChange | Note


@dataclass(frozen=True)
class Wanted:
    """What of a run is followed."""

    live: bool = True
    """What comes until it has ended, too."""
    tail: int | None = None
    since: float | None = None
    timed: bool = False
    wait: float | None = None
    """Seconds that the machine of a run that has ended has to answer, or of any run that is not followed `live` (None:
    as long as connecting may take)."""
    log: bool = True
    """Else only its states."""
    offset: int = 0
    """Bytes of the log that are known."""

    @property
    def whole(self) -> bool:
        """Whether the log is wanted from a byte that is known."""
        return self.log and self.tail is None and self.since is None


ALL = Wanted()


class Following(Iterator[Item]):
    """What comes of a run that is followed. One thread iterates; any thread may `close`."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._items = self._follower.items()
        self._turn = threading.Lock()

    def __next__(self) -> Item:
        with self._turn:
            return next(self._items)

    def close(self) -> None:
        """End the iteration, also one that blocks in another thread: it gets no further item. Returns at once; a
        connection that is being made takes as long as it may. May be called twice."""
        self._follower.stop()
        if self._turn.acquire(blocking=False):
            try:
                self._items.close()
            finally:
                self._turn.release()


class Follower:
    """Apart from `Following`, so that one that nobody iterates any more ends at once."""

    def __init__(
        self, connections: Connections, find: Callable[[], Run], wanted: Wanted, values: Mapping[str, str]
    ) -> None:
        """`find` returns the run with the home that has it; it is called first, by the thread that iterates."""
        self._connections, self._find, self._wanted, self._values = connections, find, wanted, values
        self._stopped = connections.event()
        self._closed = False
        self._may_rent = False
        """Whether the run went on when it was first seen: to read of one that was interrupted before rents nothing."""
        self._renewing = threading.Lock()
        self._stream: Stream | None = None
        self._words: queue.Queue[str | None] = queue.Queue()
        """What a next host waits for; None at the end."""

    def stop(self) -> None:
        self._closed = True
        self._stopped.set()
        self._words.put(None)
        if self._stream is not None:
            self._stream.cancel()

    def items(self) -> Generator[Item, None, None]:
        run, wanted = self._find(), self._wanted
        self._may_rent = not run.final
        if run.final and run.started is None and run.ended is None:  # its machine never got it
            yield _end(run)
            return
        logs = LogCache(self._connections.config.home, self._connections.config.keep_logs)
        saved = run.final and wanted.since is None and logs.has(run.key)
        wait = wanted.wait if run.final or not wanted.live else None
        lost = False
        try:
            run = _open(self._connections, run, SAVED_LOG_WAIT if saved and wait is None else wait)
        except HostError as error:
            if saved:
                yield from _from_here(run, logs, wanted, error)
                return
            if run.final or not self._goes_on_after(error):
                raise
            yield Note("lost", error.message)
            lost = True
        with contextlib.ExitStack() as stack:
            whole = wanted.whole and not wanted.offset
            writer = stack.enter_context(LogWriter(logs, run.key)) if whole and not saved else None
            yield from self._live(run, lost, writer)

    def _live(self, run: Run, lost: bool, writer: LogWriter | None) -> Iterator[Item]:
        """Follow the run wherever it is: that is asked again after each conversation, and after one that was lost."""
        at = _Position(run, self._wanted.offset)
        backoff = RECONNECT_LEAST
        while not self._closed:
            try:
                if lost:
                    self._stopped.wait(backoff)
                    backoff = min(backoff * 2, RECONNECT_MOST)
                for item in self._conversation(at):
                    if lost:
                        lost, backoff = False, RECONNECT_LEAST
                        yield Note("back", at.bucket)
                    if isinstance(item, LogBytes) and writer is not None:
                        writer.add(item.offset, item.data, item.stderr)
                    if item is not None:
                        yield item
            except HostError as error:
                if self._closed:
                    return
                if not self._goes_on_after(error):
                    raise
                if not lost:
                    yield Note("lost", error.message)
                lost = True
                continue
            if self._closed:
                return
            if at.run.final and not at.ended and self._wanted.live:  # a host that is gone had reported less
                yield _end(at.run)
            further = (yield from self._further(at.run)) if self._wanted.live else None
            if further is None:
                if writer is not None and at.run.final:
                    writer.finish()
                return
            if further.key != at.run.key:
                writer = None
            at.go_on(further)

    def _conversation(self, at: _Position) -> Iterator[Item | None]:
        """What the home of a run reports that is new; None for what only moves `at`."""
        connections = self._connections
        at.run, store = find_store(connections, at.run)
        at.bucket = store.machine.bucket or ""
        with contextlib.ExitStack() as stack:
            if isinstance(store, HostStore):
                at.run = renew(connections, at.run, store.session)
                stack.enter_context(carrying(connections, at.run, store.session))
            yield from self._parts(at, store)

    def _parts(self, at: _Position, store: Store) -> Iterator[Item | None]:
        connections, wanted = self._connections, self._wanted
        for part in store.run(at.run.key).follow(at.rest(wanted, store), self._stopped, self._opened):
            if isinstance(part, api.Followed):
                at.run = record_status(connections, at.run, told(store, part.status))
                return
            if "starts" in part.header:
                before = at.log, at.err
                at.start(part, store)
                if wanted.whole:
                    yield from _earlier(connections, at, before, self._stopped)
            is_news = "event" in part.header and not part.header.get("past")
            if is_news and at.run.renting is not None and isinstance(store, HostStore):
                threading.Thread(target=self._renew, args=(at.run, store), daemon=True).start()
            yield at.after(part, _item(connections, at.run, part, store))

    def _renew(self, run: Run, store: HostStore) -> None:
        """On a thread of its own: the permission of a rented host may be refused, or end."""
        with self._renewing, contextlib.suppress(RemoterunError):
            run, now = self._connections.registry.run(run.number), store.statuses([run.key]).runs
            renew(self._connections, run, store.session, now[0] if now else None)

    def _opened(self, stream: Stream) -> None:
        self._stream = stream
        if self._closed:
            stream.cancel()

    def _goes_on_after(self, error: HostError) -> bool:
        return self._wanted.live and error.passing

    def _further(self, run: Run) -> Generator[Item, None, Run | None]:
        """Where a run that was followed to the end on its host goes on: on its next host; None where it does not.
        Blocks while it is handed over."""
        registry, attempt = self._connections.registry, run.attempt
        while not self._closed:
            now = registry.run(run.number)
            if now.state in HAND_OVER and not registry.abandoned(now):  # by another client
                self._stopped.wait(TURN)
            elif now.placed is not None and now.attempt != attempt:
                return now
            elif not (self._may_rent and _may_go_on(now)):
                return None
            else:
                taken = yield from self._next_attempt(now)
                if taken is not None:
                    return taken
        return None

    def _next_attempt(self, run: Run) -> Generator[Item, None, Run | None]:
        """`start_next_attempt`, with what it waits for; None where the run has to be inspected again."""
        from remoterun.client.runs.attempts import start_next_attempt
        from remoterun.clouds.base import NoCapacity
        from remoterun.threads import start

        assert run.renting is not None
        yield Note("attempt", f"attempt {run.renting.attempt + 1} of {run.renting.attempts}")

        def work() -> Run | None:
            try:
                return start_next_attempt(self._connections, run, self._values, Talk(waiting=self._words.put))
            finally:
                self._words.put(None)

        taken = start(work)
        while (text := self._words.get()) is not None:
            yield Note("waiting", text)
        if self._closed:  # that goes on without us
            return None
        try:
            return taken.result()
        except (NoCapacity, HostUnreachable) as error:
            yield Note("note", f"{error.message}; trying again in {CAPACITY_WAIT:g} s")
            self._stopped.wait(CAPACITY_WAIT)
            return None


def _may_go_on(run: Run) -> bool:
    """Whether a run whose host was taken away shall have another one without a further question. That its host is gone
    proves nothing: its owner may have ended it."""
    if run.renting is None or run.state is not RunState.INTERRUPTED or run.reason is not Reason.PREEMPTED:
        return False
    return run.renting.attempt < run.renting.attempts and time.time() + WORTH_IT < run.renting.deadline


def _open(connections: Connections, run: Run, wait: float | None) -> Run:
    """Connect to where a run is read; the run as that is known then. Raises `HostError`."""
    answer = connections.ask_all({run.host: lambda: find_store(connections, run)}, wait)[run.host]
    if isinstance(answer, HostError):
        raise answer
    return answer[0]


def _from_here(run: Run, logs: LogCache, wanted: Wanted, error: HostError) -> Iterator[Item]:
    """The log that was saved here, and the end of the run as it is recorded. Raises `error` if it can't be read."""
    yield Note("kept", error.message)
    for name in ("log", "err") if wanted.log else ():
        try:
            log = logs.log_file(run.key, name)
            start = 0 if wanted.tail is None else offset_of_tail(log, wanted.tail)
            for piece in LogReader(log, start, False).pieces(ended=True):
                yield LogBytes(piece.offset, piece.data, stderr=name == "err")
        except OSError:
            raise error from None
    yield _end(run)


def _end(run: Run) -> StateChange:
    return StateChange(run.state, RunEvent(t=run.ended or 0.0, state=run.state, message=run.message), run)


@dataclass
class _Position:
    """How far a run was followed."""

    run: Run
    log: int = 0
    """Bytes of its log, on all of its hosts."""
    err: int = 0
    events: int = 0
    """Of its present host."""
    started: bool = False
    """Whether it is known where the log starts that was asked for."""
    ended: bool = False
    """Whether the run's end was reported."""
    fresh: bool = False
    """Whether nothing was asked of the present host, which is not the first one."""
    bucket: str = ""
    """The bucket that it is read from; empty for a host."""

    def rest(self, wanted: Wanted, store: Store) -> api.Follow:
        """The request for what has not come yet."""
        log, err = (0, 0) if self.fresh and isinstance(store, HostStore) else (self.log, self.err)
        key, live, timed = self.run.key, wanted.live, wanted.timed
        asked = api.Follow(key, log, self.events, live, timed=timed, log=wanted.log, err=err)
        if self.started:
            return asked
        since = None if wanted.since is None else wanted.since + store.clock_skew
        return asked._replace(tail=wanted.tail, since=since)

    def start(self, frame: Frame, store: Store) -> None:
        """Go on where the host says that its part of the log starts."""
        with understood(store.machine.name):
            starts = from_json(dict[str, int], frame.header["starts"])
            self.log, self.err = max(starts["log"], 0), max(starts["err"], 0)
        self.started, self.fresh = True, False

    def after(self, frame: Frame, item: Item | None) -> Item | None:
        """Go on behind a frame; its item."""
        if "event" in frame.header:
            self.events += 1
        if isinstance(item, StateChange):
            self.ended = item.state in FINAL
        if isinstance(item, LogBytes) and item.stderr:
            self.err = item.offset + len(item.data)
        elif isinstance(item, LogBytes):
            self.log = item.offset + len(item.data)
        return item

    def go_on(self, run: Run) -> None:
        """The run has another host."""
        self.run, self.events, self.started, self.ended, self.fresh = run, 0, True, False, True


def _earlier(
    connections: Connections, at: _Position, begin: tuple[int, int], stopped: threading.Event
) -> Iterator[LogBytes]:
    """The log from `begin` on that earlier hosts of the run wrote, from the archive."""
    end = at.log, at.err
    if begin >= end:
        return
    from remoterun.clouds.ledger.archiving import machine_of

    archive = archive_store(connections, machine_of(at.run))
    asked = api.Follow(at.run.key, begin[0], follow=False, err=begin[1])
    for part in archive.run(at.run.key).follow(asked, stopped, lambda _: None):
        if isinstance(part, api.Followed) or "event" in part.header:
            continue  # it may be one of an earlier attempt
        item = _item(connections, at.run, part, archive)
        if isinstance(item, LogBytes) and item.offset < end[item.stderr]:
            yield replace(item, data=item.data[: end[item.stderr] - item.offset])


def _item(connections: Connections, run: Run, frame: Frame, store: Store) -> Item | None:
    """What a frame of `follow` says. Raises `HostError` for what makes no sense."""
    said = frame.header
    with understood(store.machine.name):
        if "log" in said or "err" in said:
            stderr = "log" not in said
            moment, offset = said.get("t"), int(said["err" if stderr else "log"])
            if not 0 <= offset < INTEGERS - len(frame.body):
                raise ValueError("log: no place in a log")
            when = None if moment is None else check_time(moment) - store.clock_skew
            return LogBytes(offset, bytes(frame.body), when, stderr)
        if "line" in said:
            from remoterun.client.occupancy import line_of

            there = from_json(api.Occupancy, said["line"])
            line = line_of(there, run.key, run.host.name, connections.registry.numbers(one.key for one in there.runs))
            return None if line is None else Note("line", str(line))
        if "build" in said:
            return Note("build", str(said["build"]))
        if "event" not in said:
            return None
        event, past = told(store, from_json(RunEvent, said["event"])), bool(said.get("past"))
    if event.state is None:
        return None if past else Note("note", event.note or "")
    known = connections.registry.change_state(run, event.state, time.time(), **event_fields(event))
    known = known._replace(**{**event_fields(event), "state": event.state, "reason": event.reason})
    return StateChange(event.state, event, known, past)
