"""Requests about the upkeep of a home in a bucket: who uses how much of it, and what nothing needs any more.

`collect` is safe beside uploads without any lock. What it deletes is `LEAST` seconds old at the least, and nothing
refers to it; an upload that relies on something so old makes it young again before it names it (`uploads.commit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import MOST_BYTES, RunSpec, SpecError
from remoterun.agent.shared.states import FINAL
from remoterun.agent.shared.tree import LARGEST, Manifest
from remoterun.buckets import checking, images
from remoterun.buckets.contents import Scope
from remoterun.buckets.runs import LIVES, read_record
from remoterun.buckets.s3 import Absent, Damaged, StoredObject
from remoterun.buckets.serving import Bucket, Call, Handler
from remoterun.buckets.uploads import Version, read_tree, read_version, tree_of, versions_by_name

LEAST = 2 * 86400.0
"""Seconds for which everything stays that nothing refers to: an upload that goes on may be about to."""
MOST_ITEMS = 1000
SHARED = -1


def usage(call: Call, _: api.Nothing) -> api.UsageTotals:
    bucket = call.bucket
    home = _home(bucket)
    sizes = dict(home.pieces())
    objects = _sizes_of_folders(bucket)
    total = sum(objects.values())
    rows: list[dict[str, Any]] = []
    claims: dict[bytes, int] = {}
    for name, numbers in versions_by_name(bucket.s3).items():
        versions = _versions(bucket, name, numbers)
        pieces = {piece for version in versions for piece in home.expanded(_digests(tree_of(bucket.s3, version)))}
        own = objects.pop(f"uploads/{name}", 0)
        size = own + sum(sizes.get(piece, 0) for piece in pieces)
        told = [to_json(version.record) for version in versions]
        rows.append({"kind": "upload", "name": name, "size": size, "alone": own, "versions": told})
        for piece in pieces:
            claims[piece] = SHARED if piece in claims else len(rows) - 1
    rows += [
        {"kind": "image", "name": image.name, "size": image.size, "alone": image.size, "used": image.used}
        for image in images.kept(bucket.s3)
        if image.name is not None
    ]
    rows += [_run_row(bucket, name[5:], size) for name, size in objects.items() if name.startswith("runs/")]
    counted = {number: [0, 0] for number in (None, SHARED, *range(len(rows)))}
    for piece, size in sizes.items():
        counts = counted[claims.get(piece)]
        counts[0], counts[1] = counts[0] + 1, counts[1] + size
    for number, row in enumerate(rows):
        row["alone"] += counted[number][1]
    count, size = counted[None]
    if count:
        rows.append({"kind": "unreferenced", "name": "", "size": size, "alone": size, "count": count})
    for row in rows:
        call.stream.send(row=row)
    held = api.AllBlobs(len(sizes), sum(sizes.values()), api.BlobTotals(*counted[SHARED]))
    return api.UsageTotals(total, LARGEST, LARGEST, held)


def collect(call: Call, asked: api.Collect) -> api.CollectTotals:
    if asked.keep is not None and asked.keep < 1:
        raise RemoteError("bad_request", "of each upload at least 1 version is kept")
    collection = Collection(call.bucket, call.bucket.clock() - max(asked.unused, LEAST), asked.keep, asked.dry_run)
    for part in collection.run():
        if "why" in part:
            call.stream.send(kept=part)
        else:
            call.stream.send(part=part)
    return api.CollectTotals(collection.freed, LARGEST)


HANDLERS: dict[str, Handler] = {
    "usage": usage,
    "collect": collect,
    "check": checking.check,
    "mend": checking.mend,
    "blobs": checking.blobs,
}


class Collection:
    """One clean-up: what was written after `before` (seconds since 1970) stays. `keep`: versions of each upload that
    stay, None for all. Where it can't be told what something refers to, nothing at all is deleted."""

    def __init__(self, bucket: Bucket, before: float, keep: int | None, dry_run: bool) -> None:
        self._bucket, self._s3 = bucket, bucket.s3
        self._before, self._keep, self._dry_run = before, keep, dry_run
        self.freed = 0

    def run(self) -> Iterator[dict[str, Any]]:
        """What was deleted, or would be, by its kind; and with "why" what was kept for now. Raises `HostError`."""
        home = _home(self._bucket)
        old, versions = self._versions()
        live = {digest for version in versions for digest in _digests(tree_of(self._s3, version))}
        live.update(self._of_runs())
        live = set(home.expanded(live))
        trees = {layout.tree_key(version.record.digest) for version in versions}
        if old:
            items = [
                {"upload": version.name, "version": version.record.version, "bytes": 0, "digest": version.record.digest}
                for version in old
            ]
            if not self._dry_run:
                self._s3.delete([layout.version_key(version.name, version.record.version) for version in old])
            yield {"kind": "versions", "count": len(old), "bytes": 0, "items": items[:MOST_ITEMS]}
        unneeded = [stored for stored in self._s3.list("trees/") if stored.key not in trees]
        unneeded += self._packs(home, live)
        for listing in (home.blobs, home.lists):
            unneeded += [stored for digest, stored in listing.found.items() if digest not in live]
        for prefix in ("doctor/", "damaged/"):
            unneeded += self._s3.list(prefix)
        count, size = self._delete([stored.key for stored in unneeded if stored.modified < self._before])
        if count:
            yield {"kind": "blobs", "count": count, "bytes": size, "items": []}
        young = [stored for stored in unneeded if stored.modified >= self._before]
        if young:
            days = (self._bucket.clock() - self._before) / 86400
            why = f"it was written less than {days:.0f} days ago, and an upload may be about to need it"
            size = sum(stored.size for stored in young)
            yield {"kind": "blobs", "count": len(young), "bytes": size, "items": [], "why": why}
        yield from self._images()
        if not self._dry_run:
            self._bucket.forget()

    def _images(self) -> Iterator[dict[str, Any]]:
        """Images that no host has used for long, and what was cut while it was written."""
        items, size = [], 0
        for image in images.kept(self._s3):
            keys = images.unneeded(image, self._before, min(self._before, self._bucket.clock() - images.UNUSED))
            if keys:
                wanted = set(keys)
                items.append({"name": image.name or "unfinished"})
                size += sum(stored.size for stored in image.objects if stored.key in wanted)
                if not self._dry_run:
                    self._s3.delete(keys)
        self.freed += size
        if items:
            yield {"kind": "images", "count": len(items), "bytes": size, "items": items[:MOST_ITEMS]}

    def _versions(self) -> tuple[list[Version], list[Version]]:
        """(those that are too many, the others)."""
        mounted = set(self._mounted()) if self._keep is not None else set()
        old: list[Version] = []
        rest: list[Version] = []
        for name, numbers in versions_by_name(self._s3).items():
            versions = _versions(self._bucket, name, numbers)
            newest = versions[len(versions) - self._keep :] if self._keep is not None else versions
            for version in versions:
                stays = version in newest or not mounted.isdisjoint(
                    {(name, version.record.version), (name, version.record.digest)}
                )
                (rest if stays else old).append(version)
        return old, rest

    def _mounted(self) -> Iterator[tuple[str, int | str]]:
        """(upload, number or digest of the version) of what runs mount that may go on, perhaps on another machine."""
        for key in self._s3.folders("runs/"):
            try:
                record = read_record(self._s3, key)
                if record.status.state in FINAL or self._bucket.clock() - record.time > LIVES:
                    continue
                spec = RunSpec.decode(self._s3.get(layout.run_prefix(key) + "spec.json", MOST_BYTES))
            except (Absent, SpecError):
                continue
            for mount in spec.mounts:
                for version in (mount.resource.version, mount.resource.digest):
                    if version is not None:
                        yield mount.resource.name, version

    def _of_runs(self) -> Iterator[bytes]:
        """What the runs in the bucket name of its contents."""
        for key in self._s3.folders("runs/"):
            for name in ("source", "outputs"):
                with suppress(Absent):
                    yield from _digests(read_tree(self._s3, layout.run_prefix(key) + name))

    def _packs(self, home: Scope, live: set[bytes]) -> Iterator[StoredObject]:
        """Packs of which nothing is needed, with their indexes; and what was cut while it was written."""
        needed = {number for digest, number in home.packed_in() if digest in live}
        packs = {stored.key.rpartition("/")[2]: stored for stored in self._s3.list("packs/")}
        for number, index in enumerate(home.packs):
            pack = packs.pop(index.key.rpartition("/")[2], None)
            if number not in needed and max(index.modified, pack.modified if pack else 0.0) < self._before:
                yield index
                if pack is not None:
                    yield pack
        yield from packs.values()

    def _delete(self, keys: list[str]) -> tuple[int, int]:
        """(how many were deleted, their bytes): those that are still as old, of which the bucket is asked once more."""
        wanted = set(keys)
        count = size = 0
        for prefix in sorted(
            {key.partition("/")[0] for key in keys}, key=("index", "lists").__contains__, reverse=True
        ):
            after, more = "", True
            while more:
                page = self._s3.page(f"{prefix}/", after)
                more = page.more
                after = page.objects[-1].key if page.objects else ""
                found = [stored for stored in page.objects if stored.key in wanted and stored.modified < self._before]
                if not self._dry_run:
                    self._s3.delete([stored.key for stored in found])
                count += len(found)
                size += sum(stored.size for stored in found)
        self.freed += size
        return count, size


