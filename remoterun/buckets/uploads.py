"""Requests about uploads, and about the files of a resource: an upload, or the outputs of a run."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.frames import MAX_BODY, PIECE
from remoterun.agent.shared.protocol import MOST_READ, RemoteError
from remoterun.agent.shared.records import decode, encode, to_json
from remoterun.agent.shared.spec import UPLOAD_NAME, ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, ManifestReader, TreeError, is_digest, show
from remoterun.buckets.s3 import S3, Absent, StoredObject
from remoterun.buckets.serving import Bucket, Call, Handler

_KEY = re.compile(r"uploads/([A-Za-z0-9][A-Za-z0-9._-]{0,99})/([0-9]{8})\.json\Z")
RENEWED = 86400.0
"""Seconds after which an object is made young again that an upload relies on: well before `upkeep.LEAST`."""
MOST_VERSION = 64 << 10
"""Bytes of the JSON of a version."""
START = 4096
"""Bytes of a manifest that come before the others, with what the client wants to know soon."""


@dataclass(frozen=True)
class Version:
    """A version of the upload `name`."""

    name: str
    record: api.UploadVersion


def uploads(call: Call, _: api.Nothing) -> api.UploadList:
    newest = [(name, numbers[-1]) for name, numbers in versions_by_name(call.bucket.s3).items()]
    found = call.bucket.workers.each(lambda item: read_version(call.bucket.s3, *item), newest)
    return api.UploadList(
        [
            api.NamedUpload(name, version)
            for (name, _), version in zip(newest, found, strict=True)
            if version is not None
        ]
    )


def upload(call: Call, asked: api.VersionsOf) -> api.Versions:
    numbers = version_numbers(call.bucket.s3, asked.name)
    return api.Versions(_versions(call.bucket, asked.name, numbers))


def commit_upload(call: Call, asked: api.CommitUpload) -> api.Committed:
    check_name(asked.name)
    reader = ManifestReader()
    for body in call.stream.bodies():
        reader.feed(body)
    return commit(call.bucket, asked, reader.end())


def remove_upload(call: Call, asked: api.RemoveUpload) -> api.Removed:
    numbers = version_numbers(call.bucket.s3, asked.name)
    if asked.digest is not None:
        versions = _versions(call.bucket, asked.name, numbers)
        numbers = [version.version for version in versions if version.digest == asked.digest]
    keys = [layout.version_key(asked.name, number) for number in numbers]
    call.bucket.s3.delete(keys)
    return api.Removed(bool(keys))


def tree(call: Call, asked: api.OfResource) -> api.Tree:
    resource = asked.resource.check()
    manifest, single, about = find(call.bucket, resource)
    text = manifest.encode()
    call.stream.send(text[:START], size=manifest.size, live=False)
    call.stream.send_all(text[START:], MAX_BODY)
    return api.Tree(False, single, "", about)


def get(call: Call, asked: api.OfResource) -> api.FileCount:
    """Files by their names: asked for where a content was not there a moment ago."""
    manifest, _, _ = find(call.bucket, asked.resource.check())
    entries = {entry.path: entry for entry in manifest.files}
    count = 0
    for name in call.stream.texts():
        _send_file(call, entries.get(os.fsdecode(name)))
        count += 1
    return api.FileCount(count)


HANDLERS: dict[str, Handler] = {
    "uploads": uploads,
    "upload": upload,
    "commit_upload": commit_upload,
    "remove_upload": remove_upload,
    "tree": tree,
    "get": get,
}


def commit(bucket: Bucket, asked: api.CommitUpload, manifest: Manifest) -> api.Committed:
    """Make `manifest` a version of an upload, by default the newest one. One with that content is it already."""
    name = asked.name
    digest = manifest.digest
    text = manifest.encode()
    kept = False
    while True:
        numbers = version_numbers(bucket.s3, name)
        known = _versions(bucket, name, numbers)
        newest = known[-1] if known else None
        for version in reversed(known):
            if version.digest == digest and not version.damaged:
                return api.Committed(version, False)
        wished = asked.number + (digest != asked.digest)
        number = wished if asked.number and wished not in numbers else max(numbers, default=0) + 1
        if not kept:
            _check_contents(bucket, manifest)
            _renew(bucket, manifest, Version(name, newest) if newest is not None else None)
            bucket.s3.put(layout.tree_key(digest), [text], digest)
            kept = True
        version = api.UploadVersion(number, digest, manifest.size, manifest.file_count, round(bucket.clock(), 3))
        if bucket.s3.put_new(layout.version_key(name, number), encode(version)):
            return api.Committed(version, True)


def check_name(name: str) -> None:
    if not UPLOAD_NAME.match(name):
        raise RemoteError("bad_name", f"{show(name)} is not a name for an upload")


def versions_by_name(s3: S3) -> dict[str, list[int]]:
    """The numbers of the versions of each upload, oldest first."""
    found: dict[str, list[int]] = {}
    for stored in s3.list("uploads/"):
        name, version = _named(stored)
        if name:
            found.setdefault(name, []).append(version)
    return {name: sorted(numbers) for name, numbers in sorted(found.items())}


def version_numbers(s3: S3, name: str) -> list[int]:
    """The numbers of an upload's versions, oldest first."""
    return [_named(stored)[1] for stored in _listed(s3, name)]


def read_version(s3: S3, name: str, number: int) -> api.UploadVersion | None:
    """None if it is gone. Raises `HostError` for one that makes no sense."""
    key = layout.version_key(name, number)
    try:
        version = decode(api.UploadVersion, s3.get(key, MOST_VERSION))
    except Absent:
        return None
    except ValueError as error:
        raise s3.bad(key, str(error)[:200])
    if version.version != number or not is_digest(version.digest) or min(version.size, version.files) < 0:
        raise s3.bad(key, "it does not describe a version of that number")
    return version


