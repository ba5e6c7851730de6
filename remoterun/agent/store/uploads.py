"""The uploads of a home.

uploads/NAME/   versions.json; N/ the files of version N (hard links to blobs); N.tree its manifest
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any, Dict, List, Optional, Tuple

from ..shared.api import CommitUpload, UploadVersion
from ..shared.files import DISK_FULL, locked, read_json, remove_tree, temporary_folder, write_whole
from ..shared.numbering import number_for
from ..shared.records import from_json
from ..shared.spec import UPLOAD_NAME
from ..shared.tree import Manifest, show
from .blobs import Blobs, packed
from .checkout import Checkout, StoredTree, checkout
from .errors import HomeError
from .leases import Lease

OF_OUTPUTS = re.compile(r"run-(\d+)-[0-9a-z]{8}\Z")
"""The name of an upload that holds the outputs of a run of another machine, if it was brought for a mount."""


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
            return versions
        except FileNotFoundError:
            return []

    def has(self, digest: str, asked: CommitUpload) -> bool:
        """Whether the tree `digest` is the version that was asked for, and whole."""
        return number_for(digest, self._told(self.versions(asked.name)), asked)[1]

    def commit(
        self, name: str, manifest: Manifest, placed: Optional[Checkout] = None, asked: Optional[CommitUpload] = None
    ) -> Tuple[Dict[str, Any], bool]:
        """Make `manifest` a version of the upload `name`, by default the newest one; (version, whether it is new).

        All blobs must be there. `placed`: a checkout of all of it, whose blobs a lease protects. A content that is that
        version already makes none, unless that is damaged. May be repeated.
        """
        asked = asked or CommitUpload(name)
        folder = self.folder_of(name)
        digest = manifest.digest
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self._lock(name)))
            versions = self.versions(name)
            number, there = number_for(digest, self._told(versions), asked)
            if there:
                (version,) = (each for each in versions if each["version"] == number)
                if version.get("brought") and not asked.brought:
                    del version["brought"]
                    self.write_versions(name, versions)
                return version, False
            os.makedirs(folder, 0o700, exist_ok=True)
            if placed is None:
                stack.enter_context(Lease(self._home)).add(packed(manifest))
                temporary = temporary_folder(os.path.join(self._home, "tmp"), "upload")
                tree = os.path.join(stack.enter_context(temporary), "tree")
                checkout(self._blobs, manifest, tree, private=False)
            else:
                placed.finish()
                tree = placed.target
            target = os.path.join(folder, str(number))
            remove_tree(target)  # left by a crash before versions.json named it
            os.rename(tree, target)
            write_whole(os.path.join(folder, "%d.tree" % number), manifest.encode())
            version = {
                "version": number,
                "digest": digest,
                "size": manifest.size,
                "files": manifest.file_count,
                "created": round(time.time(), 3),
            }
            if asked.brought:
                version["brought"] = True
            self.write_versions(name, sorted(versions + [version], key=lambda each: each["version"]))
        return version, True

    @staticmethod
    def _told(versions: List[Dict[str, Any]]) -> List[UploadVersion]:
        return [from_json(UploadVersion, version) for version in versions]

    def write_versions(self, name: str, versions: List[Dict[str, Any]]) -> None:
        """To be called under the upload's lock. "damaged" marks a version that is not whole: see check.py."""
        path, data = os.path.join(self.folder_of(name), "versions.json"), json.dumps(versions).encode()
        try:
            write_whole(path, data)
        except OSError as error:
            if error.errno not in DISK_FULL or not os.path.exists(path) or len(data) > os.stat(path).st_size:
                raise
            with open(path, "r+b", buffering=0) as file:  # over what is there, in one go: that needs no room
                file.write(data.ljust(os.stat(path).st_size))

    def stored(self, name: str, version: Optional[int] = None, digest: Optional[str] = None) -> StoredTree:
        """A version of an upload (the newest by default). Raises `HomeError("not_found")`."""
        versions = self.versions(name)
        chosen = [
            item
            for item in versions
            if (version is None or item["version"] == version) and (digest is None or item["digest"] == digest)
        ]
        if not chosen:
            what = "there is no upload %s" % show(name)
            if versions:
                what = "the upload %s has no such version" % show(name)
            raise HomeError("not_found", what)
        number = chosen[-1]["version"]
        folder = self.folder_of(name)
        return StoredTree(os.path.join(folder, "%d.tree" % number), os.path.join(folder, str(number)), chosen[-1])

    def brought(self, name: str) -> List[int]:
        """Versions that are copies of a run's outputs, brought for a mount: its next mount brings them again."""
        return [each["version"] for each in self.versions(name) if each.get("brought") and OF_OUTPUTS.match(name)]

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

    def remove_version(self, name: str, number: int) -> bool:
        """Remove one version, and with the last one the upload; whether there was one of that number."""
        folder = self.folder_of(name)
        with locked(self._lock(name)):
            versions = self.versions(name)
            kept = [version for version in versions if version["version"] != number]
            if len(kept) == len(versions):
                return False
            if kept:
                self.write_versions(name, kept)
                remove_tree(os.path.join(folder, str(number)))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, "%d.tree" % number))
                return True
        return self.remove(name)

    def _lock(self, name: str) -> str:
        return os.path.join(self._home, "locks", "upload-" + name)
