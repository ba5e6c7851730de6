"""The uploads of a home.

uploads/NAME/   versions.json; N/ the files of a version (hard links to blobs); N.tree its manifest

A version is identified by its digest. N is the number that it has for the client which uploaded it, where that was free
in this home: it serves people who read the folders.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from typing import Any, Dict, List, Optional, Tuple

from ..shared.api import CommitUpload
from ..shared.files import DISK_FULL, locked, read_json, remove_tree, temporary_folder, write_whole
from ..shared.pieces import LARGE
from ..shared.spec import UPLOAD_NAME
from ..shared.tree import Manifest, TreeError, read_entries, show
from .blobs import Blobs, packed
from .checkout import StoredTree, checkout
from .errors import HomeError
from .leases import Lease


class UploadFolders:
    """The uploads of one home. Safe for several processes at once."""

    def __init__(self, home: str, blobs: Blobs) -> None:
        self.folder = os.path.join(home, "uploads")
        self._home = home
        self._blobs = blobs

    def names(self) -> List[str]:
        return sorted(name for name in os.listdir(self.folder) if UPLOAD_NAME.match(name))

    def folder_of(self, name: str) -> str:
        """Raises `HomeError` for what is not a name."""
        if not UPLOAD_NAME.match(name):
            raise HomeError("bad_name", "%s is not a name for an upload" % show(name))
        return os.path.join(self.folder, name)

    def versions(self, name: str) -> List[Dict[str, Any]]:
        """Versions of an upload, oldest first; empty when there is none of that name."""
        try:
            versions: List[Dict[str, Any]] = read_json(os.path.join(self.folder_of(name), "versions.json"))
        except FileNotFoundError:
            return []
        return versions

    def commit(
        self, name: str, manifest: Manifest, asked: Optional[CommitUpload] = None
    ) -> Tuple[Dict[str, Any], bool]:
        """Make `manifest` a version of the upload `name`, by default the newest one; (version, whether it is new).

        All its blobs are in this home. A content that a version has already makes no other one; a damaged version is
        replaced. May be repeated.
        """
        asked = asked or CommitUpload(name)
        folder = self.folder_of(name)
        digest = manifest.digest
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self._lock(name)))
            versions = self.versions(name)
            known = _with_digest(versions, digest)
            others = [version for version in versions if version is not known]
            if known is not None and not known.get("damaged"):
                version = _asked_again(known, others, asked)
                if version != known:
                    self.write_versions(name, [*others, version])
                return version, False
            os.makedirs(folder, 0o700, exist_ok=True)
            stack.enter_context(Lease(self._home)).add(packed(manifest))
            temporary = temporary_folder(os.path.join(self._home, "tmp"), "upload")
            tree = os.path.join(stack.enter_context(temporary), "tree")
            checkout(self._blobs, manifest, tree, private=False)
            number = known["version"] if known is not None else _free_number(others, digest, asked)
            target = os.path.join(folder, str(number))
            remove_tree(target)  # a damaged one, or what a crash left before versions.json named it
            os.rename(tree, target)
            write_whole(os.path.join(folder, "%d.tree" % number), manifest.encode())
            version = {
                "version": number,
                "digest": digest,
                "size": manifest.size,
                "files": manifest.file_count,
                "created": _created(others, asked),
            }
            if asked.for_mount:
                version["for_mount"] = True
            self.write_versions(name, [*others, version])
        return version, True

    def write_versions(self, name: str, versions: List[Dict[str, Any]]) -> None:
        """To be called under the upload's lock. "damaged" marks a version that is not whole: see check.py."""
        versions = sorted(versions, key=lambda version: float(version["created"]))
        path, data = os.path.join(self.folder_of(name), "versions.json"), json.dumps(versions).encode()
        try:
            write_whole(path, data)
        except OSError as error:
            if error.errno not in DISK_FULL or not os.path.exists(path) or len(data) > os.stat(path).st_size:
                raise
            with open(path, "r+b", buffering=0) as file:  # over what is there, in one go: that needs no room
                file.write(data.ljust(os.stat(path).st_size))

    def stored(self, name: str, digest: Optional[str] = None) -> StoredTree:
        """A version of an upload (the newest by default). Raises `HomeError("not_found")`."""
        versions = self.versions(name)
        chosen = [version for version in versions if digest in (None, version["digest"])]
        if not chosen:
            what = "there is no upload %s" % show(name)
            if versions:
                what = "the upload %s has no such version" % show(name)
            raise HomeError("not_found", what)
        number = chosen[-1]["version"]
        folder = self.folder_of(name)
        return StoredTree(os.path.join(folder, "%d.tree" % number), os.path.join(folder, str(number)), chosen[-1])

    def file_before(self, name: str, path: str) -> str:
        """The digest of a large file in the newest version of an upload, at `path` or of that base name; "" without
        one."""
        versions = self.versions(name) if name else []
        if not versions:
            return ""
        newest = versions[-1]
        with contextlib.suppress(OSError, TreeError):  # a damaged list helps nobody
            files = _large_files(os.path.join(self.folder_of(name), "%d.tree" % newest["version"]), newest["digest"])
            return files.get(path) or files.get(os.path.basename(path), "")
        return ""

    def newest(self) -> List[Dict[str, Any]]:
        """The newest version of each upload, with its "name"."""
        versions = ((name, self.versions(name)[-1:]) for name in self.names())
        return [dict(newest, name=name) for name, found in versions for newest in found]

    def remove(self, name: str) -> bool:
        """Whether there was one. Runs that mount it keep what they mounted."""
        folder = self.folder_of(name)
        with locked(self._lock(name)):
            there = os.path.isdir(folder)
            if there:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, "versions.json"))
                remove_tree(folder)
        return there

    def remove_version(self, name: str, digest: str) -> bool:
        """Remove one version, and with the last one the upload; whether there was one with that content."""
        folder = self.folder_of(name)
        with locked(self._lock(name)):
            versions = self.versions(name)
            version = _with_digest(versions, digest)
            if version is None:
                return False
            others = [other for other in versions if other is not version]
            if others:
                self.write_versions(name, others)
                remove_tree(os.path.join(folder, str(version["version"])))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, "%d.tree" % version["version"]))
                return True
        return self.remove(name)

    def _lock(self, name: str) -> str:
        return os.path.join(self._home, "locks", "upload-" + name)


