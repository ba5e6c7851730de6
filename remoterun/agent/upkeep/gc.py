"""Free what nothing of a home needs: `Collection`.

    versions        of uploads, older than the newest `keep`; never one that a run which has not ended mounts
    remains         of uploads and runs whose removal, or making, was cut by a crash
    temporary       in tmp/, of processes that are gone: see stale_files.py
    partial         blobs that were cut on their way here, and that nobody sends now
    blobs           that nothing refers to: see references.py
    environments    of what engines keep, virtual environments whose building was cut; with `envs` also those that no
                    run needs which has not ended, and that nothing has used for `unused` seconds
    images          the same of our own images, with `envs`

Where nothing more may arrive on the disk, what a cut transfer left goes at once instead of a day later. It
works with no byte free.

Safe at any moment. Blobs and versions go in batches under the lock `blobs`, each after what has come to refer to them
since was read: leases.py has the reasoning. What is big is renamed away under the lock, and deleted after.

Where a damaged manifest hides what something refers to, nothing at all is freed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from ..running.engines import Engine, Kept, every_engine
from ..shared.api import Collect, CollectTotals
from ..shared.files import locked, own_bytes, remove_tree, token
from ..shared.spec import RunSpec
from ..store import leases
from ..store.errors import HomeError
from ..store.home import Home
from ..store.reserve import free_space
from . import stale_files
from .references import ReferenceReader, active_runs, of_upload

HOLD = 0.3
"""Seconds for which a batch holds the lock `blobs`."""
PATIENCE = 60.0
_ITEMS = 1000
_VERSION = re.compile(r"(\d+)(\.tree)?\Z")

Version = Tuple[str, str]
"""The name of an upload, and the digest of one of its versions."""


class Collection:
    """One clean-up. `send(part=…)` is called with {"kind", "count", "bytes", "items"} for each kind of thing that was
    freed, and `send(kept=…)` with the same, and "why", for what was not yet. Bytes are what the disk gets back: a file
    that is still linked elsewhere counts 0.
    """

    def __init__(
        self, home: Home, asked: Collect, send: Callable[..., Any], clock: Callable[[], float] = time.time
    ) -> None:
        if asked.keep is not None and asked.keep < 1:
            raise HomeError("bad_request", "of each upload at least 1 version is kept")
        self.home = home
        self._asked = asked
        self._dry = asked.dry_run
        self._send = send
        self._clock = clock
        self._engines = every_engine(home)
        self._removed_versions: Set[Version] = set()
        self._reader = ReferenceReader(home, self._removed_versions)
        self._live: Set[bytes] = set()
        self._freed = 0

    def run(self) -> CollectTotals:
        """Raises `HomeError`: "damaged" when a manifest can't be read, "busy" when another one is at work."""
        with _held(self.home.lock("gc"), 0, "another `gc` is at work in %s" % self.home.path):
            for name in self.home.uploads.names():
                self._removed_versions.update((name, digest) for digest in self._old_versions(name))
            self._reader.update(self._live)
            full = not self.home.reserve.room()
            now = self._clock()
            self._remove("temporary", stale_files.temporary(self.home, now, full), "less than an hour old")
            why = "less than a day old: the next try goes on there"
            self._remove("partial", stale_files.partial(self.home, now, full), why)
            self._remove_versions()
            self._remove_remains()
            self._remove_blobs(0.0 if full else leases.CUT)
            self._remove_environments()
        return CollectTotals(self._freed, free_space(self.home.path))

    def _report(self, kind: str, items: List[Dict[str, Any]], why: str = "", count: Optional[int] = None) -> None:
        size = sum(item.get("bytes", 0) for item in items)
        part = {"kind": kind, "count": len(items) if count is None else count, "bytes": size, "items": items[:_ITEMS]}
        if not part["count"]:
            return
        if why:
            self._send(kept=dict(part, why=why))
        else:
            self._freed += size
            self._send(part=part)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no process can say what it is going to refer to."""
        with _held(self.home.lock("blobs"), PATIENCE, "the blobs of %s are in use" % self.home.path):
            yield

    @contextlib.contextmanager
    def _upload(self, name: str) -> Iterator[None]:
        with _held(self.home.lock("upload-" + name), PATIENCE, "the upload %s is being written" % name):
            yield

    @contextlib.contextmanager
    def _trash(self) -> Iterator[Callable[[str], None]]:
        """A function that takes a path away at once, unless nothing is to be changed. What it took is deleted at the
        end. Needs no room on the disk."""
        taken: List[str] = []

        def discard(path: str) -> None:
            if self._dry:
                return
            target = os.path.join(self.home.tmp, "gc-%d-%s" % (os.getpid(), token(6)))
            try:
                os.rename(path, target)
                taken.append(target)
            except FileNotFoundError:
                pass
            except OSError:  # a folder that we may not move
                remove_tree(path)

        try:
            yield discard
        finally:
            for path in taken:
                remove_tree(path)

    # -- versions

    def _old_versions(self, name: str) -> List[str]:
        """Digests of versions beyond the newest `keep`, less those in use. Raises `HomeError("damaged")`."""
        referrers = of_upload(self.home, name)
        old = [referrer.digest for referrer in (referrers[: -self._asked.keep] if self._asked.keep else [])]
        used = self._used_versions(name, {referrer.digest for referrer in referrers}) if old else set()
        return [digest for digest in old if digest not in used]

    def _used_versions(self, name: str, digests: Set[str]) -> Set[str]:
        used: Set[str] = set()
        for run in active_runs(self.home):
            for number, resolved in enumerate(run.mounts):
                resource = run.spec.mounts[number].resource
                if resource.kind == "upload" and resource.name == name:
                    used |= digests & {resource.digest or "", resolved.tree} or digests
        return used

    def _remove_versions(self) -> None:
        items: List[Dict[str, Any]] = []
        for name in sorted({name for name, _ in self._removed_versions}):
            ours = {digest for upload, digest in self._removed_versions if upload == name}
            own = {
                version["digest"]: sum(map(own_bytes, self._paths(name, version["version"])))
                for version in self.home.uploads.versions(name)
                if version["digest"] in ours
            }
            with self._trash() as discard, self._upload(name), self._alone():
                versions = self.home.uploads.versions(name)
                going = set(own) & set(self._old_versions(name))  # a run may have come to mount one
                for digest in ours - going:
                    self._reader.spare(name, digest)
                if going and not self._dry:
                    kept = [version for version in versions if version["digest"] not in going]
                    self.home.uploads.write_versions(name, kept)
                for version in versions:
                    if version["digest"] not in going:
                        continue
                    number, digest = version["version"], version["digest"]
                    item = {"upload": name, "version": number, "digest": digest, "size": version["size"]}
                    items.append(dict(item, bytes=own[digest]))
                    for path in self._paths(name, number):
                        discard(path)
        self._report("versions", items)

    def _paths(self, name: str, number: int) -> List[str]:
        path = os.path.join(self.home.uploads.folder_of(name), str(number))
        return [path, path + ".tree"]

    # -- what crashes left

    def _remove_remains(self) -> None:
        items = []
        with self._trash() as discard:
            for name in self.home.uploads.names():
                with self._upload(name):
                    for path in self._upload_remains(name):
                        items.append({"path": self._short(path), "bytes": own_bytes(path)})
                        discard(path)
                    if not self._dry:
                        with contextlib.suppress(OSError):
                            os.rmdir(self.home.uploads.folder_of(name))  # nothing is left of it
            with self._alone():
                for key in self.home.run_keys():
                    run = self.home.run(key)
                    if not run.exists():
                        items.append({"path": self._short(run.path), "bytes": own_bytes(run.path)})
                        discard(run.path)
        self._report("remains", items)

    def _upload_remains(self, name: str) -> List[str]:
        folder = self.home.uploads.folder_of(name)
        known = {str(version["version"]) for version in self.home.uploads.versions(name)}
        found = []
        with contextlib.suppress(FileNotFoundError):
            for item in sorted(os.listdir(folder)):
                match = _VERSION.match(item)
                if item != "versions.json" and not (match and match.group(1) in known):
                    found.append(os.path.join(folder, item))
        return found

    def _remove(self, kind: str, found: Iterable[stale_files.StaleFile], why_skipped: str) -> None:
        """Remove what is due, and in no use."""
        removed, kept = [], []
        for item in found:
            row = {"path": self._short(item.path), "bytes": item.size}
            if not item.due:
                kept.append(row)
            elif self._dry or stale_files.remove_unless_locked(item.path):
                removed.append(row)
        self._report(kind, removed)
        self._report(kind, kept, why=why_skipped)

    # -- blobs

    def _remove_blobs(self, cut: float) -> None:
        """`cut`: for how many seconds the lease of a cut transfer counts."""
        count = size = spared = spared_size = 0
        for first in range(256):
            candidates = [
                (p, digest) for p, digest in self.home.blobs.beginning_with(first) if digest not in self._live
            ]
            while candidates:
                self._reader.update(self._live)  # the most of it is done before the lock is taken
                with self._alone():
                    leased: Set[bytes] = set()
                    leases.read(self.home.leases, leased, self._clock(), not self._dry, cut)
                    self._reader.update(self._live)
                    deadline = time.monotonic() + HOLD
                    while candidates and time.monotonic() < deadline:
                        path, digest = candidates.pop()
                        if digest in self._live:
                            continue
                        freed = self._free(path, keep=digest in leased)
                        if freed is None:
                            continue
                        if digest in leased:
                            spared, spared_size = spared + 1, spared_size + freed
                        else:
                            count, size = count + 1, size + freed
                if candidates:
                    time.sleep(0.002)  # or we would take the lock again before those that wait for it wake up
        self._report("blobs", [{"bytes": size}] if count else [], count=count)
        why = "a transfer that goes on, or was cut less than a day ago, needs them"
        self._report("blobs", [{"bytes": spared_size}] if spared else [], why=why, count=spared)

    def _free(self, path: str, keep: bool) -> Optional[int]:
        """Bytes that the disk gets back (or would), or None if it is gone."""
        try:
            status = os.stat(path)
            if not keep and not self._dry:
                os.unlink(path)
        except FileNotFoundError:
            return None
        return status.st_size if status.st_nlink == 1 or self._dry else 0

    # -- environments

    def _remove_environments(self) -> None:
        used = self._last_uses()
        removed: Dict[str, List[Dict[str, Any]]] = {"environment": [], "image": []}
        spared: Dict[str, List[Dict[str, Any]]] = {"environment": [], "image": []}
        with self._trash() as discard:
            for engine in self._engines:
                needed, gone = self._needed(), []  # type: Set[str], List[str]
                for kept in engine.kept(orphans=not self._asked.envs):
                    if gone and kept.alone < kept.size:
                        kept = next((one for one in engine.kept(without=gone) if one.id == kept.id), kept)
                    if kept.whole and kept.name in needed:
                        continue
                    at = max(used.get(kept.name, 0.0), kept.used)
                    item = {"name": kept.name, "used": round(at, 3), "bytes": kept.alone, "contents": kept.contents}
                    if kept.whole and self._clock() - at < self._asked.unused:
                        spared[kept.kind].append(item)
                    elif self._take(engine, kept, discard):
                        removed[kept.kind].append(item)
                        gone.append(kept.id)
        for kind in removed:
            self._report(kind + "s", removed[kind])
            self._report(kind + "s", spared[kind], why="used lately; --unused TIME says how long ago is enough")

    def _take(self, engine: Engine, kept: Kept, discard: Callable[[str], None]) -> bool:
        """Whether it could be freed: nobody builds it, and still no run needs it, nor one that comes now."""
        with contextlib.ExitStack() as held:
            try:
                if kept.lock:
                    held.enter_context(locked(self.home.lock(kept.lock), patience=0))
            except TimeoutError:
                return False
            held.enter_context(self._alone())
            if kept.whole and kept.name in self._needed():
                return False
            return self._dry or engine.free(kept, discard)

    def _needed(self) -> Set[str]:
        """What engines keep that runs need which have not ended."""
        return {name for run in active_runs(self.home) for name in self._names(run.spec)}

    def _last_uses(self) -> Dict[str, float]:
        """When a run that is still known used what, as far as it is known."""
        found: Dict[str, float] = {}
        for key in self.home.run_keys() if self._asked.envs else []:
            try:
                run = self.home.run(key)
                at = float(run.state()[1].get("t", 0.0))
                names = self._names(run.resolved_spec())
            except (OSError, ValueError, LookupError, TypeError, HomeError):
                continue
            for name in names:
                found[name] = max(found.get(name, 0.0), at)
        return found

    def _names(self, spec: RunSpec) -> Set[str]:
        return {name for engine in self._engines for name in engine.needs(spec)}

    # -- parts

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.home.path)


@contextlib.contextmanager
def _held(path: str, patience: float, busy: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, patience=patience))
        except TimeoutError:
            raise HomeError("busy", busy, "try again in a while")
        yield
