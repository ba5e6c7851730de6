"""Requests about runs, as their hosts left them in the bucket: see agent/shared/bucket.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import RunRecord
from remoterun.agent.shared.following import Follower
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.log_tail import offset_of_tail
from remoterun.agent.shared.protocol import Cancelled, RemoteError, Stream
from remoterun.agent.shared.records import decode, encode, to_json
from remoterun.agent.shared.spec import KEY, MOST_BYTES, ResourceRef, RunSpec, SpecError
from remoterun.agent.shared.states import FINAL, RunEvent, RunState, RunStatus
from remoterun.agent.shared.tree import Manifest, show
from remoterun.buckets.s3 import S3, Absent, Damaged
from remoterun.buckets.serving import Bucket, Call, Handler
from remoterun.buckets.uploads import read_tree

POLL = 5.0
"""Seconds between two looks at a run that goes on."""
LIVES = 86400.0
"""Seconds after its last word for which a run that has not ended may still go on."""
MOST_RECORD = 8 << 20
"""Bytes of a run's status."""
MOST_PIECES = 1_000_000


def runs(call: Call, asked: api.RunKeys) -> api.Statuses:
    s3 = call.bucket.s3
    listed = s3.folders("runs/") if asked.keys is None else asked.keys
    keys = [key for key in listed if KEY.match(key)]

    def look(key: str) -> RunStatus | str | None:
        try:
            return read_record(s3, key).status
        except Absent:
            return None
        except Damaged as error:
            return error.message

    found: list[RunStatus] = []
    unreadable: dict[str, str] = {}
    for key, status in zip(keys, call.bucket.workers.each(look, keys), strict=True):
        if isinstance(status, str):
            unreadable[key] = status
        elif status is not None:
            found.append(status)
    return api.Statuses(found, unreadable)


def run(call: Call, asked: api.RunKey) -> api.RunDetails:
    record = existing(call.bucket, asked.key)
    key = layout.run_prefix(asked.key) + "spec.json"
    spec: dict[str, Any] = {}  # a host writes it when the run ends
    with suppress(Absent):
        try:
            spec = RunSpec.decode(call.bucket.s3.get(key, MOST_BYTES)).to_record()
        except SpecError as error:
            raise call.bucket.s3.bad(key, str(error)[:200])
    folder = f"{call.bucket.s3.place.address}/{layout.run_prefix(asked.key)}"
    return api.RunDetails(record.status, spec, folder, record.events)


def stop(call: Call, asked: api.EndRun) -> api.Asked:
    return _cannot_end(call.bucket, asked.key)


def kill(call: Call, asked: api.RunKey) -> api.Asked:
    return _cannot_end(call.bucket, asked.key)


def remove_run(call: Call, asked: api.RunKey) -> api.Removed:
    _check_key(asked.key)
    s3 = call.bucket.s3
    try:
        record: RunRecord | None = read_record(s3, asked.key)
    except (Absent, Damaged):
        record = None
    if record is not None and record.status.state not in FINAL and call.bucket.clock() - record.time < LIVES:
        raise RemoteError("busy", f"the run is {record.status.state.value}", "remoterun kill RUN   ends it")
    prefix = layout.run_prefix(asked.key)
    keys = [stored.key for stored in s3.list(prefix)]
    s3.delete([key for key in keys if key != prefix + "status.json"])
    s3.delete([key for key in keys if key == prefix + "status.json"])
    call.bucket.contents.forget_run(asked.key)
    return api.Removed(bool(keys))


def follow(call: Call, asked: api.Follow) -> api.Followed:
    record = existing(call.bucket, asked.key)
    logs = [Log(call.bucket.s3, asked.key, name) for name in (("log", "err") if record.split else ("log",))]
    starts = {"log": asked.offset, "err": asked.err}
    for log in logs:
        if asked.tail is not None:
            starts[log.name] = log.offset_of_tail(asked.tail)
        if asked.since is not None:
            starts[log.name] = max(starts[log.name], log.offset_since(asked.since))
    if asked.tail is not None or asked.since is not None:
        call.stream.send(starts=starts)
    sender = _LogSender(call.stream, logs, starts, asked.timed)
    follower = Follower(call.stream, _events(record), asked.events, sender.send)
    follower.started = follower.started or record.status.log_size > 0  # that of an earlier attempt
    while True:
        follower.send_news(_events(record, follower.events))
        if follower.done or not asked.follow:
            return api.Followed(record.status, starts["log"], follower.events, starts["err"])
        if call.stream.wait_cancelled(POLL):
            raise Cancelled
        record = existing(call.bucket, asked.key)


HANDLERS: dict[str, Handler] = {
    "runs": runs,
    "run": run,
    "stop": stop,
    "kill": kill,
    "remove_run": remove_run,
    "follow": follow,
}


def read_record(s3: S3, key: str) -> RunRecord:
    """The run as its host last told. Raises `Absent`, and `HostError` for what makes no sense."""
    name = layout.run_prefix(key) + "status.json"
    try:
        record = decode(RunRecord, s3.get(name, MOST_RECORD))
    except ValueError as error:
        raise s3.bad(name, str(error)[:200])
    if record.status.key != key:
        raise s3.bad(name, "it is of another run")
    return record


def existing(bucket: Bucket, key: str) -> RunRecord:
    """The run of that key. Raises `RemoteError("not_found")`."""
    _check_key(key)
    try:
        return read_record(bucket.s3, key)
    except Absent:
        raise RemoteError("not_found", f"there is no run {key}")


