"""Blobs on their way into a home: verified as they land, whole before they have their name.

Small ones come packed (see packs.py), large ones in pieces, which are kept in partial/ if the transfer is cut.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import itertools
import mmap
import os
import queue
import secrets
import threading
from typing import Any, Deque, Dict, List, Optional, Tuple

from .codecs import CodecError, expand
from .delta import BLOCK, DeltaError, Finder, Place, parsed
from .home import Home, HomeError
from .leases import Lease
from .packs import PackError, unpack
from .parts import PARTS, Part
from .protocol import Body, Frame
from .tree import LARGEST, is_digest, show

MOST_BLOCKS, MOST_WANTED = 1024, 1 << 14
"""Of a file that is patched: whose records may come at once, and that may be waited for. Clients have a tenth of it."""

_numbers = itertools.count()


class Landing:
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

    def __init__(self, home: Home, lease: Lease) -> None:
        """`lease` gets the digests that nobody has asked about before."""
        self._home = home
        self._lease = lease
        self._open: Optional[_Large] = None
        self._part: Optional[Part] = None
        self._blobs = os.open(home.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._tmp = os.open(home.tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.count = 0

    def __enter__(self) -> "Landing":
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
        try:
            body = expand(header, body)
            if "p" in header:
                self.end()
                for digest, content in unpack(body, int(header["p"])):
                    self._land(digest, content)
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
            self._open = _Large(self._home, self._lease, header)
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

    def _land(self, digest: bytes, content: memoryview) -> None:
        """A small blob: one file, written and renamed. Not flushed one by one: a file that a power cut has emptied is
        known by its size (`Home.has_blob`), and sent again."""
        if hashlib.sha256(content).digest() != digest:
            raise _damaged(digest.hex())
        temporary = "in-%d-%d" % (os.getpid(), next(_numbers))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o444, dir_fd=self._tmp)
        try:
            try:
                if _UMASK & 0o444:
                    os.fchmod(descriptor, 0o444)
                left = content
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
            self._place(temporary, digest.hex())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._tmp)
            raise
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


def _damaged(digest: str) -> HomeError:
    return HomeError("damaged", "the content of %s did not arrive as it was read" % digest[:12], "try again")


class _Large:
    """One large blob on its way in: appended to a partial file, hashed, and adopted when whole."""

    def __init__(self, home: Home, lease: Lease, header: Dict[str, Any]) -> None:
        self._home, self._lease = home, lease
        self._digest = str(header.get("d", ""))
        self._size = int(header["s"])
        offset = int(header.get("o", 0))
        key = str(header.get("k", "")) or self._digest
        if not 0 <= offset <= self._size <= LARGEST:
            raise HomeError("bad_stream", "a blob of %d bytes from %d on" % (self._size, offset))
        for name in (self._digest, key):
            if name and not is_digest(name):
                raise HomeError("bad_stream", "not a digest: %s" % show(name[:80]))
        self._hash: Any = hashlib.sha256()
        self._have = offset
        self._path = os.path.join(home.partial, key)
        self._shared = True
        self._file: Any = None
        self._known = bool(self._digest) and home.has_blob(self._digest)
        if self._known:  # by somebody who sent it at the same time, or a crash came before the partial file was deleted
            self._discard()
            return
        if key:
            self._file = _take_partial(self._path)
        self._shared = self._file is not None
        try:
            if self._file is not None:
                self._read_begun(self._file, offset)
                self._file.truncate(offset)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path + PARTS)  # of a try that sent it in parts
            else:  # somebody else is sending it, too
                begun, self._path = self._path, os.path.join(home.tmp, "in-%d-%s" % (os.getpid(), secrets.token_hex(4)))
                self._file = open(self._path, "x+b", buffering=0)
                if offset:
                    with _open_first(begun, home.blob(self._digest)) as reader:
                        self._read_begun(reader, offset, copy=True)
        except BaseException:
            self.suspend()
            self._known = bool(self._digest) and home.has_blob(self._digest)  # the other one has just finished
            if not self._known:
                raise

    def _read_begun(self, reader: Any, size: int, copy: bool = False) -> None:
        """Hash the first `size` bytes, which an earlier transfer left."""
        while size:
            data = reader.read(min(size, 1 << 20))
            if not data:
                raise HomeError("bad_stream", "less of %s is here than was said" % self._digest[:12])
            self._hash.update(data)
            if copy:
                _append(self._file, data)
            size -= len(data)

    def take(self, data: Body, digest: str) -> bool:
        """Whether the blob is whole now. `digest`: its own, if it is told only now."""
        self._have += len(data)
        if self._have > self._size:
            self._discard()
            raise HomeError("bad_stream", "more bytes of %s than were said" % self._digest[:12])
        if self._known:
            return self._have == self._size
        self._hash.update(data)
        _append(self._file, data)
        wanted = self._digest or digest
        if not wanted or self._have < self._size:
            if digest:
                raise HomeError("bad_stream", "a blob ended early")
            return False
        self._adopt(wanted)
        return True

    def _adopt(self, digest: str) -> None:
        """The whole content is in the file, and hashed."""
        if self._hash.hexdigest() != digest:
            self._discard()
            raise _damaged(digest)
        if not self._digest:
            self._lease.add(bytes.fromhex(digest))
        os.fsync(self._file.fileno())
        self._home.adopt(self._path, digest)
        self._discard()

    def suspend(self) -> None:
        """Keep what came, for the next try."""
        if self._file is None or self._file.closed:
            return
        if not self._shared:
            self._discard()
        self._file.close()

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        if self._file is not None:
            self._file.close()


class Patch(_Large):
    """A large blob that is like one that is here: put together of that one's parts, and of what is sent.

    Takes frames, in their order, and answers some:

    {"w": 1}        records (see delta.py) of the next blocks. Answer: a byte for each, 1 if it shall be sent
    {}              bytes of the blocks that were to be sent, all of them one after the other
    {"h": digest}   that was all

    What is put together goes to the partial file, as with any large blob; but as long as it is the start of an old
    file, nothing is written, and if it is all of it, nothing ever is.
    """

    def __init__(self, home: Home, lease: Lease, size: int, key: str, offset: int, like: List[str]) -> None:
        """`like`: digests of blobs that may have parts of it; those that are not here don't matter."""
        like = [digest for digest in like if isinstance(digest, str) and is_digest(digest)]
        super().__init__(home, lease, {"s": size, "k": key, "o": offset})
        self._files: List[mmap.mmap] = []
        self._bases: List[Tuple[str, int]] = []
        for digest in like:
            with contextlib.suppress(OSError, ValueError):  # absent, or empty
                with open(home.blob(digest), "rb") as file:
                    self._files.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                self._bases.append((digest, len(self._files[-1])))
        self._old = [memoryview(file) for file in self._files]
        self._hash = _Hasher(self._hash)
        self._finder = Finder(self._old, self._size)
        self._asked = self._have
        """Bytes of the new file that records have come of."""
        self._parts: Deque[Tuple[Optional[Place], int]] = collections.deque()
        """What is to come next: a place in an old file, or None for bytes that are sent; and how many."""
        self._unwritten = 0 if not self._have and self._old else -1
        """Bytes at the start that are those of the first old file, and not written; -1: everything is."""

    def frame(self, frame: Frame) -> Optional[bytes]:
        """The answer, if it gets one. Raises `HomeError`."""
        header, body = frame
        if self.done:
            raise HomeError("bad_stream", "more than a blob")
        try:
            if "w" in header:
                return self._find(parsed(body))
            body = expand(header, body)
        except (DeltaError, CodecError) as error:
            raise HomeError("bad_stream", str(error))
        if "h" in header:
            self._end(str(header["h"]))
        else:
            self._fill(memoryview(body))
        return None

    def close(self) -> None:
        """What has begun is kept for the next try."""
        if not self.done:
            with contextlib.suppress(OSError):  # on a full disk
                self._write_begun()
            self.suspend()
        self._hash.close()
        with contextlib.suppress(BufferError):  # a part of one may be held by an error's traceback
            for view in self._old:
                view.release()
            for file in self._files:
                file.close()

    done = False

    def _find(self, blocks: List[Any]) -> bytes:
        start = self._asked
        if not blocks or len(blocks) > MOST_BLOCKS or start + (len(blocks) - 1) * BLOCK >= self._size:
            raise HomeError("bad_stream", "records of more blocks than there are")
        if len(self._parts) > MOST_WANTED:
            raise HomeError("bad_stream", "records, and none of the bytes that were asked for")
        places = self._finder.find(start, blocks)
        for number, place in enumerate(places):
            self._parts.append((place, min(BLOCK, self._size - start - number * BLOCK)))
        self._asked = min(self._size, start + len(blocks) * BLOCK)
        self._copy_found()
        for file in self._files:  # what was looked at need not stay in our memory
            if hasattr(file, "madvise"):
                file.madvise(mmap.MADV_DONTNEED)
        return bytes(place is None for place in places)

    def _copy_found(self) -> None:
        """All that comes next and is here."""
        while self._parts and self._parts[0][0] is not None:
            place, length = self._parts.popleft()
            assert place is not None
            which, at = place
            while self._parts and self._parts[0][0] == (which, at + length):  # in one go
                length += self._parts.popleft()[1]
            data = self._old[which][at : at + length]
            self._hash.update(data)
            if self._unwritten == self._have and (which, at) == (0, self._have):
                self._unwritten += length
            else:
                self._write_begun()
                _append(self._file, data)
            self._have += length

    def _fill(self, data: memoryview) -> None:
        while data:
            if not self._parts:
                raise HomeError("bad_stream", "bytes that were not asked for")
            _, wanted = self._parts.popleft()
            part = data[:wanted]
            self._write_begun()
            self._hash.update(part)
            _append(self._file, part)
            self._have += len(part)
            if len(part) < wanted:
                self._parts.appendleft((None, wanted - len(part)))
            else:
                self._copy_found()
            data = data[len(part) :]

    def _write_begun(self) -> None:
        """What was not written so far."""
        size, self._unwritten = self._unwritten, -1
        at = 0
        while at < size:
            at += _copy_range(self._files[0], self._home.blob(self._bases[0][0]), self._file, at, size - at)

    def _end(self, digest: str) -> None:
        if self._have != self._size or self._parts:
            raise HomeError("bad_stream", "a blob ended early")
        if self._is_the_old(digest):
            self._discard()
        else:
            self._write_begun()
            self._adopt(digest)
        self.done = True

    def _is_the_old(self, digest: str) -> bool:
        same = bool(self._bases) and self._unwritten == self._size and self._bases[0] == (digest, self._size)
        if same and self._hash.hexdigest() != digest:
            self._unwritten = -1
            self._discard()
            raise _damaged(digest)
        if same:
            self._lease.add(bytes.fromhex(digest))
            same = self._home.has_blob(digest)  # `gc` may have been quicker
        return same


