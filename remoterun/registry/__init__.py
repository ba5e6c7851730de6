"""The client's index: it numbers runs and remembers where they and the uploads live.

The truth about a run is its folder on its host; what stands here is corrected each time that is read. A row exists
before the effect it describes. Moves are guarded: only along `states.MOVES`, and only if nobody moved it meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.identity import Machine, started
from remoterun.agent.shared.records import Record, encode, from_json, to_json
from remoterun.agent.shared.states import MOVES, Reason, RunState
from remoterun.errors import NotFound
from remoterun.model import LAST, ClientFacts, MachineType, Renting, Resource, Run, SetMember
from remoterun.registry.database import Database, text
from remoterun.registry.uploads import UploadIndex

STEPS = (RunState.PROVISIONING, RunState.UPLOADING)
"""The states that this side drives a run through, whose times stand here only."""
_SAME_ATTEMPT = "coalesce(json_extract(renting, '$.attempt'), 1) = ?"
"""With `Run.attempt`: the run has no newer host than the one that is spoken of."""
GIVEN_UP = 0
"""In place of the client that was to hand a run over."""


class Registry:
    """One user's runs and uploads, in `registry.db` of the home. Several processes and threads may use it at once."""

    def __init__(self, file: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        """`warn` is called once, with a line, when the file can be read but not written: then what is learned of runs
        is known to this process only, and only what needs a record raises."""
        self._db = Database(file, _RECORDED, warn)
        self.uploads = UploadIndex(self._db)

    def close(self) -> None:
        """May be called twice; whatever is called later raises."""
        self._db.close()

    def add_run(
        self,
        key: str,
        machine: MachineType,
        command: str,
        created: float,
        description: str | None = None,
        labels: Iterable[str] = (),
        again: str = "",
        of: SetMember | None = None,
        params: Mapping[str, str] = {},  # noqa: B006
    ) -> Run:
        """A new run, REQUESTED, with the next number. It has no host yet. `again`: the key of the run it repeats."""
        facts = {"machine": machine, "command": command, "description": description, "labels": tuple(labels), "of": of}
        facts["params"] = dict(params)
        row = {"key": key, "state": RunState.REQUESTED.value, "created": created, "client_pid": _this_process()}
        row |= {"again": again, **_row_of(facts)}
        marks = ",".join("?" * len(row))  # one statement: nobody reads, or is left with, a run without its machine
        made = self._db.change(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", row.values())
        return self.run(made.lastrowid or 0)

    def _save(self, number: int, facts: Mapping[str, Any], write: Callable[..., Any] | None = None) -> Run:
        names = ", ".join(f"{name} = ?" for name in facts)
        values = _row_of(facts).values()
        (write or self._db.change)(f"UPDATE runs SET {names} WHERE number = ?", (*values, number))
        return self.run(number)

    def run(self, number: int | str) -> Run:
        """The run of a number, or the newest one for `last`. Raises `NotFound`."""
        if number == LAST:
            rows = self._db.rows("SELECT * FROM runs ORDER BY number DESC LIMIT 1")
            if not rows:
                raise NotFound("there is no run yet", hint='remoterun run "echo hello"')
        else:
            try:
                rows = self._db.rows("SELECT * FROM runs WHERE number = ?", (int(number),))
            except (OverflowError, ValueError):  # more digits than any run number has
                rows = []
            if not rows:
                raise NotFound(f"there is no run {str(number)[:20]}", hint="remoterun ps")
        return _run(rows[0])

    def numbered(self, resource: Resource) -> Resource:
        """A resource with its run's number in place of `last`, which may be another run soon. Raises `NotFound`."""
        if resource.kind != "runs":
            return resource
        return replace(resource, name=str(self.run(resource.name).number))

    def repeats(self, run: Run) -> tuple[int | None, list[int]]:
        """(the number of the run that this one repeats, if it is known; the numbers of those that repeat this one)."""
        before = self._db.rows(
            "SELECT number FROM runs WHERE key = (SELECT nullif(again, '') FROM runs WHERE key = ?)", (run.key,)
        )
        after = self._db.rows("SELECT number FROM runs WHERE again = ? ORDER BY number", (run.key,))
        return (before[0]["number"] if before else None), [row["number"] for row in after]

    def runs(self, limit: int | None = None, hidden: bool = True) -> list[Run]:
        """The newest `limit` runs (None: all), oldest first; those that lists leave out only with `hidden`."""
        enough = -1 if limit is None else limit
        shown = "SELECT * FROM runs WHERE coalesce(hidden, 0) <= ? ORDER BY number DESC LIMIT ?"
        return [_run(row) for row in reversed(self._db.rows(shown, (hidden, enough)))]

    def among(self, numbers: range) -> list[int]:
        """Those of these numbers that are a run's."""
        among = "SELECT number FROM runs WHERE number BETWEEN ? AND ? ORDER BY number"
        return [row["number"] for row in self._db.rows(among, (numbers[0], numbers[-1]))]

    def numbers(self, keys: Iterable[str]) -> dict[str, int]:
        """The numbers of those runs, by their keys, that are known here."""
        rows = self._db.rows(
            "SELECT key, number FROM runs WHERE key IN (SELECT value FROM json_each(?))", (json.dumps([*keys]),)
        )
        return {row["key"]: row["number"] for row in rows}

    def hosts(self) -> list[MachineType]:
        """The machines that have been got for runs, each once."""
        rows = self._db.rows("SELECT DISTINCT placed FROM runs WHERE placed IS NOT NULL")
        return list(dict.fromkeys(_parsed("placed", row["placed"]) for row in rows))  # older rows have fewer keys

    def uses(self, bucket: str) -> bool:
        """Whether something is known that was stored in a bucket, by its address."""
        query = (
            "SELECT 1 FROM runs WHERE json_extract(placed, '$.bucket') = ?1"
            " OR (json_extract(renting, '$.bucket') = ?1 AND json_extract(renting, '$.grant_ends') > 0)"
            " UNION SELECT 1 FROM copies WHERE json_extract(machine, '$.bucket') = ?1"
        )
        return bool(self._db.rows(query, (bucket,)))

    def mark_abandoned(self, run: Run) -> None:
        """Record that this client hands the run over no more."""
        self._db.note("UPDATE runs SET client_pid = ? WHERE key = ?", (GIVEN_UP, run.key))

    def abandoned(self, run: Run) -> bool:
        """Whether the client that was to hand this run over is gone, or has given up."""
        rows = self._db.rows("SELECT client_pid FROM runs WHERE key = ?", (run.key,))
        stored = rows[0]["client_pid"] if rows else None
        if not isinstance(stored, str):  # an older remoterun wrote the number alone
            return stored is not None and (stored == GIVEN_UP or started(stored) is None)
        pid, began, record = json.loads(stored)
        here, there = Machine.this(), from_json(Machine, record)
        if here.boot == there.boot:
            return here.processes == there.processes and started(pid) != began
        return (here.id, here.name) == (there.id, there.name)  # of another machine nothing is known here

    def change_state(self, run: Run, state: RunState, now: float, **status: Any) -> Run:
        """Record that `run` is in `state`. An illegal move, or one that somebody else has made, changes nothing."""
        before = [origin.value for origin, targets in MOVES.items() if state in targets or origin is state]
        marks = ",".join("?" * len(before))
        fields = dict(status, state=state.value)
        began = [now] if state in STEPS else []
        step = f", {state.value} = ?" if began else ""
        self._db.note(
            f"UPDATE runs SET state = ?, last_seen = ?, status = json_patch(status, ?){step}"
            f" WHERE key = ? AND state IN ({marks}) AND {_SAME_ATTEMPT}",
            (state.value, now, json.dumps(to_json(fields)), *began, run.key, *before, run.attempt),
        )
        return self.run(run.number)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """All changes of the block, or none. Other threads wait meanwhile."""
        return self._db.together()

    def noting(self) -> contextlib.AbstractContextManager[None]:
        """One write, at the end of the block, for all that it notes of runs. Other threads wait meanwhile."""
        return self._db.noting()

    def set_named(self, name: str) -> list[Run]:
        """The runs of a set, in order; none for ""."""
        found = self._db.rows(
            "SELECT * FROM runs WHERE of IS NOT NULL AND json_extract(of, '$.name') = nullif(?, '') ORDER BY number",
            (name,),
        )
        return [_run(row) for row in found]

    def take_up(self, run: Run) -> bool:
        """Let this client hand over a run that no machine has, under its key; False where the run is not as `run` says
        any more."""
        taken = self._db.change(
            "UPDATE runs SET state = ?, status = '{}', client_pid = ? WHERE key = ? AND state = ?",
            (RunState.REQUESTED.value, _this_process(), run.key, run.state.value),
        )
        return bool(taken.rowcount)

    def set_host(self, run: Run, machine: MachineType, home_id: str | None) -> Run:
        """Record the machine that was got for a run, and the home on it that has the run."""
        return self._save(run.number, {"placed": machine, "home_id": home_id})

    def save_digest(self, run: Run, digest: str) -> None:
        """Record the digest of what is asked of a run, by which its machine can't say later that it was something
        else."""
        self._db.note("UPDATE runs SET digest = ? WHERE key = ?", (digest, run.key))

    def asked(self, run: Run) -> str:
        """What `save_digest` recorded; "" where nothing is known."""
        rows = self._db.rows("SELECT digest FROM runs WHERE key = ?", (run.key,))
        return str(rows[0]["digest"]) if rows else ""

    def save_renting(self, run: Run, renting: Renting) -> Run:
        """Record what is known of a run's rented hosts. Raises where it is the first that can't be written."""
        write = self._db.change if run.renting is None else self._db.note
        return self._save(run.number, {"renting": renting}, write)

    def next_attempt(self, run: Run, renting: Renting, now: float) -> Run | None:
        """Take an interrupted run up again, PROVISIONING, with this client to hand it over; None where another client
        has done so, or the run is not as `run` says it is."""
        status = json.dumps({"state": RunState.PROVISIONING.value})
        taken = self._db.change(
            "UPDATE runs SET state = ?, provisioning = ?, status = ?, last_seen = ?, renting = ?,"
            f" placed = NULL, home_id = NULL, client_pid = ? WHERE key = ? AND state = ? AND {_SAME_ATTEMPT}",
            (
                RunState.PROVISIONING.value,
                now,
                status,
                now,
                encode(renting).decode(),
                _this_process(),
                run.key,
                RunState.INTERRUPTED.value,
                run.attempt,
            ),
        )
        return self.run(run.number) if taken.rowcount else None

    def update(self, run: Run, status: RunStatus, now: float) -> Run:
        """Correct `run` by what its host says, with its times by our clock; the corrected run. What an earlier host of
        it says changes nothing."""
        self._db.note(
            f"UPDATE runs SET state = ?, status = ?, last_seen = ? WHERE key = ? AND {_SAME_ATTEMPT}",
            (status.state.value, json.dumps(to_json(status)), now, run.key, run.attempt),
        )
        return run.with_status(status, now)

    def seen(self, keys: list[str], now: float) -> None:
        """Record that the hosts of these runs have said of them what is known."""
        if keys:
            these = "UPDATE runs SET last_seen = ? WHERE key IN (SELECT value FROM json_each(?))"
            self._db.note(these, (now, json.dumps(keys)))

    def label(self, run: Run, add: Iterable[str], remove: Iterable[str]) -> Run:
        """Add labels to a run, after those that it has, and take some away; another client may do so at once."""
        gone = frozenset(remove)
        with self._db.together():
            labels = dict.fromkeys(each for each in (*self.run(run.number).labels, *add) if each not in gone)
            return self._save(run.number, {"labels": tuple(labels)})

    def annotate(self, run: Run, **facts: Any) -> Run:
        """Record facts that a person states of a run, such as a remark. None leaves one as it is."""
        return self._save(run.number, {name: value for name, value in facts.items() if value is not None})

    def changes_of_others(self) -> tuple[int, ...]:
        """Numbers that are others once another process has changed something."""
        return self._db.version()

    def rentings(self) -> list[tuple[int, Renting]]:
        """What is known of rented hosts, with the numbers of the runs that had them, also of runs that are removed."""
        there = "SELECT number, renting FROM runs WHERE renting IS NOT NULL"
        rows = self._db.rows(f"{there} UNION ALL SELECT number, renting FROM removed")
        return [(row["number"], _parsed("renting", row["renting"])) for row in rows]

    def remove_run(self, run: Run) -> None:
        kept = "INSERT INTO removed SELECT number, renting FROM runs WHERE key = ? AND renting IS NOT NULL"
        self._db.change(kept, (run.key,))
        self._db.change("DELETE FROM runs WHERE key = ?", (run.key,))
        self._db.change("DELETE FROM reads WHERE run = ?", (run.key,))


def _this_process() -> str:
    """Names this process among those of all boots, and of all machines that share a home."""
    return json.dumps([os.getpid(), started(os.getpid()), to_json(Machine.this())])


_REASONS = frozenset(reason.value for reason in Reason)
_TYPES = get_type_hints(Run)
_RECORDED = ("machine", "command", *ClientFacts._fields)
"""The facts that have a column each."""
_IN_JSON = (tuple, dict, Record, MachineType, Renting)
_PLAIN = (str, str | None, float | None)


def _row_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as their columns have them."""
    return {name: encode(each).decode() if isinstance(each, _IN_JSON) else each for name, each in facts.items()}


@functools.lru_cache(1024)
def _parsed(name: str, stored: Any) -> Any:
    """A fact that is stored as JSON. Many runs have the same machine, and labels."""
    return from_json(_TYPES[name], json.loads(stored))


_READ: dict[str, Callable[[Any], Any]] = {
    name: bool if _TYPES[name] is bool else text if _TYPES[name] in _PLAIN else functools.partial(_parsed, name)
    for name in _RECORDED
}


@functools.lru_cache(4096)
def _run(row: sqlite3.Row) -> Run:
    """Most are read again as they were."""
    facts = {name: read(row[name]) for name, read in _READ.items() if row[name] is not None}
    run = Run(row["number"], row["key"], RunState(row["state"]), created=row["created"], **facts)
    status = json.loads(row["status"])
    if not status:
        return run
    if status.get("reason") not in _REASONS:  # one of a newer remoterun
        status["reason"] = None
    known = from_json(RunStatus, dict(status, key=row["key"], state=row["state"]))
    return run.with_status(known, row["last_seen"] or row["created"])
