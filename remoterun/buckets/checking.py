"""A home in a bucket is verified, and mended: every content against its digest, every list of files, every version.

With `repair` a damaged object is moved to damaged/, so that nothing takes it for what it should be, and the whole
contents of a damaged pack are packed anew. What is lost then, the client brings again, with `put` and `mend`. Until it
has, the versions that need it are marked as damaged: the same upload is not taken to be there. What runs left is
verified only, for no client has it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import PackBuilder, Packed
from remoterun.agent.shared.digests import unpacked
from remoterun.agent.shared.findings import MOST, Finding
from remoterun.agent.shared.frames import MAX_BODY
from remoterun.agent.shared.protocol import MOST_READ
from remoterun.agent.shared.records import encode
from remoterun.agent.shared.spec import KEY
from remoterun.agent.shared.tree import Manifest, is_digest
from remoterun.buckets.contents import EMPTY, ContentPlace, Extent, Scope
from remoterun.buckets.s3 import Absent, Damaged, StoredObject
from remoterun.buckets.serving import Bucket, Call
from remoterun.buckets.uploads import Version, read_tree, read_version, tree_of, versions_by_name

TELL_EVERY = 0.25
"""Seconds between two words of how far it is."""


def check(call: Call, asked: api.CheckHome) -> api.CheckTotals:
    return Check(call.bucket, asked.set_aside, call.stream.send).run()


def mend(call: Call, _: api.Nothing) -> api.Nothing:
    bucket = call.bucket
    digests = set(unpacked(call.stream.read()))
    bucket.contents.home.look_again(digests)
    for digest in digests:
        place = bucket.contents.home.place(digest)
        if place is None:
            call.stream.send(failed=digest.hex(), why="it is not here")
            continue
        call.stream.send(mended=digest.hex())
    _restore_trees(bucket, digests)
    _mark(bucket, lambda version: version.record.damaged and _lacks(bucket, version))
    return api.Nothing()


def blobs(call: Call, _: api.Nothing) -> api.Nothing:
    for digest in unpacked(call.stream.read()):
        name = digest.hex()
        place = call.bucket.contents.place(digest)
        if place is not None and _hash(call.bucket, place.extents) == digest:
            header: dict[str, Any] = {"d": name, "s": place.size}
            for piece in call.bucket.reader.pieces(place.extents):
                call.stream.send_all(piece, MAX_BODY, **header)
                header = {}
            if header:
                call.stream.send(**header)
            continue
        try:
            text = read_tree(call.bucket.s3, layout.tree_key(name), name).encode()
        except (Absent, Damaged):
            call.stream.send(d=name, gone=1)
            continue
        call.stream.send_all(text, d=name, s=len(text))
    return api.Nothing()


class Check:
    """One check. `send(at=…)` is called as it goes on, `send(finding=…)` for each finding at the end."""

    def __init__(self, bucket: Bucket, repair: bool, send: Callable[..., Any]) -> None:
        self._bucket, self._s3, self._repair, self._send = bucket, bucket.s3, repair, send
        self._findings: list[Finding] = []
        self._faults: dict[bytes, Finding] = {}
        """Of the home: its contents that are damaged, by their digests."""
        self._read = self._files = 0
        self._total = self._files_total = 0
        self._told = time.monotonic()

    def run(self) -> api.CheckTotals:
        """Raises `HostUnreachable`, `AuthenticationError`."""
        keys = [key for key in self._s3.folders("runs/") if KEY.match(key)]
        self._check_indexes("")
        home = self._scope("")
        scopes = {
            key: self._scope(layout.run_prefix(key)) for key in keys if self._check_indexes(layout.run_prefix(key))
        }
        for scope in (home, *scopes.values()):
            sizes = [size for _, size in scope.pieces()]
            self._total, self._files_total = self._total + sum(sizes), self._files_total + len(sizes)
        self._faults = self._check_scope(home)
        self._check_uploads(home)
        for key, scope in scopes.items():
            self._check_run(key, scope)
        for finding in self._faults.values():
            if self._repair and not finding.users:
                finding.mended = "nothing refers to it: it was set aside"
        findings = [*self._findings, *self._faults.values()]
        if self._repair:
            self._bucket.forget()
            broken = {version for finding in findings for version in finding.versions}
            _mark(self._bucket, lambda version: (version.name, version.record.version) in broken)
        for finding in findings[:MOST]:
            self._send(finding=finding.record())
        return api.CheckTotals(self._files, self._read, len(findings), max(0, len(findings) - MOST))

    # -- objects

    def _scope(self, prefix: str) -> Scope:
        scope = Scope(self._s3, self._bucket.workers, prefix)
        scope.list_all()
        return scope

    def _check_indexes(self, prefix: str) -> bool:
        """Whether all can be read, now. A damaged one is set aside; what it told of is missing then."""
        good = True
        for stored in list(self._s3.list(prefix + "index/")):
            try:
                if not is_digest(stored.key.rpartition("/")[2]):
                    raise ValueError("its name is not a digest")
                list(layout.index_entries(self._s3.get(stored.key, layout.MOST_INDEX)))
            except Absent:
                continue
            except (ValueError, Damaged) as error:
                finding = Finding("list", "damaged", why=f"{stored.key}: {error}"[:200])
                self._findings.append(finding)
                if self._repair and not prefix:
                    self._set_aside(stored.key)
                    finding.mended, finding.why = "it was set aside", ""
                else:
                    good = False
        return good

    def _check_scope(self, scope: Scope) -> dict[bytes, Finding]:
        """The contents that are not what they should be."""
        faults: dict[bytes, Finding] = {}
        members: dict[int, list[tuple[bytes, ContentPlace]]] = {}
        for digest, number in scope.packed_in():
            place = scope.place(digest)
            assert place is not None
            members.setdefault(number, []).append((digest, place))
        for number, listed in members.items():
            bad = dict(self._check_pack(listed))
            faults.update(bad)
            if bad and self._repair and not scope.prefix:
                self._pack_again(scope.packs[number], [item for item in listed if item[0] not in bad])
        for digest, stored in list(scope.blobs.found.items()):
            if self._hash([Extent(stored.key, 0, stored.size)]) != digest:
                faults[digest] = Finding("blob", "damaged", digest.hex(), stored.size)
                if self._repair and not scope.prefix:
                    self._set_aside(stored.key)
            self._came(stored.size)
        for digest, stored in list(scope.lists.found.items()):
            fault = self._check_list(scope, digest, faults)
            if fault is not None:
                faults[digest] = fault
                if self._repair and not scope.prefix:
                    self._set_aside(stored.key)
        return faults

    def _check_pack(self, listed: list[tuple[bytes, ContentPlace]]) -> Iterator[tuple[bytes, Finding]]:
        if all(digest == EMPTY for digest, _ in listed):
            return
        key = next(place.extents[0].key for _, place in listed if place.extents)
        end = max(place.extents[0].offset + place.size for _, place in listed if place.extents)
        data = b"".join(self._bucket.reader.pieces([Extent(key, 0, end)]))
        for digest, place in listed:
            start = place.extents[0].offset if place.extents else 0
            if hashlib.sha256(data[start : start + place.size]).digest() != digest:
                yield digest, Finding("blob", "damaged" if data else "missing", digest.hex(), place.size)
            self._came(place.size)

    def _check_list(self, scope: Scope, digest: bytes, faults: dict[bytes, Finding]) -> Finding | None:
        try:
            chunks = scope.chunks(digest)
        except Damaged:
            return Finding("blob", "damaged", digest.hex())
        for chunk in chunks.chunks:
            raw = bytes.fromhex(chunk.digest)
            stored = scope.blobs.found.get(raw)
            if stored is None or raw in faults or stored.size != chunk.length:
                return Finding("blob", "missing", digest.hex(), chunks.size)
        return None

    def _hash(self, extents: list[Extent]) -> bytes:
        return _hash(self._bucket, extents)

    # -- who refers to them

    def _check_uploads(self, home: Scope) -> None:
        lists: dict[str, Finding] = {}
        for name, numbers in versions_by_name(self._s3).items():
            for number in numbers:
                version = self._version(name, number)
                if version is None:
                    continue
                try:
                    manifest = tree_of(self._s3, version)
                except Damaged:
                    finding = lists.setdefault(version.record.digest, Finding("list", "damaged", version.record.digest))
                    finding.used_by({"upload": name, "version": number, "path": ""})
                    continue
                self._use(manifest, home, self._faults, {"upload": name, "version": number})
        self._findings += lists.values()

    def _version(self, name: str, number: int) -> Version | None:
        try:
            record = read_version(self._s3, name, number)
        except Damaged as error:
            finding = Finding("list", "damaged", why=error.message)
            finding.used_by({"upload": name, "version": number, "path": ""})
            self._findings.append(finding)
            return None
        return Version(name, record) if record is not None else None

    def _check_run(self, key: str, scope: Scope) -> None:
        """Verified only: its host is gone, and no client has what it left."""
        faults = self._check_scope(scope)
        try:
            manifest = read_tree(self._s3, layout.run_prefix(key) + "outputs")
        except Absent:
            return
        except Damaged as error:
            finding = Finding("list", "damaged", why=error.message)
            finding.used_by({"run": key, "part": "outputs", "path": ""})
            self._findings.append(finding)
            return
        self._use(manifest, scope, faults, {"run": key, "part": "outputs"})
        self._findings += [finding for finding in faults.values() if finding.users]

    def _use(self, manifest: Manifest, scope: Scope, faults: dict[bytes, Finding], user: dict[str, Any]) -> None:
        """Note which files of a `user`'s list have a content that is damaged, or is not there."""
        for entry in manifest.files:
            digest = bytes.fromhex(entry.digest)
            if digest not in faults:
                if scope.has(digest):
                    continue
                faults[digest] = Finding("blob", "missing", entry.digest, entry.size)
            faults[digest].used_by({**user, "path": entry.path})

    # -- repair

    def _set_aside(self, key: str) -> None:
        self._s3.copy(key, "damaged/" + key.rpartition("/")[2])
        self._s3.delete([key])

    def _pack_again(self, index: StoredObject, whole: list[tuple[bytes, ContentPlace]]) -> None:
        """Pack the contents of a damaged pack that are whole, and set the pack aside."""
        packing = PackBuilder()
        for digest, place in whole:
            content = b"".join(self._bucket.reader.pieces(place.extents))
            if hashlib.sha256(content).digest() == digest:
                self._put_pack(packing.add(digest.hex(), content))
        self._put_pack(packing.end())
        name = index.key.rpartition("/")[2]
        self._s3.delete([index.key])
        self._set_aside(layout.pack_key(name))

    def _put_pack(self, pack: Packed | None) -> None:
        if pack is not None:
            self._s3.put(layout.pack_key(pack.name), [pack.data], pack.name)
            self._s3.write(layout.index_key(pack.name), pack.listing)

    def _came(self, size: int) -> None:
        self._read, self._files = self._read + size, self._files + 1
        if time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            at = {"files": self._files, "files_total": self._files_total, "bytes": self._read}
            self._send(at={"phase": "blobs", **at, "bytes_total": self._total})