def _home(bucket: Bucket) -> Scope:
    """All contents of the home, as they are now."""
    home = Scope(bucket.s3, bucket.workers, "", bucket.cache)
    home.list_all()
    return home


def _versions(bucket: Bucket, name: str, numbers: Iterable[int]) -> list[Version]:
    found = bucket.workers.each(lambda number: read_version(bucket.s3, name, number), numbers)
    return [Version(name, version) for version in found if version is not None]


def _digests(manifest: Manifest) -> Iterator[bytes]:
    return (bytes.fromhex(entry.digest) for entry in manifest.files)


def _sizes_of_folders(bucket: Bucket) -> dict[str, int]:
    """Bytes of all objects, by the first part of their keys; of uploads and runs, by the first two."""
    found: dict[str, int] = {}
    for stored in bucket.s3.list(""):
        parts = stored.key.split("/")
        name = "/".join(parts[:2]) if parts[0] in ("uploads", "runs") else parts[0]
        found[name] = found.get(name, 0) + stored.size
    return found


def _run_row(bucket: Bucket, key: str, size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "run", "name": key, "size": size, "alone": size, "state": None, "created": None}
    try:
        status = read_record(bucket.s3, key).status
    except (Absent, Damaged):
        return row
    outputs = status.outputs.size if status.outputs else 0
    return {**row, "state": status.state.value, "created": status.created, "outputs": outputs, "log": status.log_size}