class _Hasher:
    """SHA-256 on a thread of its own, beside who compares and writes."""

    def __init__(self, begun: Any) -> None:
        self._hash = begun
        self._todo: "queue.Queue[Optional[memoryview]]" = queue.Queue(8)
        self._thread = threading.Thread(target=self._run, name="remoterun hashes", daemon=True)
        self._thread.start()

    def update(self, data: memoryview) -> None:
        """`data` must stay as it is until the digest is asked for."""
        self._todo.put(data)

    def hexdigest(self) -> str:
        self.close()
        return str(self._hash.hexdigest())

    def close(self) -> None:
        """Blocks until all is hashed. May be called twice."""
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            data = self._todo.get()
            if data is None:
                return
            self._hash.update(data)
            del data


def _copy_range(source: mmap.mmap, path: str, target: Any, at: int, size: int) -> int:
    """Copy bytes from `at` on to the end of `target`, whose place that is; how many. By the kernel where it can."""
    size = min(size, 64 << 20)
    try:
        with open(path, "rb") as reader:
            copied = os.copy_file_range(reader.fileno(), target.fileno(), size, at)  # type: ignore[attr-defined,unused-ignore]
            if copied:
                return copied
    except (OSError, AttributeError):
        pass
    _append(target, memoryview(source)[at : at + size])
    return size


def _take_partial(path: str) -> Optional[Any]:
    """The partial file, open and locked until it is closed; None while somebody else has it."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        except PermissionError:  # read-only: a crash came in the midst of `Home.adopt`
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
        if links > 1:  # a crash came just after `Home.adopt`: this is the blob itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        file.close()


def _open_first(*paths: str) -> Any:
    for path in paths:
        try:
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            continue
    raise HomeError("bad_stream", "less of a blob is here than was said")


def _append(file: Any, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
