"""Copies of runs in the archive: what their clients asked for, and what their hosts made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import ArchivedTree, RunRecord, log_key, run_prefix
from remoterun.agent.shared.files import tail_start
from remoterun.agent.shared.frames import PIECE, Frame
from remoterun.agent.shared.records import decode, encode, to_json
from remoterun.agent.shared.spec import KEY, MOST_BYTES, RunSpec, SpecError
from remoterun.agent.shared.states import FINAL, RunEvent, RunState, RunStatus
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive.s3 import S3
from remoterun.archive.s3_errors import Absent, Damaged
from remoterun.archive.uploads import read_tree
from remoterun.archive.writing import put_tree
from remoterun.errors import NotFound, UsageError
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import Reading

LIVES = 86400.0
"""Seconds after its last report for which a run that has not ended may still go on."""
MOST_RECORD = 8 << 20
"""Bytes of a run's status."""
MOST_PIECES = 1_000_000
"""Pieces of a log."""
POLL = 5.0
"""Seconds between two questions about a run that goes on."""


def put_run_tree(archive: Archive, key: str, name: str, tree: Reading, progress: Progress) -> ArchivedTree:
    """Store `tree`, which is used up, as a tree of a run: its "source", or "mounts/<digest>". Raises as `put_tree`."""
    archived, _ = put_tree(archive, run_prefix(key), tree, progress)
    archive.s3.put(run_prefix(key) + name, archived.encode(archive.clock()))
    return archived


def put_spec(archive: Archive, key: str, spec: bytes) -> None:
    archive.s3.put(run_prefix(key) + "spec.json", spec)


def read_run_tree(archive: Archive, key: str, name: str) -> ArchivedTree:
    """A tree of a run: "source", "outputs", or "mounts/<digest>". Raises `NotFound`, `HostError`."""
    _check_key(key)
    try:
        return read_tree(archive, run_prefix(key) + name)
    except Absent:
        raise NotFound(f"the {name.partition('/')[0]} of the run are not in {archive.address}")


def read_spec(archive: Archive, key: str) -> RunSpec:
    """What was asked of a run. Raises `NotFound`, `HostError`."""
    _check_key(key)
    name = run_prefix(key) + "spec.json"
    try:
        return RunSpec.decode(archive.s3.get(name, MOST_BYTES))
    except Absent:
        raise NotFound(f"what was asked of the run is not in {archive.address}")
    except SpecError as error:
        raise archive.s3.bad(name, str(error)[:200])


def read_record(archive: Archive, key: str) -> RunRecord:
    """The run as its host last reported it. Raises `NotFound`, `HostError` for what makes no sense."""
    _check_key(key)
    name = run_prefix(key) + "status.json"
    try:
        record = decode(RunRecord, archive.s3.get(name, MOST_RECORD))
    except Absent:
        raise NotFound(f"there is no run {key} in {archive.address}")
    except ValueError as error:
        raise archive.s3.bad(name, str(error)[:200])
    if record.status.key != key:
        raise archive.s3.bad(name, "it is of another run")
    return record


def details(archive: Archive, key: str) -> api.RunDetails:
    """A run as its host would describe it. Raises as `read_record`."""
    record = read_record(archive, key)
    spec: dict[str, Any] = {}
    with suppress(NotFound):
        spec = read_spec(archive, key).to_record()
    return api.RunDetails(record.status, spec, f"{archive.address}/{run_prefix(key)}", record.events)


def statuses(archive: Archive, keys: Sequence[str] | None = None) -> tuple[list[RunStatus], dict[str, str]]:
    """(the runs of these keys, or all, as far as they are stored; why one can't be read, by its key)."""
    listed = archive.s3.folders("runs/") if keys is None else keys
    wanted = [key for key in listed if KEY.match(key)]
    found: list[RunStatus] = []
    unreadable: dict[str, str] = {}

    def read(key: str) -> RunStatus | str | None:
        try:
            return read_record(archive, key).status
        except NotFound:
            return None
        except Damaged as error:
            return error.message

    for key, status in zip(wanted, archive.workers.each(read, wanted), strict=True):
        if isinstance(status, str):
            unreadable[key] = status
        elif status is not None:
            found.append(status)
    return found, unreadable


def record_end(archive: Archive, key: str, event: RunEvent) -> RunRecord:
    """Record the end of a run whose host is gone, unless the host did. The host may have reported nothing before."""
    try:
        record = read_record(archive, key)
    except NotFound:
        record = RunRecord(RunStatus(key, RunState.QUEUED), [])
    if record.status.state in FINAL or event.state is None:
        return record
    status = record.status._replace(
        state=event.state, reason=event.reason, code=event.code, message=event.message, ended=event.t
    )
    ended = record._replace(status=status, events=[*record.events, event], time=event.t)
    archive.s3.put(run_prefix(key) + "status.json", encode(ended))
    return ended


def remove_run(archive: Archive, key: str) -> bool:
    """Remove all of a run; whether anything was stored. Raises `UsageError` for one that may go on."""
    record = None
    with suppress(NotFound, Damaged):
        record = read_record(archive, key)
    if record is not None and record.status.state not in FINAL and archive.clock() - record.time < LIVES:
        raise UsageError(f"the run is {record.status.state.value}", hint="remoterun kill RUN   ends it")
    _check_key(key)
    last = run_prefix(key) + "status.json"
    keys = [stored.key for stored in archive.s3.list(run_prefix(key))]
    archive.s3.delete([key for key in keys if key != last])
    archive.s3.delete([key for key in keys if key == last])
    return bool(keys)


