"""Uploads in the archive: each version an archived tree, all of a name beside the packs that they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from remoterun.agent.shared.api import CommitUpload, UploadVersion
from remoterun.agent.shared.archive import MOST_HEADER, MOST_TREE, ArchivedTree, TreeHeader, upload_prefix, version_key
from remoterun.agent.shared.records import encode
from remoterun.agent.shared.spec import UPLOAD_NAME
from remoterun.agent.shared.tree import Manifest, show
from remoterun.archive import Archive
from remoterun.archive.objects import Absent
from remoterun.archive.writing import put_tree
from remoterun.errors import NotFound, TransferError
from remoterun.model import check_upload_name
from remoterun.threads import each
from remoterun.transfer.progress import Progress
from remoterun.transfer.reading import Reading
from remoterun.transfer.sending import Sent

_NUMBER = re.compile(r"[0-9]{8}\Z")


def put_upload(
    archive: Archive,
    asked: CommitUpload,
    tree: Reading,
    progress: Progress,
    base: str = "",
    arrange: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> tuple[Manifest, UploadVersion, bool, Sent]:
    """Make `tree`, which is used up, a version of an upload: (its manifest, the version, whether it is new, what was
    sent). It is packed against the version with the digest `base`, "" for the newest, and has what `arrange` makes of
    its own files and those of that version.

    May be repeated: after a cut, what was written is not sent again. Raises `TransferError`, `UsageError`, `HostError`.
    """
    name = asked.name
    known = versions(archive, name, newest=not base)
    fitting = [version for version in known if base in ("", version.digest)]
    is_damaged = bool(fitting) and fitting[-1].damaged
    stored = read_version(archive, name, fitting[-1].version) if fitting and not is_damaged else None
    sent_tree, sent = put_tree(archive, upload_prefix(name), tree, progress, stored, is_damaged)
    archived = ArchivedTree(arrange(sent_tree.manifest), sent_tree.places)
    version, created = _commit(archive, asked, archived)
    if created and fitting and _is_gone(archive, name, fitting[-1], version):
        archive.objects.delete([version_key(name, version.version)])  # `gc` may delete what only that one named
        raise TransferError(f"uploads/{name} was removed from {archive.address} meanwhile", hint="try again")
    return archived.manifest, version, created, sent


def _commit(archive: Archive, asked: CommitUpload, archived: ArchivedTree) -> tuple[UploadVersion, bool]:
    name, digest = asked.name, archived.manifest.digest
    data = archived.encode(round(asked.made or archive.clock(), 3))
    wanted = asked.number if digest == asked.digest else asked.number + 1
    while True:
        known = versions(archive, name, newest=not asked.made)
        same = [version for version in known if version.digest == digest]
        if same and not same[-1].damaged and (asked.made or same[-1] == known[-1]):
            return same[-1], False
        top = known[-1].version if known else 0
        is_free = wanted > 0 and wanted not in [version.version for version in known]
        number = wanted if is_free and (asked.made or wanted > top) else top + 1
        if archive.objects.put_new(version_key(name, number), data):
            return _version(number, TreeHeader.decode(data[:MOST_HEADER])), True


def _is_gone(archive: Archive, name: str, base: UploadVersion, version: UploadVersion) -> bool:
    """Whether `base` was removed before `version` was made."""
    return version.version == base.version or archive.objects.head(version_key(name, base.version)) is None


def versions(archive: Archive, name: str, newest: bool = False) -> list[UploadVersion]:
    """The versions of an upload, oldest first, or its `newest` only. Raises `HostError` for one that makes no sense."""
    check_upload_name(name)
    numbers = list(_numbers(archive, name))[-1 if newest else 0 :]
    found = each(lambda number: _read_header(archive, name, number), numbers)
    return [version for version in found if version is not None]


def newest(archive: Archive) -> list[tuple[str, UploadVersion]]:
    """(name, newest version) of each upload."""
    return [(name, version) for name in names(archive) for version in versions(archive, name, newest=True)]


def names(archive: Archive) -> list[str]:
    """Those of all uploads, also of such that have no version any more."""
    return [name for name in archive.objects.folders("uploads/") if UPLOAD_NAME.match(name)]


def read_version(archive: Archive, name: str, number: int) -> ArchivedTree:
    """The tree of a version. Raises `NotFound`, `HostError`."""
    try:
        return read_tree(archive, version_key(name, number))
    except Absent:
        raise NotFound(f"uploads/{name} has no such version in {archive.address}", hint=f"remoterun ls uploads/{name}")


def find_upload(archive: Archive, name: str, digest: str | None = None) -> tuple[ArchivedTree, UploadVersion]:
    """The newest version of an upload, or the one with that digest. Raises `NotFound`, `HostError`."""
    fitting = [version for version in versions(archive, name) if digest in (None, version.digest)]
    if not fitting:
        raise NotFound(f"there is no upload {show(name)} in {archive.address}")
    tree = read_version(archive, name, fitting[-1].version)
    if tree.manifest.digest != fitting[-1].digest:
        raise archive.objects.bad(version_key(name, fitting[-1].version), "it is not the version that it was")
    return tree, fitting[-1]


def remove_upload(archive: Archive, name: str, digest: str | None = None) -> bool:
    """Remove an upload, or its versions with that digest; whether there was one. `gc` frees their packs later."""
    check_upload_name(name)
    numbers = list(_numbers(archive, name))
    if digest is not None:
        numbers = [version.version for version in versions(archive, name) if version.digest == digest]
    archive.objects.delete([version_key(name, number) for number in numbers])
    return bool(numbers)


def mark_damaged(archive: Archive, key: str) -> None:
    """Note in a version that it is not whole: the next upload of that name sends all of its files. One that can't be
    read is set aside. May be repeated."""
    try:
        data = archive.objects.get(key, MOST_TREE)
        header, line = TreeHeader.decode(data), data.index(b"\n")
        archive.objects.put(key, encode(header._replace(damaged=True)) + data[line:])
    except Absent:
        pass
    except (ValueError, RecursionError):
        archive.objects.put(f"damaged/{key}", data)
        archive.objects.delete([key])


def read_tree(archive: Archive, key: str, most: int = MOST_TREE) -> ArchivedTree:
    """An archived tree of `most` bytes at the most. Raises `Absent`, `HostError`."""
    return archive.read(key, most, ArchivedTree.decode)


def _numbers(archive: Archive, name: str) -> Iterator[int]:
    prefix = upload_prefix(name)
    for stored in archive.objects.list(prefix):
        number = stored.key[len(prefix) :]
        if not _NUMBER.match(number):
            return  # what follows are packs
        if int(number):
            yield int(number)


def _read_header(archive: Archive, name: str, number: int) -> UploadVersion | None:
    """None for one that was removed just now."""
    key = version_key(name, number)
    try:
        return _version(number, TreeHeader.decode(archive.objects.get_range(key, 0, MOST_HEADER)))
    except Absent:
        return None
    except ValueError as error:
        raise archive.objects.bad(key, str(error)[:200])


def _version(number: int, header: TreeHeader) -> UploadVersion:
    return UploadVersion(number, header.digest, header.size, header.files, header.created, header.damaged)
