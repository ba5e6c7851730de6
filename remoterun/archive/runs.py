"""Copies of runs in the archive: what their clients asked for, and what their hosts made of it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import MOST_RUN_TREES, ArchivedTree, RunRecord, host_prefix, log_key, run_prefix
from remoterun.agent.shared.facts import RunEvent, RunStatus
from remoterun.agent.shared.files import tail_start
from remoterun.agent.shared.frames import PIECE, Frame
from remoterun.agent.shared.measured import MOST_NAME, MOST_POINTS, MOST_SERIES, MOST_USAGE, POINT
from remoterun.agent.shared.records import encode, from_json, parse, to_json
from remoterun.agent.shared.spec import KEY, MOST_BYTES, RunSpec
from remoterun.agent.shared.states import FINAL, INCOMPLETE, RunState
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive.s3 import S3, StoredObject
from remoterun.archive.s3_errors import Absent, Damaged
from remoterun.archive.workers import each
from remoterun.archive.writing import put_tree
from remoterun.errors import NotFound, UsageError
from remoterun.sizes import clock
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import Reading

T = TypeVar("T")

LIVES = 86400.0
"""Seconds after its last report for which a run that has not ended may still go on."""
MOST_RECORD, MOST_VALUES = 1 << 20, 1 << 16
"""Bytes of a run's status, and its values, as `parse` counts them: `ps` reads those of many runs."""
MOST_PIECES = 1 << 18
"""Pieces of a log: one each half minute, for three months."""
PART, MOST_LINE = 1 << 20, 1 << 23
"""Bytes of a log that are read at once, and of a line that are searched together."""
SEARCH = 20.0
"""Seconds for a search."""
POINTS_AT_ONCE = 8 << 20
"""Bytes of a run's points that are fetched at once."""
MOST_NAMES = MOST_SERIES * (6 * MOST_NAME + 3)
"""Bytes of the names of a run's series."""
HOSTS = "hosts"
WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.=@,+-]{0,127}\Z")
POLL = 5.0
"""Seconds between two questions about a run that goes on."""


@dataclass(frozen=True)
class RunPlace:
    """Where a run lies. `writers`: of its hosts, the newest last; "" for one that writes into the run's own folder,
    which also has what clients write."""

    key: str
    writers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `NotFound` for what is not a key, `ValueError` for writers that can't be ones."""
        if not KEY.match(self.key):
            raise NotFound(f"there is no run {show(self.key[:80])}")
        if not all(writer == "" or WRITER.match(writer) for writer in self.writers):
            raise ValueError("a writer that can't be one")

    @property
    def folders(self) -> tuple[str, ...]:
        """What its hosts write, the newest first."""
        return tuple(host_prefix(writer, self.key) for writer in reversed(self.writers or ("",)))

    @property
    def all_folders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.folders, run_prefix(self.key))))


def put_run_tree(archive: Archive, key: str, name: str, tree: Reading, progress: Progress) -> ArchivedTree:
    """Store `tree`, which is used up, as a tree of a run, such as its "source". Raises as `put_tree`."""
    archived, _ = put_tree(archive, run_prefix(key), tree, progress)
    archive.s3.put(run_prefix(key) + name, archived.encode(archive.clock()))
    return archived


def put_spec(archive: Archive, place: RunPlace, spec: bytes) -> None:
    """Record what was asked of a run, and, before its host may write there, whose folders are the run's."""
    if any(place.writers):
        archive.s3.put(run_prefix(place.key) + HOSTS, encode(place.writers))
    archive.s3.put(run_prefix(place.key) + "spec.json", spec)


def recorded_place(archive: Archive, key: str) -> RunPlace:
    """The place of a run that this client has no row of, as `put_spec` recorded it. A listing does not say it: any host
    may make folders below its own. Raises `NotFound`, `HostError`."""

    def decoded(data: bytes) -> RunPlace:
        return RunPlace(key, from_json(tuple[str, ...], parse(data, MOST_VALUES)))

    own = RunPlace(key)
    with suppress(Absent):
        return archive.read(run_prefix(key) + HOSTS, MOST_RECORD, decoded)
    return own


