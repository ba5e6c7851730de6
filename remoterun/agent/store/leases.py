"""Leases: digests that a manifest will soon refer to, so that `gc` does not free their blobs before.

The race. A client asks which blobs are missing, sends those, and commits a manifest that names them all, hours later if
the link is slow. Until then no manifest names what has arrived, nor what was there already and that nothing else
refers to any more. An age limit would protect the former only, and would keep what was deleted a minute ago.

So a process that is going to refer to blobs says so first. The order is the whole of it:

    the process         1 writes the digests into a lease, under the lock `blobs`, shared
                        2 searches the home for their blobs
                        3 writes the manifest that names them
                        4 drops the lease
    `gc`, a batch       under the same lock, exclusively: A reads every lease, B reads every manifest that is new,
                        C unlinks blobs that neither names

The lock makes 1 come before A (then the batch spares the blobs) or after C (then step 2 finds them missing, and they
are sent). Since A comes before B, a process that has dropped its lease by A has a manifest that B reads. The lock is
held for the time of one write on one side, and for `gc.HOLD` seconds on the other: neither waits for the other's work.

A lease is a file `leases/PID-…` of packed digests, under a lock of its process; it counts while that lives. One whose
process is gone is a cut upload, which is likely to be tried again: it counts for a day more. A lease that is `release`d
as a whole, since manifests name its digests, leaves no file.

`submit` pins what others have stored (an upload, outputs); it waits for nobody, and holds the lock itself, shared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import Any, Optional, Set

from ..shared.files import locked, token, write_all
from ..shared.packs import unpacked

CUT = 86400.0
"""Seconds for which what a cut transfer has sent, or was about to use, is protected for the next try."""


class Lease:
    """Digests that are about to be referred to; `home` is the home's path.

    For several threads. Left as a context it is dropped; otherwise it lasts as long as the process, and `CUT` beyond.
    """

    def __init__(self, home: str) -> None:
        self._folder = os.path.join(home, "leases")
        self._lock = os.path.join(home, "locks", "blobs")
        self._path = ""
        self._file: Optional[int] = None
        self._digests: Set[bytes] = set()
        self._mutex = threading.Lock()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: Any) -> None:
        self.drop()

    def __del__(self) -> None:
        self.close()

    def add(self, raw: bytes) -> None:
        """Protect the packed digests from now on: search the home for their blobs after this.

        Blocks while `gc` unlinks a batch. Raises `OSError` on a full disk.
        """
        with self._mutex, locked(self._lock, shared=True):
            if not raw:
                return
            if self._file is None:
                self._open()
            assert self._file is not None
            end = os.lseek(self._file, 0, os.SEEK_END)
            try:
                write_all(self._file, raw)
            except OSError:
                os.ftruncate(self._file, end)
                raise
            self._digests.update(unpacked(raw))

    def release(self, digests: Set[bytes]) -> None:
        """Manifests name these by now. With the last digest the lease is dropped."""
        with self._mutex:
            if self._file is None:
                return
            self._digests -= digests
            if not self._digests:
                self._drop()
                return
            with locked(self._lock, shared=True):
                rest = b"".join(self._digests)
                os.lseek(self._file, 0, os.SEEK_SET)  # over what is there: that needs no room on a full disk
                write_all(self._file, rest)
                os.ftruncate(self._file, len(rest))

    def drop(self) -> None:
        """Protect nothing any more. May be repeated."""
        with self._mutex:
            self._digests = set()
            self._drop()

    def close(self) -> None:
        """Protect what is not committed for `CUT` seconds only, as after the end of the process. May be repeated."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def _open(self) -> None:
        self._path = os.path.join(self._folder, "%d-%s" % (os.getpid(), token(6)))
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def _drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            os.close(self._file)
            self._file = None


def read(folder: str, into: Set[bytes], now: float, sweep: bool, cut: float = CUT) -> None:
    """Add what every lease protects: dead ones do for `cut` seconds, and `sweep` deletes older ones. To be called
    while nobody else holds the lock `blobs`."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            file = open(path, "rb")
        except FileNotFoundError:
            continue  # dropped: a manifest names its digests by now
        with file:
            if _dead(file) and now - os.fstat(file.fileno()).st_mtime > cut:
                if sweep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                continue
            while True:
                raw = file.read(1 << 20)
                if not raw:
                    break
                into.update(unpacked(raw))


def _dead(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
