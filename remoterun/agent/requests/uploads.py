"""Requests about uploads, and about the files of a resource: an upload, or the outputs of a run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Any, Dict, List

from ..shared import api
from ..shared.files import read_bytes
from ..shared.frames import PIECE
from ..shared.packs import unpacked
from ..shared.paths import SafeFolder
from ..shared.protocol import Stream
from ..shared.records import Record, from_json
from ..shared.spec import ResourceRef
from ..shared.tree import Entry, Manifest, TreeError, check_path, hash_file, show, walk
from ..store import outputs
from ..store.blobs import packed
from ..store.errors import HomeError
from ..store.home import Home
from ..store.run_folder import RunFolder
from . import Call


class ResourceFiles(Record):
    """The files of a resource: their manifest, the folder that holds them ("": they are blobs only), whether they may
    still change, and what is known of the upload's version or the run. `single`: a part was named, and is one file."""

    manifest: Manifest
    folder: str
    live: bool
    about: Dict[str, Any]
    single: bool = False


def uploads(call: Call, _: api.Nothing) -> api.UploadList:
    listed = call.home.uploads.newest()
    return api.UploadList([api.NamedUpload(item["name"], from_json(api.UploadVersion, item)) for item in listed])


def upload(call: Call, asked: api.VersionsOf) -> api.Versions:
    versions = call.home.uploads.versions(asked.name)
    return api.Versions([from_json(api.UploadVersion, item) for item in versions])


def commit_upload(call: Call, asked: api.CommitUpload) -> api.Committed:
    manifest = Manifest.decode(call.stream.read())
    version, created = call.home.uploads.commit(asked.name, manifest, asked)
    call.lease.release(set(unpacked(packed(manifest))))
    return api.Committed(from_json(api.UploadVersion, version), created)


def remove_upload(call: Call, asked: api.RemoveUpload) -> api.Removed:
    if asked.digest is not None:
        return api.Removed(call.home.uploads.remove_version(asked.name, asked.digest))
    return api.Removed(call.home.uploads.remove(asked.name))


def tree(call: Call, asked: api.OfResource) -> api.Tree:
    resource = asked.resource.check()
    found = find(call.home, resource)
    call.stream.send_all(found.manifest.encode())
    folder = os.path.join(found.folder, resource.sub) if resource.sub and found.folder else found.folder
    return api.Tree(found.live, found.single, folder, found.about)


def get(call: Call, asked: api.OfResource) -> api.Nothing:
    resource = asked.resource.check()
    found = find(call.home, resource)
    if not found.folder:
        raise HomeError("not_found", "%s has no folder" % show(resource.typed))
    below = os.path.dirname(resource.sub) if found.single else resource.sub
    with SafeFolder(found.folder, make=False) as folder:
        for name in call.stream.read().split(b"\0")[:-1]:
            _send_file(call.stream, folder, os.path.join(below, check_path(os.fsdecode(name))))
    return api.Nothing()


def find(home: Home, resource: ResourceRef) -> ResourceFiles:
    """What a resource names. Raises `HomeError("not_found")`."""
    sub = resource.sub
    if resource.kind == "upload":
        stored = home.uploads.stored(resource.name, resource.digest)
        whole = ResourceFiles(stored.manifest(), stored.folder, False, stored.about)
    elif resource.kind == "tree":
        whole = ResourceFiles(home.blobs.tree(resource.digest or ""), "", False, {})
    elif resource.kind == "source":
        whole = ResourceFiles(Manifest.decode(read_bytes(home.existing_run(resource.key).source_file)), "", False, {})
    else:
        run = home.existing_run(resource.key)
        saved = outputs.saved(run)
        about = {"state": run.state()[0].value}
        if saved is not None:
            whole = ResourceFiles(saved.manifest(), saved.folder, False, about)
        else:
            live = _work_tree(run) if os.path.isdir(run.work) else Manifest([])
            whole = ResourceFiles(live, run.work, True, about)
    try:
        part = whole.manifest.below(sub)
    except KeyError:
        raise HomeError("not_found", "there is no %s" % show(resource.typed))
    one = whole.manifest.find(sub) if sub and part.file_count == 1 else None
    return whole._replace(manifest=part, single=one is not None and one.kind == "f")


def _work_tree(run: RunFolder) -> Manifest:
    """New and changed files of a work tree that is in use: sizes as of now, no digests."""
    source = {entry.path: entry for entry in Manifest.decode(read_bytes(run.source_file))}
    skip = [mount.place for mount in run.spec().mounts if not mount.is_absolute]
    entries: List[Entry] = []
    with SafeFolder(run.work, make=False) as work:
        for found in walk(run.work, skip, [], []):
            entry = found.entry
            known = source.get(entry.path)
            if known is not None and known.kind == entry.kind == "f" and known.size == entry.size:
                with contextlib.suppress(OSError, TreeError):
                    entry = entry._replace(digest=hash_file(work.open(entry.path))[0])
            if known != entry:
                entries.append(entry._replace(digest=""))
    return Manifest(entries)


def _send_file(stream: Stream, folder: SafeFolder, path: str) -> None:
    try:
        descriptor = folder.open(path)
    except (OSError, TreeError) as error:
        stream.send(gone=getattr(error, "strerror", None) or "gone")
        return
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        digest = hashlib.sha256()
        left = before.st_size
        header: Dict[str, Any] = {"s": before.st_size, "x": int(bool(before.st_mode & 0o100))}
        while True:
            data = b""
            with contextlib.suppress(OSError):  # the disk can't read it
                data = file.read(min(left, PIECE))
            left -= len(data)
            digest.update(data)
            if not left or not data:
                break  # that is all, or it became shorter
            stream.send(data, **header)
            header = {}
        after = os.fstat(descriptor)
        changed = bool(left) or after.st_mtime_ns != before.st_mtime_ns
        header.update(h=digest.hexdigest(), c=int(changed), short=left)
        stream.send(data, **header)
