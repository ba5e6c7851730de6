"""Trees that stand as plain files in a folder."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any, Dict, Set

from ..shared.files import DISK_FULL, private_copy, read_bytes
from ..shared.paths import SafeFolder, TreeError, show
from ..shared.tree import Entry, Manifest
from .blobs import Blobs
from .errors import HomeError, disk_full


def checkout(blobs: Blobs, manifest: Manifest, target: str, private: bool) -> None:
    """Write a tree into the folder `target`, which is made; folders get their modes whatever our umask is.

    `private`: copies that may be written. Otherwise hard links to blobs, read-only, folders too. Raises `HomeError`
    for a blob that is missing or damaged, and for a full disk.
    """
    folders: Set[str] = set()
    try:
        os.makedirs(target, 0o755, exist_ok=True)
        with SafeFolder(blobs.folder) as stored, SafeFolder(target) as landing:
            source = stored.folder("")
            for entry in manifest:
                parent, _, name = entry.path.rpartition("/")
                within = entry.path if entry.kind == "d" else parent
                folder = landing.folder(within)
                while within and within not in folders:
                    folders.add(within)
                    within = within.rpartition("/")[0]
                if entry.kind == "l":
                    os.symlink(entry.target, name, dir_fd=folder)
                elif entry.kind == "f":
                    _place_file(blobs, source, entry, folder, name, private)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(blobs.home)
        raise
    os.chmod(target, 0o755)
    for path in sorted(folders, reverse=True):
        os.chmod(os.path.join(target, path), 0o755 if private else 0o555)


def _place_file(blobs: Blobs, source: int, entry: Entry, folder: int, name: str, private: bool) -> None:
    """`source`: a descriptor of the folder of blobs; `folder`: one of where the file gets its `name`."""
    digest = entry.digest
    blob = digest[:2] + "/" + digest[2:]
    try:
        if os.stat(blob, dir_fd=source).st_size != entry.size:
            raise HomeError("damaged", "the content of %s is damaged in %s" % (show(entry.path), blobs.home))
        if private:
            private_copy(blob, name, 0o755 if entry.executable else 0o644, source, folder)
            return
        if entry.executable:
            blobs.executable_twin(digest)
            blob += ".x"
        try:
            os.link(blob, name, src_dir_fd=source, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                raise
            # out of links to one file (65,000 on ext4), or a file system without
            private_copy(blob, name, 0o555 if entry.executable else 0o444, source, folder)
    except FileNotFoundError:
        if not os.fstat(folder).st_nlink:  # it is our folder that is gone
            raise
        raise HomeError("missing_blob", "the content of %s is not in %s" % (show(entry.path), blobs.home))


class StoredTree:
    """A tree in a home: its manifest, and the folder that holds it as plain files."""

    def __init__(self, manifest_file: str, folder: str, about: Dict[str, Any]) -> None:
        self._manifest_file = manifest_file
        self.folder = folder
        self.about = about

    def manifest(self) -> Manifest:
        data = read_bytes(self._manifest_file)
        if hashlib.sha256(data).hexdigest() == self.about.get("digest"):
            return Manifest.checked_before(data, self.about["files"], self.about["size"])
        try:
            return Manifest.decode(data)
        except TreeError as error:
            raise HomeError("damaged", "%s is damaged: %s" % (self._manifest_file, error))
