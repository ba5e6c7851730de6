"""A folder as what stores the objects of an archive: of this machine, or of a disk that several machines mount."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from remoterun.agent.shared.files import token
from remoterun.agent.shared.frames import Bytes
from remoterun.archive.objects import PATIENCE, Absent, BucketPlace, NoBucket, Objects, StoredObject
from remoterun.errors import HostError, TransferError

MOST_KEYS = 5_000_000
"""Keys that a listing may have."""
NEW = ".new"
"""A folder of objects that are being written."""


class ObjectFolder(Objects):
    """Each object is a file of its key, which appears whole. A host reaches none of them."""

    def __init__(self, place: BucketPlace, patience: float = PATIENCE) -> None:
        """Makes the folder, in one that is there. Raises `NoBucket`."""
        self.place, self.patience, self.closed = place, patience, threading.Event()
        try:
            with suppress(FileExistsError):
                os.mkdir(place.name, 0o700)
        except FileNotFoundError:
            why = f"there is no folder {os.path.dirname(place.name)}, in which the archive would be"
            raise NoBucket(why, hint="is a disk not mounted there?") from None
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        self.closed.set()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            with open(self._path(key), "rb") as file:
                file.seek(offset)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Absent from None
        except OSError as error:
            raise self._failed(error) from error

    def head(self, key: str) -> tuple[int, str] | None:
        path = self._path(key)
        return (os.path.getsize(path), "") if os.path.isfile(path) else None

    def put(self, key: str, data: Bytes, digest: str = "") -> None:
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise TransferError(f"`{key}` did not arrive as it was read")
        self._write(key, data, os.replace)

    def put_new(self, key: str, data: Bytes) -> bool:
        try:
            self._write(key, data, os.link)
        except FileExistsError:
            return self.get_range(key, 0, len(data) + 1) == data
        return True

    def list(self, prefix: str, after: str = "", most: int = MOST_KEYS) -> Iterator[StoredObject]:
        top, found = prefix.rpartition("/")[0], []
        for folder, _, names in os.walk(self._path(top) if top else self.place.name):
            found += [os.path.relpath(os.path.join(folder, name), self.place.name) for name in names]
        found = sorted(key for key in found if key.startswith(prefix) and key > after and not key.startswith(NEW))
        if len(found) > most:
            raise self.bad(prefix, f"it has more than {most:,} objects")
        for key in found:
            with suppress(FileNotFoundError):
                about = os.stat(self._path(key))
                yield StoredObject(key, about.st_size, about.st_mtime)

    def folders(self, prefix: str) -> Iterator[str]:
        keys = (each.key[len(prefix) :] for each in self.list(prefix))
        yield from dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(self._path(key))

    def monthly(self, size: int) -> float | None:
        return 0.0

    def _write(self, key: str, data: Bytes, place: Callable[[str, str], None]) -> None:
        path, part = self._path(key), os.path.join(self.place.name, NEW, token(8))
        try:
            for folder in (os.path.dirname(path), os.path.dirname(part)):
                os.makedirs(folder, exist_ok=True)
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            place(part, path)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._failed(error) from error
        finally:
            with suppress(OSError):
                os.unlink(part)

    def _path(self, key: str) -> str:
        if any(part in ("", ".", "..", NEW) for part in key.split("/")):
            raise self.bad(key, "that can't be the name of an object")
        return os.path.join(self.place.name, key)

    def _failed(self, error: OSError) -> HostError:
        return HostError(f"the archive in {self.place.name} can't be used: {error.strerror}", hint="is its disk full?")
