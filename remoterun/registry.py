"""The client's index: it numbers runs and remembers where they and the uploads live. SQLite has its room here.

The truth about a run is its folder on its host; what stands here is corrected each time that is read. A row exists
before the effect it describes. Moves are guarded: only along `states.MOVES`, and only if nobody moved it meanwhile.

Longer than other files: runs and uploads share one database with one chain of migrations, which is never cut.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from remoterun.agent.shared.files import locked
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.shared.states import MOVES, Reason, RunState, RunStatus
from remoterun.errors import NotFound, RemoterunError
from remoterun.model import LAST, MachineType, Placement, Renting, Run, Upload, UploadCopy, by_our_clock


def _first(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL UNIQUE,
            machine TEXT NOT NULL,
            home_id TEXT,
            state TEXT NOT NULL,
            command TEXT NOT NULL,
            description TEXT,
            labels TEXT NOT NULL DEFAULT '[]',
            created REAL NOT NULL,
            last_seen REAL,
            client_pid INTEGER,
            status TEXT NOT NULL DEFAULT '{}'
        )"""
    )
    connection.execute(
        """CREATE TABLE uploads (
            name TEXT NOT NULL,
            home_id TEXT NOT NULL,
            machine TEXT NOT NULL,
            version INTEGER NOT NULL,
            digest TEXT NOT NULL,
            size INTEGER NOT NULL,
            files INTEGER NOT NULL,
            created REAL NOT NULL,
            path TEXT,
            PRIMARY KEY (name, home_id)
        )"""
    )


def _recorded(connection: sqlite3.Connection) -> None:
    """`created` is by the clock of the machine that holds an upload; which one is the newest is for ours to say."""
    connection.execute("ALTER TABLE uploads ADD COLUMN recorded REAL NOT NULL DEFAULT 0")
    connection.execute("UPDATE uploads SET recorded = created")


def _placed(connection: sqlite3.Connection) -> None:
    """The machine that was got for a run stands beside the one that was asked for, and the times of its first steps."""
    connection.execute("ALTER TABLE runs ADD COLUMN host TEXT")
    connection.execute("ALTER TABLE runs ADD COLUMN steps TEXT NOT NULL DEFAULT '{}'")
    connection.execute("UPDATE runs SET host = machine WHERE home_id IS NOT NULL")


def _rented(connection: sqlite3.Connection) -> None:
    """What is known of the hosts that were rented for a run."""
    connection.execute("ALTER TABLE runs ADD COLUMN renting TEXT")


def _repeated(connection: sqlite3.Connection) -> None:
    """The key of the run that a run repeats."""
    connection.execute("ALTER TABLE runs ADD COLUMN again TEXT NOT NULL DEFAULT ''")


def _numbered(connection: sqlite3.Connection) -> None:
    """Numbers of versions are ours; before, each home had its own, and the newest version of each home was known."""
    connection.execute(
        """CREATE TABLE versions (
            name TEXT NOT NULL,
            number INTEGER NOT NULL,
            digest TEXT NOT NULL,
            size INTEGER NOT NULL,
            files INTEGER NOT NULL,
            created REAL NOT NULL,
            recorded REAL NOT NULL,
            removed INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (name, number)
        )"""
    )
    connection.execute(
        """CREATE TABLE copies (
            name TEXT NOT NULL,
            digest TEXT NOT NULL,
            home_id TEXT NOT NULL,
            machine TEXT NOT NULL,
            there INTEGER NOT NULL,
            path TEXT,
            seen REAL NOT NULL,
            uploaded REAL NOT NULL DEFAULT 0,
            PRIMARY KEY (name, digest, home_id)
        )"""
    )
    connection.execute(
        """CREATE TABLE reads (run TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
            PRIMARY KEY (run, name, digest))"""
    )
    numbers: dict[str, dict[str, int]] = {}
    for row in connection.execute("SELECT * FROM uploads ORDER BY name, recorded, created").fetchall():
        known = numbers.setdefault(row["name"], {})
        if row["digest"] not in known:
            known[row["digest"]] = max([row["version"], *(number + 1 for number in known.values())])
            connection.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    row["name"],
                    known[row["digest"]],
                    *(row[field] for field in ("digest", "size", "files", "created", "recorded")),
                ),
            )
        connection.execute(
            "INSERT INTO copies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
            [row[field] for field in ("name", "digest", "home_id", "machine", "version", "path", "recorded")],
        )
    connection.execute("DROP TABLE uploads")


