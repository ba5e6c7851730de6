"""`agent serve`: requests that come over a pipe, answered from the home. Each request is a method of `Server`.

What a request raises goes back as an ERROR frame with a code that the client turns into an error of its own.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import struct
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from .running import logs, supervision
from .shared.codecs import Codec, codecs
from .shared.delta import BLOCK, records
from .shared.digests import Digests, unpacked
from .shared.files import DISK_FULL
from .shared.packs import Pace
from .shared.protocol import (
    DATA,
    MAGIC,
    MAX_HEADER,
    PIECE,
    VERSION,
    Body,
    Cancelled,
    Link,
    LinkClosed,
    ProtocolError,
    Stream,
    encode,
)
from .shared.spec import MountSpec, ResolvedMount, ResourceRef, SpecError, Submission
from .shared.squeezing import Squeezing
from .shared.states import FINAL, RunState
from .shared.tree import Entry, Manifest, TreeError, check_path, hash_file, is_digest, show, walk
from .store import leases, outputs, parts
from .store.errors import HomeError
from .store.growing import Growing
from .store.home import Home
from .store.incoming import Landing
from .store.outgoing import Shipping
from .store.patching import Patch
from .store.run_folder import RunFolder
from .store.this_machine import boot_id

MAX_MANIFEST = 1 << 29
START = 4096
"""Bytes of a manifest that come before the others, with what the client wants to know soon."""
_MISSING = struct.Struct("!IQ")
_RANGE = struct.Struct("!QQ")
PATCHED = 4 << 20
"""Bytes from which on it pays to look for the parts of a file in another."""
MOST_LIKE, MOST_LARGE, MOST_RANGES = 4, 5000, 5000
MOST_SIZES = 50_000
POLL_LEAST, POLL_MOST = 0.005, 0.1
CARE_EVERY = 2.0
LOOK_AGAIN, SOON = 0.05, 0.005
"""Seconds between looks whether a blob has come on another connection; the latter when nothing else is missing."""
READ = 256 << 10
PIPE = 1 << 20
"""Bytes that wait in the pipes to and from sshd: with the usual 64 kB, we and it take turns."""
_F_SETPIPE_SZ = 1031
SIGN_OF_LIFE = 60.0
"""Seconds between frames that nobody needs: where a laptop went to sleep, sshd gives its connection up a quarter of an
hour after the first of them, and we end; without them both would wait for hours."""
PATIENCE = 10.0
"""Seconds for requests to put away what has come, after a cut."""


def serve(home: Home, idle: Callable[[], None] = lambda: None) -> int:
    """Answer requests on stdin and stdout until stdin ends. Exit status of the process. `idle` is called then."""
    pipe_out = os.dup(1)
    os.dup2(2, 1)  # a stray print must not land among the frames
    _write_all(pipe_out, MAGIC + encode(0, DATA, hello(home)))
    for end in (0, pipe_out):
        with contextlib.suppress(OSError):  # no pipe, or no Linux
            fcntl.fcntl(end, _F_SETPIPE_SZ, PIPE)
    server = Server(home)
    supervision.revive(home)
    _make_room(home)
    link = Link(_read_all, lambda *parts: _write_all(pipe_out, *parts), server.handle)
    link.keep(SIGN_OF_LIFE)
    link.run()
    link.join(PATIENCE)
    _make_room(home)
    idle()
    return 0


def _make_room(home: Home) -> None:
    """Where nothing more may arrive, delete what cut transfers have left, ours too."""
    if not home.room():
        from .upkeep.remains import make_room

        make_room(home)


def hello(home: Home) -> Dict[str, Any]:
    """What the client learns before it asks."""
    return {
        "protocol": VERSION,
        "python": sys.version.split()[0],
        "home": home.path,
        "home_id": home.id,
        "host": os.uname().nodename,
        "user": _user(),
        "boot": boot_id(),
        "time": time.time(),
        "pid": os.getpid(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def _best(accept: Iterable[str]) -> Optional[Codec]:
    """The best codec that is known here and there."""
    return next((codec for key, codec in codecs().items() if key in accept), None)


def _read_all(taker: Callable[[memoryview], None]) -> None:
    room = memoryview(bytearray(READ))
    while True:
        count = os.readv(0, [room])
        if not count:
            return
        taker(room[:count])


def _write_all(descriptor: int, *parts: Any) -> None:
    left = sum(map(len, parts))
    written = os.writev(descriptor, parts)
    if written == left:
        return
    view = memoryview(b"".join(parts))[written:]
    while view:
        view = view[os.write(descriptor, view) :]


class Server:
    """The requests. A method `op_NAME(stream, arguments)` answers on the stream and returns the result of its END."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lease = home.lease()
        """What this client has asked for and not committed yet, ..."""
        self._sizes: Dict[str, int] = {}
        """... and the sizes of blobs of it that were seen here."""
        self._lacked = False
        """Whether any that it has asked for was not here: then what it commits is new."""
        self._looking = threading.Lock()
        """Held by whoever looks what is missing: the client waits for that."""
        self._growing: Optional[Growing] = None
        """What it commits, while that comes."""

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
        """In: digests, 32 bytes each, as many frames as one likes. Out: for each frame one: (u32 place in the frame,
        u64 bytes that a cut transfer left here) for each digest of which there is no blob here."""
        count = 0
        for frame in stream:
            self._lease.add(bytes(frame.body[: len(frame.body) // 32 * 32]))  # before we look
            with self._looking:
                out = self._missing_of(frame.body)
            self._lacked = self._lacked or bool(out)
            stream.send(b"".join(out))
            count += len(out)
        return {"missing": count}

    def _missing_of(self, digests: Body) -> List[bytes]:
        out = []
        begun = frozenset(os.listdir(self.home.partial))
        for place in range(len(digests) // 32):
            digest = digests[place * 32 : place * 32 + 32].hex()
            size = self.home.blobs.size(digest)
            if size is not None:
                self._seen(digest, size)
            else:
                have = self.home.blobs.partial_size(digest) if digest in begun else 0
                out.append(_MISSING.pack(place, 0 if have and parts.listed(self.home, digest) else have))
        return out

    def op_codecs(self, stream: Stream) -> Dict[str, Any]:
        """How bodies may be compressed that come here."""
        return {"codecs": list(codecs())}

    def op_put(self, stream: Stream) -> Dict[str, Any]:
        """In: blobs, as `incoming.Landing` takes them. One whose bytes don't have its digest is refused by name."""
        with Landing(self.home, self._lease, self._seen) as landing:
            for frame in stream:
                landing.take(frame)
                growing = self._growing
                if growing is not None:
                    growing.place(self._looking.locked)
            landing.end()
            return {"blobs": landing.count}

    def op_patch(self, stream: Stream, size: int, key: str, offset: int, like: List[str]) -> Dict[str, Any]:
        """A large blob made of parts of others; what comes and goes is said at `patching.Patch`."""
        patch = Patch(self.home, self._lease, size, key, offset, like[:MOST_LIKE])
        try:
            for frame in stream:
                answer = patch.frame(frame)
                if answer is not None:
                    stream.send(answer)
            if not patch.done:
                raise HomeError("bad_stream", "a blob ended early")
        finally:
            patch.close()
        return {}

    def op_begun(self, stream: Stream, name: str = "", sizes: Iterable[int] = ()) -> Dict[str, Any]:
        """What may help to send: {key: size} of large blobs that a cut transfer left here, {key: [[offset, length] …]}
        of what came in parts, the large files of the upload `name` as it is, [path, size, digest] each, and those of
        `sizes` that a blob has here: it may be the same content. Where there are many blobs, all of them are."""
        large = []
        if name and self.home.uploads.versions(name):
            files = self.home.uploads.stored(name).manifest().files
            large = [[entry.path, entry.size, entry.digest] for entry in files if entry.size >= PATCHED][:MOST_LARGE]
        partial = {key: size for key, size in self.home.blobs.partials().items() if is_digest(key)}
        found = {key: parts.ranges(self.home, key)[:MOST_RANGES] for key in partial}
        return {
            "partial": {key: size for key, size in partial.items() if not found[key]},
            "parts": dict(_fitting((key, ranges) for key, ranges in found.items() if ranges)),
            "large": [row for row, _ in _fitting((row, row[0]) for row in large)],
            "sizes": sorted(self.home.blobs.sizes_among(set(sizes))) if sizes else [],
        }

    def op_seal(self, stream: Stream, key: str, size: int) -> Dict[str, Any]:
        """Make a blob of parts that are sent here and on other connections: see parts.py. In: {"h": digest}, after all
        of them."""
        if not is_digest(key):
            raise HomeError("bad_stream", "not a digest: %s" % show(key[:80]))
        told: List[str] = []

        def said() -> str:
            if not told:
                with contextlib.suppress(TimeoutError):
                    told.append(self._digest_of(stream))
            return "".join(told)

        parts.seal(self.home, key, size, said, lambda: not stream.cancelled)
        return {}

    def _digest_of(self, stream: Stream) -> str:
        """What is sent as one; raises `TimeoutError` as long as it is not. The blob is referred to from then on."""
        frame = stream.receive(0)
        digest = str(frame.header.get("h")) if frame is not None else ""
        if not is_digest(digest):
            raise HomeError("bad_stream", "not a digest: %s" % show(digest[:80]))
        self._lease.add(bytes.fromhex(digest))
        return digest

    def op_fetch_parts(
        self, stream: Stream, digest: str, accept: Iterable[str] = (), round_trip: float = 0.0
    ) -> Dict[str, Any]:
        """In: (u64 offset, u64 length) of parts of a blob. Out: their bytes, one after the other; compressed as the
        client accepts it, if that pays over a link that takes so many seconds there and back."""
        pace = Pace()
        out = Squeezing(stream, round_trip, lambda: _best(accept))
        with self._open_blob(digest) as file:
            for offset, length in _RANGE.iter_unpack(_read_body(stream)):
                file.seek(offset)
                while length > 0:
                    data = file.read(min(length, pace.next()))
                    if not data:
                        raise HomeError("not_found", "the blob %s is shorter than it was" % digest[:12])
                    length -= len(data)
                    out.send(data, {})
        return {}

    def op_records(self, stream: Stream, digest: str, offset: int) -> Dict[str, Any]:
        """Out: the records (see delta.py) of the blocks of a blob from `offset` on."""
        with self._open_blob(digest) as file:
            file.seek(offset)
            data = b""
            while True:
                more = file.read(64 * BLOCK - len(data))
                data += more
                if len(data) == 64 * BLOCK or (data and not more):
                    stream.send(records(data))
                    data = b""
                if not more:
                    return {}

    def _open_blob(self, digest: str) -> Any:
        if not is_digest(digest):
            raise HomeError("bad_stream", "not a digest: %s" % show(digest[:80]))
        try:
            return open(self.home.blobs.path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise HomeError("not_found", "there is no blob %s" % digest[:12])

    # -- uploads

    def op_commit_upload(self, stream: Stream, name: str) -> Dict[str, Any]:
        """In: a manifest, with its last frame {"last": 1}, and the end once all its blobs are here. It may come while
        they still do: see growing.py. The answer need not wait for the end if all are here sooner."""
        self.home.uploads.folder_of(name)  # that it is a name
        whole = False
        size = 0
        with Growing(self.home, self._sizes) as growing:
            self._growing = growing
            try:
                while not (whole and self._lacked and growing.place(self._looking.locked)):
                    try:
                        frame = stream.receive(SOON if whole else LOOK_AGAIN)
                    except TimeoutError:
                        if self._lacked:
                            growing.place(self._looking.locked)
                        continue
                    if frame is None:
                        break
                    size += len(frame.body)
                    if size > MAX_MANIFEST:
                        raise HomeError("too_large", "a list of more than %d bytes" % MAX_MANIFEST)
                    growing.take(frame.body)
                    whole = "last" in frame.header
            finally:
                self._growing = None
            version, created = growing.commit(name)
        self._sizes, self._lacked = {}, False
        self._lease.settle(growing.digests)
        return {"version": version, "created": created}

    def op_uploads(self, stream: Stream) -> Dict[str, Any]:
        return {"uploads": self.home.uploads.newest()}

    def op_upload(self, stream: Stream, name: str, newest: bool = False) -> Dict[str, Any]:
        versions = self.home.uploads.versions(name)
        return {"versions": versions[-1:] if newest else versions}

    def op_remove_upload(self, stream: Stream, name: str) -> Dict[str, Any]:
        return {"removed": self.home.uploads.remove(name)}

    # -- runs

    def op_submit(self, stream: Stream) -> Dict[str, Any]:
        """In: a `Submission`. Mounts are resolved, and refused, before anything is made. Repeatable."""
        from .running import queue  # before anything is made: it may be gone with the agent's folder

        asked = Submission.decode(_read_body(stream))
        spec, source = asked.spec, Manifest.decode(asked.source)
        run = self.home.run(spec.key)
        if not run.exists():
            with leases.shared(self.home.lock("blobs")):  # what the mounts name stays until the run names it
                mounts = tuple(self._resolve(mount) for mount in spec.mounts)
                run = self.home.create_run(spec, source, asked.values, mounts)
            queue.come(self.home, run.key, spec.gpus)
        self._care_for(run)
        self._settle(source, run)
        return {"status": run.status()}

    def op_runs(self, stream: Stream, keys: Optional[List[str]] = None) -> Dict[str, Any]:
        """Status of the named runs (those that are here), or of all."""
        found = []
        for key in self.home.run_keys() if keys is None else keys:
            run = self.home.run(key)
            if run.exists():
                try:
                    self._care_for(run)
                    found.append(run.status())
                except (OSError, ValueError, AttributeError) as error:  # one that can't be read hides no other
                    found.append({"key": key, "unreadable": str(error)})
        return {"runs": found}

    def op_run(self, stream: Stream, key: str) -> Dict[str, Any]:
        run = self.home.existing_run(key)
        return {"status": run.status(), "spec": run.spec().to_record(), "folder": run.path, "events": run.events()}

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
        from .running import supervisor

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
        """Out: {"size": bytes of its files, "live": whether they may still change} with the start of the manifest of a
        resource, and the rest of it; of a run that goes on (or was killed), its work tree, not hashed.

        `single`: it is one file, under its base name.
        """
        wanted = ResourceRef.from_record(resource)
        manifest, folder, live, about = self._tree(wanted)
        text = manifest.encode()
        stream.send(text[:START], size=manifest.size, live=live)
        _send_body(stream, text[START:])
        single = bool(wanted.sub) and len(manifest.files) == 1 and not os.path.isdir(folder)
        return {"live": live, "folder": folder, "about": about, "single": single}

    def op_fetch(self, stream: Stream, accept: Iterable[str] = (), round_trip: float = 0.0) -> Dict[str, Any]:
        """In: digests, 32 bytes each. Out: their contents in that order, as `outgoing.Shipping` sends them; compressed
        as in `op_fetch_parts`."""
        with Shipping(self.home, stream, Squeezing(stream, round_trip, lambda: _best(accept))) as shipping:
            for frame in stream:
                for at in range(0, len(frame.body), 32):
                    shipping.ship(bytes(frame.body[at : at + 32]))
                shipping.flush()
            return {"blobs": shipping.count}

    def op_get(self, stream: Stream, resource: Dict[str, Any]) -> Dict[str, Any]:
        """In: paths below the resource, each ended by a zero byte. Out: per file, in that order,
        {"s": size, "x": executable} with its first bytes, more bytes, then {"h": SHA-256, "c": changed meanwhile}."""
        folder = self._folder(ResourceRef.from_record(resource))
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
        from .upkeep import doctor

        return {"checks": doctor.examine(self.home, engine, gpus, base)}

    # -- upkeep

    def op_check(self, stream: Stream, repair: bool = True) -> Dict[str, Any]:
        """Out: {"at": progress} now and then, {"finding": what is damaged} each. The result: totals. See check.py."""
        from .upkeep.check import Check

        return Check(self.home, repair, stream.send).run()

    def op_mend(self, stream: Stream) -> Dict[str, Any]:
        """In: digests, 32 bytes each, of which blobs may be here by now. Out: {"mended": digest} for each that is whole
        wherever it belongs, {"failed": digest, "why": …} for the others."""
        from .upkeep.check import mend

        wanted = Digests()
        wanted.add_packed(_read_body(stream))
        mend(self.home, wanted, stream.send)
        self._lease.settle(wanted)
        return {}

    def op_blobs(self, stream: Stream) -> Dict[str, Any]:
        """In: digests, 32 bytes each. Out: {"d": digest, "s": size} and the bytes of each that is here and whole."""
        from .upkeep.check import send_blob

        for digest in unpacked(_read_body(stream)):
            send_blob(self.home, digest.hex(), stream)
        return {}

    def op_collect(
        self,
        stream: Stream,
        keep: Optional[int] = None,
        envs: bool = False,
        unused: float = 7 * 86400.0,
        dry_run: bool = False,
    ) -> Dict[str, Any]:
        """Out: {"part": …} for each kind of thing that was freed, {"kept": …}. The result: totals. See gc.py."""
        from .upkeep.gc import Collection

        return Collection(self.home, keep, envs, unused, dry_run, stream.send).run()

    def op_usage(self, stream: Stream) -> Dict[str, Any]:
        """Out: {"row": …} for each user of the disk. The result: totals. See usage.py."""
        from .upkeep.usage import Usage

        return Usage(self.home, stream.send).run()

    # -- parts

    def _seen(self, digest: str, size: int) -> None:
        """A commit need not look up that size again."""
        if len(self._sizes) < MOST_SIZES or digest in self._sizes:
            self._sizes[digest] = size

    def _settle(self, manifest: Manifest, run: Optional[RunFolder] = None) -> None:
        """What `manifest` (and `run`, by its spec) refers to needs our lease no more."""
        self._sizes = {}
        if not self._lease.held:
            return
        digests = Digests()
        for entry in manifest.files:
            digests.add(bytes.fromhex(entry.digest))
        if run is not None:
            from .upkeep.references import add_environment

            add_environment(self.home, run, digests)
        self._lease.settle(digests)

    def _care_for(self, run: RunFolder) -> None:
        """A run that goes on has a supervisor, whatever became of the last one."""
        if run.state()[0] not in FINAL:
            supervision.look_after(self.home, run)

    def _ask(self, key: str, ask: Any) -> Dict[str, Any]:
        run = self.home.existing_run(key)
        state = run.state()[0]
        if state in FINAL:
            return {"asked": False, "status": run.status()}
        already = run.status()["stopping"]
        ask(run)
        self._care_for(run)
        return {"asked": True, "already": already, "status": run.status()}

    def _resolve(self, mount: MountSpec) -> ResolvedMount:
        """Pin what a mount reads: its tree becomes a blob of the home."""
        resource = mount.resource
        if resource.kind == "run":
            run = self.home.existing_run(resource.key)
            if outputs.saved(run) is None:
                state = run.state()[0]
                raise HomeError(
                    "not_saved",
                    "%s can't be mounted: its run is %s, and outputs are mountable once they are saved"
                    % (show(mount.typed), state.value),
                )
        manifest, _, _, _ = self._tree(resource._replace(sub=""))
        entry = manifest.find(resource.sub) if resource.sub else None
        try:
            part = manifest.below(resource.sub)
        except KeyError:
            raise HomeError("not_found", "there is no %s" % show(mount.typed))
        file = part.entries[0].path if entry is not None and entry.kind == "f" else ""
        return ResolvedMount(mount.place, self.home.blobs.put(part.encode()), file)

    def _tree(self, resource: ResourceRef) -> Tuple[Manifest, str, bool, Dict[str, Any]]:
        """(manifest, folder on the host, whether it may still change, about) of a resource."""
        sub = resource.sub
        if resource.kind == "upload":
            stored = self.home.uploads.stored(resource.name, resource.version, resource.digest)
            manifest, folder, live, about = stored.manifest(), stored.folder, False, stored.about
        else:
            run = self.home.existing_run(resource.key)
            saved = outputs.saved(run)
            about = {"state": run.state()[0].value}
            if saved is not None:
                manifest, folder, live = saved.manifest(), saved.folder, False
            else:
                manifest, folder, live = _work_tree(run), run.work, True
        try:
            return manifest.below(sub), os.path.join(folder, sub) if sub else folder, live, about
        except KeyError:
            raise HomeError("not_found", "there is no %s" % show(resource.typed))

    def _folder(self, resource: ResourceRef) -> str:
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
            line = logs.last_lines(self.run.build_log, 1).strip()
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


def _work_tree(run: RunFolder) -> Manifest:
    """New and changed files of a work tree that is in use: sizes as of now, no digests."""
    source = {entry.path: entry for entry in Manifest.decode(_read_file(run.source_file)).entries}
    skip = [mount.place for mount in run.spec().mounts if not mount.is_absolute]
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
            try:
                data = file.read(min(left, PIECE)) if left else b""
            except OSError:  # the disk can't read it
                data = b""
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


def _fitting(items: Iterable[Tuple[Any, Any]]) -> Iterator[Tuple[Any, Any]]:
    """As many of them as fit into a third of a frame's header, by the length of the second of each pair."""
    room = MAX_HEADER // 3
    for item in items:
        room -= len(json.dumps(item[1])) + 150
        if room < 0:
            return
        yield item


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
    if isinstance(error, SpecError):
        return {"code": "bad_spec", "message": str(error)}
    if isinstance(error, ProtocolError):
        return {"code": "bad_stream", "message": str(error)}
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return {"code": "disk_full", "message": "the disk that holds %s is full" % home.path}
    if isinstance(error, OSError):
        where = " (%s)" % error.filename if error.filename else ""
        return {"code": "os_error", "message": "%s%s" % (error.strerror or error, where)}
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        return {"code": "internal", "message": "the agent's program was deleted while it ran", "hint": "try again"}
    import traceback

    if isinstance(error, (TypeError, KeyError)):
        return {"code": "bad_request", "message": "a request it can't read", "evidence": traceback.format_exc()}
    return {"code": "internal", "message": "the agent failed: %s" % error, "evidence": traceback.format_exc()}
