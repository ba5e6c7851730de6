"""What the files of this machine were hashed to, by their stamps, so that no file is read again that has not changed.

One table in `stamps.db` of the home. A row holds as long as size, mtime, ctime and inode are the same, to the
nanosecond. A file that was hashed within `RACY` of its last change gets no row: another change in that time could leave
its stamp as it was (git calls it racily clean). So a rewrite of the same size in the same second is always noticed.

It is a cache: nothing here is an error for the user. Each row has a checksum, as a wrong digest would do harm; a
database that is damaged is deleted, and the next `Stamps` makes a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

RACY = 100_000_000
"""Nanoseconds. File systems count time in steps of up to 10 ms; some count seconds, which is seen by the zeros."""
RACY_SECONDS = 2_500_000_000
MOST_BYTES = 1 << 30
"""Of the database, which begins anew then: rows of folders that are gone stay in it."""
AT_ONCE = 1000
"""Rows that are read, or written, in one go."""
BUSY_SECONDS = 5.0

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS stamps (
        folder BLOB NOT NULL, path BLOB NOT NULL,
        stamp BLOB NOT NULL, digest BLOB NOT NULL, checksum INTEGER NOT NULL,
        PRIMARY KEY (folder, path)
    ) WITHOUT ROWID
"""
_STAMP = struct.Struct("<qqqQ")
"""Size, mtime, ctime, inode."""
_NOT_DAMAGED = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
}  # fmt: skip
"""SQLite's primary error codes after which the database may be as good as before."""

_Row = tuple[bytes, bytes, bytes, int]  # path, stamp, digest, checksum


class Stamps:
    """The digests of the files of one folder. `known` is called in the order of a manifest, and so is `note`, which may
    be some way behind `known`. Used by one thread at a time.

    A context manager: what was noted is kept also when it is left by an error.
    """

    def __init__(self, file: Path, folder: str) -> None:
        """`file`: the database, made if it is missing."""
        self._file = file
        self._folder = hashlib.sha256(os.fsencode(folder)).digest()[:16]
        self._db: sqlite3.Connection | None = None
        self._new: list[tuple[bytes, bytes, bytes, bytes, int]] = []
        self._gone: list[tuple[bytes, bytes]] = []
        """Rows to be written, and to be deleted before that."""
        with self._forgiving():
            self._open()
        self._rows = self._read()
        self._next = next(self._rows, None)

    def __enter__(self) -> Stamps:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(complete=kind is None)

    def known(self, path: bytes, status: os.stat_result) -> str | None:
        """The digest in hex of the file `path`, if its stamp is the same as when it was noted."""
        while self._next is not None and self._next[0] < path:
            self._delete(self._next)
        if self._next is None or self._next[0] != path:
            return None
        _, stamp, digest, checksum = self._next
        self._next = next(self._rows, None)
        same = stamp == _stamp(status) and _checksum(path, stamp, digest) == checksum
        return digest.hex() if same else None  # otherwise `note` replaces the row

    def note(self, path: bytes, status: os.stat_result, digest: str, read_at: int) -> None:
        """The file had that content and that status when it was read, which began at `read_at` (ns since 1970)."""
        coarse = status.st_mtime_ns % 1_000_000_000 == 0
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        if self._db is None or read_at - changed <= (RACY_SECONDS if coarse else RACY):
            return
        stamp, raw = _stamp(status), bytes.fromhex(digest)
        self._new.append((self._folder, path, stamp, raw, _checksum(path, stamp, raw)))
        if len(self._new) >= AT_ONCE:
            self._write()

    def close(self, complete: bool) -> None:
        """Write what is new. `complete`: a file that was not asked for is gone from the folder. May be called twice."""
        while complete and self._next is not None:
            self._delete(self._next)
        self._write()
        with self._forgiving():
            if self._db is not None:
                self._db.close()
        self._db = self._next = None

    def _delete(self, row: _Row) -> None:
        self._gone.append((self._folder, row[0]))
        if len(self._gone) >= AT_ONCE:
            self._write()
        self._next = next(self._rows, None)

    def _read(self) -> Iterator[_Row]:
        """The rows in the order of their paths. Nothing is locked between pages."""
        after = b""
        while (page := self._page(after)) and page[-1][0] > after:
            after = page[-1][0]
            yield from page

    def _page(self, after: bytes) -> list[_Row]:
        with self._forgiving():
            if self._db is not None:
                found = self._db.execute(
                    "SELECT path, stamp, digest, checksum FROM stamps WHERE folder = ? AND path > ?"
                    " AND typeof(path) = 'blob' AND typeof(digest) = 'blob' ORDER BY path LIMIT ?",  # or it is damaged
                    (self._folder, after, AT_ONCE),
                )
                return found.fetchall()
        return []

    def _write(self) -> None:
        with self._forgiving():
            if self._db is not None and (self._gone or self._new):
                self._db.execute("BEGIN IMMEDIATE")
                with self._db:
                    self._db.executemany("DELETE FROM stamps WHERE folder = ? AND path = ?", self._gone)
                    self._db.executemany("REPLACE INTO stamps VALUES (?, ?, ?, ?, ?)", self._new)
        self._gone.clear()
        self._new.clear()

    def _open(self) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._file.exists() and self._file.stat().st_size > MOST_BYTES:
            self._file.unlink()
        self._db = sqlite3.connect(self._file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = OFF")  # after a power loss it may be damaged, and is made anew
        self._db.execute(_SCHEMA)
        os.chmod(self._file, 0o600)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """After an error nothing is known or noted any more; a damaged database is deleted."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            damaged = isinstance(error, sqlite3.Error) and code not in _NOT_DAMAGED
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = None
            if damaged:
                for name in (self._file, f"{self._file}-journal"):
                    with contextlib.suppress(OSError):
                        os.unlink(name)


def note_own(home: Path, written: Iterable[str | Path | int]) -> None:
    """Note files that remoterun just wrote here, by path or descriptor: copies, pages, reports."""
    with contextlib.suppress(OSError), (home / "own-files").open("a") as file:
        if file.tell() > 1 << 20:  # it begins anew then, too
            file.truncate(0)
        file.writelines(map(_own_line, written))


def own_files(home: Path, root: str, paths: Iterable[str]) -> set[str]:
    """The subset of `paths` (below `root`) that remoterun wrote, and that nobody has changed since."""
    with contextlib.suppress(OSError), (home / "own-files").open() as file:
        known = set(file)
        return {path for path in paths if _own_line(f"{root}/{path}") in known}
    return set()


def _own_line(file: str | Path | int) -> str:
    with contextlib.suppress(OSError):
        status = os.stat(file, follow_symlinks=isinstance(file, int))
        if isinstance(file, int) and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND:
            return ""  # there is more in it than we wrote
        return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n"
    return ""


def _stamp(status: os.stat_result) -> bytes:
    return _STAMP.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _checksum(path: bytes, stamp: bytes, digest: bytes) -> int:
    return zlib.crc32(path, zlib.crc32(digest, zlib.crc32(stamp)))
