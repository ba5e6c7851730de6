"""A large content on its way into a home, which is kept in partial/ if the transfer is cut.

It comes in order and is hashed as it is written. Parts and a seal (parts.py) could serve here too, but the seal reads
all of it once more: measured over a local pipe, with both ends on two cores, that is a quarter slower.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from typing import Any, Dict, Optional

from ..shared.files import token
from ..shared.frames import Bytes
from ..shared.tree import LARGEST, is_digest, show
from .errors import HomeError, damaged
from .home import Home
from .leases import Lease
from .parts import PARTS


class LargeBlob:
    """One large blob on its way in: appended to a partial file, hashed, and adopted when whole."""

    def __init__(self, home: Home, lease: Lease, header: Dict[str, Any]) -> None:
        self.home, self.lease = home, lease
        self.digest = str(header.get("d", ""))
        self.size = int(header["s"])
        offset = int(header.get("o", 0))
        key = str(header.get("k", "")) or self.digest
        if not 0 <= offset <= self.size <= LARGEST:
            raise HomeError("bad_stream", "a blob of %d bytes from %d on" % (self.size, offset))
        for name in (self.digest, key):
            if name and not is_digest(name):
                raise HomeError("bad_stream", "not a digest: %s" % show(name[:80]))
        self.hashed = hashlib.sha256()
        self.have = offset
        self._path = os.path.join(home.partial, key)
        self._shared = True
        self.file: Any = None
        self._known = bool(self.digest) and home.blobs.has(self.digest)
        if self._known:  # another client sent it meanwhile, or a crash came before the partial file was deleted
            self.discard()
            return
        if key:
            self.file = take_partial(self._path)
        self._shared = self.file is not None
        try:
            if self.file is not None:
                self._read_begun(self.file, offset)
                self.file.truncate(offset)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path + PARTS)  # of a try that sent it in parts
            else:  # another client is sending it, too
                begun, self._path = self._path, os.path.join(home.tmp, "in-%d-%s" % (os.getpid(), token()))
                self.file = open(self._path, "x+b", buffering=0)
                if offset:
                    with open_first(begun, home.blobs.path(self.digest)) as reader:
                        self._read_begun(reader, offset, copy=True)
        except BaseException:
            self.suspend()
            self._known = bool(self.digest) and home.blobs.has(self.digest)  # the other one has just finished
            if not self._known:
                raise

    def _read_begun(self, reader: Any, size: int, copy: bool = False) -> None:
        """Hash the first `size` bytes, which an earlier transfer left."""
        while size:
            data = reader.read(min(size, 1 << 20))
            if not data:
                raise HomeError("bad_stream", "less of %s is here than was said" % self.digest[:12])
            self.hashed.update(data)
            if copy:
                append(self.file, data)
            size -= len(data)

    def take(self, data: Bytes, digest: str) -> bool:
        """Whether the blob is whole now. `digest`: its own, if it is told only now."""
        self.have += len(data)
        if self.have > self.size:
            self.discard()
            raise HomeError("bad_stream", "more bytes of %s than were said" % self.digest[:12])
        if self._known:
            return self.have == self.size
        self.hashed.update(data)
        append(self.file, data)
        wanted = self.digest or digest
        if not wanted or self.have < self.size:
            if digest:
                raise HomeError("bad_stream", "a blob ended early")
            return False
        self.adopt(wanted)
        return True

    def adopt(self, digest: str) -> None:
        """The whole content is in the file, and hashed."""
        if self.hashed.hexdigest() != digest:
            self.discard()
            raise damaged(digest)
        if not self.digest:
            self.lease.add(bytes.fromhex(digest))
        os.fsync(self.file.fileno())
        self.home.blobs.adopt(self._path, digest)
        self.discard()

    def suspend(self) -> None:
        """Keep what came, for the next try."""
        if self.file is None or self.file.closed:
            return
        if not self._shared:
            self.discard()
        self.file.close()

    def discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        if self.file is not None:
            self.file.close()


def take_partial(path: str) -> Optional[Any]:
    """The partial file, open and locked until it is closed; None while another process has it."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        except PermissionError:  # read-only: a crash came in the midst of `Blobs.adopt`
            os.chmod(path, 0o600)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        links = os.fstat(file.fileno()).st_nlink
        if links == 1:
            return file
        if links > 1:  # a crash came just after `Blobs.adopt`: this is the blob itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        file.close()


def open_first(*paths: str) -> Any:
    for path in paths:
        try:
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            continue
    raise HomeError("bad_stream", "less of a blob is here than was said")


def append(file: Any, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