def read_run_tree(archive: Archive, place: RunPlace, name: str) -> tuple[str, ArchivedTree]:
    """(the prefix below which its packs lie, a tree of a run): "source" or "outputs". Raises `NotFound`,
    `HostError`."""
    what = f"the {name.partition('/')[0]} of the run are"
    folders = place.folders if name == "outputs" else (run_prefix(place.key),)
    return _newest(archive, folders, name, MOST_RUN_TREES, ArchivedTree.decode, what)


def read_spec(archive: Archive, place: RunPlace) -> RunSpec:
    """What was asked of a run. Raises `NotFound`, `HostError`."""
    folders, what = (run_prefix(place.key),), "what was asked of the run is"
    return _newest(archive, folders, "spec.json", MOST_BYTES, RunSpec.decode, what)[1]


def read_record(archive: Archive, place: RunPlace) -> RunRecord:
    """The run as its newest host that has reported did so. Raises `NotFound`, `HostError` for what makes no sense."""

    def decoded(data: bytes) -> RunRecord:
        record = from_json(RunRecord, parse(data, MOST_VALUES))
        if record.status.key != place.key:
            raise ValueError("it is of another run")
        return record

    return _newest(archive, place.folders, "status.json", MOST_RECORD, decoded, f"run {place.key} is")[1]


def _newest(
    archive: Archive, folders: Sequence[str], name: str, most: int, decoded: Callable[[bytes], T], what: str
) -> tuple[str, T]:
    """(the first of these folders that has an object of that name, what it says). Raises `NotFound`, `HostError`."""
    for folder in folders:
        with suppress(Absent):
            return folder, archive.read(folder + name, most, decoded)
    raise NotFound(f"{what} not in {archive.address}")


def details(archive: Archive, place: RunPlace) -> api.RunDetails:
    """A run as its host would describe it. Raises as `read_record`."""
    record, spec = read_record(archive, place), dict[str, Any]()
    with suppress(NotFound):
        spec = read_spec(archive, place).to_record()
    return api.RunDetails(record.status, spec, f"{archive.address}/{place.folders[0]}", record.events)


def statuses(
    archive: Archive, keys: Sequence[str], place: Callable[[str], RunPlace]
) -> tuple[list[RunStatus], dict[str, str]]:
    """(these runs, as far as they are stored; why one can't be read, by its key)."""

    def read(key: str) -> RunStatus | Damaged | None:
        try:
            return read_record(archive, place(key)).status
        except NotFound:
            return None
        except Damaged as error:
            return error

    found = dict(zip(keys, each(read, keys), strict=True))
    unreadable = {key: answer.message for key, answer in found.items() if isinstance(answer, Damaged)}
    return [answer for answer in found.values() if isinstance(answer, RunStatus)], unreadable


def record_end(archive: Archive, place: RunPlace, event: RunEvent, attempt: int = 1) -> RunRecord:
    """Record the end of an attempt whose host is gone, unless the host did, which may have reported nothing before. It
    says what is lost of a command that had started."""
    record = RunRecord(RunStatus(place.key, RunState.QUEUED), [])
    with suppress(NotFound):
        record = read_record(archive, place)
    earlier = record.status.state is RunState.INTERRUPTED and record.attempt < attempt  # others have no next one
    if event.state is None or (record.status.state in FINAL and not earlier):
        return record
    if record.status.started and not earlier and not any(archive.s3.list(place.folders[0] + "outputs")):
        lost = f"{INCOMPLETE}: what it made after {clock(record.status.started)} is lost with its host"
        event = event._replace(message="; ".join(filter(None, (event.message, lost))))
    status = record.status._replace(
        state=event.state, reason=event.reason, code=event.code, message=event.message, ended=event.t
    )
    ended = record._replace(status=status, events=[*record.events, event], time=event.t, attempt=attempt)
    archive.s3.put(place.folders[0] + "status.json", encode(ended))
    return ended


