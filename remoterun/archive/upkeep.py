"""The upkeep of the archive: who uses how much of it, what nothing needs any more, and what is damaged.

`collect` is safe beside uploads without any lock. What it deletes is `LEAST` seconds old at the least, and nothing
names it; an upload relies on nothing that is half as old, but for what the newest version of its name has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from remoterun.agent.shared.archive import (
    MOST_RUN_TREES,
    MOST_TREE,
    ArchivedTree,
    image_key,
    image_parts,
    image_prefix,
    pack_key,
    upload_prefix,
    version_key,
)
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import KEY, UPLOAD_NAME
from remoterun.agent.shared.states import FINAL
from remoterun.archive import Archive
from remoterun.archive.grants import read_image
from remoterun.archive.objects import UNFINISHED, Absent, Damaged, StoredObject
from remoterun.archive.runs import RunPlace, read_record, read_spec, recorded_place
from remoterun.archive.uploads import mark_damaged, names, read_tree, versions
from remoterun.errors import NotFound
from remoterun.threads import each

DAY = 86400.0
LEAST = 2 * DAY
"""Seconds for which everything stays that nothing names: an upload that goes on may be about to."""
UNUSED = 30 * DAY
"""Seconds without a use after which an image is deleted."""
_TREE = re.compile(
    r"uploads/[^/]+/[0-9]{8}\Z|runs/[^/]+/(source|outputs|mounts/[0-9a-f]{64})\Z|hosts/[^/]+/[^/]+/outputs\Z"
)
"""The keys of archived trees."""


# -- who uses how much


def usage(archive: Archive) -> Iterator[dict[str, Any]]:
    """A row for each user of the archive, as a host's `usage` has them, with the bytes of its objects: "upload", "run",
    "image" or "other"."""
    sizes: dict[str, int] = {}
    used = {stored.key: stored.modified for stored in archive.objects.list("images/")}
    runs = {folder: place for place in _places(archive) for folder in place.folders}
    for stored in archive.objects.list(""):
        folder = "/".join(stored.key.split("/")[:2]) if stored.key.startswith(("uploads/", "runs/", "envs/")) else ""
        place = runs.get(_host_folder(stored.key))
        folder = folder if place is None else f"runs/{place.key}"
        sizes[folder] = sizes.get(folder, 0) + stored.size
    for folder, size in sorted(sizes.items()):
        about = _about(archive, folder, used.get(image_key(folder.rpartition("/")[2]), 0.0))
        yield {"size": size, "alone": size, **about}


def _about(archive: Archive, folder: str, used: float) -> dict[str, Any]:
    kind, _, name = folder.partition("/")
    if kind == "uploads" and UPLOAD_NAME.match(name):
        with suppress(Damaged):
            return {"kind": "upload", "name": name, "versions": [to_json(each) for each in versions(archive, name)]}
        return {"kind": "upload", "name": name, "versions": [], "damaged": True}
    if kind == "runs":
        with suppress(NotFound, Damaged):
            status = read_record(archive, recorded_place(archive, name)).status
            outputs = status.outputs.size if status.outputs else 0
            about = {"created": status.created, "outputs": outputs, "log": status.log_size}
            return {"kind": "run", "name": name, "state": status.state.value, **about}
        return {"kind": "run", "name": name, "state": None, "created": None}
    if kind == "envs":
        image = read_image(archive, name)
        return {"kind": "image", "name": image.image if image is not None else "unfinished", "used": used}
    return {"kind": "other", "name": ""}


# -- what nothing needs


@dataclass
class Deleted:
    """A kind of thing that was deleted, or would be: "versions", "blobs" or "images"; or, with `why`, was not yet."""

    kind: str
    why: str = ""
    count: int = 0
    bytes: int = 0
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, size: int) -> None:
        self.count, self.bytes = self.count + 1, self.bytes + size


def collect(archive: Archive, keep: int | None, dry_run: bool) -> list[Deleted]:
    """Delete what nothing needs, and of each upload all but the `keep` newest versions (None: none). What can't be read
    frees nothing. May be repeated. Raises `HostError`."""
    collection = _Collection(archive, dry_run)
    if keep is not None:
        collection.remove_versions(keep)
    for name in names(archive):
        collection.free_packs(upload_prefix(name))
    named, unknown = set[str](), set[str]()
    for place in _places(archive, unknown):
        named.update(place.folders)
        with suppress(NotFound, Damaged):
            if read_record(archive, place).status.state in FINAL:  # else its host may be about to name more
                for folder in place.all_folders:
                    collection.free_packs(folder)
    collection.free_images()
    of_hosts = (stored for stored in archive.objects.list("hosts/") if unknown.isdisjoint(stored.key.split("/")))
    collection.delete((one for one in of_hosts if _host_folder(one.key) not in named), collection.blobs)
    for prefix in ("doctor/", "damaged/"):
        collection.delete(archive.objects.list(prefix), collection.blobs)
    collection.delete(archive.objects.list(UNFINISHED), collection.blobs, DAY)
    parts = [collection.versions, collection.blobs, collection.images, collection.young]
    return [part for part in parts if part.count]


class _Collection:
    def __init__(self, archive: Archive, dry_run: bool) -> None:
        self._archive, self._objects, self._dry_run = archive, archive.objects, dry_run
        self.versions, self.blobs, self.images = Deleted("versions"), Deleted("blobs"), Deleted("images")
        why = f"it was written less than {LEAST / DAY:.0f} days ago, and an upload may be about to need it"
        self.young = Deleted("blobs", why)

    def remove_versions(self, keep: int) -> None:
        mounted = set(_mounted(self._archive))
        for name in names(self._archive):
            for version in versions(self._archive, name)[:-keep]:
                if (name, version.digest) not in mounted:
                    if not self._dry_run:
                        self._objects.delete([version_key(name, version.version)])
                    item = {"upload": name, "version": version.version, "bytes": 0, "digest": version.digest}
                    self.versions.items.append(item)
                    self.versions.add(0)

    def free_packs(self, prefix: str) -> None:
        """Delete packs below a prefix that none of its trees names. They are listed after the trees were read: an
        upload that is about to name one has renewed it by then, or finds it young."""
        gone = {version_key(item["upload"], item["version"]) for item in self.versions.items}
        try:
            keys = [key for key in _trees(self._archive, prefix) if key not in gone]
            named = {prefix + pack_key(pack) for key in keys for pack in _read(self._archive, key).packs}
        except (Absent, Damaged):  # another client works here, or what it names is not known
            return
        packs = self._objects.list(prefix + pack_key(""))
        self.delete((stored for stored in packs if stored.key not in named), self.blobs)

    def free_images(self) -> None:
        """Delete images that no host has used for long, and parts that no record names."""
        needed = set()
        records = list(self._objects.list("images/"))
        for stored in records:
            id = stored.key.removeprefix("images/").removesuffix(".json")
            image = read_image(self._archive, id)
            if image is not None and stored.modified > self._archive.clock() - UNUSED:
                needed |= {stored.key, *(image_prefix(id) + key for key, _ in image_parts(image))}
            else:
                self.images.items.append({"name": image.image if image is not None else "unfinished"})
        for listed in (records, self._objects.list("envs/")):
            self.delete((stored for stored in listed if stored.key not in needed), self.images)

    def delete(self, unneeded: Iterable[StoredObject], freed: Deleted, least: float = LEAST) -> None:
        """Delete those of them that are `least` seconds old."""
        old, before = [], self._archive.clock() - least
        for stored in unneeded:
            if stored.modified < before:
                old.append(stored.key)
                freed.add(stored.size)
            elif freed is self.blobs:
                self.young.add(stored.size)
        if not self._dry_run:
            self._objects.delete(old)


def _places(archive: Archive, unknown: set[str] | None = None) -> Iterator[RunPlace]:
    """Of all runs. Where it can't be read whose folders are a run's, its own is, and its key becomes `unknown`."""
    for key in archive.objects.folders("runs/"):
        if KEY.match(key):
            try:
                yield recorded_place(archive, key)
            except Damaged:
                yield RunPlace(key)
                if unknown is not None:
                    unknown.add(key)


def _host_folder(key: str) -> str:
    """Of an object below hosts/: that of its host and its run."""
    return "/".join(key.split("/")[:3]) + "/"


def _mounted(archive: Archive) -> Iterator[tuple[str, str]]:
    """(upload, digest of the version) of what runs mount that may go on, perhaps on another machine."""
    for place in _places(archive):
        with suppress(NotFound, Damaged):
            if read_record(archive, place).status.state not in FINAL:
                for mount in read_spec(archive, place).mounts:
                    if mount.resource.digest is not None:
                        yield mount.resource.name, mount.resource.digest


# -- what is damaged


def check(
    archive: Archive, mark: bool, progress: Callable[[int], None] = lambda packs: None
) -> tuple[int, int, list[dict[str, Any]]]:
    """Verify every tree, and that every pack that one names is stored with the checksum that is its name, as the store
    has verified it; no pack is read. `mark` versions of uploads that are not whole. `progress` is called with the
    number of packs that were verified. Returns how many these are, their bytes, and findings as a host's `check` has
    them: contents, or trees ("list"), that are "damaged" or "missing"."""
    checking = _Check(archive, progress)
    for name in names(archive):
        prefix = upload_prefix(name)
        for key in _trees(archive, prefix):
            where = {"upload": name, "version": int(key.removeprefix(prefix)), "tree": ""}
            if not checking.tree(key, prefix, where) and mark:
                mark_damaged(archive, key)
    for run, prefix in ((place.key, folder) for place in _places(archive) for folder in place.all_folders):
        try:
            for key in _trees(archive, prefix):
                checking.tree(key, prefix, {"run": run, "part": key.removeprefix(prefix).partition("/")[0]})
        except Damaged:
            checking.fault("list", "damaged", prefix, 0, {"run": run, "part": "outputs", "path": ""})
    return len(checking.packs), checking.size, list(checking.faults.values())


def _trees(archive: Archive, prefix: str) -> list[str]:
    """The keys of the trees below a prefix. Raises `Damaged` for those of a run that are too large to be read."""
    found = [stored for stored in archive.objects.list(prefix) if _TREE.match(stored.key)]
    if not prefix.startswith("uploads/") and sum(stored.size for stored in found) > MOST_RUN_TREES:
        raise archive.objects.bad(prefix, f"its lists have more than the {MOST_RUN_TREES:,} bytes that are allowed")
    return [stored.key for stored in found]


def _read(archive: Archive, key: str) -> ArchivedTree:
    return read_tree(archive, key, MOST_TREE if key.startswith("uploads/") else MOST_RUN_TREES)


class _Check:
    def __init__(self, archive: Archive, progress: Callable[[int], None]) -> None:
        self._archive, self._progress = archive, progress
        self.packs: dict[str, str] = {}
        """By the keys of packs, what is wrong with them: "", "missing" or "damaged"."""
        self.size = 0
        self.faults: dict[str, dict[str, Any]] = {}

    def tree(self, key: str, prefix: str, where: dict[str, Any]) -> bool:
        """Whether it is whole, or gone."""
        try:
            tree = _read(self._archive, key)
        except Absent:
            return True
        except Damaged:
            self.fault("list", "damaged", key, 0, {**where, "path": ""})
            return False
        if "tree" in where:
            where["tree"] = tree.manifest.digest
        keys = [prefix + pack_key(pack) for pack in tree.packs]
        new = [key for key in keys if key not in self.packs]
        for pack, problem in zip(new, each(self._pack, new), strict=True):
            self.packs[pack] = problem
            self._progress(1)
        is_whole = not any(self.packs[key] for key in keys)
        if not is_whole:
            self._contents(tree, prefix, where)
        return is_whole

    def _pack(self, key: str) -> str:
        found = self._archive.objects.head(key)
        if found is None:
            return "missing"
        size, checksum = found
        self.size += size
        return "damaged" if checksum not in ("", key.rpartition("/")[2]) else ""

    def _contents(self, tree: ArchivedTree, prefix: str, where: dict[str, Any]) -> None:
        for entry in tree.manifest.files:
            problems = {self.packs[prefix + pack_key(extent.pack)] for extent in tree.places.get(entry.digest, ())}
            problem = next((problem for problem in ("missing", "damaged") if problem in problems), None)
            if problem is not None:
                self.fault("blob", problem, entry.digest, entry.size, {**where, "path": entry.path})

    def fault(self, what: str, problem: str, digest: str, size: int, place: dict[str, Any]) -> None:
        blob = digest if what == "blob" else ""
        about = {"what": what, "problem": problem, "digest": blob, "size": size, "users": [], "more": 0, "why": ""}
        self.faults.setdefault(digest, about)["users"].append(place)
