"""Blobs on their way into a home: verified as they land, whole before they have their name.

Small ones come packed (see packs.py), large ones in pieces (large_blob.py), or in parts (parts.py); those that are like
one that is here by patching.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from typing import Callable, Optional

from ..shared.codecs import CodecError, expand
from ..shared.files import token, write_all
from ..shared.frames import Frame
from ..shared.packs import PackError, unpack
from ..shared.tree import is_digest, show
from .errors import HomeError, damaged
from .home import Home
from .large_blob import LargeBlob
from .leases import Lease
from .parts import Part

_numbers = itertools.count()
_OURS = token()
"""A process in another container, or after a power cut, may have our number."""


class BlobReceiver:
    """Takes the frames of one transfer, in their order:

    {"p": number}               a pack of so many small contents
    {"d": digest, "s": size, "o": offset, "k": key}
                                the first bytes of a large content. Its digest may be "", not known yet. What came
                                before `offset` is here in part, under the name `key`, from an earlier, cut transfer
    {}                          more bytes of it
    {"h": digest}               the last ones, of one whose digest was not known
    {"k": key, "s": size, "o": offset, "n": length}
                                the first bytes of a part of a large content; see parts.py
    … with "z" or "zstd": size  the body is compressed, from so many bytes; see codecs.py
    """

    def __init__(
        self, home: Home, lease: Lease, landed: Callable[[str, int], None] = lambda digest, size: None
    ) -> None:
        """`lease` gets the digests that nobody has asked about before. `landed` is told of each small blob: its digest,
        its bytes."""
        self._home = home
        self._lease = lease
        self._landed = landed
        self._open: Optional[LargeBlob] = None
        self._part: Optional[Part] = None
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._tmp = os.open(home.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.count = 0

    def __enter__(self) -> "BlobReceiver":
        return self

    def __exit__(self, *_: object) -> None:
        """What has begun is kept for the next try."""
        if self._open is not None:
            self._open.suspend()
            self._open = None
        if self._part is not None:
            self._part.suspend()
        os.close(self._blobs)
        os.close(self._tmp)

    def take(self, frame: Frame) -> None:
        """Raises `HomeError`: "damaged" for content that does not have its digest, "bad_stream" for what is no such
        transfer."""
        header, body = frame
        self._home.reserve.check(len(body))
        try:
            body = expand(header, body)
            if "p" in header:
                self.end()
                for digest, content in unpack(body, int(header["p"])):
                    self.land(bytes(digest), content)
                return
        except (PackError, CodecError) as error:
            raise HomeError("bad_stream", str(error))
        if "n" in header:
            self.end()
            key = str(header["k"])
            if not is_digest(key):
                raise HomeError("bad_stream", "not a digest: %s" % show(key[:80]))
            self._part = Part(self._home, key, int(header["s"]), int(header["o"]), int(header["n"]))
        elif "s" in header:
            self.end()
            self._open = LargeBlob(self._home, self._lease, header)
        if self._part is not None:
            if self._part.take(body):
                self._part = None
            return
        if self._open is None:
            raise HomeError("bad_stream", "bytes of no blob")
        if self._open.take(body, str(header.get("h", ""))):
            self._open = None
            self.count += 1

    def end(self) -> None:
        """Raises `HomeError` if something has begun and is not whole."""
        if self._open is not None or self._part is not None:
            raise HomeError("bad_stream", "a blob ended early")

    def land(self, digest: bytes, content: memoryview) -> None:
        """A small blob: one file, written and renamed. Not flushed one by one: a file that a power cut has emptied is
        known by its size (`Blobs.has`), and sent again."""
        if hashlib.sha256(content).digest() != digest:
            raise damaged(digest.hex())
        temporary = "in-%d-%s%x" % (os.getpid(), _OURS, next(_numbers))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o444, dir_fd=self._tmp)
        try:
            try:
                if _UMASK & 0o444:
                    os.fchmod(descriptor, 0o444)
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
            name = digest.hex()
            self._place(temporary, name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._tmp)
            raise
        self._landed(name, len(content))
        self.count += 1

    def _place(self, temporary: str, digest: str) -> None:
        name = digest[:2] + "/" + digest[2:]
        try:
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(digest[:2], 0o700, dir_fd=self._blobs)
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()
