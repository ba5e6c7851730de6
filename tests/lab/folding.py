"""A disk that takes some names for one, as those of Macs and USB sticks do: a folder of this machine, through FUSE.

    with folding(store, mount, Disk.APFS):
        (mount / "A.txt").touch()
        assert (mount / "a.txt").exists()

What is written below `mount` stands in `store`, under the name it was made with. The file system is a process of its
own, and ends with its owner. Needs /dev/fuse and the package `fuse3`; `missing()` says what is absent.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from enum import Enum
from pathlib import Path
from typing import Any

from tests.lab.error import LabError, LabUnavailable
from tests.lab.process import run, until

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 10.0
END_SECONDS = 10.0


class Disk(Enum):
    """What is one name to it."""

    APFS = "apfs"
    """Whatever the case, and however an accent is written."""
    EXFAT = "exfat"
    """Whatever the case; an accent written in another way makes another name."""
    VFAT = "vfat"
    """As Linux mounts a USB stick: the case of A to Z makes no difference, and dots at the end don't."""
    HFSX = "hfsx"
    """However an accent is written; the case makes a difference."""

    def key(self, name: str) -> str | bytes:
        """The same for two names that are one."""
        if self is Disk.APFS:
            return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        if self is Disk.EXFAT:
            return name.casefold()
        if self is Disk.VFAT:
            return os.fsencode(name).lower().rstrip(b".")
        return unicodedata.normalize("NFD", name)


def missing() -> str | None:
    """What this machine lacks; None if nothing."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse can't be used: {error.strerror}"
    if shutil.which("fusermount3") is None or not (find_library("fuse3") or find_library("fuse")):
        return "fuse3 is not installed"
    return None


@contextmanager
def folding(store: Path, mount: Path, disk: Disk = Disk.APFS) -> Iterator[Path]:
    """Mount `store` at the folder `mount`, which is what it gives; unmounted at the end, also when files are open.

    Raises `LabUnavailable` if it can't be mounted, and `LabError` if that or the end takes too long.
    """
    store, mount = store.resolve(), mount.resolve()
    words = [sys.executable, "-m", "tests.lab.folding", str(store), str(mount), disk.value]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
            start_new_session=True,  # a ^C is for its owner, whose end is its end
        )

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            what = f"the file system for {mount} is there"
            until(lambda: _is_mounted(mount) or process.poll() is not None, START_SECONDS, what, said)
            if process.poll() is not None:
                raise LabUnavailable("no file system can be mounted through FUSE", said())
            yield mount
        finally:
            assert process.stdin is not None
            alive = process.poll() is None
            process.stdin.close()
            try:
                ended = process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                ended = process.wait()
            if _is_mounted(mount):
                run(["fusermount3", "-u", "-z", str(mount)])
        if not alive or ended not in (0, -signal.SIGTERM):
            when = "at" if alive else "before"
            raise LabError(f"the file system for {mount} ended with {ended} {when} its end", said())


def _is_mounted(mount: Path) -> bool:
    """Asks the kernel, not the file system, which may be dead or not answer yet."""
    shown = os.fsencode(mount).replace(b"\\", b"\\134").replace(b" ", b"\\040")
    return any(line.split(b" ")[4] == shown for line in Path("/proc/self/mountinfo").read_bytes().splitlines())


class FileSystem:
    """What mfusepy calls. Every path begins with `/`; an `OSError` becomes the caller's.

    The names below `store` are as they were made; one that is asked for is that of which it is another spelling.
    """

    use_ns = True

    def __init__(self, store: str, disk: Disk) -> None:
        self._store, self._disk = store, disk

    def _place(self, path: str) -> str:
        place = self._store
        for part in path.split("/"):
            if part:
                place = os.path.join(place, self._found(place, part))
        return place

    def _found(self, folder: str, name: str) -> str:
        """The name in the folder that is one with `name`; itself if there is none."""
        if os.path.lexists(os.path.join(folder, name)):
            return name
        try:
            there = os.listdir(folder)
        except OSError:
            return name
        key = self._disk.key(name)
        return next((other for other in there if self._disk.key(other) == key), name)

    # -- files

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._place(path), flags | os.O_CREAT | os.O_CLOEXEC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._place(path), flags | os.O_CLOEXEC)

    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(file, size, offset)

    def write(self, path: str, data: bytes, offset: int, file: int) -> int:
        return os.pwrite(file, data, offset)

    def truncate(self, path: str, length: int, file: int | None = None) -> None:
        os.truncate(self._place(path) if file is None else file, length)

    def flush(self, path: str, file: int) -> None:
        os.close(os.dup(file))

    def fsync(self, path: str, data_only: int, file: int) -> None:
        (os.fdatasync if data_only else os.fsync)(file)

    def release(self, path: str, file: int) -> None:
        os.close(file)

    # -- names

    def readdir(self, path: str, _: int) -> list[str]:
        return [".", "..", *os.listdir(self._place(path))]

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._place(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._place(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._place(path))

    def rename(self, old: str, new: str) -> None:
        """The new name is spelt as it is given, also where another spelling of it was there."""
        source, there = self._place(old), self._place(new)
        os.rename(source, there)
        wanted = os.path.join(os.path.dirname(there), os.path.basename(new))
        if wanted != there:
            os.rename(there, wanted)

    def link(self, new: str, old: str) -> None:
        os.link(self._place(old), self._place(new), follow_symlinks=False)

    def symlink(self, new: str, target: str) -> None:
        os.symlink(target, self._place(new))

    def readlink(self, path: str) -> str:
        return os.readlink(self._place(path))

    # -- what is known of them

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        status = os.lstat(self._place(path)) if file is None else os.fstat(file)
        known = {name: getattr(status, name) for name in ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid")}
        known |= {"st_size": status.st_size, "st_blocks": status.st_blocks}
        return known | {f"st_{which}": getattr(status, f"st_{which}_ns") for which in ("atime", "mtime", "ctime")}

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._place(path), mode)

    def chown(self, path: str, user: int, group: int) -> None:
        os.chown(self._place(path), user, group, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._place(path), ns=times or (time.time_ns(),) * 2, follow_symlinks=False)

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._place(path))
        names = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "flag", "namemax")
        return {f"f_{name}": getattr(status, f"f_{name}") for name in names}


def _end_with_owner(ending: threading.Event) -> None:
    """Have libfuse unmount and return when nobody holds the other end of stdin any more."""
    os.read(0, 1)
    ending.set()
    while True:  # again, as the first may come just before the wait for the next request
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(0.1)


def main() -> None:
    import mfusepy

    store, mount, disk = sys.argv[1:]
    os.umask(0)  # the caller's is in the modes already
    ending = threading.Event()
    threading.Thread(target=_end_with_owner, args=(ending,), daemon=True).start()
    options: dict[str, Any] = {"foreground": True, "nothreads": True, "fsname": "folding", "use_ino": True}
    # Two spellings are two files to the kernel: it may remember nothing of either.
    options |= {"entry_timeout": 0, "attr_timeout": 0, "negative_timeout": 0}
    try:
        mfusepy.FUSE(FileSystem(store, Disk(disk)), mount, **options)
    except RuntimeError:  # so it tells of a signal too
        if not ending.is_set():
            raise


if __name__ == "__main__":
    main()