def follow(archive: Archive, asked: api.Follow, wait: Callable[[float], bool]) -> Iterator[Frame | api.Followed]:
    """What a host would answer to `follow`, with its result as the last item. Of a run that goes on, the archive is
    asked again until it has ended; `wait` lets some seconds pass, and returns whether to end. Raises as `read_record`.
    """
    record = read_record(archive, asked.key)
    logs = [Log(archive.s3, asked.key, name) for name in (("log", "err") if record.split else ("log",))]
    offsets = {"log": asked.offset, "err": asked.err}
    for log in logs:
        if asked.tail is not None:
            offsets[log.name] = log.offset_of_tail(asked.tail)
        if asked.since is not None:
            offsets[log.name] = max(offsets[log.name], log.offset_since(asked.since))
    if asked.tail is not None or asked.since is not None:
        yield Frame({"starts": dict(offsets)}, b"")
    sent, past = asked.events, True
    while True:
        ended = record.status.state in FINAL
        events = record.events[sent:]
        latest = max((number for number, event in enumerate(events) if event.state is not None), default=0)
        for number, event in enumerate(events):
            if event.state in FINAL and asked.log:
                yield from _new(logs, offsets, asked.timed, True)
            said = {name: value for name, value in to_json(event).items() if value not in (None, False)}
            yield Frame({"event": said, "n": sent + number, "past": int(past and number < latest)}, b"")
        sent, past = sent + len(events), False
        if asked.log:
            yield from _new(logs, offsets, asked.timed, ended)
        if ended or not asked.follow or wait(POLL):
            yield api.Followed(record.status, offsets["log"], sent, offsets["err"])
            return
        record = read_record(archive, asked.key)


def _new(logs: Sequence[Log], offsets: dict[str, int], timed: bool, ended: bool) -> Iterator[Frame]:
    """What is new of logs, from `offsets` on, which go on. A piece that is missing is waited for until the end."""
    for log in logs:
        log.refresh()
        while True:
            offset = offsets[log.name]
            piece = log.at(offset)
            data = log.read(piece, offset, 1 << 20) if piece is not None else b""
            if piece is None or not data:
                following = log.after(offset)
                if not ended or following is None:
                    break
                offsets[log.name] = following
                continue
            for at in range(0, len(data), PIECE):
                times = {"t": piece.written} if timed else {}
                yield Frame({log.name: offset + at, **times}, data[at : at + PIECE])
            offsets[log.name] = offset + len(data)


def log_sizes(archive: Archive, key: str) -> tuple[int, int]:
    """Bytes of the log of a run, and of its stderr where that is apart."""
    logs = [Log(archive.s3, key, name) for name in ("log", "err")]
    for log in logs:
        log.refresh()
    return logs[0].size(), logs[1].size()


@dataclass(frozen=True)
class LogObject:
    """A piece of a log; `written` in seconds since 1970, by the store's clock."""

    start: int
    end: int
    written: float


class Log:
    """The log of a run, or its stderr, in pieces that may overlap, and of which some may be missing."""

    def __init__(self, s3: S3, key: str, name: str = "log") -> None:
        self.name = name
        self._s3, self._prefix = s3, run_prefix(key)
        self._pieces: dict[int, LogObject] = {}

    def refresh(self) -> None:
        """Learn of pieces that are new, or longer than they were."""
        after = ""
        if self._pieces:  # the last one may have grown: from before it on
            after = (self._prefix + log_key(max(self._pieces), self.name))[:-1]
        folder = f"{self._prefix}{self.name}/"
        for stored in self._s3.list(folder, after):
            name = stored.key[len(folder) :]
            if not (name.isdecimal() and len(name) == 16):
                raise self._s3.bad(stored.key, "its name is not a place in a log")
            self._pieces[int(name)] = LogObject(int(name), int(name) + stored.size, stored.modified)
            if len(self._pieces) > MOST_PIECES:
                raise self._s3.bad(folder, "it has too many pieces")

    def at(self, offset: int) -> LogObject | None:
        """The piece that goes on longest from `offset`; None where none has come yet."""
        fitting = [piece for piece in self._pieces.values() if piece.start <= offset < piece.end]
        return max(fitting, key=lambda piece: piece.end, default=None)

    def after(self, offset: int) -> int | None:
        """Where the first piece after `offset` begins."""
        return min((piece.start for piece in self._pieces.values() if piece.start > offset), default=None)

    def read(self, piece: LogObject, offset: int, most: int) -> bytes:
        """Bytes of a piece from `offset` of the log on."""
        key = self._prefix + log_key(piece.start, self.name)
        try:
            return self._s3.get_range(key, offset - piece.start, min(most, piece.end - offset))
        except Absent:
            return b""

    def size(self) -> int:
        return max((piece.end for piece in self._pieces.values()), default=0)

    def offset_of_tail(self, lines: int) -> int:
        """Where the last `lines` lines begin; a last line without an end counts."""
        self.refresh()
        return tail_start(self.size(), lines, self._between)

    def offset_since(self, moment: float) -> int:
        """Where the first piece begins that was written at that time or later."""
        self.refresh()
        return min((piece.start for piece in self._pieces.values() if piece.written >= moment), default=self.size())

    def _between(self, start: int, end: int) -> bytes:
        """The bytes of the log from `start` on; zero bytes where a piece is missing."""
        data = bytearray()
        while start + len(data) < end:
            at = start + len(data)
            piece = self.at(at)
            came = self.read(piece, at, end - at) if piece is not None else b""
            data += came or bytes(min(end, self.after(at) or end) - at)
        return bytes(data)


def _check_key(key: str) -> None:
    if not KEY.match(key):
        raise NotFound(f"there is no run {show(key[:80])}")