def remove_run(archive: Archive, place: RunPlace) -> bool:
    """Remove all of a run; whether anything was stored. Raises `UsageError` for one that may go on."""
    with suppress(NotFound, Damaged):
        record = read_record(archive, place)
        if record.status.state not in FINAL and archive.clock() - record.time < LIVES:
            raise UsageError(f"the run is {record.status.state.value}", hint="remoterun kill RUN   ends it")
    keys = [stored.key for folder in place.all_folders for stored in archive.s3.list(folder)]
    last = [*(folder + "status.json" for folder in place.all_folders), run_prefix(place.key) + HOSTS]
    archive.s3.delete([key for key in keys if key not in last])
    archive.s3.delete([key for key in last if key in keys])
    return bool(keys)


def follow(
    archive: Archive, place: RunPlace, asked: api.Follow, wait: Callable[[float], bool]
) -> Iterator[Frame | api.Followed]:
    """What a host would answer to `follow`, with its result as the last item. Of a run that goes on, the archive is
    asked again until it has ended; `wait` lets some seconds pass, and returns whether to end. Raises as `read_record`.
    """
    record = read_record(archive, place)
    logs = [Log(archive.s3, place, name) for name in (("log", "err") if record.split else ("log",))]
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
        record = read_record(archive, place)


def _new(logs: Sequence[Log], offsets: dict[str, int], timed: bool, ended: bool) -> Iterator[Frame]:
    """What is new of logs, from `offsets` on, which go on. A piece that is missing is waited for until the end."""
    for log in logs:
        log.refresh()
        while True:
            offset, data, written = log.read(offsets[log.name], 1 << 20, ended)
            if not data:
                break
            times = {"t": written} if timed else {}
            for at in range(0, len(data), PIECE):
                yield Frame({log.name: offset + at, **times}, data[at : at + PIECE])
            offsets[log.name] = offset + len(data)


def measured(
    archive: Archive, place: RunPlace, asked: api.Measured, add: Callable[[str, bytes], None]
) -> tuple[list[str], api.MeasuredUntil]:
    """The answer of a host to `measured`, from the archive, which has it once the run has ended: (names, how many
    points there are). `add` gets the points. Raises as `read_record`."""
    status, folder, names = read_record(archive, place).status, place.folders[0], list[str]()
    with suppress(NotFound):
        folder, names = _newest(archive, place.folders, "metrics.names", MOST_NAMES, _names, "its metrics are")
    metrics = _points(archive, folder + "metrics.points", asked.metrics, MOST_POINTS, partial(add, "metrics"))
    usage = _points(archive, folder + "usage.points", asked.usage, MOST_USAGE, partial(add, "usage"))
    return names[asked.names :], api.MeasuredUntil(metrics, usage, len(names), status)


def _names(data: bytes) -> list[str]:
    names = [from_json(str, parse(line))[:MOST_NAME] for line in data.splitlines()]
    if len(names) > MOST_SERIES:
        raise ValueError("names of too many series")
    return names


