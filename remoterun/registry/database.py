"""The registry's file. SQLite has its room here; several processes and threads may use one file at once."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from remoterun.agent.shared.files import locked, no_room
from remoterun.errors import REINSTALL, RemoterunError

VERSION = 11
"""The version of the schema, kept in `PRAGMA user_version`."""
RUNS = """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        status TEXT NOT NULL DEFAULT '{}',
        client_pid INTEGER,
        again TEXT NOT NULL DEFAULT '',
        digest TEXT NOT NULL DEFAULT ''
    );
"""
"""`status` is what its host has said, `again` the key of the run that it repeats, `digest` that of what was asked for.
What this client knows of a run has a column each, which is added to a file that lacks it."""
REMOVED = "CREATE TABLE removed (number INTEGER NOT NULL, renting TEXT NOT NULL);"
"""Of runs that were removed: what their hosts cost stays."""
UPLOADS = """
    CREATE TABLE versions (
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        files INTEGER NOT NULL,
        created REAL NOT NULL,
        recorded REAL NOT NULL,
        removed INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (name, number)
    );
    CREATE TABLE copies (
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        home_id TEXT NOT NULL,
        machine TEXT NOT NULL,
        path TEXT,
        seen REAL NOT NULL,
        uploaded REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (name, digest, home_id)
    );
    CREATE TABLE reads (run TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (run, name, digest));
"""
"""`created` is by the clock of the machine that has it and `recorded` by ours: that one says which version is the
newest."""
OLDEST = 10
"""The version before, whose files are upgraded."""
UPGRADE = """
    ALTER TABLE runs RENAME COLUMN host TO placed;
    ALTER TABLE runs RENAME COLUMN asked TO digest;
    ALTER TABLE runs ADD COLUMN provisioning;
    ALTER TABLE runs ADD COLUMN uploading;
    UPDATE runs SET provisioning = json_extract(steps, '$.provisioning'),
        uploading = json_extract(steps, '$.uploading');
    ALTER TABLE runs DROP COLUMN steps;
"""
_DISK_ERRORS = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
)  # fmt: skip


class Unwritable(RemoterunError):
    """The registry's disk is full or read-only; what is there can be read."""


AGAIN = 5.0
"""Seconds until a registry that could not be written is tried again."""


