"""`agent serve`: requests that come over a pipe, answered from the home. Each request is a method of `Server`.

What a request raises goes back as an ERROR frame with a code that the client turns into an error of its own.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
import platform
import secrets
import socket
import struct
import time
import traceback
from typing import Any, Dict, List, Optional, Tuple

from . import doctor, logs, slots, supervisor
from .engines import tail
from .files import DISK_FULL
from .home import Home, HomeError
from .protocol import DATA, MAGIC, PIECE, VERSION, Cancelled, Link, LinkClosed, ProtocolError, Stream, encode
from .runs import FINAL, RunFolder, RunState
from .tree import Entry, Manifest, TreeError, check_path, hash_file, show, walk

MAX_MANIFEST = 1 << 30
POLL_LEAST, POLL_MOST = 0.005, 0.1
CARE_EVERY = 2.0


def serve(home: Home) -> int:
    """Answer requests on stdin and stdout until stdin ends. Exit status of the process."""
    pipe_out = os.dup(1)
    os.dup2(2, 1)  # a stray print must not land among the frames
    _write_all(pipe_out, MAGIC + encode(0, DATA, hello(home)))
    server = Server(home)
    supervisor.revive(home)
    Link(lambda limit: os.read(0, limit), lambda data: _write_all(pipe_out, data), server.handle).run()
    return 0


def hello(home: Home) -> Dict[str, Any]:
    """What the client learns before it asks."""
    return {
        "protocol": VERSION,
        "python": platform.python_version(),
        "home": home.path,
        "home_id": home.id,
        "host": socket.gethostname(),
        "user": _user(),
        "boot": supervisor.boot_id(),
        "time": time.time(),
        "pid": os.getpid(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Server:
    """The requests. A method `op_NAME(stream, arguments)` answers on the stream and returns the result of its END."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def handle(self, stream: Stream, op: str, arguments: Dict[str, Any]) -> None:
        """Answer one request, on a thread of its own."""
        try:
            method = getattr(self, "op_" + op, None)
            if method is None:
                raise HomeError("unknown_request", "the agent knows no request %s" % show(op))
            result = method(stream, **arguments)
            stream.end(**(result or {}))
        except (Cancelled, LinkClosed):
            pass
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            try:
                stream.fail(**describe(error, self.home))
            except (LinkClosed, Cancelled, OSError):
                pass

    # -- blobs

    def op_missing(self, stream: Stream) -> Dict[str, Any]:
        """In: digests, 32 bytes each. Out: (u32 index, u64 bytes already here in part) for each blob not here."""
        raw = _read_body(stream)
        record = struct.Struct("!IQ")
        out = []
        for index in range(len(raw) // 32):
            digest = raw[index * 32 : index * 32 + 32].hex()
            if not self.home.has_blob(digest):
                out.append(record.pack(index, self.home.partial_size(digest)))
        _send_body(stream, b"".join(out))
        return {"missing": len(out)}

    def op_put(self, stream: Stream) -> Dict[str, Any]:
        """In: for each blob a frame {"d": digest, "s": size, "o": offset} with its first bytes, then more bytes.

        `o` is where an earlier, cut transfer stopped; a blob whose bytes don't have the digest is refused by name.
        """
        count = 0
        incoming: Optional[_Incoming] = None
        try:
            for frame in stream:
                if "d" in frame.header:
                    if incoming is not None:
                        raise HomeError("bad_stream", "a blob ended early")
                    incoming = _Incoming(self.home, frame.header)
                if incoming is None:
                    raise HomeError("bad_stream", "bytes of no blob")
                if incoming.take(frame.body):
                    incoming = None
                    count += 1
        finally:
            if incoming is not None:
                incoming.suspend()
        return {"blobs": count}

    # -- uploads

    def op_commit_upload(self, stream: Stream, name: str) -> Dict[str, Any]:
        """In: a manifest whose blobs are all here."""
        version, created = self.home.commit_upload(name, Manifest.decode(_read_body(stream)))
        return {"version": version, "created": created}

    def op_uploads(self, stream: Stream) -> Dict[str, Any]:
        return {"uploads": self.home.list_uploads()}

    def op_upload(self, stream: Stream, name: str) -> Dict[str, Any]:
        return {"versions": self.home.upload_versions(name)}

    def op_remove_upload(self, stream: Stream, name: str) -> Dict[str, Any]:
        return {"removed": self.home.remove_upload(name)}

    # -- runs

    def op_submit(self, stream: Stream, spec: Dict[str, Any]) -> Dict[str, Any]:
        """In: the manifest of the source. Mounts are resolved, and refused, before anything is made. Repeatable."""
        source = Manifest.decode(_read_body(stream))
        run = self.home.run(str(spec.get("key", "")))
        if not run.exists():
            for mount in spec["mounts"]:
                self._resolve(mount)
            run = self.home.create_run(spec, source)
            slots.come(self.home, run.key, int(spec.get("gpus") or 0))
        self._care_for(run)
        return {"status": run.status()}

    def op_runs(self, stream: Stream, keys: Optional[List[str]] = None) -> Dict[str, Any]:
        """Status of the named runs (those that are here), or of all."""
        found = []
        for key in self.home.run_keys() if keys is None else keys:
            run = self.home.run(key)
            if run.exists():
                self._care_for(run)
                found.append(run.status())
        return {"runs": found}

    def op_run(self, stream: Stream, key: str) -> Dict[str, Any]:
        run = self.home.existing_run(key)
        return {"status": run.status(), "spec": _without_values(run.spec()), "folder": run.path, "events": run.events()}

    def op_stop(self, stream: Stream, key: str, grace: float = 10.0) -> Dict[str, Any]:
        return self._ask(key, lambda run: run.ask_stop(grace))

    def op_kill(self, stream: Stream, key: str) -> Dict[str, Any]:
        return self._ask(key, lambda run: run.ask_kill())

    def op_remove_run(self, stream: Stream, key: str) -> Dict[str, Any]:
        run = self.home.run(key)
        if not run.exists():
            run.remove()
            return {"removed": False}
        state = run.state()[0]
        if state not in FINAL:
            raise HomeError("busy", "the run is %s" % state.value)
        deadline = time.monotonic() + 15
        while run.supervised() and time.monotonic() < deadline:
            time.sleep(0.02)  # it gives back what the run held
        if key in self.home.active_keys() and not supervisor.clean_up(self.home, run):
            raise HomeError("engine_silent", "its container can't be removed: the engine does not answer")
        run.remove()
        self.home.unmark_active(key)
        return {"removed": True}

    def op_follow(
        self,
        stream: Stream,
        key: str,
        offset: int = 0,
        events: int = 0,
        follow: bool = True,
        tail: Optional[int] = None,
        since: Optional[float] = None,
        timed: bool = False,
    ) -> Dict[str, Any]:
        """Out: {"event": …, "n": number, "past": had a later state followed}, {"log": offset, "t": time} with bytes,
        {"build": last line}.

        The bytes of the log come whole and once, from `offset` on; all of them before the event that ends the run.
        """
        run = self.home.existing_run(key)
        if tail is not None:
            offset = logs.offset_of_tail(run, tail)
        if since is not None:
            offset = max(offset, logs.offset_since(run, since))
        follower = _Follower(stream, run, logs.LogReader(run, offset, timed), events)
        pause = POLL_LEAST
        next_care = 0.0
        while True:
            if time.monotonic() >= next_care:
                self._care_for(run)
                next_care = time.monotonic() + CARE_EVERY
            moved = follower.pump()
            if follower.done or not follow:
                break
            pause = POLL_LEAST if moved else min(pause * 1.2, POLL_MOST)
            if stream.wait_cancelled(pause):
                raise Cancelled
        return {"status": run.status(), "offset": follower.reader.offset, "events": follower.events}

    # -- files

    def op_tree(self, stream: Stream, resource: Dict[str, Any]) -> Dict[str, Any]:
        """Out: the manifest of a resource; of a run that goes on (or was killed), its work tree, not hashed.

        `single`: it is one file, under its base name.
        """
        manifest, folder, live, about = self._tree(resource)
        _send_body(stream, manifest.encode())
        single = bool(resource.get("sub")) and len(manifest.files) == 1 and not os.path.isdir(folder)
        return {"live": live, "folder": folder, "about": about, "single": single}

    def op_get(self, stream: Stream, resource: Dict[str, Any]) -> Dict[str, Any]:
        """In: paths below the resource, each ended by a zero byte. Out: per file, in that order,
        {"s": size, "x": executable} with its first bytes, more bytes, then {"h": SHA-256, "c": changed meanwhile}."""
        folder = self._folder(resource)
        count = 0
        rest = b""
        for frame in stream:
            names = (rest + frame.body).split(b"\0")
            rest = names.pop()
            for name in names:
                _send_file(stream, folder, os.fsdecode(name))
                count += 1
        return {"files": count}

    # -- the machine

    def op_doctor(self, stream: Stream, engine: str = "auto", gpus: int = 0, base: str = "") -> Dict[str, Any]:
        return {"checks": doctor.examine(self.home, engine, gpus, base)}

    # -- parts

    def _care_for(self, run: RunFolder) -> None:
        """A run that goes on has a supervisor, whatever became of the last one."""
        if run.state()[0] not in FINAL and not run.supervised():
            supervisor.spawn(self.home, run.key)

    def _ask(self, key: str, ask: Any) -> Dict[str, Any]:
        run = self.home.existing_run(key)
        state = run.state()[0]
        if state in FINAL:
            return {"asked": False, "status": run.status()}
        already = run.status()["stopping"]
        ask(run)
        self._care_for(run)
        return {"asked": True, "already": already, "status": run.status()}

    def _resolve(self, mount: Dict[str, Any]) -> None:
        """Pin what a mount reads: the digest of its tree, kept as a blob of the home."""
        resource = mount["resource"]
        if resource["kind"] == "run":
            run = self.home.existing_run(resource["key"])
            if self.home.outputs(run) is None:
                state = run.state()[0]
                raise HomeError(
                    "not_saved",
                    "%s can't be mounted: its run is %s, and outputs are mountable once they are saved"
                    % (mount["typed"], state.value),
                )
        manifest, _, _, _ = self._tree(dict(resource, sub=""))
        sub = resource.get("sub", "")
        entry = manifest.find(sub) if sub else None
        try:
            part = manifest.below(sub)
        except KeyError:
            raise HomeError("not_found", "there is no %s" % show(mount["typed"]))
        mount["file"] = part.entries[0].path if entry is not None and entry.kind == "f" else ""
        mount["tree"] = self.home.put(part.encode())

    def _tree(self, resource: Dict[str, Any]) -> Tuple[Manifest, str, bool, Dict[str, Any]]:
        """(manifest, folder on the host, whether it may still change, about) of a resource."""
        sub = resource.get("sub", "")
        if sub:
            check_path(sub)
        if resource["kind"] == "upload":
            stored = self.home.upload_tree(resource["name"], resource.get("version"), resource.get("digest"))
            manifest, folder, live, about = stored.manifest(), stored.folder, False, stored.about
            typed = "uploads/" + resource["name"]
        else:
            run = self.home.existing_run(resource["key"])
            saved = self.home.outputs(run)
            about = {"state": run.state()[0].value}
            typed = "runs/%s" % resource.get("number", resource["key"])
            if saved is not None:
                manifest, folder, live = saved.manifest(), saved.folder, False
            else:
                manifest, folder, live = _work_tree(run), run.work, True
        try:
            return manifest.below(sub), os.path.join(folder, sub) if sub else folder, live, about
        except KeyError:
            raise HomeError("not_found", "there is no %s" % show(typed + "/" + sub))

    def _folder(self, resource: Dict[str, Any]) -> str:
        """Where the files of a resource lie; for one file, the folder that holds it."""
        _, path, _, _ = self._tree(resource)
        return path if os.path.isdir(path) and not os.path.islink(path) else os.path.dirname(path)


_FINAL_WORDS = frozenset(state.value for state in FINAL)
_STARTED_WORDS = _FINAL_WORDS | {RunState.RUNNING.value, RunState.SAVING.value}


class _Follower:
    """Sends what is new of one run."""

    def __init__(self, stream: Stream, run: RunFolder, reader: logs.LogReader, events: int) -> None:
        self.stream = stream
        self.run = run
        self.reader = reader
        self.events = events
        seen = [event["state"] for event in run.events()[:events] if "state" in event]
        self.done = any(state in _FINAL_WORDS for state in seen)
        self._started = any(state in _STARTED_WORDS for state in seen)
        self._build = ""
        self._past = True

    def pump(self) -> bool:
        """Whether anything was new."""
        moved = False
        found = self.run.events(self.events)
        now = max((number for number, event in enumerate(found) if "state" in event), default=0)
        for number, event in enumerate(found):
            state = RunState(event["state"]) if "state" in event else None
            if state is RunState.SAVING or state in FINAL:
                moved = self._log(ended=True) or moved
            self.stream.send(event=event, n=self.events, past=int(self._past and number < now))
            self.events += 1
            self._started = self._started or (state is not None and state.value in _STARTED_WORDS)
            self.done = self.done or state in FINAL
            moved = True
        self._past = False
        if not self.run.exists():
            raise HomeError("not_found", "the run was removed")
        if not self._started:
            line = tail(self.run.build_log, 1).strip()
            if line and line != self._build:
                self._build = line
                self.stream.send(build=line[:200])
        if self._started and not self.done:  # "running" comes before the first byte
            moved = self._log() or moved
        return moved

    def _log(self, ended: bool = False) -> bool:
        moved = False
        for piece in self.reader.pieces(ended):
            if piece.time is None:
                self.stream.send(piece.data, log=piece.offset)
            else:
                self.stream.send(piece.data, log=piece.offset, t=piece.time)
            moved = True
        return moved


class _Incoming:
    """One blob on its way in: appended to a partial file, hashed, and adopted when whole."""

    def __init__(self, home: Home, header: Dict[str, Any]) -> None:
        self._home = home
        self._digest = str(header["d"])
        self._size = int(header["s"])
        offset = int(header.get("o", 0))
        if len(self._digest) != 64 or set(self._digest) - set("0123456789abcdef"):
            raise HomeError("bad_stream", "not a digest: %s" % show(self._digest[:80]))
        self._hash = hashlib.sha256()
        self._have = offset
        self._path = os.path.join(home.partial, self._digest)
        self._shared = True
        self._file: Any = None
        self._known = home.has_blob(self._digest)
        if self._known:  # by somebody who sent it at the same time, or a crash came before the partial file was deleted
            self._discard()
            return
        self._file = _take_partial(self._path)
        self._shared = self._file is not None
        try:
            if self._file is not None:
                self._read_begun(self._file, offset)
                self._file.truncate(offset)
            else:  # somebody else is sending it, too
                begun, self._path = self._path, os.path.join(home.tmp, "in-%d-%s" % (os.getpid(), secrets.token_hex(4)))
                self._file = open(self._path, "x+b", buffering=0)
                if offset:
                    with _open_first(begun, home.blob(self._digest)) as reader:
                        self._read_begun(reader, offset, copy=True)
        except BaseException:
            self.suspend()
            self._known = home.has_blob(self._digest)  # the other one has just finished
            if not self._known:
                raise

    def _read_begun(self, reader: Any, size: int, copy: bool = False) -> None:
        """Hash the first `size` bytes, which an earlier transfer left."""
        while size:
            data = reader.read(min(size, 1 << 20))
            if not data:
                raise HomeError("bad_stream", "less of %s is here than was said" % self._digest[:12])
            self._hash.update(data)
            if copy:
                _append(self._file, data)
            size -= len(data)

    def take(self, data: bytes) -> bool:
        """Whether the blob is whole now."""
        self._have += len(data)
        if self._have > self._size:
            self._discard()
            raise HomeError("bad_stream", "more bytes of %s than were said" % self._digest[:12])
        if self._known:
            return self._have == self._size
        self._hash.update(data)
        _append(self._file, data)
        if self._have < self._size:
            return False
        if self._hash.hexdigest() != self._digest:
            self._discard()
            raise HomeError("damaged", "the content of %s did not arrive as it was read" % self._digest[:12])
        if self._size > PIECE:
            os.fsync(self._file.fileno())
        self._home.adopt(self._path, self._digest)
        self._discard()
        return True

    def suspend(self) -> None:
        """Keep what came, for the next try."""
        if self._file is None or self._file.closed:
            return
        if not self._shared:
            self._discard()
        self._file.close()

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        if self._file is not None:
            self._file.close()


def _take_partial(path: str) -> Optional[Any]:
    """The partial file, open and locked until it is closed; None while somebody else has it."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        except PermissionError:  # read-only: a crash came in the midst of `Home.adopt`
            os.chmod(path, 0o600)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        links = os.fstat(file.fileno()).st_nlink
        if links == 1:
            return file
        if links > 1:  # a crash came just after `Home.adopt`: this is the blob itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        file.close()


def _open_first(*paths: str) -> Any:
    for path in paths:
        try:
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            continue
    raise HomeError("bad_stream", "less of a blob is here than was said")


def _append(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _without_values(spec: Dict[str, Any]) -> Dict[str, Any]:
    """A spec for people: of the variables that the user set, the names only, for a value may be a secret."""
    hidden = dict.fromkeys(spec.get("asked_env", []), "***")
    return dict(spec, env=dict(spec["env"], **hidden))


def _work_tree(run: RunFolder) -> Manifest:
    """New and changed files of a work tree that is in use: sizes as of now, no digests."""
    source = {entry.path: entry for entry in Manifest.decode(_read_file(run.source_file)).entries}
    skip = [mount["place"] for mount in run.spec()["mounts"] if not mount["place"].startswith("/")]
    entries: List[Entry] = []
    if os.path.isdir(run.work):
        for found in walk(run.work, skip, []):
            entry = found.entry
            known = source.get(entry.path)
            if known is not None and known.kind == entry.kind == "f" and known.size == entry.size:
                try:
                    entry = entry._replace(digest=hash_file(os.path.join(run.work, entry.path))[0])
                except (OSError, TreeError):
                    pass
            if known != entry:
                entries.append(entry._replace(digest=""))
    return Manifest(entries)


def _send_file(stream: Stream, folder: str, path: str) -> None:
    check_path(path)
    try:
        descriptor = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        stream.send(gone=error.strerror or "gone")
        return
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        digest = hashlib.sha256()
        left = before.st_size
        header: Dict[str, Any] = {"s": before.st_size, "x": int(bool(before.st_mode & 0o100))}
        while True:
            data = file.read(min(left, PIECE)) if left else b""
            if left and not data:
                break  # it became shorter
            left -= len(data)
            digest.update(data)
            if not left:
                break
            stream.send(data, **header)
            header = {}
        after = os.fstat(descriptor)
        changed = bool(left) or after.st_mtime_ns != before.st_mtime_ns
        header.update(h=digest.hexdigest(), c=int(changed), short=left)
        stream.send(data, **header)


def _read_body(stream: Stream) -> bytes:
    parts = []
    size = 0
    for frame in stream:
        size += len(frame.body)
        if size > MAX_MANIFEST:
            raise HomeError("too_large", "a list of more than %d bytes" % MAX_MANIFEST)
        parts.append(frame.body)
    return b"".join(parts)


def _send_body(stream: Stream, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        stream.send(data[start : start + PIECE])


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def describe(error: Exception, home: Home) -> Dict[str, Any]:
    """An exception as the fields of an ERROR frame."""
    if isinstance(error, HomeError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, TreeError):
        return {"code": "bad_tree", "message": str(error)}
    if isinstance(error, ProtocolError):
        return {"code": "bad_stream", "message": str(error)}
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return {"code": "disk_full", "message": "the disk that holds %s is full" % home.path}
    if isinstance(error, OSError):
        where = " (%s)" % error.filename if error.filename else ""
        return {"code": "os_error", "message": "%s%s" % (error.strerror or error, where)}
    if isinstance(error, (TypeError, KeyError)):
        return {"code": "bad_request", "message": "a request it can't read", "evidence": traceback.format_exc()}
    return {"code": "internal", "message": "the agent failed: %s" % error, "evidence": traceback.format_exc()}