def settle(s3: S3, key: str, event: RunEvent) -> RunRecord:
    """Write the end of a run whose host is gone, unless it has one. Its host may have told nothing before."""
    try:
        record = read_record(s3, key)
    except Absent:
        record = RunRecord(RunStatus(key, RunState.QUEUED), [])
    if record.status.state in FINAL or event.state is None:
        return record
    status = record.status._replace(
        state=event.state, reason=event.reason, code=event.code, message=event.message, ended=event.t
    )
    ended = record._replace(status=status, events=[*record.events, event], time=event.t)
    s3.write(layout.run_prefix(key) + "status.json", encode(ended))
    return ended


def outputs_of(bucket: Bucket, resource: ResourceRef) -> tuple[Manifest, dict[str, Any]]:
    """The outputs of a run, and its state. Afterwards their contents are found."""
    record = existing(bucket, resource.key)
    try:
        manifest = read_tree(bucket.s3, layout.run_prefix(resource.key) + "outputs")
    except Absent:
        raise RemoteError(
            "not_saved", f"the outputs of {show(resource.typed)} are not in the bucket", "remoterun info RUN"
        )
    bucket.contents.of_run(resource.key)
    return manifest, {"state": record.status.state.value}


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
        self._s3, self._prefix = s3, layout.run_prefix(key)
        self._pieces: dict[int, LogObject] = {}

    def look(self) -> None:
        """Learn of pieces that are new, or longer than they were."""
        after = ""
        if self._pieces:  # the last one may have grown: from before it on
            after = (self._prefix + layout.log_key(max(self._pieces), self.name))[:-1]
        folder = f"{self._prefix}{self.name}/"
        while True:
            page = self._s3.page(folder, after)
            for stored in page.objects:
                name = stored.key.rpartition("/")[2]
                if not (name.isdecimal() and len(name) == 16 and stored.key == folder + name):
                    raise self._s3.bad(stored.key, "its name is not a place in a log")
                self._pieces[int(name)] = LogObject(int(name), int(name) + stored.size, stored.modified)
            if len(self._pieces) > MOST_PIECES:
                raise self._s3.bad(folder, "it has too many pieces")
            if not page.more:
                return
            after = page.objects[-1].key

    def at(self, offset: int) -> LogObject | None:
        """The piece that goes on longest from `offset`; None where there is none yet."""
        fitting = [piece for piece in self._pieces.values() if piece.start <= offset < piece.end]
        return max(fitting, key=lambda piece: piece.end, default=None)

    def after(self, offset: int) -> int | None:
        """Where the first piece after `offset` begins."""
        return min((piece.start for piece in self._pieces.values() if piece.start > offset), default=None)

    def read(self, piece: LogObject, offset: int, most: int) -> bytes:
        """Bytes of a piece from `offset` of the log on."""
        key = self._prefix + layout.log_key(piece.start, self.name)
        try:
            return self._s3.get_range(key, offset - piece.start, min(most, piece.end - offset))
        except Absent:
            return b""

    def offset_of_tail(self, lines: int) -> int:
        """Where the last `lines` lines begin; a last line without an end counts."""
        self.look()
        size = max((piece.end for piece in self._pieces.values()), default=0)
        return offset_of_tail(size, lines, self._between)

    def offset_since(self, moment: float) -> int:
        """Where the first piece begins that was written at that time or later."""
        self.look()
        late = [piece.start for piece in self._pieces.values() if piece.written >= moment]
        return min(late, default=max((piece.end for piece in self._pieces.values()), default=0))

    def _between(self, start: int, end: int) -> bytes:
        """The bytes of the log there; zero bytes where a piece is missing."""
        data = bytearray()
        while start + len(data) < end:
            at = start + len(data)
            piece = self.at(at)
            came = self.read(piece, at, end - at) if piece is not None else b""
            data += came or bytes(min(end, self.after(at) or end) - at)
        return bytes(data)


class _LogSender:
    """Sends what is new of the logs of one run, from `offsets` on, which are by their names."""

    def __init__(self, stream: Stream, logs: list[Log], offsets: dict[str, int], timed: bool) -> None:
        self._stream, self._logs, self._timed = stream, logs, timed
        self.offsets = offsets

    def send(self, state: RunState | None) -> bool:
        """A piece that is missing is waited for, and passed over before an event whose `state` is an end."""
        before = dict(self.offsets)
        for log in self._logs:
            log.look()
            for piece, data in self._new_pieces(log, state in FINAL):
                header: dict[str, Any] = {log.name: self.offsets[log.name]}
                if self._timed:
                    header["t"] = piece.written
                self._stream.send(data, **header)
                self.offsets[log.name] += len(data)
        return self.offsets != before

    def _new_pieces(self, log: Log, ended: bool) -> Iterator[tuple[LogObject, bytes]]:
        while True:
            offset = self.offsets[log.name]
            piece = log.at(offset)
            data = log.read(piece, offset, 1 << 20) if piece is not None else b""
            if piece is not None and data:
                for at in range(0, len(data), PIECE):
                    yield piece, data[at : at + PIECE]
                continue
            following = log.after(offset)
            if not ended or following is None:
                return
            self.offsets[log.name] = following


def _events(record: RunRecord, skip: int = 0) -> list[dict[str, Any]]:
    """As a host tells them: without what is not set."""
    return [
        {name: value for name, value in to_json(event).items() if value not in (None, False)}
        for event in record.events[skip:]
    ]


def _cannot_end(bucket: Bucket, key: str) -> api.Asked:
    record = existing(bucket, key)
    if record.status.state in FINAL:
        return api.Asked(False, record.status)
    raise RemoteError(
        "no_machine", "the machine of the run is not reached", "remoterun machines rented   lists the machines that run"
    )


def _check_key(key: str) -> None:
    if not KEY.match(key):
        raise RemoteError("not_found", f"there is no run {show(key[:80])}")
