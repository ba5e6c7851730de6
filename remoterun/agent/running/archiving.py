"""A run's copy in the archive, written with the run's grant alone; see shared/archive.py.

While the run goes on, a thread posts its state at each change, and its log piece by piece. At its end come all contents
of its outputs, then the tree that names them, then the rest of the log, and last the record of its end: whoever finds
that one finds all. What the server has confirmed is noted in the run folder, so that a new supervisor goes on from
that. To post something twice does no harm. Where the host can't reach the bucket, to post is to wait for a client.

A bucket that can't be reached, or is gone, and a grant that is refused are waited for, for an hour unless the run says
otherwise: the host costs money meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import traceback
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ..shared.archive import PACK, ArchivedTree, Extent, Grant, Places, RunRecord, contents_of, log_key, pack_key
from ..shared.asked import WAIT_FOR_LOGIN
from ..shared.facts import RunEvent
from ..shared.files import read_bytes, remove_tree, size_of, text_of
from ..shared.logs import LOG_PIECE
from ..shared.records import encode, from_json
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, INCOMPLETE, Reason
from ..shared.tree import Manifest, show
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError, Job, run_jobs
from ..store.objects import CARRIED, Content, FilePart, Unreadable, post
from ..store.run_folder import GIVEN_UP, RunFolder
from .ending import Ended, note_once

CHECK_EVERY = 2.0
"""Seconds between two checks for what is new of a run that goes on."""
LOG_EVERY = 30.0
"""Seconds after which what is new of the log is posted, if a piece of it has not come before."""
CONNECTIONS = 4
FAILURES = 3
"""Failures in a row after which the user reads of them."""
SHORTEST, LONGEST = 2.0, 30.0
"""Seconds for which everything waits after a failure."""
POLL = 0.2
SETTLED = 50 << 20
"""Bytes a second that a mounted bucket, which is written after files are closed, takes at the least."""
RECORDS_PATIENCE, KILLED_PATIENCE = 60.0, 10.0
"""Seconds that a run without outputs waits for its bucket: its host costs money, and who kills a run wants it ended."""


class OutOfTime(Exception):
    """No time remains for the archive."""


class RunArchiving:
    """Of one run. `follow` and `complete` are for one supervisor, which calls `complete` at the end."""

    def __init__(self, home: Home, run: RunFolder, spec: RunSpec) -> None:
        self._home, self._run, self._spec = home, run, spec
        remove_tree(run.outgoing)  # an earlier supervisor's, which are older than what is posted from now on
        self._noted = dict.fromkeys(text_of(run.archived_file).split("\n")[:-1])  # no line that a crash cut
        self._noting = threading.Lock()
        self._streams = {"log": run.log, "err": run.err} if spec.split else {"log": run.log}
        self._before = {"log": spec.log_before, "err": spec.err_before}
        self._posted = {name: self._noted_end(name) for name in self._streams}
        """Bytes of each that the archive has."""
        self._written = 0
        """Bytes that this process has put there, besides."""
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None

    # -- while the run goes on

    def follow(self) -> None:
        """Post what is new, on a thread, until `complete` is called."""
        self._thread = threading.Thread(target=self._follow, name="remoterun posts", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        recorded, log_time = -1, time.monotonic()
        failing, said = 0, False
        with HttpClient() as http:
            while not self._stopped.wait(CHECK_EVERY):
                try:
                    size = os.stat(self._run.events_file).st_size
                    if size != recorded:
                        self._post_record(http)
                        recorded = size
                    new = sum(size_of(path) - self._posted[name] for name, path in self._streams.items())
                    if new >= LOG_PIECE or (new and time.monotonic() - log_time >= LOG_EVERY):
                        self._post_log(http, self._stopped.is_set)
                        log_time = time.monotonic()
                    self._run.refused("")
                    if said:
                        note_once(self._run, "its log is in the bucket %s again" % self._spec.bucket)
                    failing, said = 0, False
                except HttpError as error:
                    failing += 1
                    is_bad = error.refused or failing > FAILURES
                    said = error.code != CARRIED and (said or is_bad)  # it is fetched when somebody looks
                    note = "its log is not in the bucket %s: %s" % (self._spec.bucket, _why(error))
                    self._report(error, note if said else "")
                    self._await_grant(failing, self._stopped.is_set)
                except (OSError, ValueError, Unreadable):  # such as a full disk, which the run's end reports
                    self._stopped.wait(LONGEST)

    # -- its end

    def complete(self, end: Ended, patient: bool) -> Dict[str, Any]:
        """Put all of the run into the archive; the fields of its last event, with `kept` if the archive has all of it.

        Blocks until then, or until it is not worth waiting any more: the host goes away, somebody wants the run to end
        at once, or, unless `patient`, some time has passed. Raises `Ended` when the run is killed meanwhile.
        """
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()  # by itself: no record that it posts may come to stand after the one of the run's end
        patience = _Patience(self._home, self._run, end, patient)
        failures, problem = 0, "there was no time for it"
        while True:
            before = len(self._noted)
            try:
                return self._put_all(end, patience.check)
            except HttpError as error:
                failures = failures + 1 if len(self._noted) == before else 1
                problem = _why(error)
                waiting = "waiting for the bucket %s: %s" % (self._spec.bucket, problem)
                self._report(error, "waiting to be fetched" if error.code == CARRIED else waiting)
                seconds = self._spec.wait_for_login or WAIT_FOR_LOGIN
                patience.until = self._began_waiting() + seconds
                if not self._await_grant(failures - 1, patience.is_over):
                    continue
                if time.time() > patience.until:
                    self._note(GIVEN_UP)
                    problem = "%.3g min of waiting were in vain (%s)" % (seconds / 60, error.message)
                return self._incomplete(end, problem)
            except OutOfTime:
                return self._incomplete(end, problem)
            except Ended:
                raise
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the run gets its end
                traceback.print_exc()
                return self._put_records(end, self._incomplete(end, str(error)), patience.check)

    def _report(self, error: HttpError, note: str) -> None:
        """Let the user read of it, and the next client that is in touch renew a grant that was refused."""
        self._run.refused(error.message if error.refused else "")
        if note:
            note_once(self._run, note)

    def _put_records(self, end: Ended, fields: Dict[str, Any], check: Callable[[], None]) -> Dict[str, Any]:
        """`fields`. Who finds the run after its host is gone learns how it ended, though its files are not archived."""
        last = _last(end, fields)
        with contextlib.suppress(HttpError, OutOfTime, OSError, ValueError, Unreadable):
            log, record = partial(self._post_log, enough=check), partial(self._post_record, last=last)
            run_jobs(iter([log, *self._points(), record]), 1, check)
        return fields

    def _incomplete(self, end: Ended, problem: str) -> Dict[str, Any]:
        """The fields of the last event of a run of which the archive does not have all."""
        message = "%s %s: %s" % (INCOMPLETE, self._spec.bucket, problem)
        outputs = end.fields.get("outputs", {}).get("files") if "outputs" not in self._noted else 0
        missing = ["its outputs (%d files)" % outputs] if outputs else []
        if any(self._posted[name] < size_of(path) for name, path in self._streams.items()):
            missing.append("the end of its log")
        if missing:
            message += "; %s: on its host alone, and lost with it" % " and ".join(missing)
        return dict(end.fields, message="; ".join(filter(None, (end.fields.get("message"), message))))

    def _put_all(self, end: Ended, check: Callable[[], None]) -> Dict[str, Any]:
        """Raises `HttpError`, `Unreadable`, and what `check` raises."""
        last = _last(end, dict(end.fields) if end.unsaved else dict(end.fields, kept=True))
        # A small thing first: a server may refuse a large one before it has read it all, and then we learn no reason.
        run_jobs(iter([self._post_record, *self._points()]), 1, check)
        if end.reason is not Reason.KILLED and os.path.exists(self._run.outputs_file):
            tree = ArchivedTree(Manifest.decode(read_bytes(self._run.outputs_file)), {})
            run_jobs(self._packs(tree.manifest, tree.places), CONNECTIONS, check)
            run_jobs(iter([self._job("outputs", Content.of(tree.encode(time.time())))]), 1, check)
        run_jobs(iter([partial(self._post_log, enough=check)]), 1, check)
        self._settle(check)
        run_jobs(iter([partial(self._post_record, last=last)]), 1, check)
        return {name: value for name, value in last.items() if name not in ("state", "reason")}

    def _settle(self, check: Callable[[], None]) -> None:
        """Wait until a mounted bucket surely has all of it. Raises what `check` raises."""
        terms = self._home.rental.terms()
        if terms is None or not terms.settle:
            return
        note_once(self._run, "the mounted bucket %s is being written" % self._spec.bucket)
        settled = time.monotonic() + terms.settle + self._written / SETTLED
        while time.monotonic() < settled:
            check()
            time.sleep(POLL)

    # -- contents of the outputs

    def _packs(self, manifest: Manifest, places: Places) -> Iterator[Job]:
        """Jobs that post the contents of a tree, whose places are noted in `places`. One that does not fit into the
        rest of a pack begins a new one. Raises `Unreadable`."""
        pack = _Pack()
        for digest, size in contents_of(manifest):
            whole = hashlib.sha256()
            for offset in range(0, size, PACK):
                part = FilePart(self._home.blobs.path(digest), offset, min(PACK, size - offset))
                if pack.size + part.length > PACK:
                    yield self._pack_job(pack, places)
                    pack = _Pack()
                pack.add(digest, part, whole)
            if whole.hexdigest() != digest:  # the server can't know this, as it gets a pack
                path = next(entry.path for entry in manifest.files if entry.digest == digest)
                raise Unreadable("the content of %s is damaged on the host" % show(path))
        if pack.parts:
            yield self._pack_job(pack, places)

    def _pack_job(self, pack: "_Pack", places: Places) -> Job:
        name, offset = pack.hashed.hexdigest(), 0
        for digest, part in pack.parts:
            places[digest] = (*places.get(digest, ()), Extent(name, offset, part.length))
            offset += part.length
        return self._job(pack_key(name), Content.of_hashed([part for _, part in pack.parts], name))

    # -- objects

    def _points(self) -> Iterator[Job]:
        """Jobs that post what was measured of the run. Raises `Unreadable`."""
        for path in (self._run.metrics_names, self._run.metrics_points, self._run.usage_points):
            size = size_of(path)
            if size:
                yield self._job(os.path.basename(path), Content.of_files([FilePart(path, 0, size)]))

    def _job(self, key: str, content: Content) -> Job:
        def job(http: HttpClient) -> None:
            if key not in self._noted:
                post(http, self._grant(), key, content)
                self._written += content.size
                self._note(key)

        return job

    def _post_log(self, http: HttpClient, enough: Callable[[], Any]) -> None:
        """Post what is new of it, until `enough`: a log of holes is as large as its command likes."""
        for name, path in self._streams.items():
            size = size_of(path)
            while self._posted[name] < size and not enough():
                at = self._posted[name]
                content = Content.of_files([FilePart(path, at, min(LOG_PIECE, size - at))])
                post(http, self._grant(), log_key(self._before[name] + at, name), content)
                self._posted[name] += content.size
                self._note("%s %d" % (name, self._posted[name]))

    def _noted_end(self, name: str) -> int:
        return max([0, *(int(note[4:]) for note in self._noted if note.startswith(name + " "))])

    def _post_record(self, http: HttpClient, last: Optional[Dict[str, Any]] = None) -> None:
        """The run as it is now, or as it will be after its `last` event."""
        if last is not None:
            last["t"] = round(time.time(), 3)
        events = [from_json(RunEvent, event) for event in self._run.events() + ([last] if last else [])]
        status = self._run.status(last)
        status = status._replace(log_size=status.log_size + self._spec.log_before, refused="")
        record = RunRecord(status, events, self._spec.number, time.time(), self._spec.split, self._spec.attempt)
        post(http, self._grant(), "status.json", Content.of(encode(record)))
        if "status.json" not in self._noted:
            self._note("status.json")

    # -- its grant, and what is noted

    def _grant(self) -> Grant:
        grant = self._run.grant()
        if grant is None:
            raise HttpError("no permission has come", 403, expired=True)
        return grant

    def _await_grant(self, failures: int, ended: Callable[[], bool]) -> bool:
        """Sleep, longer after each of the `failures`, or until another grant has come. Whether it `ended`."""
        deadline = time.monotonic() + min(LONGEST, SHORTEST * 2 ** min(failures, 16))  # of a night there are thousands
        known = self._run.grant()
        while time.monotonic() < deadline and self._run.grant() == known:
            if ended():
                return True
            time.sleep(POLL)
        return False

    def _began_waiting(self) -> float:
        """When it did, in seconds since 1970: now, unless that was noted after all that the archive has taken."""
        moment = next(reversed(self._noted), "").partition("waits since ")[2]
        if moment:
            return float(moment)
        self._note("waits since %d" % time.time())
        return time.time()

    def _note(self, note: str) -> None:
        """Where the disk is full it is known as long as this process lives."""
        with self._noting:
            self._noted[note] = None
            with contextlib.suppress(OSError), open(self._run.archived_file, "ab", buffering=0) as file:
                file.write(b"%s\n" % note.encode())


class _Patience:
    """How long the end of a run waits for its bucket: until its host goes away, somebody wants the run to end at once,
    or, unless it is `patient`, some time has passed."""

    def __init__(self, home: Home, run: RunFolder, end: Ended, patient: bool) -> None:
        self._home, self._run, self._reason, self._code = home, run, end.reason, end.fields.get("code")
        seconds = KILLED_PATIENCE if end.reason is Reason.KILLED else RECORDS_PATIENCE
        self._deadline = float("inf") if patient else time.monotonic() + seconds
        self.until = float("inf")
        """Up to when a bucket that fails is waited for, in seconds since 1970."""

    def check(self) -> None:
        """Raises `OutOfTime` where nothing more can be done, and `Ended` where the run is killed meanwhile."""
        if self._run.kill_asked() and self._reason is not Reason.KILLED:
            raise Ended(Reason.KILLED, code=self._code)
        if time.time() > self._home.rental.last_moment() or time.monotonic() > self._deadline:
            raise OutOfTime

    def is_over(self) -> bool:
        """Whether to wait no longer. Raises `Ended`."""
        try:
            self.check()
        except OutOfTime:
            return True
        stopped = self._run.stop_asked() is not None and self._reason is not Reason.STOPPED
        return stopped or time.time() > self.until


class _Pack:
    """What goes into one pack: (digest of a content, a part of its blob), one after the other."""

    def __init__(self) -> None:
        self.parts: List[Tuple[str, FilePart]] = []
        self.size = 0
        self.hashed = hashlib.sha256()

    def add(self, digest: str, part: FilePart, whole: Any) -> None:
        """Read a part, which also goes into the hash of the `whole` content. Raises `Unreadable`."""
        for piece in part.pieces():
            self.hashed.update(piece)
            whole.update(piece)
        self.parts.append((digest, part))
        self.size += part.length


def _last(end: Ended, fields: Dict[str, Any]) -> Dict[str, Any]:
    """The event of the end, without its time."""
    return dict(fields, state=ENDINGS[end.reason].state.value, reason=end.reason.value)


def _why(error: HttpError) -> str:
    what = "the permission has expired" if error.expired else error.message
    return "%s; any `remoterun ps` renews it" % what if error.refused and error.code != CARRIED else what