def _hash(bucket: Bucket, extents: list[Extent]) -> bytes:
    hashed = hashlib.sha256()
    for piece in bucket.reader.pieces(extents):
        hashed.update(piece)
    return hashed.digest()


def _versions(bucket: Bucket) -> Iterator[Version]:
    """Those that can be read; others are findings of their own."""
    for name, numbers in versions_by_name(bucket.s3).items():
        for number in numbers:
            with suppress(Damaged):
                record = read_version(bucket.s3, name, number)
                if record is not None:
                    yield Version(name, record)


def _mark(bucket: Bucket, broken: Callable[[Version], bool]) -> None:
    """Write into each version whether it is damaged."""
    for version in _versions(bucket):
        name, record = version.name, version.record
        if broken(version) != record.damaged:
            data = encode(record._replace(damaged=not record.damaged))
            bucket.s3.write(layout.version_key(name, record.version), data)


def _lacks(bucket: Bucket, version: Version) -> bool:
    try:
        manifest = tree_of(bucket.s3, version)
    except Damaged:
        return True
    home = bucket.contents.home
    home.look([bytes.fromhex(entry.digest) for entry in manifest.files])
    return not all(home.has(bytes.fromhex(entry.digest)) for entry in manifest.files)


def _restore_trees(bucket: Bucket, digests: Iterable[bytes]) -> None:
    """Of what was brought, write the lists of files where they belong, too."""
    wanted = {digest.hex() for digest in digests}
    for tree in {version.record.digest for version in _versions(bucket)} & wanted:
        place = bucket.contents.home.place(bytes.fromhex(tree))
        if place is not None and place.size <= MOST_READ:
            data = b"".join(bucket.reader.pieces(place.extents))
            bucket.s3.put(layout.tree_key(tree), [data], tree)