def _asked(connection: sqlite3.Connection) -> None:
    """The digest of what was asked of a run; "" where that is not known."""
    connection.execute("ALTER TABLE runs ADD COLUMN asked TEXT NOT NULL DEFAULT ''")


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [
    _first,
    _recorded,
    _placed,
    _rented,
    _repeated,
    _numbered,
    _asked,
]
"""Each brings the schema one step on; `PRAGMA user_version` counts those done. Append only."""

MOST_VERSIONS = 10**8 - 1
"""The highest number that a home can give to a version: a bucket has eight digits for it."""

STEPS = (RunState.PROVISIONING, RunState.UPLOADING)
"""The states that this side drives a run through, whose times stand here only."""

ROOM = 1 << 20
"""Bytes that a disk has free at the least on which SQLite's errors are not about room."""
_DISK = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)

_SAME_ATTEMPT = "coalesce(json_extract(renting, '$.attempt'), 1) = ?"
"""With `_attempt`: the run has no newer host than the one that is spoken of."""
_SAME_HOST = f"{_SAME_ATTEMPT} AND (renting IS NOT NULL OR home_id IS ?)"
"""With `_host`: nor was it moved to another machine meanwhile."""

GIVEN_UP = 0
"""In place of the pid of the client that was to hand a run over."""


class Unwritable(RemoterunError):
    """The registry's disk is full or read-only; what is there can be read."""