@functools.lru_cache(maxsize=4)
def _large_files(manifest: str, digest: str) -> Dict[str, str]:
    """The digests of the large files of a manifest, by their paths and by their base names."""
    large = {entry.path: entry.digest for entry in read_entries(manifest) if entry.kind == "f" and entry.size > LARGE}
    return {**{os.path.basename(path): digest for path, digest in large.items()}, **large}


def _with_digest(versions: List[Dict[str, Any]], digest: str) -> Optional[Dict[str, Any]]:
    return next((version for version in versions if version["digest"] == digest), None)


def _asked_again(version: Dict[str, Any], others: List[Dict[str, Any]], asked: CommitUpload) -> Dict[str, Any]:
    """A version whose content has come again: what was uploaded becomes the newest one, a copy changes nothing."""
    if asked.for_mount or (asked.made and not version.get("for_mount")):
        return version
    again = {key: value for key, value in version.items() if key != "for_mount"}
    is_newest = all(other["created"] <= version["created"] for other in others)
    return again if asked.made or is_newest else dict(again, created=_created(others, asked))


def _created(others: List[Dict[str, Any]], asked: CommitUpload) -> float:
    """When a version counts as made: of what is uploaded now, not before any other, whatever the clock did."""
    now = round(time.time(), 3)
    if asked.made:
        return min(asked.made, now)
    return max([now, *(float(other["created"]) for other in others)])


def _free_number(others: List[Dict[str, Any]], digest: str, asked: CommitUpload) -> int:
    taken = {other["version"] for other in others}
    wished = asked.number if digest == asked.digest else asked.number + 1
    return wished if asked.number and wished not in taken else max(taken, default=0) + 1