class Database:
    """Queries and changes, each with its errors as ours. Text that is not UTF-8 may be stored as well."""

    def __init__(self, file: Path, facts: Iterable[str], warn: Callable[[str], None]) -> None:
        """`facts`: the columns of `runs` for what this client knows of them. `warn` is called once, with a line, when
        the file can be read but not written: from then on `note` changes a copy in memory, which is read, and every
        other change raises."""
        self._file = file
        self._facts = facts
        self._warn = warn
        self._lock = threading.RLock()  # held around each statement together with the reading of its rows
        self._unwritable: RemoterunError | None = None
        self._try_again_at = 0.0
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_not_emptied()
        except OSError as error:
            raise RemoterunError(
                f"the home `{file.parent}` can't be made: {error.strerror}",
                hint="set REMOTERUN_HOME to a folder that you may write",
            )
        try:
            self._db = self._open("mode=rwc")
        except (sqlite3.Error, OSError) as error:
            self._db = self._open_to_read(error)
            self.go_on_in_memory(self._unusable(error))

    def close(self) -> None:
        """May be called twice; whatever is called later raises."""
        with self._lock:
            self._db.close()

    def rows(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self._usable() as database:
            return database.execute(query, [_stored(value) for value in values]).fetchall()

    def change(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        with self._usable() as database:
            if self._unwritable is not None:
                raise self._unwritable
            return database.execute(query, [_stored(value) for value in values])

    def version(self) -> tuple[int, int]:
        """Another one once another process has changed something, or what is read here is another file."""
        return id(self._db), int(self.rows("PRAGMA data_version")[0][0])

    def note(self, query: str, values: Iterable[Any] = ()) -> None:
        """Change what is only an index of what the machines know: where that can't be written, in memory."""
        try:
            self.change(query, values)
        except Unwritable as error:
            self.go_on_in_memory(error)
            self.rows(query, values)  # there are none: it changes the copy

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All changes of the block, or none."""
        with self._lock:
            self.change("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self.change("COMMIT")

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """One write for all that the block notes, at its end, also where it raises."""
        with self._lock:
            self.note("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                if self._db.in_transaction:
                    self.note("COMMIT")

    def go_on_in_memory(self, error: RemoterunError) -> None:
        """Go on with a copy of all that is recorded: what this process learns stays true for it."""
        with self._usable() as database:
            if self._unwritable is None:
                copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                copy.row_factory = sqlite3.Row
                database.backup(copy)
                database.close()
                self._db, self._unwritable, self._try_again_at = copy, error, time.monotonic() + AGAIN
                self._warn(f"{error.message}; what is learned of runs now is not kept")

    @contextlib.contextmanager
    def _usable(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._unwritable is not None and time.monotonic() > self._try_again_at:
                self._try_again_at = time.monotonic() + AGAIN
                with contextlib.suppress(sqlite3.Error, OSError):
                    other = self._open("mode=rwc")
                    try:
                        other.execute(f"PRAGMA user_version={VERSION}")  # it is a write
                        self._db, other, self._unwritable = other, self._db, None
                    finally:
                        other.close()
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._unusable(error)

    # -- the file

    def _open(self, how: str) -> sqlite3.Connection:
        name = f"file:{quote(os.fsencode(self._file))}?{how}"
        may_write = how == "mode=rwc"
        if may_write:
            self._file.touch(0o600)  # SQLite gives the files beside it the mode of this one
        database = sqlite3.connect(name, uri=True, timeout=15, isolation_level=None, check_same_thread=False)
        try:
            database.row_factory = sqlite3.Row
            self._check_schema(database, may_write)
            if may_write:
                self._made.touch(mode=0o600)
        except BaseException:
            database.close()
            raise
        return database

    def _open_to_read(self, error: Exception) -> sqlite3.Connection:
        """Where the disk is full or read-only. `immutable` needs none of the files that SQLite puts beside it."""
        for how in ("mode=ro", "immutable=1"):
            with contextlib.suppress(sqlite3.Error, OSError):
                return self._open(how)
        raise self._unusable(error)

    def _check_schema(self, database: sqlite3.Connection, may_write: bool) -> None:
        """Make the tables in a new file. Raises `RemoterunError` for a file of another version."""
        known = database.execute("PRAGMA user_version").fetchone()[0]
        if known == VERSION and not self._lacking(database):
            return
        if known > VERSION:
            raise RemoterunError(f"the registry `{self._file}` was made by a newer remoterun", hint=REINSTALL)
        if 0 < known < OLDEST:
            why = f"the registry `{self._file}` was made by a remoterun from before its first release"
            raise RemoterunError(why, hint=f"mv {shlex.quote(str(self._file))} old.db   lets a new one begin")
        if not may_write:
            raise sqlite3.OperationalError("it has no tables yet")
        with locked(f"{self._file}.lock"):  # to change the journal's mode, SQLite waits for nobody
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        with database:
            known = database.execute("PRAGMA user_version").fetchone()[0]
            steps = "" if known == VERSION else UPGRADE if known else RUNS + UPLOADS + REMOVED
            for statement in steps.split(";")[:-1]:  # unless another process has done so
                database.execute(statement)
            for name in self._lacking(database):
                database.execute(f"ALTER TABLE runs ADD COLUMN {name}")
            database.execute(f"PRAGMA user_version={VERSION}")

    def _lacking(self, database: sqlite3.Connection) -> list[str]:
        """The facts for which a file has no column."""
        there = {row["name"] for row in database.execute("PRAGMA table_info(runs)")}
        return [name for name in self._facts if name not in there]

    @property
    def _made(self) -> Path:
        """A file that stands beside the registry once it was made."""
        return self._file.with_name("registry.made")

    def _check_not_emptied(self) -> None:
        """An empty file would pass for a registry without runs."""
        if not self._file.exists():
            self._made.unlink(missing_ok=True)
        elif self._made.exists() and not self._file.stat().st_size:
            raise RemoterunError(
                f"the registry `{self._file}` is empty, and it was not: the numbers of your runs are lost",
                hint=f"bring it back from a copy, or let a new one begin: `rm {shlex.quote(str(self._file))}`",
            )

    def _unusable(self, error: Exception) -> RemoterunError:
        file = shlex.quote(str(self._file))
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_ERRORS or isinstance(error, OSError):
            why = no_room(str(self._file.parent)) or str(error)  # SQLite has many words for the same
            with contextlib.suppress(FileNotFoundError):
                if os.statvfs(self._file.parent).f_flag & os.ST_RDONLY:
                    why = "its file system is read-only"
            return Unwritable(
                f"the registry `{self._file}` can't be written: {why}",
                hint=f"ls -l {file}\nremoterun machines df local   shows who uses its disk",
            )
        passing = isinstance(error, sqlite3.OperationalError)  # locked
        hint = f"ls -l {file}   then try again" if passing else f"mv {file} {file}.broken   lets a new one begin"
        return RemoterunError(f"the registry `{self._file}` can't be used: {error}", hint=hint)


def _stored(value: Any) -> Any:
    """Text that is not UTF-8 (commands and paths may be anything) is stored as bytes."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def text(value: Any) -> Any:
    """A value as it was before it was stored."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
