"""The uploads that are known here, the numbers of their versions, and which runs read them.

Here a number means one content, on whatever machine; other clients have their own. What is uploaded gets the next one;
what is found in a home, the number of the client that uploaded it where that is free, else the next one. It is never
given to another content as long as the upload exists, not even when its version was removed. Homes are asked by digest.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

from remoterun.agent.shared.records import encode, from_json
from remoterun.model import MachineType, Run, Upload, UploadCopy
from remoterun.registry.database import Database, Unwritable, text

MOST_VERSIONS = 10**8 - 1
"""The highest number that a home can give to a version: a bucket has eight digits for it."""


class UploadIndex:
    """`Registry.uploads`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(self, upload: Upload, machine: MachineType, now: float | None = None, for_mount: bool = False) -> Upload:
        """Record that a home has a version: `upload`, with our number.

        `now`, in seconds since 1970: it was uploaded now, which makes it the newest of its name. Otherwise it was found
        in that home, or `for_mount` copied there by us, which does not make it the home's own.
        """
        with self._db.together():
            number = self._number_of(upload, now is not None)
            self._db.change("UPDATE versions SET removed = 0 WHERE name = ? AND number = ?", (upload.name, number))
            if number is None:
                number = self._next_number(upload, now is not None)
                self._db.change(
                    "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    (
                        upload.name,
                        number,
                        upload.digest,
                        upload.size,
                        upload.files,
                        upload.created,
                        min(upload.created, time.time()) if now is None else now,
                    ),
                )
            elif now is not None:
                self._db.change(
                    "UPDATE versions SET recorded = ? WHERE name = ? AND number = ?", (now, upload.name, number)
                )
            self._db.change(
                "INSERT INTO copies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET machine = ?4,"
                " path = coalesce(?5, path), seen = ?6, uploaded = iif(?7 > 0, max(uploaded, ?7), uploaded)",
                (
                    upload.name,
                    upload.digest,
                    upload.home_id,
                    encode(machine).decode(),
                    upload.path,
                    time.time(),
                    now or (-1.0 if for_mount else 0.0),
                ),
            )
        return replace(upload, version=number)

    def _number_of(self, upload: Upload, is_newest: bool) -> int | None:
        """Our number of a version; None for one that has yet to get one."""
        known = self._db.rows(
            "SELECT number FROM versions WHERE name = ? AND digest = ? ORDER BY removed, number DESC LIMIT 1",
            (upload.name, upload.digest),
        )
        if not known or (is_newest and known[0]["number"] != self.highest(upload.name)[0]):
            return None  # the same content may come again after another one, under a new number
        return int(known[0]["number"])

    def _next_number(self, upload: Upload, is_newest: bool) -> int:
        rows = self._db.rows("SELECT number FROM versions WHERE name = ?", (upload.name,))
        taken = {row["number"] for row in rows}
        free = 0 < upload.version <= MOST_VERSIONS and upload.version not in taken
        return upload.version if free and not is_newest else max(taken, default=0) + 1

    def highest(self, name: str) -> tuple[int, str]:
        """The highest number that a version of an upload has, or had, and its digest; (0, "") for a name without
        one."""
        rows = self._db.rows("SELECT number, digest FROM versions WHERE name = ? ORDER BY number DESC LIMIT 1", (name,))
        return (rows[0]["number"], rows[0]["digest"]) if rows else (0, "")

    def versions(
        self, name: str | None = None, version: int | None = None, home_id: str = ""
    ) -> list[tuple[Upload, MachineType]]:
        """The versions of uploads, the newest of a name first, with our numbers; each once for each machine that has
        it, with that machine: the one to which it was uploaded last comes first. Of `version`, only that one.

        What this client did not upload comes after all that it did, unless the home `home_id` has it: no home may say
        what `uploads/NAME` means on other ones."""
        chosen = ["NOT removed", *(["name = ?"] if name else []), *(["number = ?"] if version else [])]
        rows = self._db.rows(
            "SELECT name, number AS version, digest, size, files, created, machine, home_id, path, seen,"
            " (uploaded > 0 OR path IS NOT NULL) AS ours FROM versions JOIN copies USING (name, digest)"
            f" WHERE {' AND '.join(chosen)}"
            " ORDER BY name, (SELECT max(uploaded > 0 OR path IS NOT NULL OR (home_id = ? AND uploaded = 0))"
            " FROM copies AS each WHERE each.name = versions.name AND each.digest = versions.digest) DESC,"
            " recorded DESC, number DESC, uploaded DESC, copies.rowid",
            [*(value for value in (name, version) if value), home_id],
        )
        found = []
        for row in rows:
            machine = from_json(MachineType, json.loads(row["machine"]))
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
        """A version that a home reports, with our number. It is recorded if it is new here and the disk can be
        written."""
        known = self._db.rows(
            "SELECT number FROM versions JOIN copies USING (name, digest) WHERE NOT removed AND name = ? AND digest = ?"
            " AND home_id = ? ORDER BY number DESC",
            (upload.name, upload.digest, upload.home_id),
        )
        if known:
            return replace(upload, version=known[0]["number"])
        try:
            return self.record(upload, machine)
        except Unwritable as error:
            self._db.go_on_in_memory(error)
            return upload

    def remove(self, name: str, number: int) -> None:
        """A version (0: each one) exists no more; its number is not given again."""
        self._db.change("UPDATE versions SET removed = 1 WHERE name = ? AND ? IN (number, 0)", (name, number))

    def unwanted(self, home_id: str) -> list[tuple[str, str]]:
        """(name, digest) of each copy that a home has had of a version that exists no more."""
        rows = self._db.rows(
            "SELECT name, digest FROM copies WHERE home_id = ? EXCEPT SELECT name, digest FROM versions"
            " WHERE NOT removed",
            (home_id,),
        )
        return [(row["name"], row["digest"]) for row in rows]

    def saw(self, home_id: str, now: float) -> None:
        """A home has said what it has: all of that is known to be there."""
        self._db.note("UPDATE copies SET seen = ? WHERE home_id = ?", (now, home_id))

    def record_read(self, run: Run, name: str, digest: str) -> None:
        self._db.change("INSERT OR IGNORE INTO reads VALUES (?, ?, ?)", (run.key, name, digest))

    def record_same_reads(self, run: Run, other: Run) -> None:
        """Record that a run reads what `other` reads."""
        copied = "INSERT OR IGNORE INTO reads SELECT ?, name, digest FROM reads WHERE run = ?"
        self._db.change(copied, (run.key, other.key))

    def readers(self, name: str) -> dict[str, list[int]]:
        """The numbers of the runs that read an upload, by the digest of what they read."""
        found: dict[str, list[int]] = {}
        for row in self._db.rows(
            "SELECT reads.digest, number FROM reads JOIN runs ON runs.key = reads.run WHERE name = ? ORDER BY number",
            (name,),
        ):
            found.setdefault(row["digest"], []).append(row["number"])
        return found
