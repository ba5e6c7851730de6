"""Copies of runs in the archive: what their clients asked for, and what their hosts made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import MOST_RECORD, MOST_RUN_TREES, ArchivedTree, RunRecord, host_prefix, run_prefix
from remoterun.agent.shared.facts import RunEvent, RunStatus
from remoterun.agent.shared.measured import MOST_POINTS, MOST_USAGE, POINT
from remoterun.agent.shared.points import MOST_NAMES
from remoterun.agent.shared.records import Record, encode, from_json, parse
from remoterun.agent.shared.spec import KEY, MOST_BYTES, RunSpec
from remoterun.agent.shared.states import FINAL, INCOMPLETE, RunState
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive.objects import Absent, Damaged, StoredObject
from remoterun.errors import NotFound, UsageError
from remoterun.model import by_our_clock, check_time
from remoterun.sizes import clock
from remoterun.threads import each

if TYPE_CHECKING:
    from remoterun.transfer.progress import Progress
    from remoterun.transfer.reading import Reading

T = TypeVar("T")

LIVES = 86400.0
"""Seconds after its last report for which a run that has not ended may still go on."""
MOST_VALUES = 1 << 16
"""Of a run's status, as `parse` counts them."""
MOST_PIECES = 1 << 18
"""Pieces of a log: one each half minute, for three months."""
MOST_LOG = 1 << 60
"""Bytes of a log: more than a name of a piece can say."""
PART = 4 << 20
"""Bytes of a log, or of points, that one request asks for."""
HOSTS = "hosts"
WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.=@,+-]{0,127}\Z")


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
    from remoterun.archive.writing import put_tree

    archived, _ = put_tree(archive, run_prefix(key), tree, progress)
    archive.objects.put(run_prefix(key) + name, archived.encode(archive.clock()))
    return archived


def put_spec(archive: Archive, place: RunPlace, spec: bytes) -> None:
    """Record what was asked of a run, and, before its host may write there, whose folders are the run's."""
    if any(place.writers):
        archive.objects.put(run_prefix(place.key) + HOSTS, encode(place.writers))
    archive.objects.put(run_prefix(place.key) + "spec.json", spec)


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
        check_time(record.time)
        return record._replace(status=by_our_clock(record.status), events=[by_our_clock(it) for it in record.events])

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
    if record.status.started and not earlier and not any(archive.objects.list(place.folders[0] + "outputs")):
        lost = f"{INCOMPLETE}: what it made after {clock(record.status.started)} is lost with its host"
        event = event._replace(message="; ".join(filter(None, (event.message, lost))))
    status = record.status._replace(
        state=event.state, reason=event.reason, code=event.code, message=event.message, ended=event.t
    )
    ended = record._replace(status=status, events=[*record.events, event], time=event.t, attempt=attempt)
    archive.objects.put(place.folders[0] + "status.json", encode(ended))
    return ended


def remove_run(archive: Archive, place: RunPlace) -> bool:
    """Remove all of a run; whether anything was stored. Raises `UsageError` for one that may go on."""
    with suppress(NotFound, Damaged):
        record = read_record(archive, place)
        if record.status.state not in FINAL and archive.clock() - record.time < LIVES:
            raise UsageError(f"the run is {record.status.state.value}", hint="remoterun kill RUN   ends it")
    keys = [stored.key for folder in place.all_folders for stored in archive.objects.list(folder)]
    last = [*(folder + "status.json" for folder in place.all_folders), run_prefix(place.key) + HOSTS]
    archive.objects.delete([key for key in keys if key not in last])
    archive.objects.delete([key for key in last if key in keys])
    return bool(keys)


class ArchivedPiece(Record):
    """Bytes of an object that count in a log: `length` of them, from `skipped` on, which stand at `start` of the log.
    `written`: in seconds since 1970 by the store's clock."""

    start: int
    key: str
    skipped: int
    length: int
    written: float


def log_pieces(archive: Archive, place: RunPlace, name: str, start: int = 0) -> list[ArchivedPiece]:
    """What is stored of the log of a run from byte `start` on, or of its "err", in order; some may be missing. A piece
    counts until the next one begins: that is of a later attempt, or of a supervisor that did not know how much had
    come. Of pieces that begin at one place that of the newest host counts. Raises `HostError`."""
    stored: dict[int, StoredObject] = {}
    for prefix in (f"{folder}{name}/" for folder in reversed(place.folders)):
        for found in archive.objects.list(prefix, most=MOST_PIECES):
            offset = found.key[len(prefix) :]
            if offset.isdecimal() and len(offset) == 16:
                stored[int(offset)] = found
    starts = sorted(stored)
    pieces = []
    for begin, following in pairwise([*starts, MOST_LOG]):
        first, end = max(begin, start), min(begin + stored[begin].size, following)
        if first < end:
            pieces.append(ArchivedPiece(first, stored[begin].key, first - begin, end - first, stored[begin].modified))
    return pieces


def read_log(archive: Archive, pieces: Iterable[ArchivedPiece]) -> Iterator[tuple[ArchivedPiece, bytes]]:
    """Each with its bytes, several read at once; of one that was removed meanwhile, or that is shorter by now, those
    that there are. A long one comes in several. Raises `HostError`."""
    parts = (
        ArchivedPiece(piece.start + at, piece.key, piece.skipped + at, min(PART, piece.length - at), piece.written)
        for piece in pieces
        for at in range(0, piece.length, PART)
    )

    def read(part: ArchivedPiece) -> tuple[ArchivedPiece, bytes]:
        with suppress(Absent):
            return part, archive.objects.get_range(part.key, part.skipped, part.length)
        return part, b""

    return each(read, parts)


def log_sizes(archive: Archive, place: RunPlace) -> tuple[int, int]:
    """Bytes of the log of a run, and of its stderr where that is apart."""
    log, err = (sum(piece.start + piece.length for piece in log_pieces(archive, place, n)[-1:]) for n in ("log", "err"))
    return log, err


def read_points(archive: Archive, place: RunPlace) -> Iterator[tuple[str, bytes]]:
    """(name of a file, further bytes of it) of what was measured of a run, which the archive has once that has ended.
    Raises `HostError`."""
    folder = place.folders[0]
    with suppress(NotFound):
        folder, names = _newest(archive, place.folders, "metrics.names", MOST_NAMES, _names, "its metrics are")
        yield "metrics.names", names
    for name, most in (("metrics.points", MOST_POINTS), ("usage.points", MOST_USAGE)):
        with suppress(Absent):
            for at in range(0, most * POINT.size, PART):
                data = archive.objects.get_range(folder + name, at, min(PART, most * POINT.size - at))
                yield name, data
                if len(data) < PART:
                    break


def _names(data: bytes) -> bytes:
    """The lines of `metrics.names`, if each is a name. Raises `ValueError`."""
    names = [from_json(str, parse(line)) for line in data.splitlines()]
    return b"".join(encode(name) + b"\n" for name in names)
