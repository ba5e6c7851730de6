"""The client's index: it numbers runs and remembers where they and the uploads live. SQLite has its room here.

The truth about a run is its folder on its host; what stands here is corrected each time that is read. A row exists
before the effect it describes. Moves are guarded: only along `agent.runs.MOVES`, and only if nobody moved it meanwhile.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import locked
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.shared.states import MOVES, Reason, RunState, RunStatus
from remoterun.errors import HostError, NotFound, RemoterunError
from remoterun.model import LAST, MachineType, Run, Upload


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


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_first, _recorded]
"""Each brings the schema one step on; `PRAGMA user_version` counts those done. Append only."""

GIVEN_UP = 0
"""In place of the pid of the client that was to hand a run over."""


class Registry:
    """One user's runs and uploads, in `registry.db` of the home. Several processes and threads may use it at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()  # held around each statement together with the reading of its rows
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RemoterunError(
                f"the home `{file.parent}` can't be made: {error.strerror}",
                hint="set REMOTERUN_HOME to a folder that you may write",
            )
        try:
            self._db = sqlite3.connect(file, timeout=15, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unusable(error)
        try:
            self._db.row_factory = sqlite3.Row
            self._migrate()
            os.chmod(file, 0o600)
        except BaseException as error:
            self._db.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise self._unusable(error)
            raise

    def close(self) -> None:
        """May be called twice; whatever is called later raises."""
        with self._lock:
            self._db.close()

    def _migrate(self) -> None:
        done = self._db.execute("PRAGMA user_version").fetchone()[0]
        if done == len(MIGRATIONS):
            return
        if done > len(MIGRATIONS):
            raise RemoterunError(
                f"the registry `{self._file}` was made by a newer remoterun", hint="pip install --upgrade remoterun"
            )
        with locked(f"{self._file}.lock"):  # to change the journal's mode, SQLite waits for nobody
            self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            done = self._db.execute("PRAGMA user_version").fetchone()[0]
            for number in range(done, len(MIGRATIONS)):
                MIGRATIONS[number](self._db)
            self._db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _rows(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, [_stored(value) for value in values]).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error)

    def _change(self, query: str, values: Iterable[Any] = ()) -> int:
        """The row that was inserted last."""
        with self._lock:
            try:
                return self._db.execute(query, [_stored(value) for value in values]).lastrowid or 0
            except sqlite3.Error as error:
                raise self._unusable(error)

    def _unusable(self, error: Exception) -> RemoterunError:
        file = shlex.quote(str(self._file))
        passing = isinstance(error, (sqlite3.OperationalError, OSError))  # locked, read-only, no space
        hint = f"ls -l {file}; then try again" if passing else f"mv {file} {file}.broken lets a new one begin"
        return RemoterunError(f"the registry `{self._file}` can't be used: {error}", hint=hint)

    # -- runs

    def add_run(
        self,
        key: str,
        machine: MachineType,
        home_id: str,
        command: str,
        created: float,
        description: str | None = None,
        labels: Iterable[str] = (),
    ) -> Run:
        """A new run, REQUESTED, with the next number."""
        number = self._change(
            "INSERT INTO runs (key, machine, home_id, state, command, description, labels, created, client_pid)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                json.dumps(machine.record()),
                home_id,
                RunState.REQUESTED.value,
                command,
                description,
                json.dumps(list(labels)),
                created,
                os.getpid(),
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

    def runs(self, limit: int | None = None, labels: Iterable[str] = ()) -> list[Run]:
        """The newest `limit` runs (None: all) that carry any of `labels`, oldest first."""
        wanted = set(labels)
        enough = -1 if limit is None or wanted else limit
        found = [_run(row) for row in self._rows("SELECT * FROM runs ORDER BY number DESC LIMIT ?", (enough,))]
        chosen = [run for run in found if not wanted or wanted & set(run.labels)]
        return chosen[:limit][::-1]

    def give_up(self, run: Run) -> None:
        """Record that this client hands the run over no more."""
        self._change("UPDATE runs SET client_pid = ? WHERE key = ?", (GIVEN_UP, run.key))

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
        self._change(
            f"UPDATE runs SET state = ?, status = json_patch(status, ?), last_seen = ?"
            f" WHERE key = ? AND state IN ({marks})",
            (state.value, json.dumps(fields), now, run.key, *before),
        )
        return self.run(run.number)

    def see(self, run: Run, status: RunStatus, now: float) -> Run:
        """Correct `run` by what its host says; the corrected run. Raises `HostError` for what makes no sense."""
        try:
            corrected = run.with_status(status, now)
        except (ValueError, TypeError) as error:
            raise HostError(f"{run.machine.name} says of run {run.number} what makes no sense: {error}"[:300])
        self._change(
            "UPDATE runs SET state = ?, status = ?, last_seen = ? WHERE key = ?",
            (status.state.value, json.dumps(to_json(status)), now, run.key),
        )
        return corrected

    def remove_run(self, run: Run) -> None:
        self._change("DELETE FROM runs WHERE key = ?", (run.key,))

    # -- uploads

    def record_upload(self, upload: Upload, machine: MachineType, now: float | None) -> None:
        """`now`, in seconds since 1970: the newest of a name is the one recorded last. None: as it was."""
        self._change(
            "INSERT OR REPLACE INTO uploads"
            " (name, home_id, machine, version, digest, size, files, created, path, recorded)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?,"
            " coalesce(?, (SELECT recorded FROM uploads WHERE name = ? AND home_id = ?), 0))",
            (
                upload.name,
                upload.home_id,
                json.dumps(machine.record()),
                upload.version,
                upload.digest,
                upload.size,
                upload.files,
                upload.created,
                upload.path,
                now,
                upload.name,
                upload.home_id,
            ),
        )

    def uploads(self, name: str | None = None) -> list[tuple[Upload, MachineType]]:
        """What is known of uploads, the newest of a name first; each with the machine that holds it."""
        query = "SELECT * FROM uploads" + (" WHERE name = ?" if name else "") + " ORDER BY name, recorded DESC"
        found = []
        for row in self._rows(query, (name,) if name else ()):
            machine = MachineType.of(json.loads(row["machine"]))
            values = {key: _text(row[key]) for key in row.keys() if key not in ("machine", "recorded")}  # noqa: SIM118
            found.append((Upload(machine=machine.name, **values), machine))
        return found

    def forget_upload(self, name: str, home_id: str) -> None:
        self._change("DELETE FROM uploads WHERE name = ? AND home_id = ?", (name, home_id))


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
        home_id=row["home_id"],
    )
    status = json.loads(row["status"])
    if not status:
        return run
    if status.get("reason") not in {reason.value for reason in Reason}:
        status["reason"] = None
    try:
        told = from_json(RunStatus, dict(status, key=run.key, state=row["state"]))
        return run.with_status(told, row["last_seen"] or row["created"])
    except (ValueError, TypeError):  # of an earlier remoterun, which believed everything
        return run


def _stored(value: Any) -> Any:
    """Text that is no UTF-8 (commands and paths may be anything) is stored as its bytes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value)
    return value


def _text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, bytes) else value