def read_tree(s3: S3, key: str, digest: str | None = None) -> Manifest:
    """The manifest that an object holds, whose digest is known or not. Raises `HostError`, `Absent`."""
    data = s3.get(key, MOST_READ)
    try:
        manifest = Manifest.decode(data)
    except TreeError as error:
        raise s3.bad(key, str(error)[:200])
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise s3.bad(key, "it is not the list of files that it was")
    return manifest


def tree_of(s3: S3, version: Version) -> Manifest:
    """The files of a version. Raises `HostError`."""
    key = layout.tree_key(version.record.digest)
    try:
        return read_tree(s3, key, version.record.digest)
    except Absent:
        raise s3.bad(key, f"it is gone, and uploads/{version.name} refers to it")


def find(bucket: Bucket, resource: ResourceRef) -> tuple[Manifest, bool, dict[str, Any]]:
    """(the files that a resource names, whether it is one file, what else is known of it)."""
    if resource.kind == "upload":
        whole, about = _tree_of_upload(bucket, resource)
    elif resource.kind == "source":
        whole, about = _source_of_run(bucket, resource), {}
    elif resource.kind == "tree":
        raise RemoteError("not_found", f"{show(resource.typed)} is not in the bucket")
    else:
        from remoterun.buckets.runs import outputs_of

        whole, about = outputs_of(bucket, resource)
    named = whole.find(resource.sub) if resource.sub else None
    try:
        return whole.below(resource.sub), named is not None and named.kind == "f", about
    except KeyError:
        raise RemoteError("not_found", f"there is no {show(resource.typed)}")


def _source_of_run(bucket: Bucket, resource: ResourceRef) -> Manifest:
    try:
        return read_tree(bucket.s3, layout.run_prefix(resource.key) + "source")
    except Absent:
        raise RemoteError("not_found", f"the source of {show(resource.typed)} is not in the bucket")


def _tree_of_upload(bucket: Bucket, resource: ResourceRef) -> tuple[Manifest, dict[str, Any]]:
    numbers = version_numbers(bucket.s3, resource.name)
    if resource.version is not None:
        chosen = [number for number in numbers if number == resource.version]
    else:
        chosen = numbers if resource.digest is not None else numbers[-1:]
    versions = _versions(bucket, resource.name, chosen)
    fitting = [version for version in versions if resource.digest in (None, version.digest)]
    if not fitting:
        what = f"the upload {show(resource.name)} has no such version" if numbers else ""
        raise RemoteError("not_found", what or f"there is no upload {show(resource.name)}")
    version = Version(resource.name, fitting[-1])
    return tree_of(bucket.s3, version), to_json(version.record)


def _versions(bucket: Bucket, name: str, numbers: Iterable[int]) -> list[api.UploadVersion]:
    found = bucket.workers.each(lambda number: read_version(bucket.s3, name, number), numbers)
    return [version for version in found if version is not None]


def _listed(s3: S3, name: str) -> list[StoredObject]:
    check_name(name)
    return [stored for stored in s3.list(f"uploads/{name}/") if _named(stored)[0]]


def _named(stored: StoredObject) -> tuple[str, int]:
    """(name, version) of the upload that an object is of; ("", 0) for an object that is not ours."""
    match = _KEY.match(stored.key)
    return (match[1], int(match[2])) if match and int(match[2]) else ("", 0)


def _check_contents(bucket: Bucket, manifest: Manifest) -> None:
    """That all contents are there which the files have."""
    home = bucket.contents.home
    digests = list({bytes.fromhex(entry.digest) for entry in manifest.files})
    home.look([digest for digest in digests if not home.has(digest)])
    absent = next((digest for digest in digests if not home.has(digest)), None)
    if absent is not None:
        paths = [entry.path for entry in manifest.files if entry.digest == absent.hex()]
        raise RemoteError(
            "missing_blob", f"the content of {show(paths[0])} is not in {bucket.s3.place.address}", "try again"
        )


def _renew(bucket: Bucket, manifest: Manifest, newest: Version | None) -> None:
    """Make objects young again that `collect` might delete, since nothing refers to them: only `newest` surely does."""
    home = bucket.contents.home
    before = bucket.clock() - RENEWED
    digests = {bytes.fromhex(entry.digest) for entry in manifest.files}
    if newest is not None:
        digests -= {bytes.fromhex(entry.digest) for entry in tree_of(bucket.s3, newest).files}
    old = [digest for digest in digests if home.written(digest) < before]
    keys = {key for digest in old for key in home.keys(digest)}
    renewed = bucket.workers.each(lambda key: bucket.s3.copy(key, key), keys)
    for key, there in zip(keys, renewed, strict=True):
        if not there:
            bucket.forget()
            raise RemoteError(
                "missing_blob", f"{show(key)} was deleted just now, as nothing referred to it", "try again"
            )


def _send_file(call: Call, entry: Entry | None) -> None:
    place = None if entry is None else call.bucket.contents.place(bytes.fromhex(entry.digest))
    if entry is None or place is None or place.size != entry.size:
        call.stream.send(gone="it is not there")
        return
    hashed = hashlib.sha256()
    header: dict[str, Any] = {"s": entry.size, "x": int(entry.executable)}
    held = b""
    left = entry.size
    for piece in call.bucket.reader.pieces(place.extents):
        for at in range(0, len(piece), PIECE):
            if held:
                call.stream.send(held, **header)
                header = {}
            held = piece[at : at + PIECE]
            hashed.update(held)
            left -= len(held)
    call.stream.send(held, **header, h=hashed.hexdigest(), c=int(bool(left)), short=left)
