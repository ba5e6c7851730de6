"""A large content that is like one that is here: put together of that one's parts, and of what is sent.

It is hashed as it is put together, which also verifies the blocks that stand where they are expected, and as long as it
may be the old file nothing is written. Parts and a seal (parts.py) would read and write all of it once more.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import mmap
import os
from typing import Any, Deque, List, Optional, Tuple

from ..shared.codecs import CodecError, expand
from ..shared.delta import BLOCK, BlockFinder, DeltaError, OldPlace, parsed
from ..shared.frames import Frame
from ..shared.tree import is_digest
from .errors import HomeError, damaged
from .home import Home
from .large_blob import LargeBlob, append
from .leases import Lease
from .writer_thread import WriterThread

MOST_BLOCKS, MOST_WANTED = 1024, 1 << 14
"""Of a file that is patched: whose records may come at once, and that may be waited for. Clients have a tenth of it."""
LONGEST_BACKOFF = 64
LET_GO = 16
"""Calls after which all that was looked at of the old files leaves our memory; most of it does so sooner."""


class Patch(LargeBlob):
    """Takes frames, in their order, and answers some:

    {"w": 1, "u": digest}       records (see delta.py) of the next blocks, and the digest of all up to their end.
                                Answer: a byte for each, 1: to be sent
    {}, {"z": …}, {"zstd": …}   bytes of the blocks that were to be sent, all of them one after the other
    {"h": digest}               that was all

    What is put together goes to the partial file, as with any large blob; but as long as it may be the old file,
    nothing is written, and if it is, nothing ever is.
    """

    def __init__(self, home: Home, lease: Lease, size: int, key: str, offset: int, like: List[str]) -> None:
        """`like`: digests of blobs that may have parts of it; those that are not here don't matter."""
        like = [digest for digest in like if isinstance(digest, str) and is_digest(digest)]
        super().__init__(home, lease, {"s": size, "k": key, "o": offset})
        self._files: List[mmap.mmap] = []
        self._bases: List[Tuple[str, int]] = []
        for digest in like:
            with contextlib.suppress(OSError, ValueError):  # absent, or empty
                with open(home.blobs.path(digest), "rb") as file:
                    self._files.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                self._bases.append((digest, len(self._files[-1])))
        self._old = [memoryview(file) for file in self._files]
        self._writer = WriterThread(lambda data: append(self.file, data))
        self._finder = BlockFinder(self._old, self.size)
        self._hashed_to = self.have
        """Bytes of the new file that are hashed: `have`, or more, where they were hashed to look at them."""
        self._backoff = self._next_backoff = 0
        """Calls in which blocks are looked at one by one, after a digest was another: twice as many each time."""
        self._asked = self.have
        """Bytes of the new file that records have come of."""
        self._calls = 0
        self._parts: Deque[Tuple[Optional[OldPlace], int]] = collections.deque()
        """What is to come next: a place in an old file, or None for bytes that are sent; and how many."""
        may_be_old = not self.have and bool(self._bases) and self._bases[0][1] == self.size
        self._unwritten = 0 if may_be_old else -1
        """Bytes at the start that are those of the first old file, and not written; -1: everything is."""

    def frame(self, frame: Frame) -> Optional[bytes]:
        """The answer, if it gets one. Raises `HomeError`, `OSError`."""
        header, body = frame
        if self.done:
            raise HomeError("bad_stream", "more than a blob")
        try:
            if "w" in header:
                return self._find(parsed(body), str(header.get("u", "")))
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
        self._writer.close()
        if not self.done:
            self.suspend()
        for let_go in [view.release for view in self._old] + [file.close for file in self._files]:
            with contextlib.suppress(BufferError):  # a part of one may be in an error's traceback
                let_go()

    done = False

    def _find(self, blocks: List[Any], up_to: str) -> bytes:
        start = self._asked
        if not blocks or len(blocks) > MOST_BLOCKS or start + (len(blocks) - 1) * BLOCK >= self.size:
            raise HomeError("bad_stream", "records of more blocks than there are")
        if len(self._parts) > MOST_WANTED:
            raise HomeError("bad_stream", "records, and none of the bytes that were asked for")
        places: List[Optional[OldPlace]] = list(self._all_as_expected(start, blocks, up_to))
        if not places:
            places = self._finder.find(start, blocks)
        for number, place in enumerate(places):
            self._parts.append((place, min(BLOCK, self.size - start - number * BLOCK)))
        self._asked = min(self.size, start + len(blocks) * BLOCK)
        self._copy_found()
        self._calls += 1
        if self._calls % LET_GO == 0:
            for file in self._files:
                _let_go(file, 0, len(file))
        return bytes(place is None for place in places)

    def _all_as_expected(self, start: int, blocks: List[Any], up_to: str) -> List[OldPlace]:
        """Where the blocks stand, if all of them do where they are expected: none of them needs a look of its own then,
        as it costs no more than the hash that is due anyway. Otherwise none."""
        if self._parts or not up_to:  # what comes before is not all here
            return []
        if self._backoff:
            self._backoff -= 1
            return []
        places = self._finder.expected(start, blocks)
        if not places:
            return []
        which, at = places[0]
        hashed = self.hashed.copy()
        hashed.update(self._old[which][at : at + min(len(blocks) * BLOCK, self.size - start)])
        if hashed.hexdigest() != up_to:
            self._next_backoff = min(2 * self._next_backoff or 1, LONGEST_BACKOFF)
            self._backoff = self._next_backoff
            return []
        self._next_backoff = 0
        self.hashed, self._hashed_to = hashed, min(self.size, start + len(blocks) * BLOCK)
        return places

    def _hash(self, data: memoryview) -> None:
        """The next bytes of the new file."""
        if self.have == self._hashed_to:
            self.hashed.update(data)
            self._hashed_to += len(data)

    def _copy_found(self) -> None:
        """All that comes next and is here."""
        while self._parts and self._parts[0][0] is not None:
            place, length = self._parts.popleft()
            assert place is not None
            which, at = place
            while self._parts and self._parts[0][0] == (which, at + length):  # in one go
                length += self._parts.popleft()[1]
            same = self._unwritten == self.have and (which, at) == (0, self.have)
            if same:
                self._unwritten += length
            else:
                self._write_begun()
            let_go = functools.partial(_let_go, self._files[which], at, length)
            data = self._old[which][at : at + length]
            self._hash(data)
            self._writer.add(data, write=not same, done=let_go)
            self.have += length

    def _fill(self, data: memoryview) -> None:
        while data:
            if not self._parts:
                raise HomeError("bad_stream", "bytes that were not asked for")
            _, wanted = self._parts.popleft()
            part = data[:wanted]
            self._write_begun()
            self._hash(part)
            self._writer.add(part)
            self.have += len(part)
            if len(part) < wanted:
                self._parts.appendleft((None, wanted - len(part)))
            else:
                self._copy_found()
            data = data[len(part) :]

    def _write_begun(self) -> None:
        """What was not written so far."""
        size, self._unwritten = self._unwritten, -1
        if size > 0:
            path = self.home.blobs.path(self._bases[0][0])
            self._writer.do(lambda: _copy_start(self._files[0], path, self.file, size))

    def _end(self, digest: str) -> None:
        if self.have != self.size or self._parts:
            raise HomeError("bad_stream", "a blob ended early")
        if self._is_the_old(digest):
            self._writer.close()
            self.discard()
        else:
            self._write_begun()
            self._writer.finish()
            self.adopt(digest)
        self.done = True

    def _is_the_old(self, digest: str) -> bool:
        same = bool(self._bases) and self._unwritten == self.size and self._bases[0] == (digest, self.size)
        if same:
            self._writer.finish()
        if same and self.hashed.hexdigest() != digest:
            self._unwritten = -1
            self.discard()
            raise damaged(digest)
        if same:
            self.lease.add(bytes.fromhex(digest))
            same = self.home.blobs.has(digest)  # `gc` may have been quicker
        return same


def _copy_start(source: mmap.mmap, path: str, target: Any, size: int) -> None:
    """The first `size` bytes of `path`, whose content `source` is, to the end of `target`; by the kernel where it
    can."""
    at = 0
    while at < size:
        some = min(size - at, 64 << 20)
        try:
            with open(path, "rb") as reader:
                copied = os.copy_file_range(reader.fileno(), target.fileno(), some, at)  # type: ignore[attr-defined,unused-ignore]
        except (OSError, AttributeError):
            copied = 0
        if not copied:
            append(target, memoryview(source)[at : at + some])
            copied = some
        at += copied


def _let_go(file: mmap.mmap, at: int, length: int) -> None:
    """What was looked at need not stay in our memory."""
    if hasattr(file, "madvise"):
        start = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
        end = at + length if at + length == len(file) else (at + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            file.madvise(mmap.MADV_DONTNEED, start, end - start)
