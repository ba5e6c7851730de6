"""The contents of a home's files, each named by its SHA-256.

blobs/ab/cdef…  a file's content, read-only; "….x" is its executable twin
partial/…       blobs that are arriving
"""

from __future__ import annotations

import hashlib
import os
from typing import Iterator, List, Optional, Tuple

from ..shared.files import private_copy, read_bytes, temporary_folder, write_whole
from ..shared.tree import Entry, Manifest, TreeError, is_digest
from .errors import HomeError

EMPTY = hashlib.sha256(b"").hexdigest()


class Blobs:
    """The blobs of one home. Safe for several processes at once."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.folder = os.path.join(home, "blobs")
        self._partial = os.path.join(home, "partial")
        self._tmp = os.path.join(home, "tmp")

    def path(self, digest: str, executable: bool = False) -> str:
        return "%s/%s/%s%s" % (self.folder, digest[:2], digest[2:], ".x" if executable else "")

    def size(self, digest: str) -> Optional[int]:
        """Bytes of a blob; None if it isn't here. An empty file counts only if its content is empty: a power loss may
        have truncated it."""
        try:
            size = os.stat(self.path(digest)).st_size
        except OSError:
            return None
        return size if size or digest == EMPTY else None

    def has(self, digest: str) -> bool:
        return self.size(digest) is not None

    def partial_size(self, digest: str) -> int:
        """Bytes that have come of a blob, in whatever order."""
        try:
            status = os.stat(os.path.join(self._partial, digest))
        except OSError:
            return 0
        return min(status.st_size, 512 * status.st_blocks)

    def beginning_with(self, first: int) -> Iterator[Tuple[str, bytes]]:
        """(path, digest) of each file whose digest begins with that byte: of contents, and of executable twins."""
        start = "%02x" % first
        folder = os.path.join(self.folder, start)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            digest = start + (name[:-2] if name.endswith(".x") else name)
            if is_digest(digest):
                yield os.path.join(folder, name), bytes.fromhex(digest)

    def adopt(self, path: str, digest: str) -> None:
        """Make the file at `path` the blob `digest`, by a hard link, unless there is one. `path` becomes read-only."""
        if self.has(digest):
            return
        target = self.path(digest)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        os.chmod(path, 0o444)
        try:
            os.link(path, target)
        except FileExistsError:
            if not self.has(digest):  # a file truncated by a power loss: replaced in one move, for others may put it
                with temporary_folder(self._tmp, "adopt") as folder:
                    whole = os.path.join(folder, "blob")
                    os.link(path, whole)
                    os.replace(whole, target)

    def executable_twin(self, digest: str) -> str:
        """The path of the blob's executable twin, made where missing (a hard link shares its mode, so it's a copy)."""
        target = self.path(digest, executable=True)
        if not os.path.exists(target):
            with temporary_folder(self._tmp, "twin") as folder:
                copy = os.path.join(folder, "x")
                private_copy(self.path(digest), copy)
                os.chmod(copy, 0o555)
                os.replace(copy, target)
        return target

    def put(self, data: bytes) -> str:
        """Keep `data` as a blob; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.has(digest):
            with temporary_folder(self._tmp, "put") as folder:
                whole = os.path.join(folder, "blob")
                write_whole(whole, data)
                self.adopt(whole, digest)
        return digest

    def tree(self, digest: str) -> Manifest:
        """The manifest that is kept as a blob (a tree's digest is the SHA-256 of its canonical form)."""
        try:
            return Manifest.decode(read_bytes(self.path(digest)))
        except FileNotFoundError:
            raise HomeError("missing_blob", "the tree %s is not in %s" % (digest[:12], self.home))
        except TreeError as error:
            raise HomeError("damaged", "the tree %s is damaged: %s" % (digest[:12], error))

    def missing(self, manifest: Manifest) -> List[Entry]:
        """The files of which this home holds no blob."""
        return [entry for entry in manifest.files if not self.has(entry.digest)]


def packed(manifest: Manifest) -> bytes:
    """The digests of its files, 32 bytes each."""
    raw = bytearray()
    for entry in manifest.files:
        raw += bytes.fromhex(entry.digest)
    return bytes(raw)
