"""Blobs on their way into a home, verified as they land and whole before they have their name, and out of it.

Small ones travel packed (see packs.py), larger ones in several frames, large ones in pieces (see pieces.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from typing import Any, Dict, List, Optional, Tuple

from ..shared.files import token, write_all
from ..shared.frames import Body, Bytes, Frame, ProtocolError
from ..shared.packs import PACK, SMALL, CompressingStream, expand, pack, unpack
from ..shared.pieces import PIECE, check_numbers
from ..shared.protocol import Stream
from ..shared.tree import LARGEST, is_digest, show
from . import pieces
from .errors import HomeError, damaged
from .home import Home

_numbers = itertools.count()
_OURS = token()
"""A process in another container, or after a power cut, may have our number."""


class BlobReceiver:
    """Takes the frames of one transfer, in their order:

    {"p": number}                       a pack of so many small contents
    {"d": digest, "s": size}            the first bytes of a content
    {}                                  more bytes of it
    {"d": digest, "s": size, "n": [n]}  a piece of a large content, and its places there by their numbers
    … with "z": bytes                   the body is compressed; see packs.py
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._open: Optional[NewBlob] = None
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._tmp = os.open(home.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.count = 0

    def __enter__(self) -> "BlobReceiver":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.drop()
        os.close(self._blobs)
        os.close(self._tmp)

    def take(self, frame: Frame) -> None:
        """Raises `HomeError`: "damaged" for content that does not have its digest, "bad_stream" for what is no such
        transfer."""
        self._home.reserve.check(len(frame.body))
        try:
            self._take(frame.header, expand(frame.header, frame.body))
        except ProtocolError as error:
            raise HomeError("bad_stream", str(error))

    def end(self) -> None:
        """Raises `HomeError` if something has begun and is not whole."""
        if self._open is not None:
            raise HomeError("bad_stream", "a blob ended early")

    def land(self, digest: bytes, content: memoryview) -> None:
        """A small blob: one file, written and renamed. Not flushed one by one: a file that a power cut has emptied is
        known by its size (`Blobs.has`), and sent again."""
        if hashlib.sha256(content).digest() != digest:
            raise damaged(digest.hex())
        temporary = _temporary_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o444, dir_fd=self._tmp)
        try:
            try:
                if _UMASK & 0o444:
                    os.fchmod(descriptor, 0o444)
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
            self._place(temporary, digest.hex())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._tmp)
            raise
        self.count += 1

    def _take(self, header: Dict[str, Any], body: Body) -> None:
        if "d" in header or "p" in header:
            self.end()
        if "p" in header:
            for packed, content in unpack(body, int(header["p"])):
                self.land(packed, content)
        elif "n" in header:
            digest, size = blob_named(header)
            numbers = header["n"]
            if not isinstance(numbers, list):
                raise HomeError("bad_stream", "a piece without its places")
            check_numbers(numbers, size)
            pieces.write_piece(self._home, digest, size, numbers, body)
        else:
            if "d" in header:
                self._open = NewBlob(self._home, *blob_named(header))
            self._take_more(body)

    def _take_more(self, body: Body) -> None:
        if self._open is None:
            raise HomeError("bad_stream", "bytes of no blob")
        self._open.take(body)
        if self._open.is_whole:
            self._open.finish()
            self._open = None
            self.count += 1

    def _place(self, temporary: str, digest: str) -> None:
        name = digest[:2] + "/" + digest[2:]
        try:
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(digest[:2], 0o700, dir_fd=self._blobs)
            os.rename(temporary, name, src_dir_fd=self._tmp, dst_dir_fd=self._blobs)


class NewBlob:
    """A blob that comes in order, in one stream; `drop` deletes what has come of one that does not end."""

    def __init__(self, home: Home, digest: str, size: int) -> None:
        self._home, self._digest, self._size = home, digest, size
        self._path = os.path.join(home.tmp, _temporary_name())
        self._file = open(self._path, "xb", buffering=0)
        self._hashed = hashlib.sha256()
        self._have = 0

    @property
    def is_whole(self) -> bool:
        return self._have == self._size

    def take(self, data: Bytes) -> None:
        """Raises `HomeError("bad_stream")` for more bytes than were announced."""
        self._have += len(data)
        if self._have > self._size:
            raise HomeError("bad_stream", "more bytes of %s than were said" % self._digest[:12])
        self._hashed.update(data)
        write_all(self._file.fileno(), memoryview(data))

    def finish(self) -> None:
        """Make the blob. Raises `HomeError("damaged")` for another content."""
        try:
            if self._hashed.hexdigest() != self._digest:
                raise damaged(self._digest)
            os.fsync(self._file.fileno())
            self._home.blobs.adopt(self._path, self._digest)
        finally:
            self.drop()

    def drop(self) -> None:
        """May be called twice."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


class BlobSender:
    """Sends the frames of one transfer, as `BlobReceiver` takes them, in the order in which blobs were asked for; and

    {"gone": digest}                    there is no such blob here

    The receiver knows their digests, and verifies them.
    """

    def __init__(self, home: Home, stream: Stream, out: CompressingStream) -> None:
        """`out` sends on `stream`."""
        self._stream = stream
        self._out = out
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._small: List[Tuple[bytes, bytes]] = []
        self._held = 0
        self.count = 0

    def __enter__(self) -> "BlobSender":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._blobs)

    def send(self, digest: bytes) -> None:
        name = digest.hex()
        try:
            file = os.open(name[:2] + "/" + name[2:], os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._blobs)
        except OSError:
            self.flush()
            self._stream.send(gone=name)
            return
        try:
            try:
                content = os.read(file, SMALL + 1)
            except OSError:  # the disk can't read it
                self.flush()
                self._stream.send(gone=name)
                return
            if len(content) > SMALL:
                self.flush()
                self._large(file, name, content)
                return
        finally:
            os.close(file)
        self._small.append((digest, content))
        self._held += len(content)
        if self._held >= PACK or len(self._small) >= 4096:
            self.flush()

    def flush(self) -> None:
        """Send what was held back to be packed."""
        if self._small:
            self._out.send(pack(self._small), {"p": len(self._small)})
            self.count += len(self._small)
            self._small, self._held = [], 0

    def _large(self, file: int, name: str, content: bytes) -> None:
        self._out.send(content, {"d": name, "s": os.fstat(file).st_size})
        while content := os.read(file, PIECE):
            self._out.send(content, {})
        self.count += 1


def blob_named(header: Dict[str, Any]) -> Tuple[str, int]:
    """The digest and the size that a frame's header names. Raises `HomeError("bad_stream")`."""
    digest, size = header.get("d"), header.get("s")
    if not isinstance(digest, str) or not is_digest(digest):
        raise HomeError("bad_stream", "not a digest: %s" % show(str(digest)[:80]))
    if type(size) is not int or not 0 <= size <= LARGEST:
        raise HomeError("bad_stream", "a blob of %.40r bytes" % (size,))
    return digest, size


def _temporary_name() -> str:
    return "in-%d-%s%x" % (os.getpid(), _OURS, next(_numbers))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()
