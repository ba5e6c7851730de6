"""Blobs on their way into a home, verified as they land and whole before they have their name, and out of it.

They travel packed (see packs.py), large ones in pieces (see pieces.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from typing import Any, Dict, List, Tuple

from ..shared.files import token, write_all
from ..shared.frames import Frame
from ..shared.packs import LARGE, MOST_PACKED, PACK, CompressingStream, expand, pack, unpack
from ..shared.pieces import check_numbers
from ..shared.protocol import Stream
from ..shared.tree import LARGEST, is_digest, show
from . import pieces
from .errors import HomeError, damaged
from .home import Home

_numbers = itertools.count()
UNFLUSHED = 128 << 10
"""Bytes of a blob up to which it is not flushed to the disk."""
_OURS = token()
"""A process in another container, or after a power cut, may have our number."""
_UMASK = os.umask(0o077)
os.umask(_UMASK)


class BlobReceiver:
    """Takes the frames of one transfer, in their order:

    {"p": number}                       a pack of so many small contents
    {"d": digest, "s": size, "n": [n]}  a piece of a large content, and its places there by their numbers
    … with "z": bytes                   the body is compressed; see packs.py
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._tmp = os.open(home.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "BlobReceiver":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._blobs)
        os.close(self._tmp)

    def take(self, frame: Frame) -> None:
        """Raises `HomeError`: "damaged" for content that does not have its digest; also "bad_stream", or
        `ProtocolError`, for what is no such transfer."""
        self._home.reserve.check(len(frame.body))
        header, body = frame.header, expand(frame.header, frame.body)
        if "p" in header:
            for packed, content in unpack(body, int(header["p"])):
                self.land(packed, content)
            return
        digest, size = blob_named(header)
        numbers = header.get("n")
        if not isinstance(numbers, list):
            raise HomeError("bad_stream", "a piece without its places")
        check_numbers(numbers, size)
        pieces.write_piece(self._home, digest, size, numbers, body)

    def land(self, digest: bytes, content: memoryview) -> None:
        """A blob: one file, written and renamed. Small ones are not flushed: a file that a power cut has emptied is
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
                if len(content) > UNFLUSHED:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._place(temporary, digest.hex())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._tmp)
            raise

    def _place(self, temporary: str, digest: str) -> None:
        name = digest[:2] + "/" + digest[2:]
        try:
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(digest[:2], 0o700, dir_fd=self._blobs)
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)


class BlobSender:
    """Sends the frames of one transfer, in the order in which blobs were asked for: packs, as `BlobReceiver` takes
    them, and

    {"gone": digest}                    there is no such blob here
    {"large": size}                     it is to be asked for in pieces

    The receiver knows their digests, and verifies them.
    """

    def __init__(self, home: Home, stream: Stream, out: CompressingStream) -> None:
        """`out` sends on `stream`."""
        self._stream = stream
        self._out = out
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._packed: List[Tuple[bytes, bytes]] = []
        self._held = 0

    def __enter__(self) -> "BlobSender":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._blobs)

    def send(self, digest: bytes) -> None:
        try:
            size, content = self._read(digest.hex())
        except OSError:  # there is none, or the disk can't read it
            self.flush()
            self._stream.send(gone=digest.hex())
            return
        if size > LARGE:
            self.flush()
            self._stream.send(large=size)
            return
        if self._held + len(content) > PACK or len(self._packed) == MOST_PACKED:
            self.flush()
        self._packed.append((digest, content))
        self._held += len(content)

    def flush(self) -> None:
        """Send what was held back to be packed."""
        if self._packed:
            self._out.send(pack(self._packed), {"p": len(self._packed)})
            self._packed, self._held = [], 0

    def _read(self, name: str) -> Tuple[int, bytes]:
        """(size, content) of a blob, a large one without its content."""
        file = os.open(name[:2] + "/" + name[2:], os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._blobs)
        try:
            size = os.fstat(file).st_size
            return size, os.read(file, size) if size <= LARGE else b""
        finally:
            os.close(file)


def blob_named(header: Dict[str, Any]) -> Tuple[str, int]:
    """The digest and the size that a frame's header names. Raises `HomeError("bad_stream")`."""
    digest, size = header.get("d"), header.get("s")
    if not isinstance(digest, str) or not is_digest(digest):
        raise HomeError("bad_stream", "not a digest: %s" % show(str(digest)[:80]))
    if type(size) is not int or not 0 <= size <= LARGEST:
        raise HomeError("bad_stream", "a blob of %.40r bytes" % (size,))
    return digest, size
