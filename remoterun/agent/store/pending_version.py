"""A version of an upload that takes shape while its manifest and its blobs still come, so that nothing is left to do
when the last one is there.

Files get their places in the order of the manifest, up to the first whose blob is not here yet, on whatever connection
it comes. Nobody sees the folder before it is whole: it stands in tmp/ until the commit.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Set, Tuple

from ..shared.api import CommitUpload
from ..shared.digests import unpacked
from ..shared.frames import Bytes
from ..shared.tree import HEADER, Entry, ManifestReader, parse_line
from .blobs import packed
from .checkout import Checkout
from .errors import HomeError
from .home import Home

AT_ONCE = 16 << 10
"""Bytes of a manifest that are gone through in one go."""
NOT_YET = ("missing_blob", "damaged")
ALIVE_EVERY = 60.0
"""Seconds between signs of life for the `gc` of another machine, where the home is shared."""


class PendingVersion:
    """Feed it with `take`; a context manager, which leaves nothing behind but a committed version. For several threads:
    the `put` thread that brings blobs calls `place` itself, which is cheaper than waking another thread.

    `sizes`: those of blobs that were seen here, by their digests. It may grow meanwhile.
    """

    def __init__(self, home: Home, sizes: Mapping[str, int]) -> None:
        self._home, self._sizes = home, sizes
        self._reader = ManifestReader()
        self._checkout: Optional[Checkout] = None
        self._parsed = self._placed = len(HEADER)
        """Bytes of the manifest that were parsed, and bytes whose entries are in place."""
        self._next: Deque[Tuple[Entry, int]] = deque()
        """The entries that were parsed and are not in place, with the bytes of each. A lease protects their blobs."""
        self._stack = contextlib.ExitStack()
        self._mutex = threading.Lock()
        self._closed = False
        self.digests: Set[bytes] = set()
        """Of its files, once it is committed."""

    def __enter__(self) -> "PendingVersion":
        self._lease = self._stack.enter_context(self._home.lease())
        return self

    def __exit__(self, *_: Any) -> None:
        with self._mutex:
            self._closed = True
        self._stack.close()  # takes long; the client does not wait for it

    def take(self, data: Bytes) -> None:
        """The next part of the manifest. Raises `TreeError`."""
        with self._mutex:
            self._reader.feed(data)

    @property
    def unplaced(self) -> int:
        """Bytes of the manifest that has come, whose entries are not in place."""
        return max(0, self._reader.build.length - self._placed)

    def place(self, give_way: Callable[[], bool] = lambda: False) -> bool:
        """Put in place what can be; whether that is all that has come. Raises `HomeError`.

        `give_way` is asked now and then: whether others have something to do that is more urgent.
        """
        with self._mutex:
            if self._closed:
                return False
            try:
                self._place(give_way)
            except HomeError as error:
                if error.code not in NOT_YET:
                    raise
            return not self.unplaced

    def commit(self, name: str, asked: Optional[CommitUpload] = None) -> Tuple[Dict[str, Any], bool]:
        """Make it a version of the upload `name`, once all has come; (version, whether it is new).

        Raises `HomeError`, `TreeError`.
        """
        asked = asked or CommitUpload(name)
        with self._mutex:
            manifest = self._reader.end()
            if self._checkout is not None or not self._home.uploads.has(name, manifest.digest):
                self._place()
                if self.unplaced:
                    raise HomeError("internal", "a version is not whole: %d bytes of its list are left" % self.unplaced)
            else:
                self.digests.update(unpacked(packed(manifest)))
            return self._home.uploads.commit(name, manifest, self._checkout, asked)

    def _place(self, give_way: Callable[[], bool] = lambda: False) -> None:
        if self._checkout is None:
            self._folder = self._stack.enter_context(self._home.temporary("upload"))
            tree = os.path.join(self._folder, "tree")
            self._checkout = self._stack.enter_context(Checkout(self._home.blobs, tree, False, self._sizes))
            self._said_alive = time.monotonic()
        if time.monotonic() - self._said_alive > ALIVE_EVERY:
            self._said_alive = time.monotonic()
            os.utime(self._folder)
        while self._next or (not give_way() and self._go_through()):
            entry, length = self._next[0]
            self._checkout.place(entry)
            self._placed += length
            self._next.popleft()

    def _go_through(self) -> bool:
        """The next entries of what has come; whether there are any."""
        build, size = self._reader.build, AT_ONCE
        while b"\n" not in (part := build.part(self._parsed, size)):
            if self._parsed + size >= build.length:
                return False
            size *= 2
        lines = part[: part.rfind(b"\n") + 1].splitlines(True)
        entries = [(parse_line(line), len(line)) for line in lines]
        self._protect(b"".join([bytes.fromhex(entry.digest) for entry, _ in entries]))
        self._next.extend(entries)
        self._parsed += sum(map(len, lines))
        return True

    def _protect(self, digests: bytes) -> None:
        """Before we look whether their blobs are here."""
        if digests:
            self._lease.add(digests)
            self.digests.update(unpacked(digests))
