"""What the bucket of a run has of it, and bringing it there with the run's grant alone; see shared/bucket.py.

While the run goes on, a thread posts its state at each change, and its log piece by piece. At its end come all
contents of its outputs, then what names them, then the rest of the log, and last the record of its end: whoever finds
that one finds all. What the server has confirmed is noted in the run folder, so that a new supervisor goes on from
there. To post something twice does no harm.

A bucket that can't be reached, or a grant that has expired, is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
import traceback
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ..shared import bucket
from ..shared.bucket import CHUNK, SMALL, Chunk, ChunkList, Grant, RunRecord
from ..shared.files import read_bytes, size_of
from ..shared.records import encode, from_json
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, Reason, RunEvent
from ..shared.tree import Entry, Manifest, show
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError
from ..store.posting import Content, Unreadable, post
from ..store.run_folder import RunFolder
from .ending import Ended, note_once

LOOK_EVERY = 2.0
"""Seconds between looks at what is new of a run that goes on."""
LOG_EVERY, LOG_PIECE = 30.0, 4 << 20
"""Seconds, or bytes, after which what is new of the log is posted."""
LAST_PIECE = 16 << 20
"""Bytes of a piece of the log that is posted at the end."""
PACK = 8 << 20
"""Bytes of a pack, small enough for a small machine: each connection holds one in memory."""
MOST_PACKED = 10_000
CONNECTIONS = 4
FAILURES = 3
"""Objects in a row that could not be posted, after which the user is told."""
SHORTEST, LONGEST = 2.0, 30.0
"""Seconds for which everything waits after an object could not be posted."""
POLL = 0.2
THREAD_PATIENCE, LATE = 2.0, 5.0
"""Seconds that the thread gets to end by itself, and after which nothing more comes of what it had sent."""
RECORDS_PATIENCE, KILLED_PATIENCE = 60.0, 10.0
"""Seconds that a run without outputs waits for its bucket: its host costs money, and who kills a run wants it ended."""

_Job = Callable[[HttpClient, Grant], None]


class OutOfTime(Exception):
    """There is no time left for the bucket."""


class BucketCopy:
    """Of one run. `follow` and `complete` are for one supervisor, which calls `complete` at the end."""

    def __init__(self, home: Home, run: RunFolder, spec: RunSpec) -> None:
        self._home, self._run, self._spec = home, run, spec
        self._noted = set(self._read_notes())
        self._streams = {"log": run.log, "err": run.err} if spec.split else {"log": run.log}
        self._before = {"log": spec.log_before, "err": spec.err_before}
        self._posted = {name: self._noted_end(name) for name in self._streams}
        """Bytes of each that the bucket has."""
        self._noting = threading.Lock()
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._http: Optional[HttpClient] = None
        self._was_cut = False
        """Whether the thread was cut off while it posted: a slow server may still take that."""

    # -- while the run goes on

    def follow(self) -> None:
        """Post what is new, on a thread, until `complete` is called."""
        self._thread = threading.Thread(target=self._follow, name="remoterun posts", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        told, log_time = -1, time.monotonic()
        failing = 0
        with HttpClient() as http:
            self._http = http
            while not self._stopped.wait(LOOK_EVERY):
                try:
                    size = os.stat(self._run.events_file).st_size
                    if size != told:
                        self._post_record(http, self._grant())
                        told = size
                    new = sum(size_of(path) - self._posted[name] for name, path in self._streams.items())
                    if new >= LOG_PIECE or (new and time.monotonic() - log_time >= LOG_EVERY):
                        self._post_log(http, self._grant(), LOG_PIECE)
                        log_time = time.monotonic()
                    failing = 0
                except HttpError as error:
                    failing += 1
                    if error.expired or failing > FAILURES:
                        note_once(
                            self._run, "its log is not in the bucket %s: %s" % (self._spec.bucket, self._why(error))
                        )
                    self._await_grant(min(LONGEST, SHORTEST * 2**failing), self._stopped.is_set)
                except (OSError, ValueError, Unreadable):  # such as a full disk; the run's own end tells it
                    self._stopped.wait(LONGEST)

    def _end_thread(self) -> None:
        """No record that it posts may stand after the one of the run's end."""
        if self._thread is None:
            return
        self._stopped.set()
        self._thread.join(THREAD_PATIENCE)
        while self._thread.is_alive():
            self._was_cut = True
            if self._http is not None:
                self._http.cut()
            self._thread.join(POLL)
        self._thread = None

    # -- its end

    def complete(self, end: Ended, patient: bool) -> Dict[str, Any]:
        """Bring all of the run into the bucket; the fields of its last event, with `kept` if the bucket has all of it.

        Blocks until then, or until it is not worth waiting any more: the host goes away, somebody wants the run to end
        at once, or, unless `patient`, some time has passed. Raises `Ended` when the run is killed meanwhile.
        """
        self._end_thread()
        patience = float("inf") if patient else KILLED_PATIENCE if end.reason is Reason.KILLED else RECORDS_PATIENCE
        deadline = time.monotonic() + patience
        failures = 0
        problem, faulty = "there was no time left", False

        def given_up() -> bool:
            if self._run.kill_asked() and end.reason is not Reason.KILLED:
                raise Ended(Reason.KILLED, code=end.fields.get("code"))
            return time.time() > self._home.rental.last_moment() or time.monotonic() > deadline

        def not_awaited() -> bool:
            return given_up() or (self._run.stop_asked() is not None and end.reason is not Reason.STOPPED)

        while True:
            before = len(self._noted)
            try:
                return self._bring(end, given_up)
            except HttpError as error:
                problem = self._why(error)
                note_once(self._run, "waiting for the bucket %s: %s" % (self._spec.bucket, problem))
                failures = failures + 1 if len(self._noted) == before else 1
                if self._await_grant(min(LONGEST, SHORTEST * 2 ** (failures - 1)), not_awaited):
                    break
            except OutOfTime:
                break
            except Ended:
                raise
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the run gets its end
                traceback.print_exc()
                problem, faulty = str(error), True
                break
        message = "not all of it is in the bucket %s: %s" % (self._spec.bucket, problem)
        before_it = end.fields.get("message")
        fields = dict(end.fields, message="%s; %s" % (before_it, message) if before_it else message)
        if faulty:  # who finds the run after its host is gone learns how it ended all the same
            with contextlib.suppress(HttpError, OutOfTime, OSError, ValueError, Unreadable):
                jobs: List[_Job] = [lambda http, grant: self._post_log(http, grant, LAST_PIECE)]
                jobs.append(lambda http, grant: self._post_record(http, grant, _last(end, fields)))
                self._run_jobs(iter(jobs), 1, self._grant(), given_up)
        return fields

    def _bring(self, end: Ended, given_up: Callable[[], bool]) -> Dict[str, Any]:
        """Raises `HttpError`, `OutOfTime`, `Ended`."""
        grant = self._grant()
        outputs: List[_Job] = []
        jobs: Iterator[_Job] = iter(())
        if end.reason is not Reason.KILLED and os.path.exists(self._run.outputs_file):
            data = read_bytes(self._run.outputs_file)
            jobs = self._contents(Manifest.decode(data))
            outputs = [self._job("outputs", lambda: Content.of(data))]
        named: List[_Job] = [
            self._job("spec.json", lambda: Content.of(read_bytes(self._run.spec_file))),
            self._job("source", lambda: Content.of(read_bytes(self._run.source_file))),
            *outputs,
            lambda http, grant: self._post_log(http, grant, LAST_PIECE),
        ]
        last: Dict[str, Any] = {}

        def record(http: HttpClient, grant: Grant) -> None:
            fields = dict(end.fields) if end.unsaved else dict(end.fields, kept=True)
            last.update(_last(end, fields))
            self._post_record(http, grant, last)
            if self._was_cut:
                time.sleep(LATE)
                self._post_record(http, grant, last)

        # A small thing first: a server may refuse a large one before it has read it all, and then we learn no reason.
        self._run_jobs(iter([self._post_record]), 1, grant, given_up)
        self._run_jobs(jobs, CONNECTIONS, grant, given_up)
        self._run_jobs(iter([*named, record]), 1, grant, given_up)
        return {name: value for name, value in last.items() if name not in ("state", "reason")}

    def _run_jobs(self, jobs: Iterator[_Job], threads: int, grant: Grant, given_up: Callable[[], bool]) -> None:
        """Do all of them, in their order, several at once. Raises what one raised, `OutOfTime` and `Ended`."""
        failures: List[BaseException] = []
        lock = threading.Lock()

        def work() -> None:
            try:
                with HttpClient() as http:
                    while not failures:
                        with lock:
                            job = next(jobs, None)
                        if job is None:
                            return
                        job(http, grant)
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)

        workers = [threading.Thread(target=work, name="remoterun posts", daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(POLL)
                    if given_up():
                        raise OutOfTime
        except BaseException as error:
            failures.append(error)  # the others end, too
            raise
        if failures:
            raise failures[0]

    # -- contents of the outputs

    def _contents(self, manifest: Manifest) -> Iterator[_Job]:
        group: List[Entry] = []
        size = 0
        for entry in {entry.digest: entry for entry in manifest.files}.values():
            if entry.size > CHUNK:
                yield self._large(entry)
            elif entry.size > SMALL:
                yield self._job(bucket.blob_key(entry.digest), functools.partial(self._content, entry))
            else:
                group.append(entry)
                size += entry.size
                if size >= PACK or len(group) >= MOST_PACKED:
                    yield self._pack(group)
                    group, size = [], 0
        if group:
            yield self._pack(group)

    def _content(self, entry: Entry) -> Content:
        return Content(entry.size, entry.digest, path=self._home.blobs.path(entry.digest))

    def _pack(self, entries: List[Entry]) -> _Job:
        name = "pack " + hashlib.sha256(b"".join(bytes.fromhex(entry.digest) for entry in entries)).hexdigest()

        def job(http: HttpClient, grant: Grant) -> None:
            if name in self._noted:
                return
            pack = bucket.packed((one.digest, self._small(one)) for one in entries)
            post(http, grant, bucket.pack_key(pack.name), Content.of(pack.data))
            post(http, grant, bucket.index_key(pack.name), Content.of(pack.listing))
            self._note(name)

        return job

    def _small(self, entry: Entry) -> bytes:
        data = b"".join(self._content(entry).pieces())
        if hashlib.sha256(data).hexdigest() != entry.digest:  # the server can't know it, as it gets a pack
            raise _damaged(entry)
        return data

    def _large(self, entry: Entry) -> _Job:
        path = self._home.blobs.path(entry.digest)
        key = bucket.list_key(entry.digest)

        def job(http: HttpClient, grant: Grant) -> None:
            if key in self._noted:
                return
            chunks = []
            whole = hashlib.sha256()
            for offset in range(0, entry.size, CHUNK):
                content = Content.of_file(path, offset, min(CHUNK, entry.size - offset), whole)
                chunks.append(Chunk(content.digest, content.size))
                chunk_key = bucket.blob_key(content.digest)
                if chunk_key not in self._noted:
                    self._post(http, grant, chunk_key, content)
            if whole.hexdigest() != entry.digest:
                raise _damaged(entry)
            self._post(http, grant, key, Content.of(encode(ChunkList(entry.size, chunks))))

        return job

    # -- objects

    def _job(self, key: str, content: Callable[[], Content]) -> _Job:
        def job(http: HttpClient, grant: Grant) -> None:
            if key not in self._noted:
                self._post(http, grant, key, content())

        return job

    def _post(self, http: HttpClient, grant: Grant, key: str, content: Content) -> None:
        post(http, grant, key, content)
        self._note(key)

    def _post_log(self, http: HttpClient, grant: Grant, most: int) -> None:
        for name, path in self._streams.items():
            size = size_of(path)
            while self._posted[name] < size:
                at = self._posted[name]
                content = Content.of_file(path, at, min(most, size - at))
                post(http, grant, bucket.log_key(self._before[name] + at, name), content)
                self._posted[name] += content.size
                self._note("%s %d" % (name, self._posted[name]))

    def _noted_end(self, name: str) -> int:
        return max([0, *(int(note[4:]) for note in self._noted if note.startswith(name + " "))])

    def _post_record(self, http: HttpClient, grant: Grant, last: Optional[Dict[str, Any]] = None) -> None:
        """The run as it is now, or as it will be after its `last` event."""
        events = self._run.events() + ([last] if last else [])
        status = self._run.status(last)
        status = status._replace(log_size=status.log_size + self._spec.log_before)
        told = [from_json(RunEvent, event) for event in events]
        record = RunRecord(status, told, self._spec.number, time.time(), self._spec.split)
        post(http, grant, "status.json", Content.of(encode(record)))

    # -- what is known

    def _grant(self) -> Grant:
        grant = self._run.grant()
        if grant is None:
            raise HttpError("no permission has come", 403, expired=True)
        return grant

    def _await_grant(self, seconds: float, ended: Callable[[], bool]) -> bool:
        """Sleep so long, or until another grant has come. Whether it `ended`."""
        deadline = time.monotonic() + seconds
        known = self._grant_mark()
        while time.monotonic() < deadline and self._grant_mark() == known:
            if ended():
                return True
            time.sleep(POLL)
        return False

    def _grant_mark(self) -> Tuple[int, int]:
        try:
            about = os.stat(self._run.grant_file)
        except OSError:
            return (0, 0)
        return (about.st_mtime_ns, about.st_ino)

    def _why(self, error: HttpError) -> str:
        if error.expired:
            return "the permission has expired; any `remoterun ps` renews it"
        return error.message

    def _read_notes(self) -> List[str]:
        """A line that a crash cut does not count."""
        try:
            return read_bytes(self._run.kept_file).decode("ascii", "replace").split("\n")[:-1]
        except FileNotFoundError:
            return []

    def _note(self, note: str) -> None:
        """Where the disk is full it is known as long as this process lives."""
        with self._noting:
            self._noted.add(note)
            with contextlib.suppress(OSError), open(self._run.kept_file, "ab", buffering=0) as file:
                file.write(b"%s\n" % note.encode())


def _last(end: Ended, fields: Dict[str, Any]) -> Dict[str, Any]:
    """The event of the end, now."""
    event = {"t": round(time.time(), 3), "state": ENDINGS[end.reason].state.value, "reason": end.reason.value}
    return dict(event, **fields)


def _damaged(entry: Entry) -> Unreadable:
    return Unreadable("the content of %s is damaged on the host" % show(entry.path))
