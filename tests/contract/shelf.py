"""A second kind of archive, for tests only: each object is a file of a folder.

    FOLDER/NAME/KEY   the bucket is of that name, the key is quoted; FOLDER is the `endpoint` of [archive]

Hosts can't reach it, and nobody makes its buckets here. Nothing in the product knows of it: it is a row of `KINDS` in
test_archives.py.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from remoterun.agent.shared.frames import Bytes
from remoterun.archive.objects import PATIENCE, Absent, BucketPlace, NoBucket, Objects, StoredObject
from remoterun.errors import TransferError

SCHEME, NEW = "shelf://", "new"


class Shelf(Objects):
    def __init__(self, place: BucketPlace, patience: float = PATIENCE) -> None:
        self.place, self.patience, self.closed = place, patience, threading.Event()
        assert place.endpoint is not None
        self._folder = Path(place.endpoint) / place.name

    def close(self) -> None:
        self.closed.set()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            with self._at(key).open("rb") as file:
                return os.pread(file.fileno(), length, offset)
        except FileNotFoundError:
            raise Absent(key)

    def head(self, key: str) -> tuple[int, str] | None:
        try:
            data = self._at(key).read_bytes()
        except FileNotFoundError:
            return None
        return len(data), hashlib.sha256(data).hexdigest()

    def put(self, key: str, data: Bytes, digest: str = "") -> None:
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise TransferError(f"`{key}` did not arrive as it was read")
        self._written(key, data, os.replace)

    def put_new(self, key: str, data: Bytes) -> bool:
        try:
            self._written(key, data, os.link)
        except FileExistsError:
            return self._at(key).read_bytes() == data
        return True

    def list(self, prefix: str, after: str = "", most: int = 5_000_000) -> Iterator[StoredObject]:
        keys = sorted(key for key in self._keys() if key.startswith(prefix) and key > after)
        if len(keys) > most:
            raise self.bad(prefix, f"it has more than {most:,} objects")
        for key in keys:
            found = self._at(key).stat()
            yield StoredObject(key, found.st_size, found.st_mtime)

    def folders(self, prefix: str) -> Iterator[str]:
        below = (key[len(prefix) :] for key in self._keys() if key.startswith(prefix))
        yield from sorted({name.partition("/")[0] for name in below if "/" in name})

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._at(key).unlink(missing_ok=True)

    def monthly(self, size: int) -> float | None:
        return None

    def find_region(self) -> str:
        return ""

    def _at(self, key: str) -> Path:
        return self._folder / quote(key, safe="")

    def _keys(self) -> Sequence[str]:
        try:
            return [unquote(name) for name in os.listdir(self._folder) if name != NEW]
        except FileNotFoundError:
            raise NoBucket(f"there is no bucket {self.place.address}")

    def _written(self, key: str, data: Bytes, placed: Callable[[Path, Path], None]) -> None:
        new = self._folder / NEW / os.urandom(8).hex()
        new.parent.mkdir(exist_ok=True)
        new.write_bytes(data)
        try:
            placed(new, self._at(key))
        finally:
            new.unlink(missing_ok=True)
