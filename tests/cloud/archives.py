"""Uploads and copies of runs in an archive of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from remoterun.agent.shared.api import CommitUpload, Tree, UploadVersion
from remoterun.agent.shared.archive import RunRecord, host_prefix, log_key, upload_prefix
from remoterun.agent.shared.facts import RunEvent, RunStatus
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import RunState
from remoterun.archive import Archive, uploads
from remoterun.archive.reading import TreeReader
from remoterun.archive.writing import put_tree
from remoterun.transfer import Fetched, Progress, Sent, place, read_tree, refuse
from tests.workshop import Files, write_files

SMALL_PACK = 4 << 20


def put(archive: Archive, folder: Path, name: str = "doom", number: int = 1) -> tuple[UploadVersion, bool, Sent]:
    """Upload a folder as a client does that knows nothing of its files."""
    with read_tree(folder) as tree:
        _, version, created, sent = uploads.put_upload(archive, CommitUpload(name, number - 1), tree, Progress())
    return version, created, sent


def get(archive: Archive, target: Path, name: str = "doom", digest: str | None = None) -> Fetched:
    tree, _ = uploads.find_upload(archive, name, digest)
    reader = TreeReader(archive, upload_prefix(name), tree.places)
    return place(tree.manifest, Tree(), reader.place, "aws", target, refuse, Progress())


def keys(archive: Archive, prefix: str = "") -> list[str]:
    return [stored.key for stored in archive.objects.list(prefix)]


def packs(archive: Archive, name: str = "doom") -> list[str]:
    return keys(archive, f"uploads/{name}/packs/")


KEY = "0" * 26
OTHER = "1" * 26


class Host:
    """What a run's host writes. `writer`: of one that saves by its role."""

    def __init__(self, archive: Archive, key: str = KEY, writer: str = "") -> None:
        self.archive, self.key = archive, key
        self.folder = host_prefix(writer, key)
        self.events: list[RunEvent] = []
        self.log_size = 0

    def post(self, key: str, data: bytes) -> None:
        self.archive.objects.put(self.folder + key, data)

    def event(self, state: RunState, **fields: Any) -> None:
        self.events.append(RunEvent(t=time.time(), state=state, **fields))
        status = RunStatus(self.key, state, log_size=self.log_size, **fields)
        record = RunRecord(status, self.events, 16, time.time())
        self.post("status.json", json.dumps(to_json(record)).encode())

    def log(self, offset: int, data: bytes) -> None:
        self.post(log_key(offset), data)
        self.log_size = max(self.log_size, offset + len(data))

    def tree(self, folder: Path, files: Files, name: str = "outputs") -> None:
        with read_tree(write_files(folder, files)) as tree:
            archived, _ = put_tree(self.archive, self.folder, tree, Progress())
        self.post(name, archived.encode(time.time()))
