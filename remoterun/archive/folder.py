"""A folder as what stores the objects of an archive: of this machine, or of a disk that several machines mount."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from remoterun.agent.shared.archive import IDENTITY
from remoterun.agent.shared.files import DISK_FULL, token, write_all
from remoterun.agent.shared.frames import Bytes
from remoterun.agent.shared.paths import SafeFolder, TreeError
from remoterun.archive.objects import (
    PATIENCE,
    UNFINISHED,
    Absent,
    BucketPlace,
    NoBucket,
    Objects,
    StoredObject,
    missing,
)
from remoterun.errors import HostError, TransferError

MOST_KEYS = 5_000_000
"""Keys that a listing may have."""


class ObjectFolder(Objects):
    """Each object is a regular file of its key, which appears whole. A host reaches none of them, but others may write
    to the disk: no link is followed."""

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
        with self._below(key) as folder, open(folder.open(key), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def head(self, key: str) -> tuple[int, str] | None:
        with suppress(Absent), self._below(key) as folder, open(folder.open(key), "rb") as file:
            return os.fstat(file.fileno()).st_size, ""
        return None

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
        found = sorted(self._files(prefix.rpartition("/")[0]))
        found = [each for each in found if each[0].startswith(prefix) and each[0] > after]
        if len(found) > most:
            raise self.bad(prefix, f"it has more than {most:,} objects")
        yield from (StoredObject(*each) for each in found)

    def folders(self, prefix: str) -> Iterator[str]:
        keys = (each.key[len(prefix) :] for each in self.list(prefix))
        yield from dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(Absent), self._below(key) as folder:
                parent, name = folder.place(key)
                os.unlink(name, dir_fd=parent)

    def free(self) -> int:
        if self.head(IDENTITY) is None:
            raise missing(self.place)
        return shutil.disk_usage(self.place.name).free

    def monthly(self, size: int) -> float | None:
        return 0.0

    def _write(self, key: str, data: Bytes, place: Callable[..., None]) -> None:
        part = token(8)
        with self._below(key, make=True) as folder, SafeFolder(self.place.name, mode=0o700) as parts:
            new, (parent, name) = parts.folder(UNFINISHED[:-1]), folder.place(key)
            try:
                file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=new)
                try:
                    write_all(file, data)
                    os.fsync(file)
                finally:
                    os.close(file)
                place(part, name, src_dir_fd=new, dst_dir_fd=parent)
            finally:
                with suppress(OSError):
                    os.unlink(part, dir_fd=new)

    def _files(self, top: str) -> Iterator[tuple[str, int, float]]:
        """(key, size, time) of each regular file below a folder."""
        with suppress(Absent), self._below(top or IDENTITY) as below:
            for folder, _, names, at in os.fwalk(".", dir_fd=below.folder(top)):
                for name in names:
                    with suppress(FileNotFoundError):
                        about = os.stat(name, dir_fd=at, follow_symlinks=False)
                        if stat.S_ISREG(about.st_mode):
                            yield os.path.normpath(os.path.join(top, folder, name)), about.st_size, about.st_mtime

    @contextmanager
    def _below(self, key: str, make: bool = False) -> Iterator[SafeFolder]:
        """The folder, for an object of it. Raises `Absent`, `HostError`."""
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise self.bad(key, "that can't be the name of an object")
        try:
            with SafeFolder(self.place.name, make, 0o700) as folder:
                yield folder
        except FileExistsError:
            raise
        except TreeError as error:
            if make:
                raise self.bad(key, str(error)) from error
            raise Absent from None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise missing(self.place) if make else Absent from None
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> HostError:
        hint = "make room there" if error.errno in DISK_FULL else None
        return HostError(f"the archive in {self.place.name} can't be used: {error.strerror}", hint=hint)
