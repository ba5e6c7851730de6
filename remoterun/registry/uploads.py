"""The uploads that are known here, the numbers of their versions, and which runs read them.

A number of a user's means one content, on whatever machine. It is given here, at the first sight of a content under a
name: the home's own number where that is free, else the next one. It is never given to another content as long as the
upload exists, not even when its version was removed. Homes are asked by digest.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

from remoterun.model import MachineType, Run, Upload, UploadCopy
from remoterun.registry.database import Database, Unwritable, text

MOST_VERSIONS = 10**8 - 1
"""The highest number that a home can give to a version: a bucket has eight digits for it."""


class UploadIndex:
    """`Registry.uploads`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(
        self, upload: Upload, machine: MachineType, now: float | None = None, number: int | None = None
    ) -> Upload:
        """Record that a home has a version, which `upload` describes with the home's own number: the same with ours.

        `now`, in seconds since 1970: it was uploaded there now, which makes it the newest of its name. `number`: it is
        a copy of our version of that number. Neither: it was found there.
        """
        with self._db.together():
            number = number or self._number_of(upload, now is not None)
            self._db.change("UPDATE versions SET removed = 0 WHERE name = ? AND number = ?", (upload.name, number))
            if number is None:
                number = self._next_number(upload)
                self._db.change(
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
                self._db.change(
                    "UPDATE versions SET recorded = ? WHERE name = ? AND number = ?", (now, upload.name, number)
                )
            self._db.change(
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
        copied = self._db.rows(
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
        rows = self._db.rows(
            f"SELECT recorded, ({uploaded}) AS ours, ({uploaded} AND home_id = ?) AS there FROM versions"
            " WHERE name = ? AND NOT removed ORDER BY recorded DESC, number DESC LIMIT 1",
            (upload.home_id, upload.name),
        )
        made = min(upload.created, time.time())
        if not rows or not rows[0]["ours"] or rows[0]["there"]:
            return made
        return min(made, float(rows[0]["recorded"]) - 1.0)

    def _numbers(self, name: str) -> list[tuple[int, str]]:
        rows = self._db.rows("SELECT number, digest FROM versions WHERE name = ? ORDER BY number", (name,))
        return [(row["number"], row["digest"]) for row in rows]

    def highest(self, name: str) -> int:
        """The highest number that a version of an upload has, or had; 0 for a name without one."""
        return max((number for number, _ in self._numbers(name)), default=0)

    def versions(self, name: str | None = None, version: int | None = None) -> list[tuple[Upload, MachineType]]:
        """The versions of uploads, the newest of a name first, with our numbers; each once for each machine that has
        it, with that machine: the one to which it was uploaded last comes first. Of `version`, only that one."""
        chosen = ["NOT removed", *(["name = ?"] if name else []), *(["number = ?"] if version else [])]
        rows = self._db.rows(
            "SELECT name, number AS version, digest, size, files, created, machine, home_id, path, seen"
            " FROM versions JOIN copies USING (name, digest)"
            f" WHERE {' AND '.join(chosen)}"
            " ORDER BY name, recorded DESC, number DESC, uploaded DESC, copies.rowid",
            [value for value in (name, version) if value],
        )
        found = []
        for row in rows:
            machine = MachineType.of(json.loads(row["machine"]))
            values = {key: text(row[key]) for key in row.keys() if key not in ("machine", "seen")}  # noqa: SIM118
            copy = UploadCopy(machine.name, row["seen"])
            found.append((Upload(machine=machine.name, copies=(copy,), **values), machine))
        return found

    def forget_copy(self, name: str, home_id: str, digest: str | None = None) -> None:
        """A home has an upload no more (of `digest`, only that content). An upload that no home has is forgotten."""
        with self._db.together():
            self._db.change(
                "DELETE FROM copies WHERE name = ? AND home_id = ? AND digest = coalesce(?, digest)",
                (name, home_id, digest),
            )
            if not self._db.rows("SELECT 1 FROM copies WHERE name = ? LIMIT 1", (name,)):
                self._db.change("DELETE FROM versions WHERE name = ?", (name,))

    def found(self, upload: Upload, machine: MachineType) -> Upload:
        """The version with our number instead of the home's. It is recorded if it is new here and the disk can be
        written."""
        known = self._db.rows(
            "SELECT number FROM versions JOIN copies USING (name, digest) WHERE NOT removed AND name = ? AND digest = ?"
            " AND home_id = ? AND there = ? ORDER BY number = there DESC, number DESC",
            (upload.name, upload.digest, upload.home_id, upload.version),
        )
        if known:
            return replace(upload, version=known[0]["number"])
        try:
            return self.record(upload, machine)
        except Unwritable as error:
            self._db.go_on_without_writing(error)
            return upload

    def number_of(self, upload: Upload) -> int | None:
        """Our number of a version that a home has, which `upload` describes with the home's own; None for one that has
        none yet."""
        return self._number_of(upload, is_newest=False)

    def remove(self, name: str, number: int) -> None:
        """A version is there no more; its number stays taken."""
        self._db.change("UPDATE versions SET removed = 1 WHERE name = ? AND number = ?", (name, number))

    def forget_there(self, name: str, home_id: str, there: int) -> None:
        """A home has the version no more that has the number `there` in that home."""
        rows = self._db.rows(
            "SELECT digest FROM copies WHERE name = ? AND home_id = ? AND there = ?", (name, home_id, there)
        )
        for row in rows:
            self.forget_copy(name, home_id, row["digest"])

    def saw(self, home_id: str, now: float) -> None:
        """A home has said what it has: all of that is known to be there."""
        self._db.note("UPDATE copies SET seen = ? WHERE home_id = ?", (now, home_id))

    def record_read(self, run: Run, name: str, digest: str) -> None:
        """A run reads an upload."""
        self._db.change("INSERT OR IGNORE INTO reads VALUES (?, ?, ?)", (run.key, name, digest))

    def readers(self, name: str) -> dict[str, list[int]]:
        """The numbers of the runs that read an upload, by the digest of what they read."""
        found: dict[str, list[int]] = {}
        for row in self._db.rows(
            "SELECT digest, number FROM reads JOIN runs ON runs.key = reads.run WHERE name = ? ORDER BY number", (name,)
        ):
            found.setdefault(row["digest"], []).append(row["number"])
        return found