class Registry:
    """One user's runs and uploads, in `registry.db` of the home. Several processes and threads may use it at once."""

    def __init__(self, file: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        """`warn` is called once, with a line, when the file can be read but not written: then what is learned of runs
        is not kept, and only what needs a record raises."""
        self._file = file
        self._warn = warn
        self._lock = threading.RLock()  # held around each statement together with the reading of its rows
        self._unwritable: RemoterunError | None = None
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_not_emptied()
        except OSError as error:
            raise RemoterunError(
                f"the home `{file.parent}` can't be made: {error.strerror}",
                hint="set REMOTERUN_HOME to a folder that you may write",
            )
        try:
            self._db = self._opened("rwc")
        except (sqlite3.Error, OSError) as error:
            self._db = self._opened_to_read(error)

    def _opened(self, mode: str) -> sqlite3.Connection:
        name = f"file:{quote(os.fsencode(self._file))}?{mode if '=' in mode else f'mode={mode}'}"
        database = sqlite3.connect(name, uri=True, timeout=15, isolation_level=None, check_same_thread=False)
        try:
            database.row_factory = sqlite3.Row
            self._migrate(database, may_write=mode == "rwc")
            if mode == "rwc":
                os.chmod(self._file, 0o600)
                self._made.touch(mode=0o600)
        except BaseException:
            database.close()
            raise
        return database

    def _opened_to_read(self, error: Exception) -> sqlite3.Connection:
        """Where the disk is full or read-only. `immutable` needs none of the files that SQLite puts beside it."""
        for mode in ("ro", "immutable=1"):
            with contextlib.suppress(sqlite3.Error, OSError):
                database = self._opened(mode)
                self._go_on_without_writing(self._unusable(error))
                return database
        raise self._unusable(error, "used")

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

    def close(self) -> None:
        """May be called twice; whatever is called later raises."""
        with self._lock:
            self._db.close()

    def _migrate(self, database: sqlite3.Connection, may_write: bool) -> None:
        done = database.execute("PRAGMA user_version").fetchone()[0]
        if done == len(MIGRATIONS):
            return
        if done > len(MIGRATIONS):
            raise RemoterunError(
                f"the registry `{self._file}` was made by a newer remoterun", hint="pip install --upgrade remoterun"
            )
        if not may_write:
            raise sqlite3.OperationalError("an older registry, which has to be written first")
        with locked(f"{self._file}.lock"):  # to change the journal's mode, SQLite waits for nobody
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        try:
            done = database.execute("PRAGMA user_version").fetchone()[0]
            for number in range(done, len(MIGRATIONS)):
                MIGRATIONS[number](database)
            database.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def _rows(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, [_stored(value) for value in values]).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error)

    def _change(self, query: str, values: Iterable[Any] = ()) -> int:
        """The row that was inserted last."""
        return self._executed(query, values).lastrowid or 0

    def _changed_rows(self, query: str, values: Iterable[Any] = ()) -> int:
        """How many rows were changed."""
        return self._executed(query, values).rowcount

    def _executed(self, query: str, values: Iterable[Any]) -> sqlite3.Cursor:
        with self._lock:
            if self._unwritable is not None:
                raise self._unwritable
            try:
                return self._db.execute(query, [_stored(value) for value in values])
            except sqlite3.Error as error:
                raise self._unusable(error)

    def _note(self, query: str, values: Iterable[Any] = ()) -> bool:
        """Change what is only an index of what the machines know; whether that could be written."""
        try:
            self._change(query, values)
        except Unwritable as error:
            self._go_on_without_writing(error)
        return self._unwritable is None

    def _go_on_without_writing(self, error: RemoterunError) -> None:
        if self._unwritable is None:
            self._unwritable = error
            self._warn(f"{error.message}; what is learned of runs now is not kept")

    def _unusable(self, error: Exception, done: str = "written") -> RemoterunError:
        """`done`: what can't be done with the file."""
        file = shlex.quote(str(self._file))
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        full = code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC
        if full or (code in _DISK and _bytes_free(self._file.parent) < ROOM):
            return Unwritable(
                f"the disk that holds `{self._file}` is full",
                hint="remoterun df local   shows who uses it\nremoterun gc local   frees what nothing needs",
            )
        if code in _DISK or isinstance(error, OSError):
            reason = "the file system is read-only" if _read_only(self._file.parent) else str(error)
            return Unwritable(f"the registry `{self._file}` can't be {done}: {reason}", hint=f"ls -l {file}")
        passing = isinstance(error, sqlite3.OperationalError)  # locked
        hint = f"ls -l {file}   then try again" if passing else f"mv {file} {file}.broken   lets a new one begin"
        return RemoterunError(f"the registry `{self._file}` can't be used: {error}", hint=hint)

    # -- runs

    def add_run(
        self,
        key: str,
        machine: MachineType,
        command: str,
        created: float,
        description: str | None = None,
        labels: Iterable[str] = (),
        again: str = "",
    ) -> Run:
        """A new run, REQUESTED, with the next number. It has no host yet. `again`: the key of the run it repeats."""
        number = self._change(
            "INSERT INTO runs (key, machine, state, command, description, labels, created, client_pid, again)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                json.dumps(machine.record()),
                RunState.REQUESTED.value,
                command,
                description,
                json.dumps(list(labels)),
                created,
                os.getpid(),
                again,
            ),
        )
        return self.run(number)

    def run(self, number: int | str) -> Run:
        """By number, or `last`. Raises `NotFound`."""
        if number == LAST:
            rows = self._rows("SELECT * FROM runs ORDER BY number DESC LIMIT 1")
            if not rows:
                raise NotFound("there is no run yet", hint='remoterun run "echo hello"')
        else:
            try:
                rows = self._rows("SELECT * FROM runs WHERE number = ?", (int(number),))
            except (OverflowError, ValueError):  # more digits than any run number has
                rows = []
            if not rows:
                raise NotFound(f"there is no run {str(number)[:20]}", hint="remoterun ps")
        return _run(rows[0])

    def repeats(self, run: Run) -> tuple[int | None, list[int]]:
        """(the number of the run that this one repeats, if it is known; the numbers of those that repeat this one)."""
        before = self._rows(
            "SELECT number FROM runs WHERE key = (SELECT nullif(again, '') FROM runs WHERE key = ?)", (run.key,)
        )
        after = self._rows("SELECT number FROM runs WHERE again = ? ORDER BY number", (run.key,))
        return (before[0]["number"] if before else None), [row["number"] for row in after]

    def runs(self, limit: int | None = None) -> list[Run]:
        """The newest `limit` runs (None: all), oldest first."""
        enough = -1 if limit is None else limit
        found = self._rows("SELECT * FROM runs ORDER BY number DESC LIMIT ?", (enough,))
        return [_run(row) for row in reversed(list(found))]

    def numbers(self, keys: Iterable[str]) -> dict[str, int]:
        """The numbers of those runs, by their keys, that are known here."""
        wanted = list(keys)
        found: dict[str, int] = {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            rows = self._rows(f"SELECT key, number FROM runs WHERE key IN ({','.join('?' * len(part))})", part)
            found.update((row["key"], row["number"]) for row in rows)
        return found

    def hosts(self) -> list[MachineType]:
        """The machines that have been got for runs, each once."""
        rows = self._rows("SELECT DISTINCT host FROM runs WHERE host IS NOT NULL")
        return [MachineType.of(json.loads(row["host"])) for row in rows]

    def give_up(self, run: Run) -> None:
        """Record that this client hands the run over no more."""
        self._note("UPDATE runs SET client_pid = ? WHERE key = ?", (GIVEN_UP, run.key))

    def abandoned(self, run: Run) -> bool:
        """Whether the client that was to hand this run over is gone, or has given up."""
        rows = self._rows("SELECT client_pid FROM runs WHERE key = ?", (run.key,))
        pid = rows[0]["client_pid"] if rows else None
        if pid in (None, os.getpid()):
            return False
        if pid == GIVEN_UP:
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def move(self, run: Run, state: RunState, now: float, **status: Any) -> Run:
        """Record that `run` is in `state`. An illegal move, or one that somebody else has made, changes nothing."""
        before = [origin.value for origin, targets in MOVES.items() if state in targets or origin is state]
        marks = ",".join("?" * len(before))
        fields = dict(status, state=state.value)
        steps = {state.value: now} if state in STEPS else {}
        written = self._note(
            "UPDATE runs SET state = ?, steps = json_patch(steps, ?), last_seen = ?,"
            " status = json_patch(CASE WHEN json_valid(status) THEN status ELSE '{}' END, ?)"
            f" WHERE key = ? AND state IN ({marks}) AND {_SAME_HOST}",
            (state.value, json.dumps(steps), now, json.dumps(fields), run.key, *before, *_host(run)),
        )
        if written or run.state.value not in before:
            return self.run(run.number)
        reason = Reason(status["reason"]) if status.get("reason") else None
        return replace(run, **{**status, "state": state, "reason": reason, "last_seen": now})

    def place(self, run: Run, placement: Placement) -> Run:
        """Record the host that was got for a run."""
        self._change(
            "UPDATE runs SET host = ?, home_id = ? WHERE key = ?",
            (json.dumps(placement.machine.record()), placement.home_id, run.key),
        )
        return self.run(run.number)

    def ask(self, run: Run, digest: str) -> None:
        """Record the digest of what is asked of a run, by which its machine can't say later that it was something
        else."""
        self._note("UPDATE runs SET asked = ? WHERE key = ?", (digest, run.key))

    def asked(self, run: Run) -> str:
        """What `ask` recorded; "" where nothing is known."""
        rows = self._rows("SELECT asked FROM runs WHERE key = ?", (run.key,))
        return str(rows[0]["asked"]) if rows else ""

    def moved(self, run: Run, machine: MachineType, placement: Placement, digest: str) -> Run | None:
        """Record that a run waits on another machine now, with the digest as for `ask`; None where another client has
        moved it meanwhile."""
        changed = self._changed_rows(
            "UPDATE runs SET machine = ?, host = ?, home_id = ?, state = ?, status = '{}',"
            " asked = ? WHERE key = ? AND home_id = ?",
            (
                json.dumps(machine.record()),
                json.dumps(placement.machine.record()),
                placement.home_id,
                RunState.QUEUED.value,
                digest,
                run.key,
                run.home_id,
            ),
        )
        return self.run(run.number) if changed else None

    def rent(self, run: Run, renting: Renting) -> Run:
        """Record what is known of a run's rented hosts."""
        self._change("UPDATE runs SET renting = ? WHERE key = ?", (json.dumps(renting.record()), run.key))
        return self.run(run.number)

    def next_attempt(self, run: Run, renting: Renting, now: float) -> Run | None:
        """Take an interrupted run up again, PROVISIONING, with this client to hand it over; None where another client
        has done so, or the run is not as `run` says it is."""
        status = json.dumps({"state": RunState.PROVISIONING.value})
        taken = self._changed_rows(
            "UPDATE runs SET state = ?, steps = json_patch(steps, ?), status = ?, last_seen = ?, renting = ?,"
            f" host = NULL, home_id = NULL, client_pid = ? WHERE key = ? AND state = ? AND {_SAME_ATTEMPT}",
            (
                RunState.PROVISIONING.value,
                json.dumps({RunState.PROVISIONING.value: now}),
                status,
                now,
                json.dumps(renting.record()),
                os.getpid(),
                run.key,
                RunState.INTERRUPTED.value,
                _attempt(run),
            ),
        )
        return self.run(run.number) if taken else None

    def see(self, run: Run, status: RunStatus, now: float) -> Run:
        """Correct `run` by what its host says, with its times by our clock; the corrected run. What an earlier host of
        it says changes nothing."""
        self._note(
            f"UPDATE runs SET state = ?, status = ?, last_seen = ? WHERE key = ? AND {_SAME_HOST}",
            (status.state.value, json.dumps(to_json(status)), now, run.key, *_host(run)),
        )
        return run.with_status(status, now)

    def label(self, run: Run, add: Iterable[str], remove: Iterable[str]) -> Run:
        """Add labels to a run, after those that it has, and take some away; another client may do so at once."""
        gone = frozenset(remove)
        with self._together():
            labels = [*dict.fromkeys(each for each in (*self.run(run.number).labels, *add) if each not in gone)]
            self._change("UPDATE runs SET labels = ? WHERE key = ?", (json.dumps(labels), run.key))
        return self.run(run.number)

    def remove_run(self, run: Run) -> None:
        self._change("DELETE FROM runs WHERE key = ?", (run.key,))
        self._change("DELETE FROM reads WHERE run = ?", (run.key,))

    # -- uploads
    #
    # A number of a user's means one content, on whatever machine. It is given here, at the first sight of a content
    # under a name: the home's own number where that is free, else the next one. It is never given to another content
    # as long as the upload exists, not even when its version was removed. Homes are asked by digest.

    def record_upload(
        self, upload: Upload, machine: MachineType, now: float | None = None, number: int | None = None
    ) -> Upload:
        """Record that a home has a version, which `upload` describes with the home's own number: the same with ours.

        `now`, in seconds since 1970: it was uploaded there now, which makes it the newest of its name. `number`: it is
        a copy of our version of that number. Neither: it was found there.
        """
        with self._together():
            number = number or self._number_of(upload, now is not None)
            self._change("UPDATE versions SET removed = 0 WHERE name = ? AND number = ?", (upload.name, number))
            if number is None:
                number = self._next_number(upload)
                self._change(
                    "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    (
                        upload.name,
                        number,
                        upload.digest,
                        upload.size,
                        upload.files,
                        upload.created,
                        self._found_at(upload) if now is None else now,
                    ),
                )
            elif now is not None:
                self._change(
                    "UPDATE versions SET recorded = ? WHERE name = ? AND number = ?", (now, upload.name, number)
                )
            self._change(
                "INSERT INTO copies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET machine = ?4,"
                " there = ?5, path = coalesce(?6, path), seen = ?7, uploaded = max(uploaded, ?8)",
                (
                    upload.name,
                    upload.digest,
                    upload.home_id,
                    json.dumps(machine.record()),
                    upload.version,
                    upload.path,
                    time.time(),
                    now or 0.0,
                ),
            )
        return replace(upload, version=number)

    def _number_of(self, upload: Upload, is_newest: bool) -> int | None:
        """Our number of a version that a home has; None for one that has yet to get one."""
        known = dict(self._numbers(upload.name))
        same = [number for number, digest in known.items() if digest == upload.digest]
        if known.get(upload.version) == upload.digest:
            return upload.version
        if not same:
            return None
        if is_newest:  # the same content may come back after another one, under a new number
            return same[-1] if same[-1] == max(known) else None
        copied = self._rows(
            "SELECT 1 FROM copies WHERE name = ? AND digest = ? AND home_id = ? AND there = ?",
            (upload.name, upload.digest, upload.home_id, upload.version),
        )
        return same[-1] if copied or upload.brought or upload.version in known else None

    def _next_number(self, upload: Upload) -> int:
        taken = [number for number, _ in self._numbers(upload.name)]
        free = 0 < upload.version <= MOST_VERSIONS and upload.version not in taken
        return upload.version if free else max(taken, default=0) + 1

    def _found_at(self, upload: Upload) -> float:
        """When a version that was found counts as made. A home to which this client did not upload the newest one has
        none that is newer: it must not be able to say what `uploads/NAME` means on other machines."""
        uploaded = "SELECT max(uploaded) FROM copies WHERE name = versions.name AND digest = versions.digest"
        rows = self._rows(
            f"SELECT recorded, ({uploaded}) AS ours, ({uploaded} AND home_id = ?) AS there FROM versions"
            " WHERE name = ? AND NOT removed ORDER BY recorded DESC, number DESC LIMIT 1",
            (upload.home_id, upload.name),
        )
        made = min(upload.created, time.time())
        if not rows or not rows[0]["ours"] or rows[0]["there"]:
            return made
        return min(made, float(rows[0]["recorded"]) - 1.0)

    def _numbers(self, name: str) -> list[tuple[int, str]]:
        rows = self._rows("SELECT number, digest FROM versions WHERE name = ? ORDER BY number", (name,))
        return [(row["number"], row["digest"]) for row in rows]

    def highest(self, name: str) -> int:
        """The highest number that a version of an upload has, or had; 0 for a name without one."""
        return max((number for number, _ in self._numbers(name)), default=0)

    def uploads(self, name: str | None = None, version: int | None = None) -> list[tuple[Upload, MachineType]]:
        """The versions of uploads, the newest of a name first, with our numbers; each once for each machine that has
        it, with that machine: the one to which it was uploaded last comes first. Of `version`, only that one."""
        chosen = ["NOT removed", *(["name = ?"] if name else []), *(["number = ?"] if version else [])]
        rows = self._rows(
            "SELECT name, number AS version, digest, size, files, created, machine, home_id, path, seen"
            " FROM versions JOIN copies USING (name, digest)"
            f" WHERE {' AND '.join(chosen)}"
            " ORDER BY name, recorded DESC, number DESC, uploaded DESC, copies.rowid",
            [value for value in (name, version) if value],
        )
        found = []
        for row in rows:
            machine = MachineType.of(json.loads(row["machine"]))
            values = {key: _text(row[key]) for key in row.keys() if key not in ("machine", "seen")}  # noqa: SIM118
            copy = UploadCopy(machine.name, row["seen"])
            found.append((Upload(machine=machine.name, copies=(copy,), **values), machine))
        return found

    def forget_copy(self, name: str, home_id: str, digest: str | None = None) -> None:
        """A home has an upload no more (of `digest`, only that content). An upload that no home has is forgotten."""
        with self._together():
            self._change(
                "DELETE FROM copies WHERE name = ? AND home_id = ? AND digest = coalesce(?, digest)",
                (name, home_id, digest),
            )
            if not self._rows("SELECT 1 FROM copies WHERE name = ? LIMIT 1", (name,)):
                self._change("DELETE FROM versions WHERE name = ?", (name,))

    def found_upload(self, upload: Upload, machine: MachineType) -> Upload:
        """The same with our number; it is recorded if it is new here, and if the disk can be written."""
        known = self._rows(
            "SELECT number FROM versions JOIN copies USING (name, digest) WHERE NOT removed AND name = ? AND digest = ?"
            " AND home_id = ? AND there = ? ORDER BY number = there DESC, number DESC",
            (upload.name, upload.digest, upload.home_id, upload.version),
        )
        if known:
            return replace(upload, version=known[0]["number"])
        try:
            return self.record_upload(upload, machine)
        except Unwritable as error:
            self._go_on_without_writing(error)
            return upload

    def number_of(self, upload: Upload) -> int | None:
        """Our number of a version that a home has, which `upload` describes with the home's own; None for one that has
        none yet."""
        return self._number_of(upload, is_newest=False)

    def remove_version(self, name: str, number: int) -> None:
        """A version is there no more; its number stays taken."""
        self._change("UPDATE versions SET removed = 1 WHERE name = ? AND number = ?", (name, number))

    def forget_there(self, name: str, home_id: str, there: int) -> None:
        """A home has the version no more that has the number `there` in that home."""
        rows = self._rows(
            "SELECT digest FROM copies WHERE name = ? AND home_id = ? AND there = ?", (name, home_id, there)
        )
        for row in rows:
            self.forget_copy(name, home_id, row["digest"])

    def saw(self, home_id: str, now: float) -> None:
        """A home has said what it has: all of that is known to be there."""
        self._note("UPDATE copies SET seen = ? WHERE home_id = ?", (now, home_id))

    def record_read(self, run: Run, name: str, digest: str) -> None:
        """A run reads an upload."""
        self._change("INSERT OR IGNORE INTO reads VALUES (?, ?, ?)", (run.key, name, digest))

    def readers(self, name: str) -> dict[str, list[int]]:
        """The numbers of the runs that read an upload, by the digest of what they read."""
        found: dict[str, list[int]] = {}
        for row in self._rows(
            "SELECT digest, number FROM reads JOIN runs ON runs.key = reads.run WHERE name = ? ORDER BY number", (name,)
        ):
            found.setdefault(row["digest"], []).append(row["number"])
        return found

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """All changes of the block, or none."""
        with self._lock:
            self._change("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._change("COMMIT")


def _attempt(run: Run) -> int:
    return run.renting.attempt if run.renting is not None else 1


def _host(run: Run) -> tuple[int, str | None]:
    return _attempt(run), run.home_id


def _bytes_free(folder: Path) -> int:
    try:
        status = os.statvfs(folder)
    except OSError:
        return ROOM
    return status.f_bavail * status.f_frsize


def _read_only(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _run(row: sqlite3.Row) -> Run:
    run = Run(
        number=row["number"],
        key=row["key"],
        machine=MachineType.of(json.loads(row["machine"])),
        state=RunState(row["state"]),
        command=_text(row["command"]) or "",
        created=row["created"],
        description=_text(row["description"]),
        labels=tuple(json.loads(row["labels"])),
        last_seen=row["last_seen"],
        placement=Placement(MachineType.of(json.loads(row["host"])), row["home_id"]) if row["host"] else None,
        steps=tuple((RunState(state), moment) for state, moment in json.loads(row["steps"]).items()),
        renting=Renting.of(json.loads(row["renting"])) if row["renting"] else None,
    )
    try:
        status = json.loads(row["status"])
        if not status:
            return run
        if status.get("reason") not in {reason.value for reason in Reason}:  # one of a newer remoterun
            status["reason"] = None
        known = by_our_clock(from_json(RunStatus, dict(status, key=row["key"], state=row["state"])))
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return run  # an earlier remoterun believed everything
    return run.with_status(known, row["last_seen"] or row["created"])


def _stored(value: Any) -> Any:
    """Text that is not UTF-8 (commands and paths may be anything) is stored as its bytes."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogateescape" if _is_of_bytes(value) else "replace")
    return value


def _is_of_bytes(text: str) -> bool:
    """Whether each of its surrogates stands for a byte, as in the names of files."""
    return all(not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff" for char in text)


def _text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, bytes) else value
