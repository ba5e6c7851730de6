"""Trees that stand as plain files in a folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import Any, Dict, Iterator, Set

from ..shared.files import DISK_FULL, private_copy, read_bytes
from ..shared.paths import SafeFolder, TreeError, show
from ..shared.tree import Entry, Manifest
from .blobs import Blobs
from .errors import HomeError, disk_full


def checkout(blobs: Blobs, manifest: Manifest, target: str, private: bool) -> None:
    """Write a tree into the folder `target`, which is made.

    `private`: copies that may be written. Otherwise hard links to blobs, read-only, folders too. Raises `HomeError`
    for a missing blob or a full disk.
    """
    with Checkout(blobs, target, private) as writer:
        for entry in manifest.entries:
            writer.place(entry)
        writer.finish()


class Checkout:
    """Writes a tree into the folder `target`, entry by entry, in their order; `private` as in `checkout`. A context
    manager."""

    def __init__(self, blobs: Blobs, target: str, private: bool) -> None:
        self.target = target
        self._blobs, self._private = blobs, private
        self._folders: Set[str] = {""}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Checkout":
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(self.target, 0o755, exist_ok=True)
                self._folder = stack.enter_context(_opened(self._blobs.folder))
                self._landing = stack.enter_context(SafeFolder(self.target))
            except OSError as error:
                self._say_if_full(error)
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def place(self, entry: Entry) -> None:
        """Raises `HomeError` for a blob that is missing or damaged, which may be tried again, and for a full disk."""
        try:
            parent, _, name = entry.path.rpartition("/")
            within = entry.path if entry.kind == "d" else parent
            folder = self._landing.folder(within)
            while within not in self._folders:
                self._folders.add(within)
                within = within.rpartition("/")[0]
            if entry.kind == "l":
                os.symlink(entry.target, name, dir_fd=folder)
            elif entry.kind == "f":
                self._place_file(entry, folder, name)
        except OSError as error:
            self._say_if_full(error)
            raise

    def finish(self) -> None:
        """All are in place: folders get their modes, whatever our umask is; beside links to blobs, read-only ones."""
        os.chmod(self.target, 0o755)
        for path in sorted(self._folders, reverse=True)[:-1]:
            os.chmod(os.path.join(self.target, path), 0o755 if self._private else 0o555)

    def _place_file(self, entry: Entry, folder: int, name: str) -> None:
        """`folder`: a descriptor of where the file gets its `name`."""
        digest = entry.digest
        blob = digest[:2] + "/" + digest[2:]
        try:
            if os.stat(blob, dir_fd=self._folder).st_size != entry.size:
                raise HomeError("damaged", "the content of %s is damaged in %s" % (show(entry.path), self._blobs.home))
            if self._private:
                private_copy(blob, name, 0o755 if entry.executable else 0o644, self._folder, folder)
                return
            if entry.executable:
                self._blobs.executable_twin(digest)
                blob += ".x"
            try:
                os.link(blob, name, src_dir_fd=self._folder, dst_dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                    raise
                # out of links to one file (65,000 on ext4), or a file system without
                private_copy(blob, name, 0o555 if entry.executable else 0o444, self._folder, folder)
        except FileNotFoundError:
            if not os.fstat(folder).st_nlink:  # it is our folder that is gone
                raise
            raise HomeError("missing_blob", "the content of %s is not in %s" % (show(entry.path), self._blobs.home))

    def _say_if_full(self, error: OSError) -> None:
        if error.errno in DISK_FULL:
            raise disk_full(self._blobs.home)


class StoredTree:
    """A tree that is at rest in a home: its manifest and the folder that holds it as plain files."""

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


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