def _points(archive: Archive, key: str, at: int, most: int, add: Callable[[bytes], None]) -> int:
    """Where they end."""
    with suppress(Absent):
        while at < most * POINT.size:
            data = archive.s3.get_range(key, at, min(POINTS_AT_ONCE, most * POINT.size - at))
            add(whole := data[: len(data) // POINT.size * POINT.size])
            at += len(whole)
            if len(data) < POINTS_AT_ONCE:
                break
    return at


def log_part(archive: Archive, place: RunPlace, asked: api.LogPart) -> tuple[int, int, bytes]:
    """(where the bytes begin, how many the log has, the bytes): `asked.size` of them at most, and none behind a piece
    that is missing. Raises as `read_record`."""
    read_record(archive, place)
    log = Log(archive.s3, place, asked.name)
    total = log.size()
    begin = at = max(asked.start + total, 0) if asked.start < 0 else min(asked.start, total)
    parts: list[bytes] = []
    while (left := asked.size - (at - begin)) > 0:
        offset, data, _ = log.read(at, min(left, PART), not parts)
        if not data:
            break
        begin = begin if parts else offset
        parts.append(data)
        at = offset + len(data)
    return begin, total, b"".join(parts)


def search_log(archive: Archive, place: RunPlace, asked: api.SearchLog) -> api.Hits:
    """As the host's own `grep` would. Raises as `read_record`."""
    read_record(archive, place)
    log = Log(archive.s3, place, asked.name)
    total, wanted = log.size(), asked.text.encode("utf-8", "surrogatepass").lower()
    hits: list[api.Hit] = []
    begin = at = min(max(asked.start, 0), total)
    rest, deadline = b"", archive.clock() + SEARCH
    while archive.clock() < deadline:
        offset, data, _ = log.read(at, PART, True)
        if not rest or offset != at:
            begin, rest = offset, b""
        at = offset + len(data) if data else total
        *lines, rest = (rest + data).split(b"\n")
        if not data or len(rest) > MOST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            if wanted in line.lower():
                hits.append(api.Hit(begin, line.decode("utf-8", "replace")[:300]))
            begin += len(line) + 1
            if len(hits) == asked.most:
                return api.Hits(hits, min(begin, total), total)
        if not data:
            break
    return api.Hits(hits, min(begin, total), total)


def log_sizes(archive: Archive, place: RunPlace) -> tuple[int, int]:
    """Bytes of the log of a run, and of its stderr where that is apart."""
    log, err = (Log(archive.s3, place, name).size() for name in ("log", "err"))
    return log, err


class Log:
    """The log of a run, or its stderr, in pieces of which some may be missing. Each counts until the next one begins:
    that is of a later attempt, or of a supervisor that did not know how much had come. Of pieces that begin at one
    place that of the newest host counts."""

    def __init__(self, s3: S3, place: RunPlace, name: str = "log") -> None:
        self.name = name
        self._s3, self._folders = s3, [f"{folder}{name}/" for folder in reversed(place.folders)]
        self._pieces: dict[int, StoredObject] = {}
        self._starts: list[int] = []

    def refresh(self) -> None:
        """Learn of pieces that are new, or longer than they were: those of the newest host, once all are known."""
        for folder in self._folders[-1:] if self._starts else self._folders:
            mine = [start for start in self._starts if self._pieces[start].key.startswith(folder)]
            after = (folder + log_key(mine[-1], "")[1:])[:-1] if mine else ""  # the last one may have grown
            for stored in self._s3.list(folder, after, MOST_PIECES):
                name = stored.key[len(folder) :]
                if name.isdecimal() and len(name) == 16:
                    self._pieces[int(name)] = stored
        self._starts = sorted(self._pieces)

    def read(self, offset: int, most: int, skip: bool) -> tuple[int, bytes, float]:
        """(where these bytes begin: at `offset`, or with `skip` after it, where some are missing; up to `most` bytes;
        when they were written, in seconds since 1970 by the store's clock). No bytes where none has come yet."""
        while True:
            found = bisect_right(self._starts, offset)
            following = self._starts[found] if found < len(self._starts) else None
            start = self._starts[found - 1] if found else 0
            piece = self._pieces.get(start)
            if piece is not None:
                end = min(start + piece.size, offset + most, offset + most if following is None else following)
                with suppress(Absent):
                    if data := self._s3.get_range(piece.key, offset - start, max(0, end - offset)):
                        return offset, data, piece.modified
            if following is None or not skip:
                return offset, b"", 0.0
            offset = following

    def size(self) -> int:
        self.refresh()
        return max((start + piece.size for start, piece in self._pieces.items()), default=0)

    def offset_of_tail(self, lines: int) -> int:
        """Where the last `lines` lines begin; a last line without an end counts. What is missing is passed over,
        however long it is."""
        return tail_start(self.size(), lines, self._before)

    def offset_since(self, moment: float) -> int:
        """Where the first piece begins that was written at that time or later."""
        self.refresh()
        young = (start for start, piece in self._pieces.items() if piece.modified >= moment)
        return min(young, default=self.size())

    def _before(self, start: int, end: int) -> tuple[int, bytes]:
        """Bytes that end at `end`, from `start` or a later place on, and that place; none of a piece that is missing,
        and where it would begin."""
        found = bisect_left(self._starts, end) - 1
        if found < 0:
            return 0, b""
        begin = self._starts[found]
        piece, start = self._pieces[begin], max(start, begin)
        if begin + piece.size < end:
            return begin + piece.size, b""
        try:
            return start, self._s3.get_range(piece.key, start - begin, end - start).ljust(end - start, b"\0")
        except Absent:
            return begin, b""
